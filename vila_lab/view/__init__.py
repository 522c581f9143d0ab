"""Showing an answer: payload, html, figures. Knows arrays, labels and pictures; knows no model.

Each figure takes arrays and labels, draws on ``ax`` or on a figure of its own, and returns the Axes; `render`, `png` and
`compact` are about the whole sheet. `plots` draws them from an answer.
"""

from __future__ import annotations

from .bars import ledger
from .curves import deletion_curves, flow_by_layer, layer_shares
from .display import Display, fragment, mimebundle, page, page_text
from .grid import head_grid
from .of_answer import view_of
from .overlay import cell_colours, heatmap_overlay, logit_lens_grid
from .payload import AnswerView
from .sheet import compact, png, render
from .tables import head_map, leakage_matrix, method_agreement, patching_scan
from .timeline import frame_shares
from .words import word_weights

__all__ = [
    "AnswerView",
    "Display",
    "cell_colours",
    "compact",
    "deletion_curves",
    "flow_by_layer",
    "fragment",
    "frame_shares",
    "head_grid",
    "head_map",
    "heatmap_overlay",
    "layer_shares",
    "leakage_matrix",
    "ledger",
    "logit_lens_grid",
    "method_agreement",
    "mimebundle",
    "page",
    "page_text",
    "patching_scan",
    "png",
    "render",
    "view_of",
    "word_weights",
]
