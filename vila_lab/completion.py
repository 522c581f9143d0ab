"""Completion of the command line in a shell, written by shtab. Knows a parser and the names of its placeholders."""

from __future__ import annotations

import argparse

from .errors import MissingExtra
from .upstream import arguments_of

__all__ = ["SHELLS", "script"]

SHELLS = ("bash", "zsh", "tcsh")
FILES, FOLDERS = ("FILE", "PAGE"), ("FOLDER",)  # placeholders in the help that stand for something on the disk


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """What a shell reads to complete commands, options and file names.

    Parameters
    ----------
    shell
        One of `SHELLS`.

    Raises
    ------
    MissingExtra
        If shtab is not installed.
    """
    try:
        import shtab
    except ImportError as error:
        raise MissingExtra('completion needs shtab: pip install "vila-lab[completion]"') from error
    for action in arguments_of(parser):
        if action.metavar in FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # where shtab looks for it
        elif action.metavar in FOLDERS:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    return str(shtab.complete(parser, shell))
