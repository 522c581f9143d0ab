"""Every figure, drawn from the embedded model into a folder: ``python -m vila_lab.gallery FOLDER``. Owns no drawing.

The README's pictures come from here: ``python -m vila_lab.gallery docs first_look`` draws that one alone.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageOps

from .errors import OptionError, VilaLabError
from .options import nearest
from .tiny import DEMO_MEDIA, DEMO_TEXT, demo_images
from .video import Video
from .view.of_answer import view_of
from .view.sheet import compact, render
from .writing import check_place, make_folder, write_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .answer import Answer
    from .session import Session

DPI = 140
USAGE = "usage: python -m vila_lab.gallery FOLDER [NAME ...]"


class Asked:
    """The questions that the gallery draws, each asked once, when it is needed."""

    @cached_property
    def lab(self) -> Session:
        """The embedded model."""
        import vila_lab

        return vila_lab.load()

    @cached_property
    def marks(self) -> Answer:
        """Four company marks, three of them named: the example of the README."""
        return self._ask(DEMO_TEXT, DEMO_MEDIA)

    @cached_property
    def scenes(self) -> Answer:
        """Two scenes of different shapes, compared in English."""
        return self._ask("What is the difference between image 1 and image 2?", ("cat_and_dog.png", "wide_train.png"))

    @cached_property
    def apple(self) -> Answer:
        """A question about the second of two pictures."""
        return self._ask("What is in image 2?", ("g.png", "a.png"))

    @cached_property
    def microsoft(self) -> Answer:
        """The same question, the second picture another."""
        return self._ask("What is in image 2?", ("g.png", "m.png"))

    @cached_property
    def video(self) -> Answer:
        """A question about one of eight frames."""
        names = (*DEMO_MEDIA, "cat_and_dog.png", "pizza.png", "three_things.png", "dog_alone.png")
        frames = [ImageOps.pad(Image.open(demo_images() / name).convert("RGB"), (256, 192)) for name in names]
        buffer = io.BytesIO()
        frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:], duration=1500, lossless=True)
        return self.lab.ask([Video(buffer.getvalue()), "What is in image 3?"])

    def _ask(self, text: str, names: Sequence[str]) -> Answer:
        return self.lab.ask(text, images=[demo_images() / name for name in names])


def first_look(asked: Asked) -> Image.Image:
    """An answer as a whole: question, pictures with where attention went, and the ledger of every token."""
    return render(view_of(asked.marks.record), DPI).light


def scenes(asked: Asked) -> Image.Image:
    """The same of an English answer about two scenes in their own shapes."""
    return render(view_of(asked.scenes.record), DPI).light


def heatmap(asked: Asked) -> Axes:
    """Where in the picture the answer was read."""
    return asked.marks.plot("heatmap")


def heatmap_signed(asked: Asked) -> Axes:
    """What speaks for the answer (red) and against it (blue), leaving out one cell after the other."""
    return asked.scenes.plot("heatmap", image=0, method="occlusion")


def ledger(asked: Asked) -> Axes:
    """Which picture each token of the answer was read from."""
    return asked.marks.plot("ledger")


def frames(asked: Asked) -> Axes:
    """From which frames of a video the answer was read, over the video's time."""
    return asked.video.plot("frames")


def layers(asked: Asked) -> Axes:
    """In which layers the pictures are read."""
    return asked.marks.plot("layers")


def heads(asked: Asked) -> Axes:
    """Which heads look at the picture that the answer is about; the routing heads are framed."""
    return asked.marks.plot("heads", outline=asked.lab.head_sets["routing"])


def grid(asked: Asked) -> Axes:
    """How the attention of every layer and head splits over the pictures; the routing heads are framed."""
    return asked.marks.plot("grid", outline=asked.lab.head_sets["routing"])


def words(asked: Asked) -> Axes:
    """Which words of the question, and of the answer so far, a token read."""
    return asked.scenes.plot("words", token=-2)


