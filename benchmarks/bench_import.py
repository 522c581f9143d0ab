"""What `import vila_lab` costs beyond torch and transformers, which any such package needs. At most 0.3 s is the aim."""

from __future__ import annotations

import statistics
import subprocess
import sys

REPEATS = 5
BASE = "import torch, transformers; from transformers import PreTrainedModel, ProcessorMixin, GenerationMixin"
TIMED = "import time; start = time.perf_counter(); import vila_lab; print(time.perf_counter() - start)"


def seconds() -> float:
    """One import in a fresh interpreter, timed after torch and transformers are in."""
    done = subprocess.run([sys.executable, "-c", f"{BASE}; {TIMED}"], capture_output=True, text=True, check=True)
    return float(done.stdout)


if __name__ == "__main__":
    times = [seconds() for _ in range(REPEATS)]
    print(f"import vila_lab: median {statistics.median(times):.2f} s of {REPEATS}, worst {max(times):.2f} s")
