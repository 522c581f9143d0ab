"""Answers of the embedded model and of tiny random checkpoints, and references made by hand for what edits do to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

import vila_lab
from tests.attribution.conftest import state_of
from vila_lab.answer import Answer
from vila_lab.attribution import Replay
from vila_lab.session import Session
from vila_lab.upstream import attention_name

__all__ = ["state_of"]


@pytest.fixture(autouse=True)
def _clean_session(lab: Session) -> Iterator[None]:
    """No test leaves an edit or a trace of one, and none starts several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    before = state_of(lab.model)
    yield
    left = lab.edits
    lab.clear_edits()
    torch.set_num_threads(threads)
    assert left == ()
    assert state_of(lab.model) == before


@pytest.fixture(scope="session")
def eager() -> Session:
    """The embedded model under the implementation that writes its masks out."""
    return vila_lab.load(attn_implementation="eager")


@pytest.fixture(scope="session")
def question(demo) -> list[Any]:
    """Two pictures, 102 positions, answered in three tokens."""
    return [demo / "g.png", demo / "m.png", "What is in image 2?"]


@pytest.fixture(scope="session")
def plain(lab, question) -> Answer:
    answer = lab.ask(question)
    assert answer.text == "Microsoft."
    return answer


@pytest.fixture(scope="session")
def other(lab, demo) -> Answer:
    """A prompt of the same shape with another second picture, answered otherwise."""
    answer = lab.ask([demo / "g.png", demo / "a.png", "What is in image 2?"])
    assert answer.text != "Microsoft."
    return answer


@pytest.fixture
def forwards(lab) -> Iterator[list[int]]:
    """Rows of each forward of the embedded model."""
    seen: list[int] = []
    handle = lab.model.register_forward_hook(lambda module, args, output: seen.append(output.logits.shape[1]))
    yield seen
    handle.remove()


@contextmanager
def biased(session: Session, matrix: Callable[[int], Tensor]) -> Iterator[None]:
    """An eager session's masks with ``matrix(layer)``, (H|1, T, T), added, by hooks of the test."""

    def hook(layer: int) -> Callable[..., Any]:
        def add(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
            return args, {**kwargs, "attention_mask": kwargs["attention_mask"] + matrix(layer)}

        return add

    handles = [
        layer.self_attn.register_forward_pre_hook(hook(index), with_kwargs=True)
        for index, layer in enumerate(session.family.decoder_layers)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def sequence_of(answer: Answer, session: Session) -> Tensor:
    """Input embeddings of a clean answer's prompt, as another session of the same weights sees it."""
    return Replay(answer.record, session.engine).embedded.vectors


@torch.no_grad()
def forced(session: Session, prompt: Tensor, ids: list[int], mask: Tensor | None = None) -> tuple[Tensor, Any]:
    """Logits of the rows that choose an answer's tokens, and all weights, of one forward.  # (tokens, V), (1, H, T, T)s"""
    table = session.model.get_input_embeddings()
    sequence = torch.cat([prompt, table(torch.tensor(ids[:-1], dtype=torch.int64))])
    length = len(sequence)
    out = session.model.language_model(
        inputs_embeds=sequence[None],
        position_ids=torch.arange(length)[None],
        attention_mask=torch.ones(1, length, dtype=torch.int64) if mask is None else mask,
        output_attentions=attention_name(session.model.config.get_text_config()) == "eager",
        use_cache=False,
    )
    return out.logits[0, len(prompt) - 1 :], out.attentions


def logprobs(logits: Tensor, ids: list[int]) -> list[float]:
    """Of the tokens that were said.  # logits (tokens, V)"""
    values = torch.log_softmax(logits.float(), -1)
    return [float(values[row, token]) for row, token in enumerate(ids)]


def said(answer: Answer) -> tuple[list[int], list[float]]:
    return [token.id for token in answer.tokens], [token.logprob for token in answer.tokens]
