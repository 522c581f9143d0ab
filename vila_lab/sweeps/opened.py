"""A sweep that was run: its rows, its tokens, its maps, its answers. Knows a store; a model only where one is given to ask again.

Everything is read when it is asked for. `vila_lab.open_sweep` opens a folder, finished or not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..answer import Answer
from ..engine.record import Record
from ..errors import CaptureError, OptionError
from ..options import nearest
from ..session import Session
from .comparing import Compared, compared
from .judging import is_right
from .store import Store, arrow

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["Maps", "Sweep", "open_sweep"]

FIRST = ("key", "id", "question", "answer", "error", "expected", "right")
INNER = ("id_is_number", "asked", "at", "part")


def open_sweep(place: str | Path) -> Sweep:
    """Open the folder of a sweep; no model is needed.

    Parameters
    ----------
    place
        The folder, or an address that fsspec knows.

    Raises
    ------
    SavedFileNotFound
        If there is no such folder.

    Examples
    --------
    >>> import tempfile, vila_lab
    >>> rows = [{"id": "a", "images": [vila_lab.demo_images() / "g.png"], "question": "What is in image 1?"}]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     made = vila_lab.sweep(rows, folder)
    ...     vila_lab.open_sweep(folder).frame()["answer"].tolist()
    ['Google.']
    """
    return Sweep(Store(place))


class Sweep:
    """The rows of a sweep.

    Made by `vila_lab.sweep` and `vila_lab.open_sweep`.

    Attributes
    ----------
    store : Store
        Where it lies.
    run : str or None
        Of what `vila_lab.sweep` returns, the run it was, as the frame's column of that name says; None of a folder that was opened.

    Examples
    --------
    >>> import tempfile, vila_lab
    >>> folder = tempfile.TemporaryDirectory()
    >>> rows = [{"images": [vila_lab.demo_images() / "g.png"], "question": "What is in image 1?"}]
    >>> sweep = vila_lab.sweep(rows, folder.name)
    >>> sweep, sweep[sweep.frame()["key"][0]]
    (Sweep(1 questions), Answer('Google.', 3 tokens, 1 pictures))
    >>> folder.cleanup()
    """

    def __init__(self, store: Store, run: str | None = None) -> None:
        self.store, self.run = store, run
        self._homes: dict[str, str] = {}
        self._parts: list[str] = []  # of which `_homes` tells

    def __repr__(self) -> str:
        return _told(self.frame())

    def _repr_html_(self) -> str:
        frame = self.frame()
        shown: str = frame.head(20).to_html(escape=True, float_format="{:.2f}".format, na_rep="") if len(frame) else ""
        return f"<div>{escape(_told(frame))}{shown}</div>"

    def __len__(self) -> int:
        return len(self.frame())

    @property
    def failed(self) -> int:
        """How many questions have an error: there is no answer, or a method failed on it."""
        return int(self.frame()["error"].notna().sum())

    @property
    def runs(self) -> list[dict[str, Any]]:
        """What each run in the folder was: its plan, versions and time, the oldest first."""
        return list(self.store.manifests())

    # ---- tables ------------------------------------------------------------------------------------------------------

    def frame(self) -> pd.DataFrame:
        """One row per question.

        Returns
        -------
        DataFrame
            key; id as given; question; answer, the model's; error, one sentence where there is no answer or a method failed; expected, the answer
            that was given with the question, and right, whether it was said; the question's own columns; confidence, the
            geometric mean of the probabilities of the answer's tokens; and for each method the pictures' numbers as a list, and
            ``..._picture``, the one that counts most, from 1.
        """
        import pandas as pd

        frame = _pandas(self.store.table("part"))
        if not len(frame):
            return pd.DataFrame(columns=list(FIRST))
        frame = _once(frame)
        numbers = frame.pop("id_is_number") if "id_is_number" in frame else None
        if numbers is not None:
            frame["id"] = [
                int(name) if is_number else name for name, is_number in zip(frame["id"], numbers, strict=True)
            ]
        frame = _with_more(frame)
        for name in ("answer", "error", "expected"):
            values = frame.get(name, [None] * len(frame))
            frame[name] = pd.Series([each if isinstance(each, str) else None for each in values], frame.index, object)
        judged = zip(frame["answer"], frame["expected"], frame["options"], strict=True)
        frame["right"] = pd.Series([is_right(*each) for each in judged], frame.index, object)  # True, False or None
        frame = frame.sort_values(["row", "key"], kind="stable").reset_index(drop=True)
        rest = [name for name in frame if name not in FIRST and name not in INNER]
        return frame[[*FIRST, *rest]]

    def tokens(self) -> pd.DataFrame:
        """One row per token of an answer and picture: key, token, text, probability, stop, picture (from 1), and what each
        method says."""
        import pandas as pd

        frame = _pandas(self.store.table("tokens"))
        if not len(frame):
            return pd.DataFrame(columns=["key", "token", "text", "probability", "stop", "picture"])
        # A question that two workers asked at once has its tokens in two parts, and its answer from one.
        is_answer_s = frame["key"].map(self._keys()) == frame.pop("part")
        return frame[is_answer_s].reset_index(drop=True)

    def maps(self, method: str = "attention") -> Maps:
        """Where in the pictures: for each key its maps, read when they are asked for.

        Parameters
        ----------
        method
            "attention", or another method that was asked for.

        Raises
        ------
        OptionError
            If no question has maps of that method.
        """
        return Maps(self.store, self._keys(), method)

    # ---- answers -----------------------------------------------------------------------------------------------------

    def __getitem__(self, key: str) -> Answer:
        """The answer of a key, or of a key's beginning, without a model; `Answer.bind` gives it one.

        Raises
        ------
        OptionError
            If there is no such key.
        CaptureError
            If its question has no answer, or answers were not kept.
        """
        whole = self._whole(key)
        try:
            found = self.store.arrays(self._home(whole), [f"{whole}/record"])
        except KeyError:
            raise CaptureError(
                f"of question {key!r} no answer was kept: it failed, or the sweep ran with records=False"
            ) from None
        return Answer(Record.from_bytes(found[f"{whole}/record"].tobytes()))

    def __iter__(self) -> Iterator[str]:
        return iter(self.frame()["key"].tolist())

    def rerun(self, key: str, lab: Session) -> Answer:
        """Ask the question of a key again; see `Session.ask_again`.

        Parameters
        ----------
        key
        lab
            A session, of the same model or another.
        """
        return lab.ask_again(self[key])

    def compare(self, other: Sweep) -> Compared:
        """This sweep beside another of the same questions: another model's, or another prompt's.

        Parameters
        ----------
        other
            Rows are matched by their ids, or where they have none by question and pictures.

        Raises
        ------
        OptionError
            If they have no question in common, or an id stands twice.
        """
        return compared(self.frame(), other.frame())

    def _keys(self) -> dict[str, str]:
        """In which part each key has its answer; an error counts where there is none."""
        parts = self.store.names()
        if parts != self._parts:
            frame = _newest(_pandas(self.store.table("part", ["key", "error", "part", "at"])))
            self._homes, self._parts = dict(zip(frame["key"], frame["part"], strict=True)), parts
        return self._homes

    def _whole(self, key: str) -> str:
        keys = self._keys()
        begun = [each for each in keys if isinstance(key, str) and key and each.startswith(key)]
        found = [key] if key in keys else begun
        if len(found) != 1:
            said = (
                f"{len(found)} keys begin with {key!r}; give more of it"
                if found
                else f"there is no key {key!r}{nearest(str(key), keys)}"
            )
            raise OptionError(f"{said}; frame()['key'] lists them")
        return found[0]

    def _home(self, key: str) -> str:
        return self._keys()[key]


class Maps(Mapping[str, "list[xr.DataArray]"]):
    """Maps over the pictures of each answer, by key; a map is (rows, columns) and sums to what its picture got."""

    def __init__(self, store: Store, homes: Mapping[str, str], method: str) -> None:
        self._store, self.method = store, method
        self._places: dict[str, tuple[str, int]] = {}
        known: set[str] = set()
        for part, key, how, picture, _ in maps_in(store):
            known.add(how)
            if how == method and homes.get(key) == part:
                count = max(picture, self._places.get(key, (part, 0))[1])
                self._places[key] = part, count
        if known and method not in known:
            raise OptionError(
                f"there are no maps of {method!r}{nearest(method, known)}; there are some of {', '.join(sorted(known))}"
            )

    def __getitem__(self, key: str) -> list[xr.DataArray]:
        import xarray as xr

        part, count = self._places[key]
        names = [map_name(key, self.method, k + 1) for k in range(count)]
        found = self._store.arrays(part, names)
        return [
            xr.DataArray(found[name], dims=("row", "column"), name=f"{self.method} in picture {k + 1}")
            for k, name in enumerate(names)
        ]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def map_name(key: str, method: str, picture: int) -> str:
    """What a part calls the map of a method over a picture, from 1, of a question."""
    return f"{key}/map/{method}/image_{picture}"


def maps_in(store: Store) -> Iterator[tuple[str, str, str, int, tuple[int, ...]]]:
    """Part, key, method, picture (from 1) and shape of every map there is."""
    for part, name, shape in store.shapes():
        key, _, rest = name.partition("/map/")
        if rest:
            method, _, picture = rest.partition("/image_")
            yield part, key, method, int(picture), shape


def _pandas(table: Any) -> pd.DataFrame:
    """A table of pandas, in which whole numbers stay whole where some are missing."""
    import pandas as pd

    frame: pd.DataFrame = table.to_pandas(types_mapper={arrow().int64(): pd.Int64Dtype()}.get)
    return frame


def _told(frame: pd.DataFrame) -> str:
    failed = int(frame["error"].notna().sum())
    return f"Sweep({len(frame)} questions{f', {failed} failed' if failed else ''})"


def _newest(frame: pd.DataFrame) -> pd.DataFrame:
    """Each key once, failed ones first: its answer before an error, the later before the earlier."""
    frame = frame.sort_values("at", kind="stable")
    frame = frame.assign(_failed=frame["error"].notna()).sort_values("_failed", ascending=False, kind="stable")
    return frame.drop_duplicates("key", keep="last")


def _once(frame: pd.DataFrame) -> pd.DataFrame:
    """Each question once; an error goes once its row was asked under another key: its picture was mended, or the row in the table."""
    frame = _newest(frame)
    was_asked_again = frame.duplicated(["run", "asked"], keep="last")
    was_asked_again |= frame["id"].notna() & frame.duplicated(["run", "id", "row"], keep="last")
    return frame[~(frame["_failed"] & was_asked_again)].drop(columns="_failed")


def _with_more(frame: pd.DataFrame) -> pd.DataFrame:
    """The question's own columns, beside those of the sweep."""
    import pandas as pd

    if "more" not in frame:
        return frame
    cells = [json.loads(text) if isinstance(text, str) else {} for text in frame.pop("more")]
    more = pd.DataFrame(cells, index=frame.index)
    more = more.rename(columns={name: f"given_{name}" for name in more if name in frame})
    found = frame.join(more)
    found.attrs["own"] = list(more)
    return found
