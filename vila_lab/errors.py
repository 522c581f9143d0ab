"""The errors a user can meet: one sentence that names the offender and the way out. Knows nothing of models.

Every class is a `VilaLabError` and also the built-in that fits, so that both `except VilaLabError`
and `except ValueError` do what a reader expects.
"""

from __future__ import annotations

from typing import Any


class VilaLabError(Exception):
    """Base of everything that vila_lab raises on purpose.

    Examples
    --------
    >>> import vila_lab
    >>> try:
    ...     vila_lab.load().ask("")
    ... except vila_lab.VilaLabError as error:
    ...     print(error)
    there is nothing to ask; give a question, a picture, or a list of both
    """


class PromptError(VilaLabError, ValueError):
    """The parts of a prompt cannot be used: nothing to ask, a wrong type, counts that do not match."""


class PictureError(VilaLabError, ValueError):
    """A picture was found but cannot be used: not an image, truncated, too large."""


class PictureNotFound(VilaLabError, FileNotFoundError):
    """A picture is named that is not there."""


class VideoError(PictureError):
    """A video was found but cannot be used: damaged, without pictures, endless, too large."""


class FileError(PictureError):
    """A saved file is damaged, of a newer version, or something else. Also a `PictureError`, as it was called before."""


class FileAccessError(VilaLabError, OSError):
    """A file cannot be read or written: the folder, the device or the rights do not allow it."""


class SavedFileNotFound(FileAccessError, FileNotFoundError):
    """There is no such saved file."""


class ContextTooLong(VilaLabError, ValueError):
    """The prompt and the answer asked for need more positions than the model has."""


class CheckpointError(VilaLabError, ValueError):
    """A checkpoint was found but cannot be used: a tensor is missing, a shape is wrong, a type is unknown."""


class CheckpointNotFound(VilaLabError, FileNotFoundError):
    """A checkpoint is named that is neither a folder here nor reachable on the hub."""


class OptionError(VilaLabError, ValueError):
    """An option has a value that is not one of those known; the message lists them."""


class DeviceError(OptionError, RuntimeError):
    """A device is asked for that this machine does not have, or that computes nothing."""


class NoEffect(OptionError):
    """An edit changes nothing: there is no such edge, layer or head, or the model's logits stay as they were.

    Examples
    --------
    >>> import vila_lab
    >>> vila_lab.load().knockout("image_1 -> answer", layers=99)
    Traceback (most recent call last):
        ...
    vila_lab.errors.NoEffect: there is no layer 99: the decoder has 6 layers, counted from 0
    """


class CaptureError(VilaLabError, RuntimeError):
    """Attention cannot be captured this way, or what was captured is incomplete or was released."""


class Interrupted(CaptureError):
    """A question of several was not answered, because somebody interrupted the call."""


class RayError(VilaLabError, ConnectionError):
    """Ray cannot be started or reached, or a worker of it cannot go on."""


class SweepStopped(VilaLabError, RuntimeError):
    """More questions of a sweep failed than were allowed to.

    Attributes
    ----------
    sweep : Sweep
        What was asked until then.
    """

    def __init__(self, message: str, sweep: Any = None) -> None:
        super().__init__(message)
        self.sweep = sweep


class NotHere(CaptureError, AttributeError):
    """Something is asked of a model that is on a server, and cannot be done from here.

    Such as `Session.on_attention` with a Python function, which does not travel.

    Examples
    --------
    >>> import vila_lab
    >>> issubclass(vila_lab.NotHere, AttributeError)  # so that hasattr() says what a server cannot give
    True
    """


class ServiceError(VilaLabError, ConnectionError):
    """A server cannot be reached, does not let one in, or ended in the middle."""


class MissingExtra(VilaLabError, ImportError):
    """An optional package is needed; the message holds the exact pip line."""


class OutOfMemory(VilaLabError, MemoryError):
    """The device or the machine has no room for it, also after everything was let go of that can be computed again."""


class UpstreamChanged(VilaLabError, RuntimeError):
    """A name of transformers or torch on which vila_lab stands is gone in the installed version."""


class NotANumber(VilaLabError, ArithmeticError):
    """The model computes NaN where it should say a word."""
