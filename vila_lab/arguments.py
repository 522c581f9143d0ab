"""Arguments that several commands share: how pictures are read, what the model's family is told, what an answer looks like.

Knows argparse and what families may be told, no command and no model.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from .errors import OptionError
from .families import OPTIONS

__all__ = ["add_answer", "add_family", "add_place", "add_reading", "family_of", "form_of", "reading_of"]


def add_family(parser: argparse.ArgumentParser) -> None:
    """Add what a prompt may be told in one family alone, ``--conv-mode`` for example."""
    for option in _family_options():
        flag = f"--{option.name.replace('_', '-')}"
        names = [name for name in (option.metadata.get("short"), flag) if name]
        parser.add_argument(*names, default=argparse.SUPPRESS, help=option.metadata["help"])


def family_of(given: argparse.Namespace) -> dict[str, Any]:
    """What was said of it, as options of `Session.ask`."""
    return {each.name: getattr(given, each.name) for each in _family_options() if hasattr(given, each.name)}


def _family_options() -> list[Field[Any]]:
    found = {each.name: each for options in OPTIONS.values() for each in fields(options) if "help" in each.metadata}
    return list(found.values())


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Add ``--apply-exif`` and ``--background``."""
    parser.add_argument("--apply-exif", action="store_true", help="turn pictures as their EXIF data says")
    parser.add_argument(
        "--background",
        metavar="COLOUR",
        help="put transparent pictures on this colour: white, '#ffffff' (default: on none)",
    )


def reading_of(given: argparse.Namespace) -> dict[str, Any]:
    """What was said of it, as options of `Session.ask`."""
    return {"apply_exif": given.apply_exif, "background": given.background}


def add_answer(parser: argparse.ArgumentParser) -> None:
    """Add what an answer may be: ``--max-new-tokens``, ``--json-mode`` or ``--json-schema``."""
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="longest answer (default: 256 or what fits)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json-mode", action="store_true", help="the answer is a JSON object")
    form.add_argument("--json-schema", metavar="FILE", help="the answer is JSON of the schema in this file")


def form_of(given: argparse.Namespace) -> dict[str, Any] | None:
    """What the answer has to look like, as the ``response_format`` of `Session.ask`.

    Raises
    ------
    OptionError
        If the schema's file cannot be read, or is no JSON.
    """
    if given.json_mode:
        return {"type": "json_object"}
    if given.json_schema is None:
        return None
    try:
        schema = json.loads(Path(given.json_schema).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"--json-schema {given.json_schema}: it cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise OptionError(f"--json-schema {given.json_schema}: it is no JSON ({error})") from error
    return {"type": "json_schema", "json_schema": {"schema": schema}}


def add_place(parser: argparse.ArgumentParser) -> None:
    """Add where the model runs, and in which numbers: ``--device`` and ``--dtype``."""
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: a GPU where there is one)")
    parser.add_argument("--dtype", help="float32, float16, bfloat16 or auto")
