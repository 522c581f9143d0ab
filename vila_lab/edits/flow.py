"""Flow: in which layers what the pictures show reaches the text and the answer, by cutting edges band by band.

Geva et al. 2023, "Dissecting Recall of Factual Associations in Auto-Regressive Language Models", cut attention edges in a window
of layers around each layer; Zhang et al. 2025, "Cross-modal Information Flow in Multimodal Large Language Models" (CVPR), do so
between picture, question and answer. Here the effect is the change of the answer's log-probability, teacher-forced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import torch

from ..attribution.registry import target_of
from ..engine.replay import Replay
from ..errors import OptionError
from ..hooks.editing import Editing
from ..hooks.edits import EdgeBias
from ..interrupts import keeps_gradients
from ..progress import progress
from .groups import edge_spans

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

EDGES = ("images -> prompt", "images -> answer", "prompt -> answer")
BANDS = 6  # windows that a deep decoder is cut into, by default


@dataclass(frozen=True, eq=False)
class Flow:
    """What cutting each edge costs, by band of layers.

    Attributes
    ----------
    table : pandas.DataFrame
        Index ``layer`` (the band's middle), a column per edge: change of the answer's log-probability, below 0 where the
        answer needed the edge there.
    everywhere : pandas.Series
        The same with the edge cut in all layers at once.
    target : str
        The words that were scored.
    width : int
        Layers in a band.

    Examples
    --------
    >>> import vila_lab
    >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
    >>> found = answer.flow("Google", stride=3)
    >>> found.table.columns.tolist(), found.table.index.tolist(), found.width, found.target
    (['images -> prompt', 'images -> answer', 'prompt -> answer'], [0, 3], 1, 'Google')
    >>> bool(found.everywhere["images -> answer"] < 0)  # without this edge the answer is less probable
    True
    """

    table: pd.DataFrame
    everywhere: pd.Series[float]
    target: str
    width: int

    def __repr__(self) -> str:
        return f"Flow({self.target!r}, {len(self.table.columns)} edges, {len(self.table)} bands of {self.width} layers)"

    def _repr_html_(self) -> str:
        table = self.table.copy()
        table.loc["all layers"] = self.everywhere
        return (
            f"<p>Change of the log-probability of <b>{escape(self.target)}</b> when an edge is cut in {self.width} layers "
            f"around each; below 0: the answer needed it there.</p>{table.to_html(float_format='{:+.2f}'.format)}"
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """One line per edge over the layers.

        Parameters
        ----------
        ax
            matplotlib axes to draw on; None makes a figure of its own, which a notebook shows.

        Examples
        --------
        >>> import vila_lab
        >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> answer.flow("Google", stride=3).plot().has_data()
        True
        """
        from ..view.curves import flow_by_layer

        return flow_by_layer({str(edge): self.table[edge] for edge in self.table}, list(self.table.index), ax)


@keeps_gradients
def flow(
    replay: Replay, token: Any = None, *, edges: str | Sequence[str] = EDGES, width: int | None = None, stride: int = 1
) -> Flow:
    """Cut every edge in a window of layers around every layer.

    Parameters
    ----------
    token
        As in `Answer.attribute`: None for the whole answer.
    edges
        As in `Session.knockout`. As a reader, "answer" includes the prompt's last row, "prompt" does not.
    width
        Layers in a window; by default a sixth of the decoder's.
    stride
        Layers from one window to the next.

    Returns
    -------
    Flow

    Raises
    ------
    OptionError
        If an edge does not exist, or width or stride is no number of layers.
    """
    import pandas as pd

    layers = len(replay.family.decoder_layers)
    edges = [edges] if isinstance(edges, str) else list(edges)
    width = max(1, round(layers / BANDS)) if width is None else width
    if not (1 <= width <= layers and 1 <= stride <= layers):
        raise OptionError(f"width and stride are numbers of layers, 1 to {layers}, not {width} and {stride}")
    target = target_of(replay, token)
    spans = {edge: edge_spans(edge, replay.token_map) for edge in edges}
    middles = list(range(0, layers, stride))
    windows = [_window(middle, width, layers) for middle in middles]
    table = pd.DataFrame(index=pd.Index(middles, name="layer"), columns=list(edges), dtype=float)
    everywhere = pd.Series(index=list(edges), dtype=float, name="all layers")
    with replay.lock, torch.no_grad(), progress(len(edges) * (len(windows) + 1), "cuts") as bar:
        clean = float(replay.values(target).sum())

        def change(edge: str, chosen: Sequence[int]) -> float:
            with Editing(replay.model, [EdgeBias(*spans[edge], dict.fromkeys(chosen))]):
                value = float(replay.values(target).sum())
            bar.update()
            return value - clean

        for edge in edges:
            table[edge] = [change(edge, window) for window in windows]
            everywhere[edge] = change(edge, range(layers))
    return Flow(table, everywhere, target.text, width)


def _window(middle: int, width: int, layers: int) -> range:
    """A window of layers around one; at the ends it is moved inwards, so that every window is as wide.

    >>> _window(0, 3, 6), _window(3, 3, 6)
    (range(0, 3), range(2, 5))
    """
    first = min(max(0, middle - (width - 1) // 2), layers - width)
    return range(first, first + width)
