"""Leakage and flow against full eager attention and masks made by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.edits.conftest import biased, forced, logprobs, said, sequence_of
from vila_lab.edits.flow import EDGES, flow
from vila_lab.errors import OptionError


@pytest.fixture(scope="module")
def three(lab, demo):
    """Three pictures; the model answers about one of them."""
    return lab.ask([demo / "g.png", demo / "m.png", demo / "a.png", "What is in image 2?"], max_new_tokens=4)


def cut(answer, source: str, reader: str, layers: range):
    """``matrix(layer)`` for `biased`: source -> reader closed in some layers."""
    tokens = answer.token_map
    length, start = len(tokens) - 1, tokens.prompt_length
    rows = (
        list(range(start - 1, length))
        if reader == "answer"
        else [p for p in tokens.positions(reader).tolist() if p != start - 1]
    )
    closed = torch.zeros(length, length)
    for row in rows:
        for column in tokens.positions(source).tolist():
            closed[row, column] = -torch.inf if row != column else 0.0
    return lambda layer: closed if layer in layers else torch.zeros(1)


def lost(answer, eager, source: str, reader: str, layers: range, rows=slice(None)) -> float:
    """Edited minus clean log-probability of the answer's tokens."""
    prompt, ids = sequence_of(answer, eager), said(answer)[0]
    with biased(eager, cut(answer, source, reader, layers)):
        edited = logprobs(forced(eager, prompt, ids)[0], ids)
    clean = logprobs(forced(eager, prompt, ids)[0], ids)
    return sum(edited[rows]) - sum(clean[rows])


def test_leakage_is_the_mass_that_full_attention_has(three, eager):
    found = three.leakage()
    assert found.dims == ("layer", "reader", "source")
    _, attentions = forced(eager, sequence_of(three, eager), said(three)[0])
    for layer in range(6):
        for reader in range(3):
            for source in range(3):
                rows, columns = (three.token_map.positions(f"image_{k + 1}") for k in (reader, source))
                expected = attentions[layer][0][:, rows][..., columns].sum(-1).mean()
                value = float(found.sel(layer=layer, reader=f"image_{reader + 1}", source=f"image_{source + 1}"))
                assert value == pytest.approx(float(expected), abs=1e-5)
                assert (value == 0) == (source > reader)


def test_the_causal_twin_is_what_the_answer_loses(lab, demo, eager):
    three = lab.ask([demo / "g.png", demo / "m.png", demo / "a.png", "Which image shows Apple?"], max_new_tokens=4)
    found = three.leakage(causal=True)
    for reader in range(3):
        for source in range(3):
            value = float(found[reader, source])
            if source >= reader:
                assert np.isnan(value)
                continue
            expected = -lost(three, eager, f"image_{source + 1}", f"image_{reader + 1}", range(6))
            assert value == pytest.approx(expected, abs=1e-4)
    assert float(abs(found).max()) > 1e-3


def test_leakage_needs_two_pictures(lab, demo):
    one = lab.ask([demo / "g.png", "?"], max_new_tokens=1)
    for causal in (False, True):
        with pytest.raises(OptionError, match="this prompt has 1: ask about two or more"):
            one.leakage(causal=causal)


@pytest.mark.parametrize("width", [1, 2, 3, 6])
def test_flow_cuts_edges_in_windows_around_every_layer(width, plain, eager):
    found = plain.flow(width=width)
    assert list(found.table.columns) == list(EDGES)
    assert found.table.index.tolist() == list(range(6))
    assert (found.width, found.target) == (width, "".join(token.text for token in plain.tokens).strip() or found.target)
    for edge in EDGES:
        source, reader = edge.split(" -> ")
        for layer in range(6):
            first = min(max(0, layer - (width - 1) // 2), 6 - width)
            expected = lost(plain, eager, source, reader, range(first, first + width))
            assert found.table.loc[layer, edge] == pytest.approx(expected, abs=1e-4)
        assert found.everywhere[edge] == pytest.approx(lost(plain, eager, source, reader, range(6)), abs=1e-4)
    if width == 3:
        assert (found.table.loc[0] == found.table.loc[1]).all(), "at the end the window is moved inwards"
        assert (found.table.loc[4] == found.table.loc[5]).all()
    if width == 6:
        assert np.allclose(found.table, found.everywhere.to_numpy(), atol=1e-6)


def test_everywhere_is_the_knockout(lab, question, plain):
    """Where the knocked-out model still says the same, its own log-probabilities are those of the table."""
    edge = "image_1 -> answer"
    found = plain.flow(edges=[edge])
    with lab.knockout(edge):
        answer = lab.ask(question)
    assert said(answer)[0] == said(plain)[0]
    assert found.everywhere[edge] == pytest.approx(sum(said(answer)[1]) - sum(said(plain)[1]), abs=1e-4)


def test_flow_of_one_token_with_a_stride(plain, eager):
    found = plain.flow(0, edges=["image_2 -> answer"], width=2, stride=3)
    assert found.table.index.tolist() == [0, 3]
    for layer in (0, 3):
        expected = lost(plain, eager, "image_2", "answer", range(layer, layer + 2), slice(0, 1))
        assert found.table.loc[layer, "image_2 -> answer"] == pytest.approx(expected, abs=1e-4)
    assert "all layers" in found._repr_html_()
    assert "1 edges, 2 bands of 2 layers" in repr(found)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"width": 0}, "1 to 6, not 0"),
        ({"width": 7}, "1 to 6, not 7"),
        ({"stride": 0}, "and 0"),
        ({"edges": ["image_3 -> answer"]}, "no image_3"),
        ({"edges": ["image_2 -> image_1"]}, "stands before"),
        ({"edges": ["images"]}, "source -> reader"),
    ],
)
def test_flow_refuses_what_is_not_there(options, why, plain):
    with pytest.raises(OptionError, match=why):
        flow(plain.replay, **options)


def test_hooks_and_edits_of_the_session_do_not_reach_the_experiments(lab, plain):
    before = plain.leakage(), plain.flow(edges=["image_2 -> answer"]).table
    with lab.knockout("image_2 -> *"), lab.on_attention(lambda event: event):
        assert plain.leakage().equals(before[0])
        assert plain.flow(edges=["image_2 -> answer"]).table.equals(before[1])
