"""From an answer's record to what there is to show of it. Knows no model and no drawing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..engine.record import Record, index_of
from ..errors import CaptureError
from ..evidence.metrics import boxes_by_picture
from ..pointing import WhichPicture
from ..tokenmap import Kind
from .payload import AnswerView, Array, Box
from .reading import Reading

if TYPE_CHECKING:
    from ..attribution import Attribution
    from ..evidence import MetricCard

MOST_WORDS = 4_000  # pieces of a question that are tinted one by one


def view_of(
    record: Record,
    *,
    layers: bool = True,
    attributions: Sequence[Attribution] = (),
    cards: Sequence[MetricCard] = (),
    boxes: Mapping[WhichPicture, Any] | None = None,
    verdict: str = "",
) -> AnswerView:
    """The display of an answer: attention, mean over layers and heads, sinks set apart; and what else is known of it.

    The token that ended the answer is left out: it says nothing.

    Parameters
    ----------
    record
        The answer to show.
    layers
        Whether to add every layer by itself, the session's head sets, and attention with its sinks.
    attributions
        Results of `Answer.attribute` on this answer.
    cards
        Results of `Answer.metric_card`; each stands beside its method.
    boxes
        Where things are known to be, {picture: (x0, y0, x1, y1) or a list of these} in original pixels, from 0 or by name.
    verdict
        What the answer rests on, in one line (`vila_lab.evidence.Evidence.verdict`).

    Raises
    ------
    CaptureError
        If an attribution is of another answer.
    OptionError
        If a box lies in a picture that is not there.
    """
    reader = _Reader(record)
    first = reader.attention(record.mean_attention())
    lines = {card.method: _card_line(card) for card in cards}
    others = [
        *(reader.closer() if layers else ()),
        *reader.attributions(attributions),
    ]
    return AnswerView(
        title=" ".join(part for part in record.parts if isinstance(part, str)).strip(),
        prompt_parts=record.parts,
        tokens=tuple(record.tokens[k].text or "\ufffd" for k in reader.said),
        images=record.images,
        heatmaps=first.heatmaps,
        total=first.total,
        columns=reader.columns,
        ledger=first.numbers,
        method=record.method,
        honesty=record.honesty,
        notes=record.notes,
        card=lines.get("attention", ""),
        readings=tuple(_carded(reading, lines) for reading in others),
        words=reader.words,
        word_shares=first.words,
        tiles=_tiles(record),
        boxes=_known_boxes(record, boxes),
        edits=record.edits,
        probabilities=np.array([record.tokens[k].probability for k in reader.said]),
        verdict=verdict,
        model=short_name(record.model),
    )


def reading_of(record: Record, layer: int | None = None, head: int | None = None, sinks: bool = False) -> Reading:
    """Attention of one layer or the mean of all (None), of one head or the mean of all (None), computed now."""
    reader = _Reader(record)
    if head is None:
        means = record.layer_means()
        values = means.mean(1) if layer is None else means[:, index_of(layer, means.shape[1], "layer")]
    else:
        values = record.attention(layer=layer, head=head).to_numpy().mean((1, 2))
    return reader.attention(np.asarray(values), layer=layer, head=head, sinks=sinks)


def short_name(model: str) -> str:
    """A model's name without its folder or its owner.

    >>> short_name("Efficient-Large-Model/NVILA-8B@v2"), short_name("embedded"), short_name("/models/mine/")
    ('NVILA-8B@v2', 'embedded', 'mine')
    """
    return re.split(r"[/\\]", re.sub(r"[/\\]+$", "", model))[-1] or model


def fits(record: Record, found: Attribution) -> bool:
    """Whether an attribution was computed on this answer's prompt, cut as it is; the words scored may be others."""
    mine, other = record.token_map, found.token_map
    prompts = [(each.text, each.sizes, each.kind[: each.prompt_length].tobytes()) for each in (mine, other)]
    return prompts[0] == prompts[1]


def scores_of(record: Record, attributions: Sequence[Attribution]) -> list[Reading]:
    """Attributions as readings; see `view_of`."""
    return _Reader(record).attributions(attributions)


