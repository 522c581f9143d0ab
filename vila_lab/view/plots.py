"""From an answer's record to a figure by its kind: which experiments each kind needs. Knows no model and no drawing."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..engine.record import Record
from ..errors import OptionError
from ..options import nearest
from ..pointing import WhichPicture, WhichTokens, first_token, picture_index
from . import bars, overlay, tables, timeline
from . import curves as lines
from .grid import head_grid
from .lettering import cut, write_title
from .levels import peak
from .of_answer import question_words, view_of
from .payload import label, percent
from .words import word_weights

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

    from ..tokenmap import TokenMap

Run: TypeAlias = "Callable[..., Any]"
KindName: TypeAlias = Literal[
    "heatmap",
    "ledger",
    "frames",
    "layers",
    "heads",
    "grid",
    "words",
    "leakage",
    "flow",
    "curves",
    "patching",
    "logit_lens",
    "agreement",
]

NOT_A_CAUSE = "attention says where the model read, not why it answered"
METHODS = ("attention", "leave_one_out")  # of the deletion curves: what is read, beside what matters
MOST_SAID = 60  # characters of the answer in a title, so that what it must say besides is not cut
MOST_LINES = 6  # of single tokens beside the whole answer
SPECIAL = ("template", "separator")  # kinds of positions that go by their kind's name


def plot(record: Record, run: Run, kind: str, ax: Axes | None = None, **options: Any) -> Axes:
    """Draw one kind of figure of an answer.

    Parameters
    ----------
    record
        The answer.
    run
        Runs an experiment of `vila_lab.experiments` on it: a name, and its options.
    kind
        A name in `KINDS`.
    ax
        Where to draw; None makes a figure of its own.
    options
        The kind's own: the keywords of its function in this module.

    Raises
    ------
    OptionError
        If the kind or an option is unknown; the message lists those there are.
    """
    if not isinstance(kind, str) or kind not in KINDS:
        raise OptionError(f"unknown kind of figure {kind!r}{nearest(kind, KINDS)}; known: {', '.join(KINDS)}")
    draw = KINDS[kind]
    known = list(inspect.signature(draw).parameters)[3:]
    for name in options:
        if name not in known:
            raise OptionError(
                f"the {kind} figure has no option {name!r}{nearest(name, known)}; it has {', '.join([*known, 'ax'])}"
            )
    return draw(record, run, ax, **options)


def heatmap(
    record: Record,
    run: Run,
    ax: Axes | None,
    image: WhichPicture | None = None,
    token: WhichTokens = None,
    method: str = "attention",
) -> Axes:
    """Where in a picture a method puts a token: `Answer.heatmap` over the picture, on the scale of all pictures.

    ``image`` counts from 0, or is a name ("image_1"); None is the picture with the largest share. ``token`` is a number, several, or
    a word of the answer; None is the whole answer.
    """
    _need_pictures(record, "heatmap")
    pictures = range(len(record.images))
    if method == "attention":
        heats = [record.heatmap(k, token) for k in pictures]
    else:
        scored = run("attribute", method=method, token=token)
        heats = [scored.heatmap(k) for k in pictures]
    chosen = (
        int(np.argmax([heat.sum() for heat in heats])) if image is None else picture_index(image, len(record.images))
    )
    heat = heats[chosen]
    signed = any(bool(each.min(initial=0) < 0) for each in heats)
    unit = f"{method} per cell, one scale for all pictures"
    drawn = overlay.heatmap_overlay(record.images[chosen], heat, ax, vmax=peak(heats), signed=signed, unit=unit)
    where = f"{method} of {_what(record, token)} in picture {chosen + 1}"
    write_title(drawn, f"{where}: {_amount(heat.sum(), method)}")
    return drawn


def ledger(record: Record, run: Run, ax: Axes | None) -> Axes:
    """Where each token was read: `Answer.ledger` as stacked bars."""
    view = view_of(record)
    if not view.tokens:
        raise OptionError("the answer says nothing, so there are no bars to draw")
    drawn = bars.ledger(view, ax, legend=True)
    write_title(drawn, f"share of {record.method}")
    return drawn


def layers(record: Record, run: Run, ax: Axes | None, token: WhichTokens = None) -> Axes:
    """Share of attention on each picture, layer by layer, mean over heads; ``token`` None is the whole answer."""
    rows = record.numbers_of(token)
    means = record.layer_means()[rows].astype(np.float64).mean(0)  # (L, T)
    names = [f"image_{k + 1}" for k in range(len(record.images))] + ["prompt", "answer"]
    table = record.token_map.indicator(names).astype(np.float64)
    table[record.sinks] = 0
    shares = means @ table
    sink = means[:, record.sinks].sum(1, keepdims=True)
    title = f"attention of {_what(record, token)}, mean over the heads of each layer; {NOT_A_CAUSE}"
    return lines.layer_shares(np.concatenate([shares, sink], 1), [*names, "sink"], ax=ax, title=title)


def heads(
    record: Record,
    run: Run,
    ax: Axes | None,
    image: WhichPicture | None = None,
    token: WhichTokens = None,
    outline: Sequence[tuple[int, int]] = (),
) -> Axes:
    """Each head's attention to one picture; ``image`` None is the picture that is read most, ``outline`` frames heads
    (such as ``lab.head_sets["routing"]``)."""
    _need_pictures(record, "heads")
    masses = _picture_shares(record, token)
    chosen = int(masses.sum((0, 1)).argmax()) if image is None else picture_index(image, len(record.images))
    title = f"attention of {_what(record, token)} to picture {chosen + 1}; {NOT_A_CAUSE}"
    return tables.head_map(
        masses[..., chosen], ax, outline=outline, vmax=peak([masses]), unit=f"share of attention on picture {chosen + 1}",
        title=title,
    )  # fmt: skip


def grid(
    record: Record,
    run: Run,
    ax: Axes | None,
    token: WhichTokens = None,
    outline: Sequence[tuple[int, int]] = (),
) -> Axes:
    """A thumbnail for every layer and head: how its attention splits over the pictures; ``token`` None is the whole answer,
    ``outline`` frames heads (such as ``lab.head_sets["routing"]``)."""
    _need_pictures(record, "grid")
    names = [f"image_{k + 1}" for k in range(len(record.images))]
    title = f"attention of {_what(record, token)} to the pictures, by layer and head; {NOT_A_CAUSE}"
    return head_grid(_picture_shares(record, token), names, ax, outline=outline, title=title)


def words(
    record: Record,
    run: Run,
    ax: Axes | None,
    token: WhichTokens = None,
    layer: int | None = None,
    head: int | None = None,
) -> Axes:
    """What a token read of the words of the question and of the answer before it; None is the whole answer.

    ``layer`` and ``head`` are one each, or the mean over all (None).
    """
    numbers = record.numbers_of(token)
    asked, groups = question_words(record)
    if layer is None and head is None:
        weights = record.mean_attention()[numbers].astype(np.float64).mean(0)  # (T,)
    else:
        weights = record.attention(layer, head).to_numpy()[numbers].astype(np.float64).mean((0, 1, 2))
    weights[record.sinks] = 0
    masses = iter(weights @ groups)
    pictures = weights @ record.token_map.indicator([f"image_{k + 1}" for k in range(len(record.images))])
    shares = [float(pictures[word]) if isinstance(word, int) else float(next(masses)) for word in asked]
    said = record.said()
    shares += [float(weights[record.tokens[k].position]) for k in said]
    which = [f"{name} {number}" for name, number in (("layer", layer), ("head", head)) if number is not None]
    where = ", ".join(which) or "mean over all layers and heads"
    return word_weights(
        [*asked, *(record.tokens[k].text for k in said)],
        shares,
        ax,
        answer=len(asked),
        marked=[] if token is None else [len(asked) + said.index(k) for k in numbers if k in said],
        unit="of the attention: the strongest word",
        title=f"attention of {_what(record, token)} to the text, {where}, sinks set apart; {NOT_A_CAUSE}",
    )


def leakage(record: Record, run: Run, ax: Axes | None, layer: int | None = None, causal: bool = False) -> Axes:
    """How much the tokens of each picture read of each other one: `Answer.leakage`.

    ``layer`` None is the mean of all; ``causal`` is what the answer loses when one may not read of the other.
    """
    _need_pictures(record, "leakage")
    if causal:
        found = run("causal_leakage")  # (reader, source)
        names = _names(found)
        title = f"what {_what(record, None)} loses where one picture may not read of another"
        values = found.transpose("reader", "source").to_numpy()
        return tables.leakage_matrix(values, names, ax, unit="log-probability lost", title=title)
    found = run("leakage")  # (layer, reader, source)
    names = _names(found)
    values = found.transpose("layer", "reader", "source").to_numpy().astype(np.float64)
    numbers = _numbers(found, "layer")
    if layer is not None and layer not in numbers:
        raise OptionError(f"there is no layer {layer}; there are: {', '.join(map(str, numbers))}")
    values[:, np.triu(np.ones(values.shape[1:], bool), 1)] = np.nan  # a later picture cannot be read
    others = values[:, np.tri(len(names), k=-1, dtype=bool)]
    shown = values.mean(0) if layer is None else values[numbers.index(layer)]
    top = float((others.mean(0) if layer is None else others).max(initial=0.0))  # layers are compared with each other
    which = f"mean over {len(values)} layers" if layer is None else f"layer {layer}, all layers on one scale"
    title = f"attention of the pictures to each other, {which}; {NOT_A_CAUSE}"
    return tables.leakage_matrix(shown, names, ax, vmax=top, title=title)


def flow(record: Record, run: Run, ax: Axes | None) -> Axes:
    """What cutting image -> question, image -> answer and question -> answer does, layer by layer: `Answer.flow`."""
    table = run("flow").table
    effects = {str(edge): table[edge].to_numpy(dtype=np.float64) for edge in table.columns}
    title = f"what cutting an edge does to {_what(record, None)}"
    return lines.flow_by_layer(effects, [int(layer) for layer in table.index], ax, title=title)


def curves(
    record: Record,
    run: Run,
    ax: Axes | None,
    methods: Sequence[str] = METHODS,
    token: Any = None,
    baseline: Any = "remove",
) -> Axes:
    """Deletion and insertion of one or several methods' maps, beside maps that know nothing: `Answer.metric_card`."""
    names = [methods] if isinstance(methods, str) else list(methods)
    if not names:
        raise OptionError("methods= is empty: name at least one, such as 'attention'")
    cards = {name: run("metric_card", method=name, token=token, baseline=baseline) for name in names}
    first = cards[names[0]]
    blind = [name for name in first.curves if name != names[0]]
    found = {name: card.curves[name] for name, card in cards.items()} | {name: first.curves[name] for name in blind}
    return lines.deletion_curves(
        first.curves[names[0]].fractions,
        {name: each.deletion for name, each in found.items()},
        {name: each.insertion for name, each in found.items()},
        ax,
        baselines=blind,
        unit="probability of the answer,\nmean over its tokens",
        title=f"{cut(first.target, MOST_SAID)!r}, deleted tokens: {first.baseline} (area under each curve in the legend)",
    )


