"""Where a model runs: questions asked again, targets, locks, memory, interrupts. Knows no Answer and no Session."""
