"""What the answers of a session keep, and how it stays within a budget. Knows tapes and pictures, no model.

An answer's tape is dropped to the host's memory, then to a file, least recently looked at first; it comes back exactly as it
was when somebody looks. Pictures are kept once by content.
"""

from __future__ import annotations

import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from ..hooks import Tape
from ..picture import Picture, digest_of, encoded_of
from ..prompt import Prompt
from ..wire import reading, write
from .inputs import Inputs

__all__ = ["Disk", "Holding", "KeptTape", "Memory", "Pictures", "image_bytes", "keep_within"]


@dataclass(frozen=True)
class Memory:
    """Bytes that a session holds.

    Attributes
    ----------
    weights : int
        The model's parameters and buffers.
    prefix : int
        Keys and values of prompts' beginnings, for the next question that begins alike. This and `features` go with
        ``lab.forget()``, and by themselves, what was not used for longest first, beyond the session's ``cache_bytes``.
    features : int
        What pictures give the decoder, for the next question about them.
    tapes : int
        Queries and keys that answers keep in memory; what the budget bounds, together with `caches`.
    pictures : int
        Pictures of the answers that are alive, each content once.
    caches : int
        Model inputs and embeddings that answers keep for their next experiment.
    disk : int
        Tapes that were moved to files.
    answers : int
        How many answers are alive.
    budget : int
        The session's ``capture_budget``.
    cache_bytes : int
        What `prefix` and `features` may have together.
    note : str
        Why nothing is kept of prompts, where that is so.

    Examples
    --------
    >>> import vila_lab
    >>> found = vila_lab.load().memory()
    >>> found.weights > 0, found.tapes + found.caches <= 2 * found.budget, found.prefix + found.features <= found.cache_bytes
    (True, True, True)
    """

    weights: int
    prefix: int
    features: int
    tapes: int
    pictures: int
    caches: int
    disk: int
    answers: int
    budget: int
    cache_bytes: int
    note: str = ""

    def __str__(self) -> str:
        sizes = ("weights", "prefix", "features", "tapes", "pictures", "caches", "disk")
        held = ", ".join(f"{name} {getattr(self, name) / 2**20:.1f} MiB" for name in sizes)
        told = f"{held}; {self.answers} answers, budget {self.budget / 2**20:.0f} MiB; "
        dropped = (
            f"lab.forget() drops prefix, features and caches, the first two have {self.cache_bytes / 2**20:.0f} MiB"
        )
        return told + dropped + (f"; {self.note}" if self.note else "")


class Pictures:
    """One image object per content, for as long as somebody holds it."""

    def __init__(self) -> None:
        self._images: weakref.WeakValueDictionary[str, Image.Image] = weakref.WeakValueDictionary()

    def shared(self, prompt: Prompt) -> Prompt:
        """The same prompt, with the image objects that were kept before where the content is the same."""
        return prompt.with_pictures(lambda number, picture: self._shared(picture))

    def _shared(self, picture: Picture) -> Picture:
        kept = self._images.setdefault(picture.digest, picture.image)
        if digest_of(kept) != picture.digest:  # somebody drew on it
            self._images[picture.digest] = kept = picture.image
        return replace(picture, image=kept)


KEY = "vila_lab_tape"