def leakage(asked: Asked) -> Axes:
    """How much the pictures read of each other."""
    return asked.marks.plot("leakage")


def flow(asked: Asked) -> Axes:
    """Through which edges, and in which layers, the pictures reach the answer."""
    return asked.marks.plot("flow")


def curves(asked: Asked) -> Axes:
    """How fast the answer goes when a map's best tokens are taken away, and how fast it comes back."""
    return asked.marks.plot("curves", methods=["attention", "leave_one_out", "relevancy"])


def patching(asked: Asked) -> Axes:
    """Where what tells two answers apart is held: vectors of one prompt put into the other, one place at a time."""
    return asked.apple.plot("patching", scan=asked.lab.patch_scan(asked.apple, asked.microsoft))


def logit_lens(asked: Asked) -> Axes:
    """Which word each patch of a picture already says."""
    return asked.marks.plot("logit_lens", layer=-2)


def agreement(asked: Asked) -> Axes:
    """Whether attention, gradient, ablation and Shapley name the same picture."""
    return asked.marks.plot("agreement")


PICTURES: Mapping[str, Callable[[Asked], Axes | Image.Image]] = {
    draw.__name__: draw
    for draw in (
        first_look, scenes, heatmap, heatmap_signed, ledger, frames, layers, heads, grid, words, leakage, flow, curves, patching, logit_lens,
        agreement,
    )
}  # fmt: skip


def draw_all(folder: Path, names: Sequence[str] = ()) -> list[Path]:
    """Draw the pictures into a folder, and without names a page that shows them all.

    Raises
    ------
    OptionError
        If there is no picture of such a name; the message lists those there are.
    FileAccessError
        If the folder or a file in it cannot be written, before anything is drawn.
    """
    for name in names:
        if name not in PICTURES:
            raise OptionError(
                f"the gallery has no picture {name!r}{nearest(name, PICTURES)}; it has {', '.join(PICTURES)}"
            )
    make_folder(folder)
    asked = Asked()
    made: dict[Path, Callable[[], bytes | str]] = {
        folder / f"{name}.png": partial(_drawn, name, asked) for name in names or PICTURES
    }
    if not names:
        made[folder / "index.html"] = page
    for path in made:  # before the first is drawn
        check_place(path)
    return [write_file(path, make) for path, make in made.items()]


def _drawn(name: str, asked: Asked) -> bytes:
    return pixels(PICTURES[name](asked))


def pixels(drawn: Axes | Image.Image) -> bytes:
    """A compact PNG of a figure or of an overview, without metadata."""
    if isinstance(drawn, Image.Image):
        return compact(drawn)
    buffer = io.BytesIO()
    figure = drawn.get_figure(root=True)
    assert figure is not None  # axes drawn by `plot` have one
    figure.savefig(buffer, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    return compact(Image.open(buffer).convert("RGB"))


def page() -> str:
    """A plain page of all pictures, each under the sentence of the function that drew it."""
    parts = []
    for name, draw in PICTURES.items():
        text = escape((draw.__doc__ or "").strip())
        parts.append(f'<figure><figcaption>{text}</figcaption><img src="{name}.png" alt="{text}"></figure>')
    style = "body{font:16px sans-serif;max-width:1000px;margin:2em auto;padding:0 1em}img{max-width:100%}figure{margin:2em 0}"
    head = f'<meta charset="utf-8"><title>vila_lab: gallery</title><style>{style}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def main(arguments: Sequence[str]) -> int:
    """Draw into the folder named first; returns the exit status."""
    if not arguments or arguments[0].startswith("-"):
        sys.stderr.write(f"{USAGE}\nnames: {', '.join(PICTURES)}\n")
        return 2
    try:
        written = draw_all(Path(arguments[0]), arguments[1:])
    except (VilaLabError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write("".join(f"{path}\n" for path in written))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
