"""The highest resident set of this process. Knows no measurement."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
import sys
from pathlib import Path


def forget_peak() -> None:
    """Begin again at what is held now, where the system can: building a model takes more than running it.

    What the heap holds though nobody uses it goes back first, or the next work would seem to need less.
    """
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc's
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def high_water() -> int:
    """Highest resident set of this process so far, in bytes."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
