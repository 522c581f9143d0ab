"""Shares of a video's frames over its time, with the frames above. Knows numbers, names and pictures, no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from ..errors import OptionError
from ..picture import Frame
from .checks import checked
from .lettering import drawable, lettering, write_legend, write_names, write_title
from .style import INK, MARKERS, PICTURE_COLOURS, RULE, SOFT_INK, new_axes, picture_colour, ruled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DOTS = 200  # per inch, of a frame
STRIP = 0.62  # inches that a frame may be wide above the axes, and high
GAP = 0.08  # inches between two of them
LEFT = 0.8  # of the axes, as narrow as a legend makes them
LABEL = 0.42  # inches of a time
ROOM = 0.1  # of all time, between two videos
BEYOND_PALE = tuple(colour for colour in PICTURE_COLOURS[4:] if colour != "#f0e442")  # apart from the first pictures'
LIGHT = ("-", "--", "-.", ":")


class Timing(NamedTuple):
    """Which pictures are frames, and when each is shown: what `frame_shares` takes beside the shares.

    Attributes
    ----------
    pictures : list of int
        Numbers of the pictures, from 0, video after video; of all pictures where none is a frame.
    times : list of list of float
        A list per video, in `unit`.
    videos : list of str
        Their names.
    unit : str
        "seconds", "frame" where not every time is known, "picture" where there is no video.
    """

    pictures: list[int]
    times: list[list[float]]
    videos: list[str]
    unit: str


def timing(frames: Sequence[Frame | None]) -> Timing:
    """When each of a prompt's frames is shown; None is a picture that is no frame.

    >>> timing([None, Frame("a.mp4", 0, 9, 0.0), Frame("a.mp4", 4, 9, 0.5)])
    Timing(pictures=[1, 2], times=[[0.0, 0.5]], videos=['a.mp4'], unit='seconds')
    >>> timing([Frame("folder", 3, 9)]).times, timing([None, None]).times
    ([[4]], [[1, 2]])
    """
    clips = clips_of(frames)
    if not clips:
        count = len(frames)
        return Timing(list(range(count)), [[k + 1 for k in range(count)]], [], "picture")
    shown = [[frame for k in clip if (frame := frames[k])] for clip in clips]
    timed = all(frame.seconds is not None for clip in shown for frame in clip)
    return Timing(
        [k for clip in clips for k in clip],
        [
            [frame.seconds if timed and frame.seconds is not None else frame.number + 1 for frame in clip]
            for clip in shown
        ],
        [clip[0].video for clip in shown],
        "seconds" if timed else "frame",
    )


def clips_of(frames: Sequence[Frame | None]) -> list[list[int]]:
    """Numbers of the pictures that are frames, video by video.

    >>> clip, other = (Frame("a.mp4", number, 9) for number in (0, 8))
    >>> clips_of([None, clip, other, None, clip]), clips_of([None, None])
    ([[1, 2], [4]], [])
    """
    found: list[list[int]] = []
    last: Frame | None = None
    for picture, frame in enumerate(frames):
        # The same video may be shown twice, even one behind the other.
        goes_on = frame and last and frame.video == last.video and frame.number > last.number
        if frame and goes_on:
            found[-1].append(picture)
        elif frame:
            found.append([picture])
        last = frame
    return found


def frame_shares(
    shares: Mapping[str, ArrayLike],
    times: Sequence[Sequence[float]],
    ax: Axes | None = None,
    *,
    whole: str = "",
    numbers: Sequence[int] | None = None,
    images: Sequence[Image.Image] = (),
    names: Sequence[str] = (),
    across: str = "seconds",
    share: bool = True,
    unit: str = "share of attention",
    title: str = "",
) -> Axes:
    """How much of something each frame has, over the time at which the frame is shown.

    Parameters
    ----------
    shares : {name: (frames,) array}
        A line each; NaN leaves a gap.
    times
        When the frames are shown, one sequence per video; the videos stand side by side, each with its own time.
    ax
        Where to draw; None makes a figure of its own.
    whole
        Name of the line that is drawn strongest, its points in the colours of their pictures.
    numbers
        Which picture each frame is, from 0, for its colour; by default 0, 1, 2 ...
    images
        The frames, to be shown above where there is room for them.
    names
        Of the videos; written where there are several.
    across
        What the times are: "seconds", or numbers of a "frame" or "picture".
    share
        Whether the values are shares, from 0 to 1.
    unit, title
        Written at the side, and above.

    Raises
    ------
    OptionError
        If a line has not one number per frame, or time does not go on within a video.

    Examples
    --------
    >>> ax = frame_shares({"answer": [0.1, 0.3, 0.2]}, [[0.0, 0.5, 1.0]], whole="answer")
    >>> ax.get_xlabel()
    'seconds'
    """
    clips = [checked("times", clip, ("frames",)) for clip in times]
    checked("times", np.zeros(len(clips)), ("videos",))  # at least one
    if any(np.isnan(clip).any() or (np.diff(clip) < 0).any() for clip in clips):
        raise OptionError("times must not go back within a video")
    count = sum(map(len, clips))
    lines = {name: checked(f"shares[{name!r}]", values, (count,)) for name, values in shares.items()}
    pictures = list(range(count) if numbers is None else numbers)
    places = _side_by_side(clips)
    ax = ruled(ax or new_axes(8.6, 3.8))
    for k, name in enumerate(name for name in lines if name != whole):
        _draw(
            ax, places, lines[name], name, BEYOND_PALE[k % len(BEYOND_PALE)], LIGHT[k // len(BEYOND_PALE) % len(LIGHT)]
        )
    if whole in lines:
        _draw(ax, places, lines[whole], whole, INK, "-", width=2.2)
        colours = [picture_colour(picture) for picture in pictures]
        values = np.concatenate(places), lines[whole]
        ax.scatter(*values, s=52, c=colours, edgecolors=INK, linewidths=0.9, zorder=4)
    if len(lines) > 1:
        drawn = {str(line.get_label()): line for line in ax.get_lines()}
        write_legend(ax, [drawn[name] for name in lines])  # in the order in which they were given
    _scale(ax, list(lines.values()), share)
    _name_times(ax, clips, places)
    _name_videos(ax, places, names)
    write_names(ax, across, unit)
    high = _show_frames(ax, np.concatenate(places), pictures, images)
    write_title(ax, title, pad=72 * high + 8)
    return ax


def _side_by_side(clips: Sequence[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    """Places of the frames: each video begins a little after the one before."""
    room = ROOM * max(sum(float(clip[-1] - clip[0]) for clip in clips), 1e-3)
    found, begin = [], float(clips[0][0])
    for clip in clips:
        found.append(clip - clip[0] + begin)
        begin = float(found[-1][-1]) + room
    return found


def _draw(
    ax: Axes,
    across: Sequence[NDArray[np.float64]],
    values: NDArray[np.float64],
    name: str,
    colour: str,
    look: str,
    width: float = 1.3,
) -> None:
    """One line, broken between videos."""
    pieces = np.split(values, np.cumsum([len(clip) for clip in across])[:-1])
    x = np.concatenate([np.append(clip, np.nan) for clip in across])
    y = np.concatenate([np.append(piece, np.nan) for piece in pieces])
    marker = "" if width > 2 else MARKERS[0]
    ax.plot(x, y, look, color=colour, marker=marker, markersize=2.8, linewidth=width, label=name, zorder=3)


def _scale(ax: Axes, lines: Sequence[NDArray[np.float64]], share: bool) -> None:
    known = np.concatenate([*lines, np.zeros(1)])
    low, high = float(np.nanmin(known)), float(np.nanmax(known))
    margin = 0.08 * max(high - low, 1e-3)
    ax.set_ylim(low - margin if low < 0 else 0, high + margin)
    if share:
        ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
    else:
        ax.axhline(0, color=INK, linewidth=0.9, zorder=1)


def _name_times(ax: Axes, clips: Sequence[NDArray[np.float64]], across: Sequence[NDArray[np.float64]]) -> None:
    """A mark at each frame, and its time where there is room."""
    places, times = np.concatenate(across), np.concatenate(clips)
    margin = 0.04 * float(places[-1] - places[0]) or 0.5
    ax.set_xlim(places[0] - margin, places[-1] + margin)
    shown = _apart(ax, places, LABEL)
    ax.set_xticks(places[shown], [f"{time:.2f}".rstrip("0").rstrip(".") for time in times[shown]])
    ax.set_xticks(places, minor=True)
    ax.tick_params(axis="x", which="both", length=3, color=RULE)


def _name_videos(ax: Axes, across: Sequence[NDArray[np.float64]], names: Sequence[str]) -> None:
    """A rule between videos, and the name of each at its top."""
    for before, after in pairwise(across):
        ax.axvline(float(before[-1] + after[0]) / 2, color=RULE, linewidth=1.2, zorder=1)
    if len(across) < 2:
        return
    for clip, name in zip(across, names, strict=False):
        ax.annotate(
            drawable(name),
            (float(clip[0]), 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, -3),
            textcoords="offset points",
            va="top",
            fontsize=8,
            color=SOFT_INK,
            **lettering(),
        )


def _apart(ax: Axes, places: NDArray[np.float64], inches: float) -> list[int]:
    """Which places can be written at without touching each other, from the first on, the last among them."""
    low, high = ax.get_xlim()
    wide = ax.get_window_extent().width / ax.figure.dpi
    if ax.figure.get_layout_engine() is not None and ax.get_legend() is not None:
        wide *= LEFT  # the layout takes the legend's room away when it is drawn
    least = inches / wide * (high - low)
    found: list[int] = []
    for k, place in enumerate(places):
        if not found or place - places[found[-1]] >= least:
            found.append(k)
    last = len(places) - 1
    if found[-1] != last and len(found) > 1:
        found[-1] = last  # the end is worth more than what stands just before it
    return found


def _show_frames(
    ax: Axes, places: NDArray[np.float64], pictures: Sequence[int], images: Sequence[Image.Image]
) -> float:
    """The frames above the axes, each framed in its colour; returns how high they are, in inches."""
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    if not images:
        return 0.0
    sizes = [np.array(image.size) * STRIP / max(image.size) for image in images]
    shown = _apart(ax, places, max(float(width) for width, _ in sizes) + GAP)
    high = max(float(sizes[k][1]) for k in shown)
    for k in shown:
        wide, tall = (max(int(DOTS * side), 1) for side in sizes[k])
        small = images[k].resize((wide, tall))
        box = AnnotationBbox(
            OffsetImage(np.asarray(small), zoom=72 / DOTS, interpolation="antialiased"),
            (float(places[k]), 1.0),
            xycoords=("data", "axes fraction"),
            xybox=(0, 6 + 36 * float(sizes[k][1])),
            boxcoords="offset points",
            pad=0.1,
            bboxprops={"edgecolor": picture_colour(pictures[k]), "linewidth": 1.8},
            arrowprops=None,
        )
        ax.add_artist(box)
    return high + 6 / 72
