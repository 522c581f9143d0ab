"""The tokenizer and the chat template that lie in a checkpoint's folder. Knows their files, no pictures and no prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from vila_lab.errors import CheckpointError, MissingExtra, VilaLabError
from vila_lab.nvila.conversation import CHAT_TEMPLATES
from vila_lab.nvila.folder import CheckpointFolder, read_json, write_json

__all__ = ["load_tokenizer", "named_chat_template", "use_older_names"]

OLD_TOKENIZER_CLASS = {"TokenizersBackend": "PreTrainedTokenizerFast"}


def load_tokenizer(folder: CheckpointFolder) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint, as its files say.

    Raises
    ------
    CheckpointError
        There is none, or it cannot be read.
    MissingExtra
        It needs sentencepiece.
    """
    place = folder.llm
    if not any(
        (place / name).is_file()
        for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "vocab.txt")
    ):
        raise CheckpointError(
            f"The checkpoint has no tokenizer in {place.name}/; copy tokenizer.json and tokenizer_config.json there."
        )
    if (
        not (place / "tokenizer.json").is_file()
        and (place / "vocab.json").is_file()
        and not (place / "merges.txt").is_file()
    ):
        raise CheckpointError(f"The checkpoint has {place.name}/vocab.json and no merges.txt; copy that file there.")
    try:
        # AutoTokenizer would rebuild a tokenizer.json by the decoder's type; the file is meant as written.
        if (place / "tokenizer.json").is_file():
            tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(place, padding_side="right")
        else:
            tokenizer = AutoTokenizer.from_pretrained(place, padding_side="right", trust_remote_code=False)
    except ImportError as error:
        raise MissingExtra(
            "This checkpoint's tokenizer needs sentencepiece: pip install sentencepiece protobuf"
        ) from error
    except VilaLabError:
        raise
    except BaseException as error:  # the tokenizers library ends in a panic of Rust, which is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise CheckpointError(
            f"The tokenizer in {place.name}/ cannot be read ({' '.join(str(error).split())[:200]}); fetch its files again."
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise CheckpointError(
            f"The tokenizer in {place.name}/ is of a kind that the installed transformers cannot read."
        )
    return tokenizer


def use_older_names(path: Path) -> None:
    """Name the tokenizer's class in a ``tokenizer_config.json`` as readers before transformers 5 know it."""
    content = read_json(path)
    name = str(content.get("tokenizer_class"))
    write_json(path, content | {"tokenizer_class": OLD_TOKENIZER_CLASS.get(name, name)})


def named_chat_template(folder: CheckpointFolder) -> str | None:
    """The template that the root configuration names: a file at the root, or one of those that come with the family."""
    name = folder.config.get("chat_template")
    if not isinstance(name, str):
        return None
    path = folder.root / f"{name}.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8").replace("    ", "").replace("\n", "")
    if name in CHAT_TEMPLATES:
        return CHAT_TEMPLATES[name]
    if "{" in name:
        return name
    raise CheckpointError(
        f"config.json names the chat template {name!r}, and {name}.jinja is not in the folder; copy it there."
    )
