"""Showing an answer: payload, html, figures. Knows arrays, labels and pictures; knows no model."""

from __future__ import annotations

from .figures import heatmap_overlay, ledger, overview, png
from .html import fragment, mimebundle, page, page_text
from .of_answer import view_of
from .payload import AnswerView

__all__ = [
    "AnswerView",
    "fragment",
    "heatmap_overlay",
    "ledger",
    "mimebundle",
    "overview",
    "page",
    "page_text",
    "png",
    "view_of",
]
