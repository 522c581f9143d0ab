"""Which heads pick the right picture, which the right place in it, and which does the answer need? Ranked over samples. Knows no question.

Localization heads after Kang et al. 2025, "Your Large Vision-Language Model Only Needs A Few Attention Heads For Visual
Grounding": heads are kept by the SUM of their attention to the picture, cut at the elbow of the sorted sums; in every
sample the kept heads with the lowest spatial entropy are selected; heads are ranked by how often that happens. No box is
looked at for that: boxes only score the heads that were found.

Both read attention, which is no causal evidence. Causal heads are found by patching (`vila_lab.evidence.causal`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from ..engine.lab import Lab
from ..engine.request import Request
from ..errors import FileAccessError, OptionError
from ..options import nearest
from ..pointing import picture_index
from ..progress import progress
from ..prompt import Prompt
from ..writing import check_place, write_file
from .bootstrap import Interval, interval
from .causal import Change, most, read_change, together
from .localization import elbow, spatial_entropy
from .metrics import TIE, pointing

if TYPE_CHECKING:
    import pandas as pd


HeadKind: TypeAlias = Literal["routing", "localization", "causal"]
KINDS: tuple[str, ...] = get_args(HeadKind)
TOP = 3  # heads in a set, as in the source
LOWEST = 10  # heads of lowest entropy that a sample selects, as in the source; at most half of those kept
SETS = 200  # random and control sets to compare with
PATCHED_SETS = 4  # of each, where a set costs runs of the model
LONGEST = 64  # tokens of an answer
NOT_CAUSAL = "attention is not causal evidence; answer.attribute('leave_one_out') is the call that checks"
CAUSAL = "patching shows what these answers needed, for this change of one picture; benchmarks/heads.py ablates the set beside control heads"
RULES = {
    "routing": "heads by the share of samples in which their attention is largest on the right picture",
    "localization": "attention sum above the elbow, lowest spatial entropy, selection frequency (Kang et al. 2025)",
    "causal": "heads by the logit difference they carry alone when one picture is exchanged, patched behind the pictures; at most "
    "half of a layer's heads",
}

Head = tuple[int, int]


@dataclass(frozen=True)
class Sample:
    """A question whose answer is about one picture.

    Attributes
    ----------
    images : tuple of pictures
        Before the question, as in `Session.ask`.
    question : str
    picture : int
        The picture that the answer is about, counted from 0; it may be given by name, "image_1".
    boxes : tuple of (x0, y0, x1, y1)
        Where in it, in its pixels; needed to score localization.
    word : str or None
        The word of the answer whose rows are read; None for the whole answer. A sample whose answer lacks it is skipped.

    Examples
    --------
    >>> sample = Sample(("cat.png", "dog.png"), "Which image shows a dog?", "image_2", boxes=((0, 0, 40, 30),), word="2")
    >>> sample.picture, sample.question, sample.boxes, sample.word, sample.images[1]
    (1, 'Which image shows a dog?', ((0, 0, 40, 30),), '2', 'dog.png')
    """

    images: tuple[Any, ...]
    question: str
    picture: int
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    word: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.picture, str):
            object.__setattr__(self, "picture", picture_index(self.picture, len(self.images)))


@dataclass(frozen=True, eq=False)
class HeadRanking:
    """The heads of a checkpoint, ranked.

    Attributes
    ----------
    kind : str
        "routing", "localization" or "causal".
    model : str
        Name of the model.
    rule : str
        How heads were chosen, in words.
    heads : tuple of (layer, head)
        The set that ``heads=kind`` stands for.
    ranking : tuple of dict
        All heads, best first: layer, head, score (accuracy, selection frequency, or what it carries), its interval, and for
        localization the attention sum and whether it passed the elbow.
    scores : dict
        Accuracy of the set on the half of the samples that it was not chosen on, of random sets, of control sets (other
        heads of the same layers), and of chance, each with its interval. For causal heads what a set carries together; chance is
        its part of all heads.
    samples, skipped : int
        How many samples were read, and how many were not, as the answer lacks the sample's word, or stays the same with another picture.
    shape : (layers, heads)
        Of the decoder.
    extra : dict
        What the kind tells beyond that.
    note : str
        What a reader must know.

    Examples
    --------
    >>> import vila_lab
    >>> lab, folder = vila_lab.load(), vila_lab.demo_images()
    >>> pictures = folder / "g.png", folder / "m.png"
    >>> samples = [Sample(pictures, f"What is in image {k + 1}?", k) for k in (0, 1, 0, 1)]
    >>> before = lab.head_sets["routing"]
    >>> found = lab.rank_heads(samples, top=2)
    >>> lab.head_sets["routing"] = before
    >>> found.kind, found.model, found.shape, found.samples, len(found.heads), list(found.scores)
    ('routing', 'embedded', (6, 4), 4, 2, ['chosen', 'random', 'control', 'chance'])
    """

    kind: str
    model: str
    rule: str
    heads: tuple[Head, ...]
    ranking: tuple[dict[str, Any], ...]
    scores: dict[str, Interval]
    samples: int
    skipped: int
    shape: tuple[int, int]
    extra: dict[str, Any] = field(default_factory=dict)
    note: str = NOT_CAUSAL

    def table(self) -> pd.DataFrame:
        """`ranking` as a DataFrame: a row per head, best first.

        Examples
        --------
        >>> ranking = {"layer": 4, "head": 0, "score": 0.9}
        >>> found = HeadRanking("routing", "embedded", "", ((4, 0),), (ranking,), {}, 10, 0, (6, 4))
        >>> found.table().columns.tolist()
        ['layer', 'head', 'score']
        """
        import pandas as pd

        return pd.DataFrame(list(self.ranking))

    def __repr__(self) -> str:
        better = f"{self.scores['chosen'].mean:.2f} against {self.scores['control'].mean:.2f} of control heads"
        return f"HeadRanking({self.kind}, {self.model!r}, heads {list(self.heads)}, {better})"

    def _repr_html_(self) -> str:
        scored = "".join(f"<li>{name}: {value}</li>" for name, value in self.scores.items())
        head = f"<b>{escape(repr(self))}</b><br>{escape(self.rule)}; {self.samples} samples"
        return f"<div>{head}<ul>{scored}</ul>{self.table().round(3).head(8).to_html()}<small>{self.note}</small></div>"

    def to_json(self) -> dict[str, Any]:
        """The ranking as what JSON can hold.

        Examples
        --------
        >>> found = HeadRanking("routing", "embedded", "", ((4, 0),), (), {}, 10, 0, (6, 4))
        >>> HeadRanking.from_json(found.to_json()).heads
        ((4, 0),)
        """
        content = asdict(self)
        return {**content, "scores": {name: list(value) for name, value in self.scores.items()}}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> HeadRanking:
        """A ranking from what `to_json` made.

        Examples
        --------
        >>> found = HeadRanking("routing", "embedded", "", ((4, 0),), (), {}, 10, 0, (6, 4))
        >>> HeadRanking.from_json(found.to_json()).shape
        (6, 4)
        """
        return cls(
            **{
                **content,
                "heads": tuple((int(layer), int(head)) for layer, head in content["heads"]),
                "ranking": tuple(content["ranking"]),
                "scores": {name: Interval(*value) for name, value in content["scores"].items()},
                "shape": tuple(content["shape"]),
            }
        )

    def save(self, path: str | Path) -> Path:
        """Write the ranking as JSON; those of other kinds that are in the file stay there.

        Raises
        ------
        FileAccessError
            If the file cannot be written, or holds something else.

        Examples
        --------
        >>> import json, tempfile
        >>> found = HeadRanking("routing", "embedded", "", ((4, 0),), (), {}, 10, 0, (6, 4))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     list(json.loads(found.save(f"{folder}/heads.json").read_text()))
        ['routing']
        """
        check_place(path)
        content = {**_rankings(Path(path).expanduser()), self.kind: self.to_json()}
        return write_file(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def _rankings(path: Path) -> dict[str, Any]:
    """What a file of rankings holds; nothing where there is none."""
    if not path.exists():
        return {}
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FileAccessError(
            f"{str(path)!r} holds no rankings ({error}), and is not overwritten; choose another name"
        ) from error
    return content


@dataclass(frozen=True, eq=False)
class SampleAttention:
    """Attention of one sample's answer: mass on each picture, and the map of the picture that it is about."""

    sample: Sample
    mass: NDArray[np.float64]  # (layers, heads, pictures)
    maps: NDArray[np.float64]  # (layers, heads, rows, columns)
    size: tuple[int, int]


