"""Vision attention: where the places of a picture look inside the vision tower. Knows no decoder and no answer.

Before a decoder sees a picture, its patches have looked at each other. What a visual token holds may therefore come from another
place than the one it stands for. The tower is run once more on one picture by itself, as it was when the question was asked, and
its exact weights are computed row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..engine.replay import Replay
from ..errors import CheckpointError, OptionError
from ..families.base import Family, Prepared
from ..families.patches import Patches
from ..hooks.recorded import indices
from ..hooks.sites import Site, select_sites
from ..hooks.tower import TowerItem, TowerRecorder
from ..interrupts import check_stop, keeps_gradients
from ..pointing import WhichPicture, picture_index

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AT_ONCE = 2**24  # weights that are computed together, 64 MiB
HONESTY = "it says where the tower read, not why the model answered"


@dataclass(frozen=True, eq=False)
class VisionAttention:
    """Attention of a vision tower over one picture.

    Attributes
    ----------
    heatmap : (rows, columns) array
        Attention over the whole of the original picture; it sums to 1, less what went `elsewhere`.
    layer : int
        Of the vision tower, from 0.
    head : int or None
        None is the mean of all.
    at : (x, y) or None
        The point, in pixels of the original picture, whose patches look; None is the mean of all patches that show some of it.
    image : int
        Which picture of the prompt, from 0.
    picture : PIL image
        That picture.
    patches : int
        How many patches look: those at a point are several where tiles, and the whole picture, show it.
    elsewhere : float
        Share of attention on what shows no pixels: class tokens and padding.
    is_read : bool
        Whether anything of the layer reaches the decoder: LLaVA-1.5 runs its last one, and takes its features before it.

    Examples
    --------
    >>> import vila_lab
    >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
    >>> found = answer.vision_attention(at=(128, 128), layer=0, head=1)
    >>> found.heatmap.shape, found.layer, found.head, found.at, found.image, found.patches, found.is_read
    ((12, 12), 0, 1, (128.0, 128.0), 0, 1, True)
    >>> found.where, found.who, round(float(found.heatmap.sum() + found.elsewhere), 3), found.picture.size
    ('layer 0, head 1', '1 patch at (128, 128)', 1.0, (256, 256))
    >>> print(found.method, found.honesty, sep="\\n")
    attention in the vision tower, layer 0, head 1, 1 patch at (128, 128)
    it says where the tower read, not why the model answered
    """

    heatmap: NDArray[np.float64]
    layer: int
    head: int | None
    at: tuple[float, float] | None
    image: int
    picture: Image.Image
    patches: int
    elsewhere: float
    is_read: bool

    def __repr__(self) -> str:
        rows, columns = self.heatmap.shape
        return f"VisionAttention(image {self.image}, {self.where}, {self.who}, {rows} x {columns}, {self.elsewhere:.0%} elsewhere)"

    @property
    def where(self) -> str:
        """Layer and head, in words."""
        heads = "mean of heads" if self.head is None else f"head {self.head}"
        return f"layer {self.layer}{'' if self.is_read else ' (which the model does not read)'}, {heads}"

    @property
    def who(self) -> str:
        """Whose attention it is, in words."""
        if self.at is None:
            return f"mean of all {self.patches} patches"
        x, y = self.at
        return f"{_counted(self.patches)} at ({x:g}, {y:g})"

    @property
    def method(self) -> str:
        """What `heatmap` tells, in words."""
        return f"attention in the vision tower, {self.where}, {self.who}"

    @property
    def honesty(self) -> str:
        """What it does not show."""
        return HONESTY

    def plot(self, ax: Axes | None = None, *, vmax: float | None = None) -> Axes:
        """The map over the picture, and the point that looks.

        Parameters
        ----------
        ax
            matplotlib axes to draw on; None makes a figure of its own, which a notebook shows.
        vmax
            The top of the colour scale. Give the same to maps that are compared; None takes this one's own.

        Examples
        --------
        >>> import vila_lab
        >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> answer.vision_attention(at=(128, 128)).plot().has_data()
        True
        """
        from ..view.tower import vision_attention

        words = f"picture {self.image + 1}, {self.method}"
        if self.elsewhere >= 0.005:
            words += f" ({self.elsewhere:.0%} on tokens without pixels)"
        return vision_attention(self.picture, self.heatmap, self.at, ax, vmax=vmax, title=f"{words}; {self.honesty}")


@keeps_gradients
def vision_attention(
    replay: Replay, image: WhichPicture = 0, *, layer: int = -1, head: int | None = None, at: Any = None
) -> VisionAttention:
    """Where the places of a picture look inside the vision tower.

    Parameters
    ----------
    image
        Which picture, counted from 0, or by name: "image_1".
    layer, head
        Of the vision tower (`Session.vision_layers`), counted from 0. Negative layers count from the last that the model reads,
        negative heads from the last; None is the mean of all heads.
    at : (x, y), optional
        A point in pixels of the original picture: where the patches that show it look. None: how much each place is looked at, the
        mean over all patches that show some of the picture.

    Returns
    -------
    VisionAttention

    Raises
    ------
    OptionError
        If there is no such picture, layer or head, or no patch shows the point.

    Notes
    -----
    Patches see each other within one tile, or one window. Only the layer's queries and keys are kept, and rows are computed some at a
    time.
    """
    number = picture_index(image, replay.token_map.n_pictures)
    picture = replay.record.images[number]
    point = None if at is None else _point(at, picture.size)
    family = replay.family
    with replay.lock, torch.no_grad():
        alone = family.alone(replay.prepared, number)
        sites = select_sites(replay.model, ("vision",))["vision"]
        read = family.layers_read(len(sites))
        site = _site(sites, read, layer)
        items, patches = _items(family, alone, site), family.patches(alone)
        _check_count(items, patches)
        heads = indices(head, items[0].call.query.shape[1], "head")
        readers = patches.showing(0, point)
        if not readers.size:
            raise OptionError(f"no patch shows the point {point}: this model does not see that place of the picture")
        looked = _looked_at(items, patches, readers, heads)
    heat = patches.heatmap(looked, 0, alone.token_map.sizes)
    one = None if head is None else int(heads[0])
    elsewhere = max(0.0, 1 - float(heat.sum()))
    return VisionAttention(
        heat, site.layer, one, point, number, picture, len(readers), elsewhere, sites.index(site) < read
    )


def _point(at: Any, size: tuple[int, int]) -> tuple[float, float]:
    """A point of a picture, checked."""
    is_pair = isinstance(at, Sequence | np.ndarray) and len(at) == 2
    if not is_pair or not all(isinstance(each, Real) and not isinstance(each, bool) for each in at):
        raise OptionError(f"at must be a point (x, y) in pixels of the original picture, not {str(at)[:60]}")
    x, y = at
    if not (0 <= x < size[0] and 0 <= y < size[1]):
        raise OptionError(f"the point {str(at)[:60]} is outside the picture, which has {size[0]} x {size[1]} pixels")
    return float(x), float(y)


def _site(sites: Sequence[Site], read: int, layer: int) -> Site:
    """The attention module of a layer."""
    number = read + layer if layer < 0 else layer
    if not 0 <= number < len(sites):
        raise OptionError(
            f"there is no layer {layer} in the vision tower: it has {len(sites)}, counted from 0, of which the model reads {read}"
        )
    return sites[number]


def _items(family: Family, alone: Prepared, site: Site) -> list[TowerItem]:
    """What one layer of the tower is asked while a prompt is embedded."""
    recorder = TowerRecorder([site])
    with recorder.watching():
        family.embed(alone)
    if not recorder.calls[site.layer]:
        raise OptionError(
            f"layer {site.layer} of the vision tower does not run: this model reads what stands before it"
        )
    return recorder.layers()[site.layer]


def _check_count(items: Sequence[TowerItem], patches: Patches) -> None:
    read = sum(map(len, items))
    if read != len(patches):
        raise CheckpointError(
            f"the vision tower read {read} patches, and the rule of its family gives {len(patches)}: this checkpoint feeds its tower "
            "in a way that vila_lab does not know"
        )


def _looked_at(
    items: Sequence[TowerItem], patches: Patches, readers: NDArray[np.int64], heads: torch.Tensor
) -> NDArray[np.float64]:
    """How much some patches look at every patch, mean over them and over heads.  # (n,)"""
    lengths = list(map(len, items))
    item, place = patches.places(lengths)
    first = np.cumsum([0, *lengths])
    found = np.zeros(len(patches))
    for number in np.unique(item[readers]):
        one, rows = items[number], place[readers[item[readers] == number]]
        most = max(1, AT_ONCE // (len(one) * len(heads)))
        for start in range(0, len(rows), most):
            check_stop()
            weights = one.weights(torch.from_numpy(rows[start : start + most]), heads)  # (R, H, K)
            found[first[number] : first[number + 1]] += weights.mean(1).sum(0).cpu().double().numpy()
    return found / len(readers)


def _counted(patches: int) -> str:
    return f"{patches} patch" if patches == 1 else f"{patches} patches"
