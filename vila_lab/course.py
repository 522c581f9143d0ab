"""Hands the course out: notebooks and demo pictures, from the package into a reader's folder. Knows files, not what is in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .tiny import demo_images
from .writing import make_folder, write_file

__all__ = ["HandedOut", "hand_out", "notebooks"]

PICTURES = "demo_images"


@dataclass(frozen=True)
class HandedOut:
    """What became of the files of the course.

    Attributes
    ----------
    written : tuple of Path
        Files that were not there, or were replaced with `force`.
    kept : tuple of Path
        Files that are there and differ: somebody's work.
    unchanged : tuple of Path
        Files that were there already, the same to the byte.
    """

    written: tuple[Path, ...]
    kept: tuple[Path, ...]
    unchanged: tuple[Path, ...]


def notebooks() -> Path:
    """The folder of the course's notebooks."""
    package = Path(__file__).parent
    inside = package / "notebooks"  # of an installed wheel; a checkout has it beside the package
    return inside if inside.is_dir() else package.parent / "notebooks"


def hand_out(folder: str | Path, *, force: bool = False) -> HandedOut:
    """Copy the course into a folder, and the demo pictures into ``demo_images`` in it.

    Parameters
    ----------
    folder
        Made if it is not there.
    force
        Replace files that differ; without it they are kept.

    Raises
    ------
    FileAccessError
        The folder cannot be made or written; what was written before that is whole.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found = hand_out(folder)
    ...     (Path(folder) / "01_first_look.ipynb").is_file(), (Path(folder) / "demo_images" / "g.png").is_file(), found.kept
    (True, True, ())
    """
    root = Path(folder).expanduser()
    written, kept, unchanged = [], [], []
    for source, place in _files():
        target = root / place
        content = source.read_bytes()
        if _content(target) == content:
            unchanged.append(target)
        elif target.exists() and not force:
            kept.append(target)
        else:
            make_folder(target.parent)
            written.append(write_file(target, content))
    return HandedOut(tuple(written), tuple(kept), tuple(unchanged))


def _files() -> Iterator[tuple[Path, Path]]:
    """Every file of the course, and where it goes."""
    for source, place in ((notebooks(), Path()), (demo_images(), Path(PICTURES))):
        for path in sorted(source.rglob("*")):
            within = path.relative_to(source)
            if path.is_file() and not any(part.startswith((".", "__")) for part in within.parts):
                yield path, place / within


def _content(path: Path) -> bytes | None:
    """What a file holds; None where there is none that can be read."""
    try:
        return path.read_bytes() if path.is_file() else None
    except OSError:
        return None