Score = Callable[[SampleAttention, Sequence[Head]], float]


def rank_heads(
    lab: Lab, dataset: Sequence[Sample], kind: str = "routing", *, top: int = TOP, seed: int = 0
) -> HeadRanking:
    """Rank every head of the decoder over a dataset.

    Parameters
    ----------
    dataset
        At least four questions with known pictures (and, for localization, boxes).
    kind
        "routing", "localization" or "causal".
    top
        Heads in the chosen set.
    seed
        Of the random sets and the bootstrap.

    Raises
    ------
    OptionError
        If the kind is unknown, the dataset is too small or lacks boxes, or the set leaves no head to compare it with.
    """
    if kind not in KINDS:
        raise OptionError(f"unknown kind of heads {kind!r}{nearest(kind, KINDS)}; known: {', '.join(KINDS)}")
    _check(dataset, kind, top)
    if kind == "causal":
        changes = _read(dataset, lambda sample: read_change(lab, sample, LONGEST))
        shape = changes[0].heads.shape
        check_leaves_others(top, shape)
        ranking, scores = _by_change(changes, seed), _carried(lab, changes, top, shape, seed)
        best = most(np.mean([change.heads for change in changes], axis=0), top)
    else:
        readings = _read(dataset, lambda sample: read(lab, sample))
        shape = readings[0].mass.shape[:2]
        check_leaves_others(top, shape)
        ranking = _by_accuracy(readings, seed) if kind == "routing" else _by_entropy(readings, seed)
        best, scores = _top(readings, kind, top), _scores(readings, kind, top, shape, seed)
    samples = len(changes) if kind == "causal" else len(readings)
    return HeadRanking(
        kind=kind,
        model=lab.name,
        rule=RULES[kind],
        heads=tuple(best),
        ranking=tuple(ranking),
        scores=scores,
        samples=samples,
        skipped=len(dataset) - samples,
        shape=shape,
        note=CAUSAL if kind == "causal" else NOT_CAUSAL,
    )


