"""Hooks and edits on cross-modal attention, named by a prompt's own parts: "image_2 -> answer". Knows the TokenMap, no drawing.

`vila_lab.hooks.editing` carries them out; this room says what the names mean, proves that an edit bites, and asks the
questions that edits answer: leakage between pictures, flow of information, redirection, patching.
"""

from .handle import Handle
from .looks import AttentionEvent, HiddenEvent
from .program import Program

__all__ = ["AttentionEvent", "Handle", "HiddenEvent", "Program"]
