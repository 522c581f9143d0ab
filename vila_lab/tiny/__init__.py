"""The embedded model: a small NVILA and the drawn world it was trained on. Knows nothing of hooks, answers or views."""