R = TypeVar("R")


def _read(dataset: Sequence[Sample], read_one: Callable[[Sample], R | None]) -> list[R]:
    """What was read of each sample that could be read.

    Raises
    ------
    OptionError
        If fewer than four could be.
    """
    found: list[R] = []
    with progress(len(dataset), "samples") as bar:
        for sample in dataset:
            each = read_one(sample)
            found += [each] if each is not None else []
            bar.update()
    if len(found) < 4:
        raise OptionError(f"only {len(found)} of {len(dataset)} answers hold their sample's word; at least 4 must")
    return found


def check_leaves_others(top: int, shape: tuple[int, ...]) -> None:
    """Raises OptionError if a set of so many heads has no other heads to be compared with."""
    heads = shape[0] * shape[1]
    if top > heads // 2:
        raise OptionError(
            f"top={top} leaves too few of the decoder's {heads} heads to compare the set with; give at most {heads // 2}"
        )


def _check(dataset: Sequence[Sample], kind: str, top: int) -> None:
    if len(dataset) < 4:
        raise OptionError(f"a ranking needs at least 4 samples, not {len(dataset)}: half of them only score it")
    if top < 1:
        raise OptionError(f"top must be at least 1, not {top}")
    for number, sample in enumerate(dataset):
        if not 0 <= sample.picture < len(sample.images):
            raise OptionError(
                f"sample {number} is about picture {sample.picture}, but has {len(sample.images)}, counted from 0"
            )
        if kind != "localization" and len(sample.images) < 2:
            raise OptionError(f"sample {number} has one picture: {kind} needs at least two to choose from")
        if kind == "localization" and not sample.boxes:
            raise OptionError(f"sample {number} has no boxes, so localization cannot be scored; give Sample(boxes=...)")


