"""Arrays and tensors as PIL images. Knows numbers, no files and no prompts."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import PictureError

__all__ = ["image_of_array", "is_array", "is_tensor", "name_of_array"]

HAIR = 1e-2  # how far beyond 0..1 resampling and rounding may carry a floating-point picture
CHANNELS = (1, 3, 4)


def is_tensor(value: Any) -> bool:
    """Whether a value is a torch tensor; where torch was never imported nothing is."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def is_array(value: Any) -> bool:
    """Whether a value is an array or gives one."""
    return isinstance(value, np.ndarray) or is_tensor(value) or hasattr(value, "__array__")


def name_of_array(value: Any) -> str:
    """For messages: "array (480, 640, 3)" or "tensor (3, 480, 640)"."""
    return f"{'tensor' if is_tensor(value) else 'array'} {tuple(getattr(value, 'shape', ()))}"


def image_of_array(value: Any) -> tuple[Image.Image, list[str]]:
    """A picture of 8 bits, and notes on what that changed.

    Parameters
    ----------
    value
        (H, W), (H, W, C) or (C, H, W) with 1, 3 or 4 channels, also behind a first axis of length 1. Where both ends could
        be channels an array has them last and a tensor first. Booleans, integers in 0..255, uint16 in 0..65535, or floating
        point in 0..1 (a hair beyond is clipped).

    Raises
    ------
    PictureError
        Another shape or type, no pixels, NaN, or values outside.

    Examples
    --------
    >>> image_of_array(np.zeros((3, 5, 7), np.float32))[0].size
    (7, 5)
    """
    name = name_of_array(value)
    first = is_tensor(value)
    array = _from_tensor(value, name) if first else _as_array(value, name)
    if array.size == 0:
        raise PictureError(f"an {name} has no pixels; pass one with at least one row and column")
    pixels, notes = _to_bytes(array, name)
    return Image.fromarray(np.ascontiguousarray(_channels_last(pixels, name, channels_first=first))), notes


def _as_array(value: Any, name: str) -> NDArray[Any]:
    try:
        return np.asarray(value)
    except Exception as error:  # somebody else's object
        raise PictureError(f"an {name} cannot be read as an array ({error}); pass a numpy array") from error


def _from_tensor(value: Any, name: str) -> NDArray[Any]:
    try:
        dense = value.detach().cpu()
        floating = dense.is_floating_point() and dense.element_size() < 4  # numpy has no bfloat16
        array: NDArray[Any] = (dense.float() if floating else dense).resolve_conj().resolve_neg().numpy()
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise PictureError(
            f"a {name} of {value.dtype} on {value.device} holds no plain numbers ({str(error).splitlines()[0]}); pass a dense one"
        ) from error
    return array


def _channels_last(array: NDArray[np.uint8], name: str, *, channels_first: bool) -> NDArray[np.uint8]:
    """(H, W) or (H, W, 3 or 4)."""
    shape = array.shape
    if array.ndim == 4 and shape[0] == 1:
        return _channels_last(array[0], name, channels_first=channels_first)
    if array.ndim == 2:
        return array
    if array.ndim == 3:
        if shape[0] in CHANNELS and (channels_first or shape[2] not in CHANNELS):
            array = array.transpose(1, 2, 0)
        if array.shape[2] in CHANNELS:
            return array[..., 0] if array.shape[2] == 1 else array
    raise PictureError(
        f"an {name} is no picture: (H, W), (H, W, C) and (C, H, W) with 1, 3 or 4 channels C are; pass one picture at a time"
    )


def _to_bytes(array: NDArray[Any], name: str) -> tuple[NDArray[np.uint8], list[str]]:
    if array.dtype == np.uint8:
        return array, []
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255, []
    if np.issubdtype(array.dtype, np.integer):
        return _from_integers(array, name)
    if np.issubdtype(array.dtype, np.floating):
        return _from_fractions(array, name), []
    raise PictureError(f"an {name} of {array.dtype} is no picture; pass integers in 0..255 or floating point in 0..1")


def _from_integers(array: NDArray[Any], name: str) -> tuple[NDArray[np.uint8], list[str]]:
    low, high = int(array.min()), int(array.max())
    if array.dtype == np.uint16 and high > 255:
        return np.rint(array / 257).astype(np.uint8), ["16-bit values scaled to 8 bits"]
    if low < 0 or high > 255:
        raise PictureError(f"an {name} of {array.dtype} must lie in 0..255, this one lies in {low}..{high}; rescale it")
    return array.astype(np.uint8), []


def _from_fractions(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    if np.isnan(array).any():
        raise PictureError(f"an {name} holds NaN in {int(np.isnan(array).sum())} places; fill them before passing it")
    low, high = float(array.min()), float(array.max())
    if not np.isfinite([low, high]).all():
        raise PictureError(f"an {name} holds infinite values; clip them before passing it")
    if low < -HAIR or high > 1 + HAIR:
        raise PictureError(
            f"an {name} of floating point must lie in 0..1, this one lies in {low:.6g}..{high:.6g}; rescale it"
        )
    return np.rint(np.clip(array.astype(np.float64), 0, 1) * 255).astype(np.uint8)
