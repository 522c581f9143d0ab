"""A plain progress bar on stderr for what takes more than two seconds. Knows nothing of what is counted.

The environment variable ``TQDM_DISABLE=1`` keeps all bars away, in a script's log say.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PATIENCE = 2.0  # seconds before a bar appears


@contextmanager
def progress(total: int, what: str) -> Iterator[Any]:
    """A bar to call ``update()`` on; it shows only once the work has taken two seconds, and goes when it is done."""
    from tqdm import tqdm

    # tqdm itself looks at the variable only once, when it is imported.
    off = os.environ.get("TQDM_DISABLE", "") not in ("", "0")
    with tqdm(
        total=total, unit=f" {what}", delay=PATIENCE, leave=False, file=sys.stderr, ascii=True, disable=off
    ) as bar:
        yield bar