def read(lab: Lab, sample: Sample) -> SampleAttention | None:
    """Ask, and read the attention of the rows that chose the answer (or its word); None if the word was not said."""
    record = lab.run(Request(Prompt.of([*sample.images, sample.question]), max_new_tokens=LONGEST))
    rows = record.rows_of(sample.word)
    if not rows:
        return None
    weights = record.attention().to_numpy()[rows].mean(0).astype(np.float64)  # (L, H, T)
    weights[..., record.sinks] = 0
    groups = [f"image_{k + 1}" for k in range(len(sample.images))]
    mass = weights @ record.token_map.indicator(groups)
    maps = record.token_map.heatmap(weights, sample.picture)
    return SampleAttention(sample, mass, maps, record.token_map.sizes[sample.picture])


# -- rankings --------------------------------------------------------------------------------------------------------


def _by_accuracy(readings: Sequence[SampleAttention], seed: int) -> list[dict[str, Any]]:
    rows = []
    for head in _heads(readings):
        found = interval([routes(reading, [head]) for reading in readings], seed=seed)
        rows.append(_entry(head, found))
    return sorted(rows, key=lambda row: -row["score"])


def _by_change(changes: Sequence[Change], seed: int) -> list[dict[str, Any]]:
    carried = np.stack([change.heads for change in changes])  # (samples, L, H)
    rows = [
        _entry((layer, head), interval(carried[:, layer, head], seed=seed))
        for layer, head in np.ndindex(*carried.shape[1:])
    ]
    return sorted(rows, key=lambda row: -row["score"])


def _by_entropy(readings: Sequence[SampleAttention], seed: int) -> list[dict[str, Any]]:
    sums, kept, selected = select(readings)
    rows = []
    for layer, head in _heads(readings):
        found = interval(selected[:, layer, head].astype(np.float64), seed=seed)
        more = {"attention_sum": float(sums[layer, head]), "kept": bool(kept[layer, head])}
        rows.append(_entry((layer, head), found) | more)
    return sorted(rows, key=lambda row: (-row["score"], -row["attention_sum"]))


def _entry(head: Head, found: Interval) -> dict[str, Any]:
    return {"layer": head[0], "head": head[1], "score": found.mean, "low": found.low, "high": found.high}


