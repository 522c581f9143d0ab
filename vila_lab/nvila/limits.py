"""What a checkpoint may ask for: names inside its folder, plain files, sizes within reach, templates that end. No tensors.

A checkpoint is somebody else's file. None of these limits is near what any published model has.
"""

from __future__ import annotations

import stat
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import FrameType
from typing import Any, TypeVar

from vila_lab.errors import CheckpointError

T = TypeVar("T")

LARGEST_JSON = 64 * 2**20  # bytes
TEMPLATE_SECONDS = 5.0
TEMPLATE = "<template>"  # what jinja names the file of a template that was given as text

DECODER = {
    "hidden_size": 2**17,
    "intermediate_size": 2**20,
    "num_hidden_layers": 1000,
    "num_attention_heads": 2**12,
    "num_key_value_heads": 2**12,
    "vocab_size": 2**22,
    "max_position_embeddings": 2**27,
}
TOWER = {
    "hidden_size": 2**17,
    "intermediate_size": 2**20,
    "num_hidden_layers": 1000,
    "num_attention_heads": 2**12,
    "image_size": 2**14,
    "patch_size": 2**14,
    "num_channels": 16,
}
LIMITS = {"llm": DECODER, "vision_tower": TOWER}
MOST_TILES = 1000
MOST_SCALES = 16


def inside(root: Path, name: str, where: str) -> Path:
    """A path below a folder; links are followed by whoever opens it, as a hub's cache consists of them.

    Raises
    ------
    CheckpointError
        The name leads out of the folder.
    """
    parts = (*PurePosixPath(name).parts, *PureWindowsPath(name).parts)
    if ".." in parts or PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor:
        raise CheckpointError(f"{where} names {name!r}, which is outside of the checkpoint's folder; put it inside.")
    return root / name


def check_plain_file(path: Path, most: int | None = None) -> None:
    """Refuse a pipe, which could wait for ever, and a file that is larger than any of its kind."""
    try:
        found = path.stat()
    except OSError:  # whoever opens it will say so
        return
    if not stat.S_ISREG(found.st_mode):
        raise CheckpointError(f"{path.parent.name}/{path.name} is no plain file; fetch the file again.")
    if most is not None and found.st_size > most:
        raise CheckpointError(f"{path.parent.name}/{path.name} has {found.st_size:,} bytes; fetch the file again.")


def check_plain_files(folder: Path) -> None:
    """`check_plain_file` for all that lies in a folder and is no folder itself."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if not path.is_dir():
            check_plain_file(path)


def check_part(content: Mapping[str, Any], part: str) -> None:
    """Compare the sizes in a part's file with the limits, before a configuration is made of it, which lists the layers."""
    for name, most in LIMITS[part].items():
        if content.get(name) is not None:
            _check(f"{part}/config.json: {name}", content[name], 1, most)


def check_sizes(decoder: Any, tower: Any, values: Mapping[str, Any]) -> None:
    """Compare the configurations of the parts and the rules of tiling with the limits.

    Raises
    ------
    CheckpointError
        Names the first that is no whole number, out of range, or does not fit another.
    """
    for config, part in ((decoder, "llm"), (tower, "vision_tower")):
        check_part({name: getattr(config, name, None) for name in LIMITS[part]}, part)
    for config, part in ((decoder, "llm"), (tower, "vision_tower")):
        _check_divides(
            config, "hidden_size", "num_attention_heads", part, needed=getattr(config, "head_dim", None) is None
        )
    _check_divides(decoder, "num_attention_heads", "num_key_value_heads", "llm")
    if tower.patch_size > tower.image_size:
        raise CheckpointError(f"vision_tower/config.json: a patch of {tower.patch_size} is larger than the picture.")
    check_tiling(values["min_tiles"], values["max_tiles"], values["s2_scales"], values["s2_resize_output_to_scale_idx"])
    layers = tower.num_hidden_layers + 1
    _check("config.json: mm_vision_select_layer", values["mm_vision_select_layer"], -layers, layers - 1)


def check_tiling(fewest: Any, most: Any, scales: Any, index: Any) -> None:
    """The rules of tiling alone; see `check_sizes`."""
    _check("max_tiles", most, 1, MOST_TILES)
    _check("min_tiles", fewest, 1, most)
    if not isinstance(scales, list | tuple) or not 1 <= len(scales) <= MOST_SCALES:
        raise CheckpointError(f"config.json: s2_scales must be a list of 1 to {MOST_SCALES} sides.")
    for side in scales:
        _check("a side in s2_scales", side, 1, TOWER["image_size"])
    _check("s2_resize_output_to_scale_idx", index, -len(scales), len(scales) - 1)


def check_normalisation(mean: Any, deviation: Any) -> None:
    """Mean and standard deviation of the channels: numbers, the second above 0; else every pixel becomes NaN."""
    for name, values, low in (("image_mean", mean, -1e3), ("image_std", deviation, 1e-6)):
        if not isinstance(values, list | tuple) or not values:
            raise CheckpointError(f"preprocessor_config.json: {name} must be a list of numbers.")
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= 1e3:
                raise CheckpointError(f"preprocessor_config.json: {name} holds {value!r}; fetch the file again.")


def within_time(render: Callable[[], T], what: str) -> T:
    """Run a template, which is somebody else's program, and end it when it takes too long.

    In a thread of its own, where every line of the template looks at the clock; the tracing of the caller's thread is left
    alone.

    Raises
    ------
    CheckpointError
        It did not end within `TEMPLATE_SECONDS`.
    """
    outcome: list[T] = []
    failed: list[BaseException] = []
    end = time.monotonic() + TEMPLATE_SECONDS

    def watch(frame: FrameType, event: str, argument: Any) -> Any:
        if time.monotonic() > end:
            raise TimeoutError
        # Only the template's own lines are followed: following transformers' too would cost more than the rendering.
        return watch if frame.f_code.co_filename == TEMPLATE else None

    def work() -> None:
        sys.settrace(watch)
        try:
            outcome.append(render())
        except BaseException as error:
            failed.append(error)
        finally:
            sys.settrace(None)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(2 * TEMPLATE_SECONDS)
    if outcome:
        return outcome[0]
    if failed and not isinstance(failed[0], TimeoutError):
        raise failed[0]
    raise CheckpointError(f"{what} does not come to an end within {TEMPLATE_SECONDS:g} s; fetch the tokenizer again.")


def _check(name: str, value: Any, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise CheckpointError(f"{name} is {value!r}, not a whole number; fetch the file again.")
    if not least <= value <= most:
        raise CheckpointError(f"{name} is {value}, not in {least}..{most}; fetch the file again.")


def _check_divides(config: Any, whole: str, part: str, where: str, *, needed: bool = True) -> None:
    count, by = getattr(config, whole, None), getattr(config, part, None)
    if needed and count is not None and by is not None and count % by:
        raise CheckpointError(
            f"{where}/config.json: {part} {by} does not divide {whole} {count}; fetch the file again."
        )
