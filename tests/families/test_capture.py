"""Recorded rows of other families' decoders are those of their own eager attention, whatever sees what."""

from __future__ import annotations

import pytest
import torch

from tests.families.seam import UPSTREAM, made
from vila_lab.hooks import Capture

TOKENS = 5
EXACT, HALF = 2e-5, 6e-4  # float32 on another path through the numbers; float16 as live rows are kept
OPTIONS = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "do_sample": False, "pad_token_id": 0}


def asked(name):
    """A family and its inputs; PaliGemma's prompt as its processor makes it, one block to its end."""
    family, inputs, _ = made(name)
    if name.startswith("PaliGemma"):
        inputs["token_type_ids"] = torch.zeros_like(inputs["token_type_ids"])
    return family, inputs


@pytest.mark.parametrize("mode", ["tape", "live"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", UPSTREAM)
def test_rows_are_those_of_eager_attention(name, attention, mode):
    family, inputs = asked(name)
    length = inputs["input_ids"].shape[1]
    if name == "PaliGemma 2" and attention == "sdpa":
        pytest.skip("transformers itself refuses it")
    slides = name in ("Gemma 3", "PaliGemma 2")
    family.model.set_attn_implementation("eager")
    expected = family.model.generate(**inputs, **OPTIONS, output_attentions=True, return_dict_in_generate=True)
    family.model.set_attn_implementation(attention)
    with Capture(family.model, mode="auto" if slides else mode) as tape:
        ids = family.model.generate(**inputs, **OPTIONS)
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
    family, inputs = asked("PaliGemma 2")
    length = inputs["input_ids"].shape[1]
    family.model.set_attn_implementation("eager")  # sdpa leaves the soft-cap out in older versions of transformers
    with Capture(family.model) as tape:
        family.model.generate(**inputs, **OPTIONS)
    window = family.model.config.text_config.sliding_window
    assert tape.weights(0)[0, :, : length - window].sum() > 0.1
