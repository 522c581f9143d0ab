"""Recorded rows of other families' decoders are those of their own eager attention, whatever sees what."""

from __future__ import annotations

import pytest
import torch

from tests.families.checkpoints import ALL_LOAD, NAMES, parts, prompt, session
from vila_lab.hooks import Capture
from vila_lab.upstream import attention_name

TOKENS = 5
EXACT, HALF = 3e-5, 6e-4  # float32 on another path through the numbers; float16 as live rows are kept
OPTIONS = {
    "max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "do_sample": False, "repetition_penalty": 1.0, "pad_token_id": 0,
    "cache_implementation": None,
}  # fmt: skip
pytestmark = ALL_LOAD
EAGER_ONLY = ("paligemma2",)  # transformers itself refuses sdpa


@pytest.fixture
def model_of():
    """A family's model under an attention implementation, which it has no longer afterwards."""
    changed = []

    def under(name, attention):
        model = session(name).family.model
        changed.append((model, attention_name(model.config.get_text_config())))
        model.set_attn_implementation(attention)
        return model

    yield under
    for model, before in reversed(changed):
        model.set_attn_implementation(before)


@pytest.mark.parametrize("mode", ["tape", "live"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", NAMES)
def test_rows_are_those_of_eager_attention(name, attention, mode, model_of):
    if name in EAGER_ONLY and attention == "sdpa":
        pytest.skip("transformers itself refuses it")
    family = session(name).family
    inputs = dict(family.prepare(prompt(2)).inputs)
    length = inputs["input_ids"].shape[1]
    expected = model_of(name, "eager").generate(
        **inputs, **OPTIONS, output_attentions=True, return_dict_in_generate=True
    )
    model = model_of(name, attention)
    slides = family.window is not None
    with Capture(model, mode="auto" if slides else mode) as tape:
        ids = model.generate(**inputs, **OPTIONS)
    assert torch.equal(ids, expected.sequences)
    for layer in range(tape.n_layers):
        rows = tape.weights(layer)  # (R, H, K)
        for k, step in enumerate(expected.attentions):
            own = step[layer][0, :, -1]  # (H, k)
            row = rows[k, :, : length + k]
            if own.shape[-1] < row.shape[-1]:  # a sliding cache has dropped what lies before
                assert not row[:, : row.shape[-1] - own.shape[-1]].any()
                row = row[:, -own.shape[-1] :]
            error = (row - own[:, : row.shape[-1]]).abs().max()
            assert error < (HALF if mode == "live" or slides else EXACT), (layer, k)
            assert not rows[k, :, length + k :].any()


def test_the_prompts_block_reaches_over_the_window():
    """So the test above tells a row that was cut from one that was not."""
    family = session("paligemma2").family
    inputs = family.prepare(prompt(2)).inputs
    with Capture(family.model) as tape:
        family.model.generate(**inputs, **OPTIONS)
    assert tape.weights(0)[0, :, : inputs["input_ids"].shape[1] - family.window].sum() > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_the_answer_is_the_same_whatever_implementation_computes_it(name, model_of):
    if name in EAGER_ONLY:
        pytest.skip("transformers itself refuses sdpa")
    found = []
    for attention in ("eager", "sdpa"):
        model_of(name, attention)
        session(name).forget()
        answer = session(name).ask(parts(2), max_new_tokens=4)
        found.append((answer.tokens[0].logprob, answer.attention().values))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-4)
    assert abs(found[0][1][0] - found[1][1][0]).max() < HALF
