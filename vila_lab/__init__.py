"""See how a vision-language model uses several pictures at once.

>>> import vila_lab
>>> lab = vila_lab.load()  # the embedded model; or a hub id, or a folder
>>> folder = vila_lab.demo_images()
>>> answer = lab.ask([folder / "g.png", folder / "m.png", "What is in image 2?"])
>>> answer.text
'Microsoft.'
>>> answer.ledger().shape  # a row per token; image_1, image_2, prompt, answer, sink
(3, 5)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import nvila  # noqa: F401 - makes transformers' Auto classes know the family

__version__ = "0.1.0"

# Names are looked up on first use, so that `import vila_lab` costs little beyond what the reader asked for.
_HOMES = {
    "Answer": "answer",
    "Attribution": "attribution",
    "Chat": "chat",
    "NoEffect": "errors",
    "NotHere": "errors",
    "Prompt": "prompt",
    "Session": "session",
    "Text": "inputs.naming",
    "Token": "tokens",
    "TokenMap": "tokenmap",
    "Video": "video",
    "VilaLabError": "errors",
    "compare": "view.compare",
    "connect": "remote",
    "demo_images": "tiny",
    "load": "resident",
    "loaded": "resident",
    "methods": "attribution",
    "open": "chat",
    "open_sweep": "sweeps.opened",
    "sweep": "sweeps.running",
}
_RENAMED = {"open": "open_saved"}

__all__ = [
    "Answer",
    "Attribution",
    "Chat",
    "NoEffect",
    "NotHere",
    "Prompt",
    "Session",
    "Text",
    "Token",
    "TokenMap",
    "Video",
    "VilaLabError",
    "__version__",
    "compare",
    "connect",
    "demo_images",
    "families",
    "load",
    "loaded",
    "methods",
    "open",
    "open_sweep",
    "sweep",
]

if TYPE_CHECKING:
    from .answer import Answer
    from .attribution import Attribution, methods
    from .chat import Chat
    from .chat import open_saved as open
    from .errors import NoEffect, NotHere, VilaLabError
    from .inputs.naming import Text
    from .prompt import Prompt
    from .remote import connect
    from .resident import load, loaded
    from .session import Session
    from .sweeps.opened import open_sweep
    from .sweeps.running import sweep
    from .tiny import demo_images
    from .tokenmap import TokenMap
    from .tokens import Token
    from .video import Video
    from .view.compare import compare


def __getattr__(name: str) -> Any:
    if name == "families":  # a package that can be called
        return importlib.import_module(".families", __name__)
    if name not in _HOMES:
        raise AttributeError(f"module 'vila_lab' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), _RENAMED.get(name, name))


def __dir__() -> list[str]:
    return sorted(__all__)
