"""Methods that read attention and hidden states: the same numbers as the answer's own and the model's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.attribution.conftest import replay_of, target_of
from vila_lab.attribution.activation_map import without_interference
from vila_lab.errors import OptionError


@pytest.mark.parametrize(
    ("options", "mean"),
    [
        ({}, lambda a: a.mean(("layer", "head"))),
        ({"layers": [0, -1]}, lambda a: a.isel(layer=[0, -1]).mean(("layer", "head"))),
        ({"heads": [(1, 0), (2, 3)]}, lambda a: (a.sel(layer=1, head=0) + a.sel(layer=2, head=3)) / 2),
    ],
    ids=["all", "layers", "heads"],
)
def test_attention_is_the_answers_own(answer, options, mean):
    attribution = answer.attribute("attention", sinks=True, **options)
    np.testing.assert_allclose(attribution.values, mean(answer.attention()), atol=1e-6)
    np.testing.assert_allclose(attribution.values.sum(1), 1, atol=1e-5)


def test_sinks_are_set_apart_as_in_the_ledger(answer):
    attribution = answer.attribute("attention")
    assert not attribution.values[:, answer.sinks].any()
    pictures = [f"image_{k + 1}" for k in range(len(answer.images))]
    np.testing.assert_allclose(attribution.per_image()[pictures], answer.ledger()[pictures], atol=1e-6)


def test_value_weighted_attention_is_shares_that_follow_the_values(answer):
    attribution = answer.attribute("attention_value")
    np.testing.assert_allclose(attribution.values.sum(1), 1, atol=1e-5)
    plain = answer.attribute("attention", sinks=True).values
    assert 1e-4 < np.abs(attribution.values - plain).max() < 0.5
    assert ((attribution.values > 0) == (plain > 0)).all()


def test_of_a_word_that_was_not_said_the_row_that_would_choose_it_is_read(two):
    said = two.attribute("attention", 1).values[0]
    other = two.attribute("attention", "A", at=1).values[0]
    np.testing.assert_allclose(other, said[: len(other)], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": [3]}, "there is no head 0 in layer 3: the model has 3 layers of 4"),
        ({"heads": [(0, 4)]}, "there is no head 4 in layer 0"),
        ({"heads": "localization"}, "unknown head set 'localization'"),
        ({"heads": [(0, 0)], "layers": [0]}, "not both"),
        ({"layers": []}, "no head is chosen"),
    ],
    ids=["layer", "head", "set", "both", "none"],
)
def test_heads_that_are_not_there(two, options, message):
    with pytest.raises(OptionError, match=message):
        two.attribute("attention", **options)


def test_the_lens_on_the_last_layer_is_the_models_own_output(answer):
    replay, target = replay_of(answer), target_of(answer)
    found = answer.attribute("logit_lens", layers=[-1])
    with torch.no_grad():
        logits = replay.model(inputs_embeds=replay.embedded.vectors[None]).logits[0].float()
    visual = answer.token_map.positions("images")
    own = logits[visual]
    np.testing.assert_allclose(found.values[:, visual], own.softmax(-1)[:, target.ids()].T, atol=1e-5)
    np.testing.assert_allclose(found.extras["logit"].isel(layer=0), own[:, target.ids()].T, atol=1e-4)
    words = [replay.family.tokenizer.decode([token]) for token in own.argmax(-1).tolist()]
    assert found.extras["word"].isel(layer=0).to_numpy().tolist() == words


def test_the_lens_spells_each_word_once(asked, monkeypatch):
    answer = asked("nvila-lite", "a_land.png", "d_wide.png", "Which of the two?")
    tokenizer = type(replay_of(answer).family.tokenizer)
    spelled: list[list[int]] = []
    batch_decode = tokenizer.batch_decode

    def counting(self, sequences, **options):
        spelled.extend(sequences)
        return batch_decode(self, sequences, **options)

    monkeypatch.setattr(tokenizer, "batch_decode", counting)
    words = answer.attribute("logit_lens").extras["word"].to_numpy()
    assert len(spelled) == len({id for (id,) in spelled}) < words.size


def test_the_lens_averages_its_layers(two):
    alone = [two.attribute("logit_lens", layers=[layer]).values for layer in range(3)]
    np.testing.assert_allclose(two.attribute("logit_lens").values, np.mean(alone, 0), atol=1e-9)
    with pytest.raises(OptionError, match="the model has 3"):
        two.attribute("logit_lens", layers=[7])


def test_the_activation_is_hidden_state_times_output_column(answer):
    replay, target = replay_of(answer), target_of(answer)
    found = answer.attribute("activation_map", interference=False)
    with torch.no_grad():
        logits = replay.model(inputs_embeds=replay.embedded.vectors[None]).logits[0].float()
    visual = answer.token_map.positions("images")
    expected = logits[visual][:, target.ids()].clamp(min=0).T
    np.testing.assert_allclose(found.values[:, visual], expected, atol=1e-4)
    less = answer.attribute("activation_map").values
    assert (less <= found.values + 1e-9).all()
    assert less.sum() < found.values.sum()


def test_interference_takes_away_what_it_explains():
    common = torch.tensor([3.0, 1.0, 0.0, 2.0])
    own = torch.tensor([0.0, 0.0, 4.0, 0.0])
    others = torch.stack([common, torch.tensor([1.0, 0, 0, 0])], 1)
    left = without_interference(2 * common + own, others, torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(left, own)
    torch.testing.assert_close(without_interference(own, others, torch.zeros(2)), own)


def test_the_lens_reads_the_picture_that_is_asked_about(microsoft):
    """The patches of the second picture say its company's name; those of the first do not."""
    said = microsoft.attribute("logit_lens", 0).per_image().iloc[0]
    assert said["image_2"] > 2 * said["image_1"]
