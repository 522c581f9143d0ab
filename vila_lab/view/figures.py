"""Every figure by its name. Each takes arrays and labels, draws on ``ax`` or on a figure of its own, and returns the Axes.

`overview`, `render`, `png` and `compact` are about the whole sheet; the rest are single figures. `plots` draws them from
an answer.
"""

from __future__ import annotations

from .bars import ledger
from .curves import deletion_curves, flow_by_layer, layer_shares
from .overlay import cell_colours, heatmap_overlay, logit_lens_grid
from .sheet import compact, overview, png, render
from .tables import head_map, leakage_matrix, method_agreement, patching_scan

__all__ = [
    "cell_colours",
    "compact",
    "deletion_curves",
    "flow_by_layer",
    "head_map",
    "heatmap_overlay",
    "layer_shares",
    "leakage_matrix",
    "ledger",
    "logit_lens_grid",
    "method_agreement",
    "overview",
    "patching_scan",
    "png",
    "render",
]