class Disk:
    """A folder for tapes, removed with the last object that holds it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="vila_lab-"))
        self._count = 0
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    def new_file(self) -> Path:
        self._count += 1
        return self.folder / f"{self._count}.tape"

    @property
    def nbytes(self) -> int:
        return sum(path.stat().st_size for path in self.folder.iterdir())


@dataclass(frozen=True)
class Spilled:
    """A tape in a file; the file goes with this object."""

    path: Path
    disk: Disk

    @classmethod
    def of(cls, tape: Tape, disk: Disk) -> Spilled:
        header, tensors = tape.export()
        spilled = cls(write(disk.new_file(), KEY, {"tape": header}, tensors), disk)
        weakref.finalize(spilled, spilled.path.unlink, missing_ok=True)
        return spilled

    def load(self) -> Tape:
        with reading(self.path, KEY, "tape") as (header, tensors):
            return Tape.restore(header["tape"], tensors)


class KeptTape:
    """A tape on the device, in the host's memory, in a file, or let go of; it is read back when somebody looks.

    Parameters
    ----------
    tape : Tape, optional
    """

    def __init__(self, tape: Tape | None) -> None:
        self._held = tape
        self._size: tuple[Tape, int, bool] | None = None  # counted once, as a session counts all its answers at each
        self._spilled: Spilled | None = None
        self.looked_at = time.monotonic()
        self.source: Callable[[], Tape] | None = None
        """Where it is read from the first time that somebody looks, if it is not here yet."""
        self.budget: weakref.WeakMethod[Callable[[], None]] | None = None
        """What puts others out of memory when something came in; weak, for nothing here may keep a model alive."""

    @property
    def is_there(self) -> bool:
        return self._held is not None or self._spilled is not None or self.source is not None

    def get(self) -> Tape | None:
        """The tape; None if it was let go of."""
        self.looked_at = time.monotonic()
        if self._held is not None or not self.is_there:
            return self._held
        held = self._held = self._spilled.load() if self._spilled is not None else self._fetched()
        self.settle()
        return held

    def _fetched(self) -> Tape:
        assert self.source is not None
        tape, self.source = self.source(), None
        return tape

    def settle(self) -> None:
        """Have others put out of memory for what came in."""
        make_room = None if self.budget is None else self.budget()
        if make_room is not None:
            make_room()

    @property
    def device_bytes(self) -> int:
        """Bytes on an accelerator."""
        nbytes, is_on_accelerator = self._counted()
        return nbytes if is_on_accelerator else 0

    @property
    def host_bytes(self) -> int:
        """Bytes in the host's memory."""
        nbytes, is_on_accelerator = self._counted()
        return 0 if is_on_accelerator else nbytes

    def _counted(self) -> tuple[int, bool]:
        """Bytes in memory, and whether they are an accelerator's."""
        tape = self._held
        if tape is None:
            return 0, False
        if self._size is None or self._size[0] is not tape:
            self._size = tape, tape.nbytes, tape.is_on_accelerator
        return self._size[1:]

    def offload(self) -> None:
        """Move it to the host's memory."""
        if self._held is not None:
            self._size = None
            self._held.to("cpu")

    def spill(self, disk: Disk) -> None:
        """Move it to a file."""
        if self._held is not None:
            self._spilled = self._spilled or Spilled.of(self._held, disk)
            self._held = self._size = None

    def release(self) -> None:
        """Let go of it."""
        self._held = self._size = self._spilled = self.source = None


@dataclass(frozen=True)
class Holding:
    """What one answer holds in memory: its tape, and the inputs of its next experiment."""

    kept: KeptTape
    inputs: Inputs

    @property
    def device_bytes(self) -> int:
        """Bytes on an accelerator."""
        return self.kept.device_bytes

    @property
    def host_bytes(self) -> int:
        """Bytes in the host's memory."""
        return self.kept.host_bytes + self.inputs.nbytes

    def spill(self, disk: Disk) -> None:
        """Move the tape to a file, and forget the inputs; both come back when somebody looks."""
        self.kept.spill(disk)
        self.inputs.release()


def keep_within(holdings: Iterable[Holding], budget: int, disk: Disk) -> None:
    """Move tapes out of the way until those in memory fit: from the device to the host, and from the host to files."""
    by_look = sorted(holdings, key=lambda holding: holding.kept.looked_at)
    held = sum(holding.device_bytes for holding in by_look)
    for holding in by_look:
        if held <= budget:
            break
        held -= holding.device_bytes
        holding.kept.offload()
    held = sum(holding.host_bytes for holding in by_look)
    for holding in by_look:
        if held <= budget:
            break
        held -= holding.host_bytes
        holding.spill(disk)


def image_bytes(images: Iterable[Image.Image]) -> int:
    """Bytes of the pixels and of the files they were read from, each image object once."""
    return sum(
        image.width * image.height * len(image.getbands()) + len(encoded_of(image) or b"")
        for image in {id(each): each for each in images}.values()
    )