def patching(record: Record, run: Run, ax: Axes | None, scan: xr.DataArray | None = None) -> Axes:
    """A patch scan of this answer: recovered logit difference, dims (layer, position)."""
    if scan is None:
        raise OptionError(
            "the patching figure needs scan=: lab.patch_scan(answer, other) makes one, other being an answer to the same "
            "question about other pictures; it is an xarray.DataArray with dims (layer, position)"
        )
    if set(scan.dims) != {"layer", "position"}:
        raise OptionError(f"scan= has dims {tuple(scan.dims)}, but (layer, position) are needed")
    values = scan.transpose("layer", "position").to_numpy()
    words = [scan.attrs.get(name) for name in ("token", "from_token")]
    both = f" {words[0]!r} with what led to {words[1]!r}" if all(words) else ""
    title = f"patching{both}: 1 brings all of it"
    labels = _position_labels(record.token_map, scan)
    return tables.patching_scan(values, labels, _numbers(scan, "layer"), ax, title=title)


def logit_lens(
    record: Record,
    run: Run,
    ax: Axes | None,
    image: WhichPicture | None = None,
    layer: int = -1,
    token: WhichTokens = None,
) -> Axes:
    """The word that each patch of a picture says after a layer; the more probable the answer there, the stronger.

    ``token`` None is the answer's first; ``image`` None is the picture in which it is most probable.
    """
    _need_pictures(record, "logit_lens")
    found = run(
        "attribute",
        method="logit_lens",
        token=0 if token is None else first_token(token, record.tokens),
        layers=[layer],
    )
    tokens = record.token_map
    chance = found.values[0]
    groups = [finest(tokens, k) for k in range(len(record.images))]
    chosen = (
        int(np.argmax([chance[group].max() for group in groups]))
        if image is None
        else picture_index(image, len(record.images))
    )
    word = found.extras["word"].isel(layer=0)
    at = groups[chosen]
    drawn = overlay.logit_lens_grid(
        record.images[chosen],
        tokens.box[at],
        [str(text) for text in word.sel(position=at).to_numpy()],
        chance[at],
        ax,
        vmax=peak([chance[group] for group in groups]),
        unit=f"probability of {cut(found.target, 20)!r} at the patch, one scale for all pictures",
    )
    where = f"the word each patch of picture {chosen + 1} says after layer {int(word.coords['layer'])}"
    write_title(drawn, f"{where}; what a patch says is not yet what the answer used")
    return drawn


