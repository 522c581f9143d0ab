"""Layers in 8 bits: near the layers they stand for, gradients included, and a model of them is recorded and edited like any."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import vila_lab
from vila_lab.errors import CheckpointError, OptionError
from vila_lab.families.int8 import Int8Linear, quantise
from vila_lab.families.loading import load_family


@pytest.fixture(scope="module")
def rounded():
    return vila_lab.load(quantization="int8")


@pytest.mark.parametrize("shape", [(1, 48), (2, 7, 48), (0, 48)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_is_near_the_one_it_stands_for(shape, bias):
    torch.manual_seed(0)
    layer, seen = nn.Linear(48, 33, bias=bias), torch.randn(shape, requires_grad=True)
    found, expected = Int8Linear(layer)(seen), layer(seen)
    assert found.shape == expected.shape
    assert not found.numel() or (found - expected).norm() < 0.02 * expected.norm()
    if found.numel():
        (mine,) = torch.autograd.grad(found.sum(), seen, retain_graph=True)
        (theirs,) = torch.autograd.grad(expected.sum(), seen)
        assert (mine - theirs).norm() < 0.02 * theirs.norm()


def test_rows_are_rounded_by_themselves():
    layer = Int8Linear(nn.Linear(32, 8))
    small, large = torch.randn(2, 32), 1e4 * torch.randn(1, 32)
    torch.testing.assert_close(layer(torch.cat([small, large]))[:2], layer(small))


def test_nothing_but_linear_layers_changes():
    model = nn.Sequential(nn.Linear(8, 8), nn.ModuleList([nn.LayerNorm(8), nn.Linear(8, 4)]), nn.Embedding(3, 8))
    quantise([model])
    assert [type(each) for each in model.modules() if not list(each.children())] == [
        Int8Linear, nn.LayerNorm, Int8Linear, nn.Embedding,
    ]  # fmt: skip


def test_the_decoder_is_rounded_and_the_tower_is_not(rounded):
    layers = [each for each in rounded.family.decoder_layers[0].modules() if isinstance(each, Int8Linear)]
    assert len(layers) == 7
    others = [rounded.model.vision_tower, rounded.model.mm_projector, rounded.model.get_output_embeddings()]
    assert not any(isinstance(each, Int8Linear) for other in others for each in other.modules())


def test_what_is_asked_of_an_answer_is_answered(rounded, lab, demo):
    question = [demo / "g.png", demo / "m.png", "What is in image 2?"]
    answer, full = rounded.ask(question), lab.ask(question)
    assert answer.text == full.text == "Microsoft."
    np.testing.assert_allclose(answer.ledger(), full.ledger(), atol=0.02)
    np.testing.assert_allclose(answer.attention(layer=0).sum("position"), 1, atol=1e-5)
    found = answer.evidence()
    assert found.verdict.startswith("rests on picture 2")
    assert list(found.shares.index) == ["attention", "integrated_gradients", "leave_one_out", "shapley"]
    with rounded.knockout("image_2 -> answer"):
        assert rounded.ask(question).tokens[0].logprob != answer.tokens[0].logprob
    assert rounded.ask(question).tokens == answer.tokens


def test_weights_in_whole_numbers_are_not_saved_or_shuffled(rounded, demo, tmp_path):
    answer = rounded.ask([demo / "g.png", "What is in image 1?"])
    with pytest.raises(CheckpointError, match="quantised"):
        rounded.model.save_pretrained(tmp_path)
    with pytest.raises(OptionError, match="quantised"):
        answer.experiment("random_weights_map", method="attention")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"device_map": "auto"}, "is for the CPU"),
        ({"device": "mps"}, "is for the CPU|no Apple GPU"),
        ({"adapter": "somewhere"}, "exclude each other"),
    ],
)
def test_what_does_not_go_with_it(options, said):
    with pytest.raises(OptionError if "device" not in options else ValueError, match=said):
        load_family(vila_lab.tiny.weights_folder(), quantization="int8", **options)
