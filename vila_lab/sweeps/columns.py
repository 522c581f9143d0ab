"""Which columns of a table hold a question's pictures, words, options and answer. Knows names of columns, no file and no model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import FileError, OptionError
from ..options import nearest

__all__ = ["Columns"]

NUMBERED = re.compile(r"(?:image|img|picture)_?(\d+)(?:_path)?", re.IGNORECASE)
LISTS = ("images", "image_list", "image_paths", "input_image_path", "pictures", "media", "paths")
PAIRS = (("left_image", "right_image"), ("image_left", "image_right"), ("left", "right"))
SINGLE = ("image", "image_path", "picture", "file_name", "path")
KNOWN = {
    "question": ("question", "sentence", "query", "text", "prompt"),
    "options": ("options", "choices"),
    "answer": ("answer", "label", "output", "target", "ground_truth"),
    "id": ("id", "idx", "question_id", "identifier", "uid", "index"),
    "rests_on": ("rests_on", "right_picture", "target_picture"),
}


@dataclass(frozen=True)
class Columns:
    """Where a table says what. Every name is one of its columns; "" is none.

    Attributes
    ----------
    images : tuple of str
        Columns of one picture each, in order, or one column of lists.
    question : str
        What is asked.
    options : str
        What to choose from: a list, or a text as it stands.
    answer : str
        The right answer, as the table has it.
    id : str
        A name of each row, which tells rows apart that are otherwise the same.
    rests_on : str
        The picture that the answer should rest on, from 1; several as a list.

    Examples
    --------
    >>> Columns.found_in(["idx", "sub_task", "question", "choices", "answer", "image_1", "image_2"]).images
    ('image_1', 'image_2')
    >>> Columns.found_in(["left_image", "right_image", "sentence", "label"])
    Columns(images=('left_image', 'right_image'), question='sentence', options='', answer='label', id='', rests_on='')
    """

    images: tuple[str, ...] = ()
    question: str = ""
    options: str = ""
    answer: str = ""
    id: str = ""
    rests_on: str = ""

    @classmethod
    def found_in(cls, names: Iterable[str]) -> Columns:
        """The columns of a table by their usual names, as in BLINK, MuirBench, Mantis-Eval, NLVR2 and MMIU."""
        there = {str(name).lower(): str(name) for name in names}
        numbered = sorted((int(match[1]), name) for low, name in there.items() if (match := NUMBERED.fullmatch(low)))
        listed = [there[name] for name in LISTS if name in there][:1]
        pairs = [(there[a], there[b]) for a, b in PAIRS if a in there and b in there]
        single = [there[name] for name in SINGLE if name in there][:1]
        images = tuple(name for _, name in numbered) or tuple(listed) or (*pairs, tuple(single))[0]
        found = {field: next((there[name] for name in usual if name in there), "") for field, usual in KNOWN.items()}
        return cls(images, **found)

    @classmethod
    def of(cls, given: Columns | Mapping[str, Any] | str | Path | None) -> Columns | None:
        """Columns as they were named: in a mapping, or in a JSON file of one; None for None.

        Raises
        ------
        FileError
            If the file is no JSON object.
        OptionError
            If there is something else than names of columns in it.
        """
        if given is None or isinstance(given, Columns):
            return given
        if isinstance(given, str | Path):
            try:
                given = json.loads(Path(given).expanduser().read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise FileError(f"{str(given)!r} says no columns ({error}); give a JSON object") from error
        if not isinstance(given, Mapping):
            raise OptionError(f"columns are named in a JSON object or a mapping, not in {given!r}")
        known = [each.name for each in fields(cls)]
        for name, value in given.items():
            if name not in known:
                raise OptionError(f"columns say no {name!r}{nearest(name, known)}; they say {', '.join(known)}")
            texts = value if name == "images" and isinstance(value, list | tuple) else [value]
            if not all(isinstance(each, str) for each in texts):
                raise OptionError(f"the column of {name} is named by a text, not by {value!r}")
        images = given.get("images", ())
        return cls(**{**given, "images": (images,) if isinstance(images, str) else tuple(images)})

    def check(self, names: Iterable[str]) -> None:
        """Refuse columns that are not there, and a table without questions.

        Raises
        ------
        OptionError
            The message lists the columns there are.
        """
        there = list(map(str, names))
        listed = f"the columns are {', '.join(there)}"
        for each in fields(self):
            value = getattr(self, each.name)
            for name in value if isinstance(value, tuple) else (value,):
                if name and name not in there:
                    raise OptionError(f"there is no column {name!r} for {each.name}{nearest(name, there)}; {listed}")
        if not self.question and not self.images:
            raise OptionError(f"no column is known to hold questions or pictures: name them (columns=); {listed}")