def agreement(record: Record, run: Run, ax: Axes | None, token: Any = None) -> Axes:
    """Shares of the pictures under four methods, and how far they rank the pictures alike: `Answer.evidence`."""
    _need_pictures(record, "agreement")
    found = run("evidence", token=token)
    shares, tau = found.shares, found.tau
    return tables.method_agreement(
        shares.to_numpy(),
        list(shares.index),
        list(shares.columns),
        tau.to_numpy(),
        ax,
        title=f"evidence for {cut(found.target, MOST_SAID)!r}",
    )


def frames(record: Record, run: Run, ax: Axes | None, token: WhichTokens = None, method: str = "attention") -> Axes:
    """How much of each frame of a video went into the answer, over the video's time; of pictures that are no frames, by number.

    ``token`` None is the whole answer, with each of its tokens beside it where they are few; ``method`` is any of
    `vila_lab.methods`.
    """
    _need_pictures(record, "frames")
    rows, whole = record.numbers_of(token), _what(record, token)
    columns = [f"image_{k + 1}" for k in range(len(record.images))]
    is_share = method == "attention"
    if is_share:
        table, unit = record.ledger().iloc[rows], "share of attention"
        total = table.mean()
    else:
        found = run("attribute", method=method, token=token)
        table, total, unit = found.per_image(), found.total(), found.unit
        table = table.iloc[rows] if token is None else table
    shown = timeline.timing(record.frames)
    at = shown.pictures
    names = _apart([record.tokens[row].text.strip() or "␣" for row in rows])
    few = dict(zip(names, table[columns].to_numpy()[:, at], strict=True)) if 1 < len(rows) <= MOST_LINES else {}
    amount = float(total[columns].to_numpy()[at].sum())
    what = "frames" if shown.videos else "pictures"
    strongest = "the whole answer" if few else whole
    return timeline.frame_shares(
        {strongest: total[columns].to_numpy()[at], **few},
        shown.times,
        ax,
        whole=strongest,
        numbers=at,
        images=[record.images[picture] for picture in at],
        names=shown.videos,
        across=shown.unit,
        share=is_share,
        unit=unit,
        title=f"{method} of {whole} on the {what}: {_amount(amount, method)}",
    )