def select(
    readings: Sequence[SampleAttention],
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """The source's rule: mean attention sums (L, H), which heads pass the elbow (L, H), and which each sample selects
    (samples, L, H)."""
    sums = np.mean([reading.mass[..., reading.sample.picture] for reading in readings], axis=0)
    kept = sums >= elbow(sums.ravel())
    lowest = min(LOWEST, max(1, int(kept.sum()) // 2))
    selected = np.zeros((len(readings), *sums.shape), bool)
    for k, reading in enumerate(readings):
        entropy = np.where(kept, spatial_entropy(reading.maps), np.inf)
        chosen = np.argsort(entropy.ravel(), kind="stable")[:lowest]
        selected[k].ravel()[chosen] = True
    return sums, kept, selected


# -- how good is a set -----------------------------------------------------------------------------------------------


def routes(reading: SampleAttention, heads: Sequence[Head]) -> float:
    """Whether the heads' mean mass is largest on the right picture; a tie counts by its chance."""
    mass = np.mean([reading.mass[head] for head in heads], axis=0)
    best = mass >= mass.max() * (1 - TIE)
    return float(best[reading.sample.picture] / best.sum())


def points(reading: SampleAttention, heads: Sequence[Head]) -> float:
    """Whether the heads' mean map is largest in a box of the sample; see `metrics.pointing`."""
    heat = np.mean([reading.maps[head] for head in heads], axis=0)
    return pointing(heat, reading.size, reading.sample.boxes, reading.sample.picture)


def _top(readings: Sequence[SampleAttention], kind: str, top: int) -> list[Head]:
    """The best heads, for localization only those that the elbow kept."""
    if kind == "routing":
        score = {head: np.mean([routes(reading, [head]) for reading in readings]) for head in _heads(readings)}
        return sorted(score, key=lambda head: -score[head])[:top]
    sums, kept, selected = select(readings)
    passed = [head for head in _heads(readings) if kept[head]]
    return sorted(passed, key=lambda head: (-selected[:, head[0], head[1]].mean(), -sums[head]))[:top]


def _scores(
    readings: Sequence[SampleAttention], kind: str, top: int, shape: tuple[int, ...], seed: int
) -> dict[str, Interval]:
    """The set chosen on the even samples, scored on the odd ones, beside sets that were not chosen."""
    score: Score = routes if kind == "routing" else points
    test = readings[1::2]
    chosen = _top(readings[::2], kind, top)
    random, others = _other_sets(chosen, top, shape, SETS, seed)
    found = {"chosen": interval([score(reading, chosen) for reading in test], seed=seed)}
    for name, sets in (("random", random), ("control", others)):
        distinct = [list(heads) for heads in {tuple(sorted(heads)) for heads in sets}]
        means = [float(np.mean([score(reading, heads) for heads in distinct])) for reading in test]
        found[name] = interval(means, seed=seed)
    found["chance"] = interval([_chance(reading, kind) for reading in test], seed=seed)
    return found


def _other_sets(
    chosen: Sequence[Head], top: int, shape: tuple[int, ...], count: int, seed: int
) -> tuple[list[list[Head]], list[list[Head]]]:
    """Random sets, and control sets."""
    rng = np.random.default_rng(seed)
    every = [(layer, head) for layer in range(shape[0]) for head in range(shape[1])]
    random = [[every[k] for k in rng.choice(len(every), min(top, len(every)), replace=False)] for _ in range(count)]
    return random, [controls(chosen, shape, rng) for _ in range(count)]


def _carried(lab: Lab, changes: Sequence[Change], top: int, shape: tuple[int, ...], seed: int) -> dict[str, Interval]:
    """What the set chosen on the even samples carries together on the odd ones, beside sets that were not chosen."""
    chosen = most(np.mean([change.heads for change in changes[::2]], axis=0), top)
    random, others = _other_sets(chosen, top, shape, PATCHED_SETS, seed)
    carried = np.array([together(lab, change, [chosen, *random, *others]) for change in changes[1::2]])
    parts = {
        "chosen": carried[:, 0],
        "random": carried[:, 1 : 1 + PATCHED_SETS].mean(1),
        "control": carried[:, 1 + PATCHED_SETS :].mean(1),
        "chance": np.full(len(carried), len(chosen) / (shape[0] * shape[1])),
    }
    return {name: interval(values, seed=seed) for name, values in parts.items()}


def controls(chosen: Sequence[Head], shape: tuple[int, ...], rng: np.random.Generator) -> list[Head]:
    """As many heads outside of the set, each of the layer of one that is in it; where a layer has no other left, of the nearest one."""
    found: list[Head] = []
    for layer, _ in chosen:
        free = [head for head in np.ndindex(*shape) if head not in chosen and head not in found]
        nearest = min((abs(other - layer) for other, _ in free), default=0)
        same = [head for head in free if abs(head[0] - layer) == nearest]
        found += [(int(same[k][0]), int(same[k][1])) for k in rng.choice(len(same), min(1, len(same)), replace=False)]
    return found


def _chance(reading: SampleAttention, kind: str) -> float:
    if kind == "routing":
        return 1 / len(reading.sample.images)
    flat = np.ones(reading.maps.shape[-2:])
    return pointing(flat, reading.size, reading.sample.boxes, reading.sample.picture)


def _heads(readings: Sequence[SampleAttention]) -> list[Head]:
    layers, heads = readings[0].mass.shape[:2]
    return [(layer, head) for layer in range(layers) for head in range(heads)]
