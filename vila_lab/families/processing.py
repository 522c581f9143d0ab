"""A checkpoint's own processor, also where torchvision is missing. Knows file names, no prompt and no model.

Without torchvision transformers' `AutoProcessor` fails for families that can see videos, whose video processor needs it. These
processors are then put together by hand, with PIL in torchvision's place and without videos. Pictures are resized a little
differently by the two, so the same checkpoint says slightly different things with and without torchvision, in transformers too.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer, ProcessorMixin

from ..errors import MissingExtra
from ..nvila.folder import read_json
from ..upstream import has_torchvision

FILES = ("preprocessor_config.json", "processor_config.json", "tokenizer_config.json")


def load_processor(folder: Path, default: str, packages: Sequence[str] = ()) -> Any:
    """The processor of a checkpoint.

    Parameters
    ----------
    folder
    default
        Its class, where the checkpoint's files do not name one.
    packages
        Without which it cannot be built, not even by hand.

    Raises
    ------
    MissingExtra
        If one of `packages` is missing, or torchvision is there and broken.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtra(f"{default} needs {' and '.join(missing)}: pip install {' '.join(missing)}")
    if not has_torchvision():
        return _by_hand(folder, default)
    try:
        import_module("torchvision")
    except Exception as error:  # its operators are built for one torch, and fail in many ways beside another
        raise MissingExtra(
            f"torchvision is there but does not work beside this torch ({' '.join(str(error).split())[:100]}): pip install the "
            "torchvision that belongs to it, or pip uninstall torchvision"
        ) from error
    return AutoProcessor.from_pretrained(folder)


def _by_hand(folder: Path, default: str) -> Any:
    files = [read_json(folder / name) for name in FILES if (folder / name).is_file()]
    named = next((each["processor_class"] for each in files if each.get("processor_class")), default)
    kind: Any = getattr(transformers, str(named), None)
    if not (isinstance(kind, type) and issubclass(kind, ProcessorMixin)):  # a file may name anything
        kind = getattr(transformers, default)
    takes = inspect.signature(kind.__init__).parameters
    own = read_json(folder / "processor_config.json") if (folder / "processor_config.json").is_file() else {}
    options = {
        name: value
        for name, value in own.items()
        if name in takes and not isinstance(value, dict) and name != "chat_template"
    }

    def check(self: Any, name: str, given: Any) -> Any:
        return None if given is None else kind.check_argument_for_proper_class(self, name, given)

    # The class itself but for one check: that there is a video processor.
    without_videos = type(
        kind.__name__, (kind,), {"__module__": kind.__module__, "check_argument_for_proper_class": check}
    )
    parts = {
        "image_processor": AutoImageProcessor.from_pretrained(folder, backend="pil"),
        "tokenizer": AutoTokenizer.from_pretrained(folder),
        "chat_template": _template(folder),
        **({"video_processor": None} if "video_processor" in takes else {}),
    }
    return without_videos(**options, **parts)


def _template(folder: Path) -> str | None:
    """A checkpoint's chat template, from wherever it is kept; None where its tokenizer may hold one."""
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    for name in ("chat_template.json", "processor_config.json"):
        if (folder / name).is_file() and read_json(folder / name).get("chat_template"):
            return str(read_json(folder / name)["chat_template"])
    return None
