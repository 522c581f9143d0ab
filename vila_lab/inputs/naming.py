"""What a string in a prompt stands for: a picture that it names, or text. Knows names and files, no pixels.

A name that is taken for text would be answered without its picture, and nobody would notice. So a string that names
something, or looks as if it should, is never text: it is a picture or an error. `Text` is always text.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

__all__ = ["LONGEST_NAME", "Text", "is_address", "is_data_address", "is_file_address", "kind_of_name", "names_picture"]

LONGEST_NAME = 4096  # characters; a longer string cannot be the name of a file

KINDS = {
    "picture": (
        "apng avif avifs bmp cur dds dib emf exr fits fli flc gif hdr heic heics heif heifs hif ico icns j2c j2k jfi jfif jif "
        "jp2 jpc jpe jpeg jpf jpg jpm jpx jxl jxr mpo pbm pcx pfm pgm png pnm ppm psb psd qoi ras sgi svg svgz tga tif tiff "
        "wbmp wdp webp wmf xbm xcf xpm"
    ),
    "raw picture of a camera": (
        "3fr ari arw cr2 cr3 crw dcr dng erf fff iiq k25 kdc mef mos mrw nef nrw orf pef r3d raf raw rw2 rwl sr2 srf srw x3f"
    ),
    "document": "djvu doc docx eps epub odg odp ods odt pdf ppt pptx ps rtf txt xls xlsx xps",
    "video": "3g2 3gp asf avi flv m2ts m4v mkv mov mp4 mpeg mpg mts ogv vob webm wmv y4m",
}
"""Suffixes by what they promise."""

SUFFIXES = frozenset(f".{suffix}" for suffixes in KINDS.values() for suffix in suffixes.split())

_WEB = re.compile(r"https?://\S+", re.IGNORECASE)
_FILE = re.compile(r"file:/\S.*", re.IGNORECASE)
_DATA = re.compile(r"data:(image/[^\s,]*|[^,\n]{0,200};\s*base64)\s*,", re.IGNORECASE)
_PATH = re.compile(r"(\.\.?[/\\]|~[/\\]|\\\\|[A-Za-z]:[/\\]|/[^\s/]+/\S+$)")


class Text(str):
    """A string that is text whatever it looks like.

    Examples
    --------
    >>> from vila_lab import Prompt, Text
    >>> Prompt.of([Text("holiday.png"), " is a file's name."]).text
    "holiday.png is a file's name."
    """

    __slots__ = ()


def names_picture(text: str) -> bool:
    """Whether a string stands for a picture: an address, a file or folder that is there, or what looks like a name.

    A string of several words that ends like a file's name is taken for that name too, unless it plainly speaks about files:
    a word before the last one names a file as well, a question mark stands before it, or it has three words or more and
    its last one names a file that is there.

    Examples
    --------
    >>> names_picture("no such file.HEIC"), names_picture("./cat"), names_picture("https://example.org/cat")
    (True, True, True)
    >>> names_picture("What is in cat.png?"), names_picture("Compare a.png and b.png"), names_picture("Text.")
    (False, False, False)
    """
    name = text.strip()
    if isinstance(text, Text) or not name:
        return False
    if is_address(name):
        return True
    if len(name) > LONGEST_NAME:
        return False
    if exists(name) or exists(text):
        return True
    if "\n" in name or "\r" in name:
        return False
    if _PATH.match(name):
        return True
    return _suffix(name) in SUFFIXES and not _speaks_of_files(name)


def is_address(text: str) -> bool:
    """Whether a string is the address of a picture: ``http(s)://`` without spaces, ``file://`` or ``data:``."""
    return bool(_WEB.fullmatch(text) or _FILE.fullmatch(text) or _DATA.match(text))


def is_data_address(text: str) -> bool:
    """Whether a string holds the picture itself: ``data:image/...`` or ``data:`` of any kind in base64."""
    return bool(_DATA.match(text))


def is_file_address(text: str) -> bool:
    """Whether a string is a ``file:`` address."""
    return bool(_FILE.fullmatch(text))


def kind_of_name(name: str) -> str:
    """What a name promises by its suffix: a key of `KINDS`, or "" for none of them.

    >>> kind_of_name("scan.PDF "), kind_of_name("DSC_1.NEF"), kind_of_name("cat")
    ('document', 'raw picture of a camera', '')
    """
    suffix = _suffix(name.strip())[1:]
    return next((kind for kind, suffixes in KINDS.items() if suffix in suffixes.split()), "")


def exists(name: str) -> bool:
    """Whether a file or a folder has this name, be it a link to nothing."""
    try:
        return os.path.lexists(name) or os.path.lexists(Path(name).expanduser())
    except (OSError, ValueError, RuntimeError):  # too long for the file system, impossible, no home for ~user
        return False


def _suffix(name: str) -> str:
    """The lower-case suffix; names are quoted where a terminal pastes them."""
    return PurePosixPath(name.strip("\"'").replace("\\", "/")).suffix.lower()


def _speaks_of_files(name: str) -> bool:
    *before, last = name.split()
    if not before:
        return False
    if last.startswith(".") or any(word.endswith("?") or _is_suffixed(word) for word in before):
        return True
    return len(before) > 1 and exists(last)


def _is_suffixed(word: str) -> bool:
    return _suffix(word.strip(".,;:!?()")) in SUFFIXES or word.lower() in SUFFIXES