class _Reader:
    """Turns weights and scores over positions into readings: what is common to all readings of one answer."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.map = record.token_map
        self.said = [k for k, token in enumerate(record.tokens) if not token.stop]
        n = len(record.images)
        self.columns = (*(f"image_{k + 1}" for k in range(n)), "prompt", "answer", "sink")
        self.groups = self.map.indicator(self.columns[:-1]).astype(np.float64)  # (T, columns but sink)
        self.spreads = [self.map.spread(k) for k in range(n)]
        self.sinks = record.sinks
        self.words, self.word_groups = question_words(record)

    def attention(
        self,
        values: NDArray[Any],
        *,
        layer: int | None = None,
        head: int | None = None,
        heads: str = "",
        sinks: bool = False,
    ) -> Reading:
        """Weights over positions as a reading.  # (tokens, T)"""
        weights = values.astype(np.float64)[self.said]
        apart = np.zeros(len(self.map), bool)
        if not sinks:
            apart[self.sinks] = True
        kept = np.where(apart, 0.0, weights)
        ledger = np.concatenate([kept @ self.groups, weights[:, apart].sum(1, keepdims=True)], 1)
        ledger /= np.maximum(ledger.sum(1, keepdims=True), 1e-12)
        maps = [spread.of(kept) for spread in self.spreads]
        n_layers = self.record.layer_means().shape[1]
        which = f"layer {layer} of 0 to {n_layers - 1}" if layer is not None else f"mean over all {n_layers} layers"
        whose = heads or (
            f"head {head} only" if head is not None else "mean over its heads" if layer is not None else "their heads"
        )
        joint = " and " if layer is None and not heads else ", "
        where = whose if heads else f"{which}{joint}{whose}"
        return Reading(
            name="attention",
            method=f"attention, {where}, sinks {'counted in' if sinks else 'set apart'}",
            honesty=self.record.honesty,
            heatmaps=tuple(maps),
            total=tuple(_mean(heat) for heat in maps),
            numbers=ledger,
            total_numbers=_mean(ledger),
            layer=layer,
            heads=heads or (f"head {head}" if head is not None else ""),
            sinks=sinks,
            words=kept @ self.word_groups if self.words else None,
        )

    def closer(self) -> list[Reading]:
        """Attention with its sinks, by layer, and of the head sets that the session knows."""
        means = self.record.layer_means()
        readings = [self.attention(means.mean(1), sinks=True)]
        readings += [self.attention(means[:, layer], layer=layer) for layer in range(means.shape[1])]
        for name, heads in sorted(self.record.head_sets.items()):
            if not heads:
                continue
            try:
                weights = self.record.heads_mean(heads)
            except CaptureError:  # queries and keys were released; the layers' means stay
                break
            listed = ", ".join(f"{layer}.{head}" for layer, head in heads)
            readings.append(self.attention(weights, heads=f"{name} heads ({listed})"))
        return readings

    def attributions(self, found: Sequence[Attribution]) -> list[Reading]:
        """One reading per method, contrast and options; results for single tokens fill the rows of one reading."""
        groups: dict[tuple[str, str], list[Attribution]] = {}
        for one in found:
            if not fits(self.record, one):
                raise CaptureError(
                    f"the {one.method} attribution was computed on another answer: its prompt is not the same"
                )
            groups.setdefault((self._name(one), one.unit), []).append(one)
        return [self._scores(name, ones) for (name, _), ones in groups.items()]

    def _name(self, found: Attribution) -> str:
        """What the picker calls a result: its method, and whatever sets it apart from the plain call."""
        texts = [self.record.tokens[number].text for number in found.token if number < len(self.record.tokens)]
        if found.contrast:
            target = f": {found.target!r} rather than {found.contrast!r}"
        else:
            target = "" if list(found.text) == texts else f": {found.target!r}"
        return ", ".join([found.method + target, *found.options])

    def _scores(self, name: str, found: Sequence[Attribution]) -> Reading:
        first = found[-1]
        values = np.full((len(self.record.tokens), len(self.map)), np.nan)
        for one in found:
            both = min(one.values.shape[1], len(self.map))  # a word that was not said may have more tokens
            for row, token in enumerate(one.token):
                if 0 <= token < len(values):
                    values[token] = 0.0
                    values[token, :both] = one.values[row, :both]
        values = values[self.said]
        scored = values[~np.isnan(values).any(1)]
        whole = _mean(scored) if first.mean else scored.sum(0)
        table = np.concatenate([values, whole[None]])  # the last row is the total
        maps = [spread.of(table) for spread in self.spreads]
        numbers = np.full((len(table), len(self.columns)), np.nan)
        covered = len(self.record.images) + first.covers_prompt
        numbers[:, :covered] = table @ self.groups[:, :covered]
        cost = (
            f"{sum(one.cost.forwards for one in found)} forwards, {sum(one.cost.backwards for one in found)} backwards"
        )
        baseline = f", baseline {first.baseline}" if first.baseline else ""
        causal = first.note or "A score is about this model and this prompt."
        return Reading(
            name=name,
            method=f"{name}, {first.unit}, {first.sign}{baseline}, {cost}",
            honesty=causal[:1].upper() + causal[1:],
            heatmaps=tuple(heat[:-1] for heat in maps),
            total=tuple(heat[-1] for heat in maps),
            numbers=numbers[:-1],
            total_numbers=numbers[-1],
            shares=False,
            unit=first.unit,
            words=values @ self.word_groups if first.covers_prompt and self.words else None,
        )


