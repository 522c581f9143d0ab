"""Pages that show the attention of one answer, of the same recorded weights. Knows no clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vila_lab.answer import Answer


@dataclass(frozen=True)
class Page:
    """One tool's page: what it shows, whose version counts, and how it is written."""

    gives: str
    package: str
    write: Callable[[Answer, Path], None]


def ours(answer: Answer, path: Path) -> None:
    answer.to_html(path)


def own_positions(view: str, answer: Answer, path: Path) -> None:
    """BertViz among the answer's own positions, pictures and prompt left out: the smallest page that it could draw."""
    import bertviz

    tape = answer.record.tape()
    columns = tape.positions[1:]  # the first row is the prompt's
    weights = [tape.weights(layer)[1:, :, columns].transpose(0, 1)[None] for layer in tape.layers]
    html = getattr(bertviz, view)(weights, [token.text for token in answer.tokens[:-1]], html_action="return")
    path.write_text(html.data, encoding="utf-8")


def to_prompt(answer: Answer, path: Path) -> None:
    """BertViz from the answer to everything it was asked with."""
    import bertviz

    tape = answer.record.tape()
    count = int(tape.positions[0]) + 1
    weights = [tape.weights(layer)[:, :, :count].transpose(0, 1)[None] for layer in tape.layers]
    html = bertviz.head_view(
        cross_attention=weights,
        encoder_tokens=[str(position) for position in range(count)],
        decoder_tokens=[token.text for token in answer.tokens],
        html_action="return",
    )
    path.write_text(html.data, encoding="utf-8")


PAGES = {
    "vila_lab": Page("every token on pictures, prompt and answer, maps over the pictures", "vila-lab", ours),
    "BertViz head_view, answer alone": Page(
        "every weight of every head between answer tokens", "bertviz", partial(own_positions, "head_view")
    ),
    "BertViz model_view, answer alone": Page(
        "every weight of every head between answer tokens", "bertviz", partial(own_positions, "model_view")
    ),
    "BertViz head_view, answer to prompt": Page(
        "every weight of every head from answer to prompt", "bertviz", to_prompt
    ),
}
