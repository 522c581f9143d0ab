"""Every family says what its own code says, to the tolerance of another path through the numbers."""

from __future__ import annotations

import hashlib
from itertools import takewhile

import numpy as np
import pytest
import torch

from tests.families.checkpoints import COUNTS, GOLDEN, HAS_TORCHVISION, as_golden, golden, parts, prompt, session

pytestmark = pytest.mark.skipif(not HAS_TORCHVISION, reason="the goldens hold torchvision's pixels: see `make test`")

LOGITS = 5e-5  # measured: 2.3e-5 at most (GLM-4V)
EMBEDDINGS = 3e-5  # 1.3e-5 at most (PaliGemma 2)
FULL, HALF = 3e-5, 5e-4  # eager attention as sdpa says it; float16, as rows of layers with a window are kept
CLOSE_CALL = 2e-3  # of two logits: below it another order of additions may choose otherwise


@pytest.fixture(params=[(name, count) for name in GOLDEN for count in COUNTS], ids=lambda each: f"{each[0]}-{each[1]}")
def case(request):
    return request.param


@pytest.fixture
def prepared(case):
    name, count = case
    family = session(name).family
    return family, family.prepare(prompt(count), family.options(**as_golden(name))), golden(name, count)


@pytest.fixture
def answered(case):
    name, count = case
    answer = session(name).ask(parts(count), max_new_tokens=8, **as_golden(name))
    return answer, golden(name, count)


def test_a_prompts_positions_are_the_processors_ids(prepared):
    _, found, expected = prepared
    assert found.inputs["input_ids"][0].tolist() == expected["input_ids"].tolist()
    assert len(found.token_map) == len(expected["input_ids"])
    for name in ("image_grid_thw", "image_sizes", "token_type_ids", "mm_token_type_ids"):
        if name in expected:
            assert np.array_equal(found.inputs[name].numpy().reshape(expected[name].shape), expected[name])
    pixels = found.inputs["pixel_values"].numpy().astype("<f4")
    assert pixels.shape == tuple(expected["pixel_values_shape"])
    assert hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest() == str(expected["pixel_values_sha256"])


def test_embeddings_positions_and_logits_are_the_models_own(prepared):
    family, found, expected = prepared
    with torch.no_grad():
        embedded = family.embed(found)
        logits = family.decode(embedded, keep=[len(embedded) - 1])[0][0]
    np.testing.assert_allclose(embedded.vectors.numpy(), expected["inputs_embeds"], atol=EMBEDDINGS)
    np.testing.assert_allclose(logits.numpy(), expected["logits_last_row"], atol=LOGITS)
    if "position_ids" in expected and expected["position_ids"].size:
        own = expected["position_ids"].reshape(-1, len(embedded))
        assert np.array_equal(np.broadcast_to(embedded.positions.numpy(), own.shape), own)


def test_the_answer_is_greedy_with_no_penalty(answered):
    answer, expected = answered
    ids = [token.id for token in answer.tokens]
    assert len(ids) == 8 or answer.tokens[-1].stop
    if expected["margin"] > CLOSE_CALL:
        assert ids == expected["generated_ids"].tolist()[: len(ids)]


def test_attention_of_the_answers_rows_is_eager_attention(answered):
    answer, expected = answered
    own = expected["attention_answer_rows"].transpose(2, 0, 1, 3)  # (8, L, H, T + 7)
    found = answer.attention().values  # (token, L, H, position)
    pairs = zip([token.id for token in answer.tokens], expected["generated_ids"].tolist(), strict=False)
    same = 1 + len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))  # what stood before the row is the same
    count, columns = min(same, len(found)), own.shape[-1]
    error = np.abs(found[:count, ..., :columns] - own[:count]).max((0, 2, 3))  # (L,)
    tape = answer.record.tape()
    for layer in range(tape.n_layers):
        assert error[layer] < (HALF if tape.layer(layer).live is not None else FULL), layer
    assert not found[:count, ..., :columns][own[:count] == 0].any()  # also outside a window
    np.testing.assert_allclose(found[0].sum(-1), 1, atol=HALF)