def _mean(rows: Array) -> Array:
    return np.asarray(rows.mean(0)) if len(rows) else np.full(rows.shape[1:], np.nan)


def question_words(record: Record) -> tuple[tuple[str | int, ...], Array]:
    """What was asked in words, with a picture's index where it stood, and which positions each word is made of.  # (T, words)

    In a conversation earlier questions come first, each with its reply in quotes.
    """
    tokens = record.token_map
    opens, ends = set(tokens.replies[:, 0].tolist()), set((tokens.replies[:, 1] - 1).tolist())
    pieces: list[tuple[str | int, list[int]]] = []
    end, asked = -1, (int(Kind.TEXT), int(Kind.IMAGE), int(Kind.REPLY))
    kinds, pictures, spans = tokens.kind.tolist(), tokens.picture.tolist(), tokens.span.tolist()
    for position, kind in enumerate(kinds):
        if kind not in asked:
            continue
        if kind == Kind.IMAGE:
            picture = pictures[position]
            if not pieces or pieces[-1][0] != picture:
                pieces.append((picture, []))
            continue
        a, b = spans[position]
        text = tokens.text[max(a, end) : b]  # tokens that share a character: it stands at the first
        end = max(end, b)
        if position in ends:  # the token that ended a reply says nothing
            text = "” " if position not in opens else ""
        elif position in opens:
            text = f" “{text.lstrip()}"
        before = pieces[-1][0] if pieces else 0
        if isinstance(before, str) and (not text or (re.search(r"[^\W_]$", before) and _goes_on(text))):
            pieces[-1] = before + text, [*pieces[-1][1], position]
        else:
            pieces.append((text, [position]))
    texts = [positions for piece, positions in pieces if isinstance(piece, str)]
    if not 0 < len(texts) <= MOST_WORDS:
        return (), np.zeros((len(tokens), 0))
    groups = np.zeros((len(tokens), len(texts)))
    for column, positions in enumerate(texts):
        groups[positions, column] = 1
    return tuple(piece for piece, _ in pieces), groups


def _goes_on(text: str) -> bool:
    """Whether a piece goes on with the word before it; characters of scripts without spaces are words of their own."""
    return text[0].isalnum() and ord(text[0]) < 0x2E80


def _tiles(record: Record) -> tuple[tuple[Box, ...], ...]:
    """The tiles of every picture that was cut into several, as boxes of pixels; the whole picture is none."""
    tokens = record.token_map
    return tuple(tuple(_tiles_of(tokens, k)) for k in range(len(record.images)))


def _tiles_of(tokens: Any, picture: int) -> list[Box]:
    mine = tokens.positions(f"image_{picture + 1}")
    found: set[Box] = set()
    for tile in np.unique(tokens.tile[mine]):
        boxes = tokens.box[mine[tokens.tile[mine] == tile]]
        (x0, y0), (x1, y1) = boxes[:, :2].min(0).tolist(), boxes[:, 2:].max(0).tolist()
        found.add((x0, y0, x1, y1))
    whole = (0.0, 0.0, *map(float, tokens.sizes[picture]))
    parts = sorted(box for box in found if not np.allclose(box, whole))
    return parts if len(parts) > 1 else []


def _known_boxes(record: Record, boxes: Mapping[WhichPicture, Any] | None) -> tuple[tuple[Box, ...], ...]:
    """Boxes per picture, from a mapping that may give one box or several."""
    known = boxes_by_picture({} if boxes is None else boxes, record.token_map.sizes)
    return tuple(tuple(known.get(picture, ())) for picture in range(len(record.images)))


def _carded(reading: Reading, lines: Mapping[str, str]) -> Reading:
    plain = reading.layer is None and not reading.heads and not reading.sinks
    return replace(reading, card=lines[reading.name]) if plain and reading.name in lines else reading


def _card_line(card: MetricCard) -> str:
    """A metric card in one line: the method's numbers, and the best that a map without knowledge reached."""
    mine, others = card.table.iloc[0], card.table.iloc[1:]
    numbers = [
        f"{name} {mine[name]:.2f} ({', '.join(f'{row} {others.loc[row, name]:.2f}' for row in others.index)})"
        for name in card.table.columns
        if np.isfinite(mine[name])
    ]
    return f"{card.target!r}: {'; '.join(numbers)}"
