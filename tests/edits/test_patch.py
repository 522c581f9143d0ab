"""Patched vectors are the other answer's, where and only where they were asked for."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import vila_lab
from tests.edits.conftest import said
from vila_lab.errors import CaptureError, NoEffect, OptionError

MODULES = {"residual": lambda layer: layer, "attention": lambda layer: layer.self_attn, "mlp": lambda layer: layer.mlp}


def vectors_of(output: Any) -> torch.Tensor:
    found: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return found


@pytest.mark.parametrize("positions", ["image_2", ['"image 2"', "image_1"], [20, 60, 98]], ids=str)
@pytest.mark.parametrize("state", MODULES)
def test_a_patch_is_what_hooks_made_by_hand_do(state, positions, lab, question, plain, other):
    modules = {layer: MODULES[state](lab.family.decoder_layers[layer]) for layer in (1, 3)}
    tokens = plain.token_map
    if positions == "image_2":
        places = tokens.positions("image_2").tolist()
    elif isinstance(positions[0], str):
        words = [
            p for p in tokens.positions("text").tolist() if tokens.text[slice(*tokens.span[p])].strip() in "image 2"
        ]
        places = words + tokens.positions("image_1").tolist()
    else:
        places = positions
    found: dict[int, torch.Tensor] = {}

    def put(layer: int) -> Any:
        def hook(module: Any, args: Any, output: Any) -> Any:
            vectors = vectors_of(output).clone()
            if vectors.shape[1] > 1:
                vectors[:, places] = found[layer][:, places]
            return (vectors, *output[1:]) if isinstance(output, tuple) else vectors

        return hook

    def run(make: Any, parts: Any) -> Any:
        handles = [module.register_forward_hook(make(layer)) for layer, module in modules.items()]
        answer = lab.ask(parts)
        for handle in handles:
            handle.remove()
        return answer

    def remember(layer: int) -> Any:
        def hook(module: Any, args: Any, output: Any) -> None:
            found.setdefault(layer, vectors_of(output).clone())

        return hook

    run(remember, list(other_parts(other)))
    expected = run(put, question)
    with lab.patch(other, positions, [1, 3], state=state) as handle:
        patched = lab.ask(question)
    assert said(patched)[0] == said(expected)[0]
    assert said(patched)[1] == pytest.approx(said(expected)[1], abs=1e-5)
    assert said(patched)[1] != pytest.approx(said(plain)[1], abs=1e-6)
    assert handle.label.startswith(f"patch of the {state} at ")
    assert handle.label.endswith(f"behind layers 1, 3 from {other.text!r}")


def other_parts(answer: Any) -> list[Any]:
    return [answer.images[part] if isinstance(part, int) else part for part in answer.parts]


@pytest.mark.parametrize("layer", range(6))
def test_patched_everywhere_the_prompts_last_row_is_the_other_prompts(layer, lab, question, plain, other):
    with lab.patch(other, "all", layer):
        patched = lab.ask(question, max_new_tokens=1)
    assert patched.tokens[0].id == other.tokens[0].id != plain.tokens[0].id
    assert patched.tokens[0].logprob == pytest.approx(other.tokens[0].logprob, abs=1e-5)
    one, two = (dict((a[1], a[2]) for a in each.tokens[0].alternatives) for each in (patched, other))
    assert one == pytest.approx(two, abs=1e-5)


def test_prompts_of_another_shape_are_refused(lab, question, demo, plain):
    shorter = lab.ask([demo / "g.png", "What is in image 2?"], max_new_tokens=1)
    with lab.patch(shorter, "image_1"), pytest.raises(OptionError, match=r"has \d+ positions and this one \d+"):
        lab.ask(question)
    turned = lab.ask([demo / "g.png", "What is in image 2?", demo / "m.png"], max_new_tokens=1)
    assert turned.token_map.prompt_length == plain.token_map.prompt_length
    with lab.patch(turned, "image_1"), pytest.raises(OptionError, match="differ in kind at position"):
        lab.ask(question)


@pytest.mark.parametrize("positions", ["answer", [500], [3, 101, 102]])
def test_only_the_prompt_is_patched(positions, lab, question, other):
    with lab.patch(other, positions), pytest.raises(OptionError, match="patching works on the prompt"):
        lab.ask(question)


def test_what_cannot_be_patched_says_why(lab, eager, question, other, tmp_path):
    with pytest.raises(OptionError, match="unknown state 'keys'; known: residual, attention, mlp"):
        lab.patch(other, "image_1", state="keys")
    with pytest.raises(NoEffect, match="no layer 6"):
        lab.patch(other, "image_1", 6)
    with pytest.raises(OptionError, match="another session"):
        lab.patch(eager.ask(question, max_new_tokens=1), "image_1")
    with pytest.raises(CaptureError, match="no model any more"):
        lab.patch(vila_lab.open(other.save(tmp_path / "other.vila")), "image_1")
    with lab.patch(other, "image_3"), pytest.raises(NoEffect, match="no image_3"):
        lab.ask(question)
    assert lab.edits == ()


def test_a_patch_without_effect_raises(lab, question, other):
    """What the last layer hands on at another place than the prompt's last is read by nobody."""
    with lab.patch(other, "image_2", layers=5), pytest.raises(NoEffect, match="patch of the residual"):
        lab.ask(question)
    with lab.patch(other, "image_1", layers=2), pytest.raises(NoEffect, match="changes nothing"):
        lab.ask(question)  # both prompts begin alike, so their first picture's vectors are the same


def test_a_patch_from_a_released_answer_runs_its_prompt_again(lab, question, demo):
    again = lab.ask([demo / "g.png", demo / "a.png", "What is in image 2?"])
    with lab.patch(again, "image_2", 3):
        before = said(lab.ask(question))
        again.release()
        assert said(lab.ask(question)) == before