KINDS: Mapping[str, Callable[..., Axes]] = {
    "heatmap": heatmap,
    "ledger": ledger,
    "frames": frames,
    "layers": layers,
    "heads": heads,
    "grid": grid,
    "words": words,
    "leakage": leakage,
    "flow": flow,
    "curves": curves,
    "patching": patching,
    "logit_lens": logit_lens,
    "agreement": agreement,
}


# -- what several kinds need -----------------------------------------------------------------------------------------


def _need_pictures(record: Record, kind: str) -> None:
    if not record.images:
        raise OptionError(f"the prompt has no picture, so there is no {kind} figure; 'ledger' and 'layers' need none")


def _picture_shares(record: Record, token: WhichTokens) -> NDArray[np.float64]:
    """Attention of every head to every picture, sinks set apart.  # (L, H, pictures)"""
    groups = record.token_map.indicator([f"image_{k + 1}" for k in range(len(record.images))])
    groups[record.sinks] = 0
    return record.head_shares(groups, record.numbers_of(token))


def _what(record: Record, token: WhichTokens) -> str:
    said = record.text if token is None else "".join(record.tokens[k].text for k in record.numbers_of(token))
    return repr(cut(" ".join(said.split()), MOST_SAID))


def _amount(total: float, method: str) -> str:
    return f"{percent(total)} in all; {NOT_A_CAUSE}" if method == "attention" else f"{total:+.3g} in all"


