"""Tokens are drawn as the distribution says, by random numbers that belong to the question alone."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from vila_lab.engine.sampling import Draw, Sampling

DRAWS = 4000


def shares(sampling: Sampling, logits: list[float], config: GenerationConfig | None = None) -> np.ndarray:
    """How often each token is drawn."""
    choose = sampling.chooser(config or GenerationConfig())
    scores = torch.tensor([logits]).expand(DRAWS, -1)
    return np.bincount(choose(torch.zeros(DRAWS, 1, dtype=torch.int64), scores), minlength=len(logits)) / DRAWS


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({}, [0.5, 0.3, 0.2]),
        ({"temperature": 0.5}, [0.25, 0.09, 0.04]),
        ({"top_k": 2}, [0.5, 0.3, 0]),
        ({"top_p": 0.4}, [0.5, 0, 0]),
        ({"temperature": 0.5, "top_p": 0.8}, [0.25, 0.09, 0]),
    ],
)
def test_tokens_come_as_often_as_they_should(options, weights):
    found = shares(Sampling(True, seed=1, **options), np.log([0.5, 0.3, 0.2]).tolist())
    expected = np.array(weights) / sum(weights)
    assert np.abs(found - expected).max() < 4 * np.sqrt(0.25 / DRAWS)
    assert found[expected == 0].sum() == 0


def test_what_is_not_given_is_the_models_own():
    logits = np.log([0.5, 0.3, 0.2]).tolist()
    own = shares(Sampling(True, seed=1), logits, GenerationConfig(do_sample=True, top_k=1))
    assert own.tolist() == [1, 0, 0]
    assert (shares(Sampling(True, seed=1, top_k=3), logits, GenerationConfig(do_sample=True, top_k=1)) > 0).all()


def test_a_forbidden_token_is_never_drawn():
    scores = torch.tensor([[0.0, -torch.inf, 0.0]]).expand(200, -1)
    assert 1 not in Draw(3)(scores)


def tokens(lab, **options) -> list[int]:
    return [
        token.id for token in lab.ask("Hello", max_new_tokens=12, do_sample=True, temperature=3.0, **options).tokens
    ]


def test_a_seed_repeats_itself_and_moves_nobody_elses_random_numbers(golden_session):
    lab = golden_session("nvila-resize")
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = tokens(lab, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert tokens(lab, seed=5) == first
    assert tokens(lab, seed=6) != first


def test_without_a_seed_every_answer_is_another_whatever_the_process_does(golden_session):
    lab = golden_session("nvila-resize")
    runs = []
    for _ in range(3):
        torch.manual_seed(1)
        before = torch.get_rng_state()
        runs.append(tuple(tokens(lab)))
        assert torch.equal(torch.get_rng_state(), before)
    assert len(set(runs)) == 3


def test_another_thread_that_draws_changes_nothing(golden_session):
    lab = golden_session("nvila-resize")
    expected, done = tokens(lab, seed=9), threading.Event()

    def draw() -> None:
        while not done.is_set():
            torch.rand(10)

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        assert all(tokens(lab, seed=9) == expected for _ in range(5))
    finally:
        done.set()
        thread.join()
