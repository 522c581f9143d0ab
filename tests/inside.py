"""What tests must know of the insides of torch, transformers, matplotlib and anywidget: their private names stand here alone."""

from __future__ import annotations

import sys
import threading
import traceback
from typing import Any


def hooks_of(module: Any) -> tuple[int, int, int]:
    """How many hooks a module has: before its forward, behind it, and backwards."""
    return len(module._forward_pre_hooks), len(module._forward_hooks), len(module._backward_hooks)


def hooks_in(model: Any) -> int:
    """How many hooks a model and its parts have."""
    return sum(sum(hooks_of(module)) for module in model.modules())


def name_attention(config: Any, name: str) -> None:
    """Have a config name an attention implementation, whether or not it is installed."""
    config._attn_implementation_internal = name


def left_title(ax: Any) -> Any:
    """The title of axes at the left, as a text object."""
    return ax._left_title


def head_of(figure: Any) -> Any:
    """The title over all axes of a figure, as a text object."""
    return figure._suptitle


def script_of(widget: Any) -> str:
    """The JavaScript of an anywidget."""
    return str(widget._esm)


def files_of(thread: threading.Thread) -> list[str]:
    """The files of what a thread is in the middle of."""
    frame = sys._current_frames().get(thread.ident or 0)
    return [] if frame is None else [each.f_code.co_filename for each, _ in traceback.walk_stack(frame)]