def _apart(names: Sequence[str]) -> list[str]:
    """Names in quotes; those that occur again with their number."""
    return [f"{cut(name, 14)!r}" + (f" #{k + 1}" if names.count(name) > 1 else "") for k, name in enumerate(names)]


def _names(matrix: xr.DataArray) -> list[str]:
    return [str(name) for name in matrix.coords["reader"].to_numpy()]


def _numbers(array: xr.DataArray, dim: str) -> list[int]:
    coords = array.coords[dim].to_numpy() if dim in array.coords else np.arange(array.sizes[dim])
    return [int(number) for number in coords]


def _position_labels(tokens: TokenMap, scan: xr.DataArray) -> list[str]:
    """Names of a scan's positions: groups by their names, numbers by what the token map says stands there."""
    coords = scan.coords["position"].to_numpy() if "position" in scan.coords else np.arange(scan.sizes["position"])
    if coords.dtype.kind in "OUS":
        return [_visible(label(str(name))) for name in coords]
    frame = tokens.to_frame().loc[coords]
    return [
        f"picture {int(row.picture)}"
        if row.kind == "image"
        else row.kind
        if row.kind in SPECIAL
        else _visible(row.text)
        for row in frame.itertuples()
    ]


def _visible(text: str) -> str:
    """A token's text without what cannot be seen; cut where it would not fit."""
    return cut(text.strip() or ("⏎" if "\n" in text else "␣"), 14)


def finest(tokens: TokenMap, picture: int) -> NDArray[np.int64]:
    """Positions of a picture's smallest patches: of several scales, and of tiles and thumbnail, the finest.

    Sizes are compared as means over a tile, whose last row and column may be cut short.
    """
    mine = tokens.positions(f"image_{picture + 1}")
    boxes = tokens.box[mine]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    _, group = np.unique(np.stack([tokens.tile[mine], tokens.scale[mine]], 1), axis=0, return_inverse=True)
    means = (np.bincount(group, areas) / np.bincount(group))[group]
    return np.asarray(mine[means <= 1.5 * means.min()])
