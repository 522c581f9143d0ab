"""What a student may be called: on one line, of characters that can be shown. Knows text, no class and no model."""

from __future__ import annotations

import unicodedata

from ..errors import OptionError

LONGEST_NAME = 40


def student_name(name: str) -> str:
    """A name on one line, of characters that can be shown.

    Raises
    ------
    OptionError
        If nothing is left of it, or too much.

    Examples
    --------
    >>> student_name("  Ana\\n\\u200b  Lu ")
    'Ana Lu'
    """
    shown = "".join(each if each.isprintable() else " " for each in unicodedata.normalize("NFC", name))
    found = " ".join(shown.split())
    if not 1 <= len(found) <= LONGEST_NAME:
        raise OptionError(f"a name has 1 to {LONGEST_NAME} characters that can be shown; yours has {len(found)}")
    return found
