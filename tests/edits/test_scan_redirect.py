"""A scan is its single patches; redirection steers where it says and leaves the session as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import vila_lab
from tests.edits.conftest import forced, sequence_of, state_of
from vila_lab.edits.steering import bands, other_band
from vila_lab.engine.band import Band
from vila_lab.errors import NoEffect, OptionError

STATES = {"residual": lambda layer: layer, "attention": lambda layer: layer.self_attn, "mlp": lambda layer: layer.mlp}


def single(lab: Any, plain: Any, other: Any, state: str, layer: int, places: list[int]) -> float:
    """Recovered logit difference of one patch, by hooks of the test."""
    module = STATES[state](lab.family.decoder_layers[layer])
    ids = [answer.tokens[0].id for answer in (plain, other)]
    found: list[torch.Tensor] = []

    def keep(module: Any, args: Any, output: Any) -> None:
        found.append((output[0] if isinstance(output, tuple) else output).clone())

    def put(module: Any, args: Any, output: Any) -> Any:
        vectors = (output[0] if isinstance(output, tuple) else output).clone()
        vectors[:, places] = found[0][:, places]
        return (vectors, *output[1:]) if isinstance(output, tuple) else vectors

    def difference(answer: Any, hook: Any) -> float:
        handle = module.register_forward_hook(hook)
        logits, _ = forced(lab, sequence_of(answer, lab), ids[:1])
        handle.remove()
        return float(logits[0, ids[1]] - logits[0, ids[0]])

    goal = difference(other, keep)
    patched = difference(plain, put)
    base = difference(plain, lambda *event: None)
    return (patched - base) / (goal - base)


@pytest.mark.parametrize("state", STATES)
def test_a_scan_is_its_single_patches(state, lab, plain, other):
    length = plain.token_map.prompt_length
    found = lab.patch_scan(
        plain, other, positions=["image_2", '"image 2"', 60, length - 1], layers=[0, 2, 5], state=state
    )
    assert found.dims == ("layer", "position")
    assert found.position.values[:2].tolist() == ["image_2", '"image 2"']
    words = [
        p for p in range(length) if plain.token_map.text[slice(*plain.token_map.span[p])].strip() in ("image", "2")
    ]
    words = [p for p in words if plain.token_map.span[p][0] >= 0 and p in plain.token_map.positions("text")]
    places = [plain.token_map.positions("image_2").tolist(), words, [60], [length - 1]]
    assert found["number"].values.tolist() == [mine[0] for mine in places]
    for layer in (0, 2, 5):
        for index, mine in enumerate(places):
            expected = single(lab, plain, other, state, layer, mine)
            assert float(found.sel(layer=layer)[index]) == pytest.approx(expected, abs=1e-3)
    assert found.attrs["token"] == plain.tokens[0].text
    assert found.attrs["from_token"] == other.tokens[0].text


def test_the_batch_does_not_matter(lab, plain, other):
    scans = [lab.patch_scan(plain, other, layers=[1, 4], batch=batch) for batch in (1, 5, 64)]
    for each in scans[1:]:
        np.testing.assert_allclose(each.values, scans[0].values, atol=1e-4)
    places = plain.token_map.prompt_length - sum(len(plain.token_map.positions(f"image_{k}")) - 1 for k in (1, 2))
    assert scans[0].shape == (2, places)


def test_behind_the_last_layer_only_the_last_place_counts(lab, plain, other):
    found = lab.patch_scan(plain, other, layers=-1)
    np.testing.assert_allclose(found.values[0, -1], 1, atol=1e-4)
    np.testing.assert_allclose(found.values[0, :-1], 0, atol=1e-4)
    start = lab.patch_scan(plain, other, positions="image_2", layers=0)
    assert float(start[0, 0]) == pytest.approx(1, abs=0.05), (
        "in the first layer only the picture tells the prompts apart"
    )


def test_scans_that_make_no_sense(lab, question, plain, other, demo):
    with pytest.raises(OptionError, match="both answers say"):
        lab.patch_scan(plain, lab.ask(question))
    with pytest.raises(OptionError, match="they differ first at token 0"):
        lab.patch_scan(plain, other, token=-1)
    with pytest.raises(OptionError, match="there is no token 40: this answer has 3"):
        lab.patch_scan(plain, other, token=40)
    with pytest.raises(OptionError, match="batch must be at least 1"):
        lab.patch_scan(plain, other, batch=0)
    with pytest.raises(OptionError, match="unknown state"):
        lab.patch_scan(plain, other, state="keys")
    with pytest.raises(NoEffect, match="no image_3"):
        lab.patch_scan(plain, other, positions=["image_3"])
    shorter = lab.ask([demo / "g.png", "What is in image 2?"], max_new_tokens=1)
    with pytest.raises(OptionError, match="two prompts of one shape"):
        lab.patch_scan(plain, shorter)


# -- redirection ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("heads", ["routing", None, [(4, 0), (4, 1)]], ids=str)
def test_redirection_by_hand_asks_again_under_steering(heads, lab, question, plain):
    before = state_of(lab.model)
    found = lab.redirect(plain, image=0, strength=6.0, heads=heads)
    assert lab.edits == ()
    assert state_of(lab.model) == before
    assert found.before is plain
    assert found.changed == (found.after.text != plain.text)
    (label,) = found.after.edits
    assert label.startswith("steering by +6 of image_1 -> answer in ")
    with lab.steer("image_1", 6.0, heads=heads or [(layer, head) for layer in range(6) for head in range(4)]):
        again = lab.ask(question, max_new_tokens=2 * len(plain.tokens) + 8)
    assert [token.id for token in again.tokens] == [token.id for token in found.after.tokens]
    for answer, share in ((plain, found.share_before), (found.after, found.share_after)):
        assert share == pytest.approx(answer.ledger()["image_1"].iloc[answer.rows_of()].mean())
    assert found.share_after > found.share_before
    assert "->" in repr(found)


def test_redirection_in_the_band_follows_and_its_controls_do_not(lab, plain):
    before = state_of(lab.model)
    found = lab.redirect(plain, image=0)
    assert (lab.edits, state_of(lab.model)) == ((), before)
    assert (found.from_image, found.wanted, found.followed) == (1, "Google.", True)
    assert found.band == lab.engine.band
    assert set(found.controls) == {"another band", "random heads", "a blank"}
    assert found.controls["a blank"] != "Google."
    assert found.controls["another band"] != "Google."
    hidden, closed, steered = found.edits
    assert hidden.startswith('knock-out of "2" -> * in all layers')
    assert closed.startswith("knock-out of image_2 -> * in all heads of layer")
    assert steered.startswith(f"steering by +{found.band.strength:g} of image_1 -> * in all heads of layer")
    assert all(said in found._repr_html_() for said in (*found.controls.values(), "Google.", "wanted"))
    assert lab.redirect(plain, image=0, controls=False).controls == {}


def test_a_band_given_is_the_band_used(lab, plain):
    found = lab.redirect(plain, image=0, layers=[0, 1], strength=3, controls=False)
    assert (found.band.layers, found.band.strength, found.band.questions) == ((0, 1), 3.0, 0)
    assert found.edits[-1] == "steering by +3 of image_1 -> * in all heads of layers 0, 1"


def test_a_session_without_a_band_finds_one_on_the_other_pictures(lab, demo, monkeypatch):
    answer = lab.ask([demo / "g.png", demo / "m.png", demo / "n.png", "What is in image 2?"])
    monkeypatch.setattr(lab.engine, "band", None)
    found = lab.redirect(answer, image=0, controls=False)
    assert found.band.questions == 2  # to picture 3, and from picture 1 in the place of 2
    assert found.followed
    assert lab.engine.band is None
    kept = lab.find_band([answer])
    assert (lab.engine.band, kept.questions) == (kept, 1)


def test_bands_are_neighbours_and_leave_another_band():
    for layers in (1, 2, 4, 6, 28, 33):
        for band in bands(layers):
            assert band == tuple(range(band[0], band[-1] + 1))
            other = other_band(Band(band, 1.0), layers)
            assert layers == 1 or (other is not None and not set(other.layers) & set(band))


def test_an_answer_that_no_exchange_changes_has_no_band(lab, demo, monkeypatch):
    answer = lab.ask([demo / "g.png", demo / "g.png", "What is in image 2?"])
    monkeypatch.setattr(lab.engine, "band", None)
    with pytest.raises(OptionError, match="stays the same when its picture and another are exchanged"):
        lab.redirect(answer, image=0)


def test_redirection_asks_as_it_was_asked(golden_session, golden_image):
    """The same conversation template and the same tiles."""
    session = golden_session("nvila-lite")
    parts = [golden_image("a_land.png"), golden_image("d_wide.png"), "What?"]
    for options in ({"conv_mode": "plain"}, {"tile_all_images": True}):
        answer = session.ask(parts, max_new_tokens=3, **options)
        after = session.redirect(answer, image=1, heads=None).after
        assert after.token_map.prompt_length == answer.token_map.prompt_length
        assert after.token_map.text == answer.token_map.text


@pytest.mark.parametrize("image", [2, -3])
def test_redirection_to_no_picture(image, lab, plain):
    with pytest.raises(OptionError, match=f"there is no picture {image}: the prompt has 2, counted from 0"):
        lab.redirect(plain, image=image)
    with pytest.raises(OptionError, match="needs the picture to steer to"):
        lab.redirect(plain)


def test_redirection_counted_from_1_as_before_says_how_it_is_now(lab, plain):
    with pytest.warns(FutureWarning, match="counts pictures from 0 now"):
        before = lab.redirect(plain, 1, strength=6.0)
    assert before.image == 0
    assert before.after.tokens == lab.redirect(plain, image=0, strength=6.0).after.tokens


def test_redirection_needs_an_effect_and_heads_that_are_known(lab, plain, golden_session, golden_image):
    with pytest.raises(NoEffect, match="by 0 changes nothing"):
        lab.redirect(plain, image=0, strength=0)
    assert lab.edits == ()
    session = golden_session("nvila-lite")
    answer = session.ask([golden_image("a_land.png"), "What?"], max_new_tokens=1)
    with pytest.raises(OptionError, match="from one picture to another"):
        session.redirect(answer, image=0)
    with pytest.raises(OptionError, match="routing"):
        session.redirect(answer, image=0, heads="routing")


def test_an_answer_from_a_file_is_redirected_by_its_own_model_alone(lab, plain, golden_session, tmp_path):
    opened = vila_lab.open(plain.save(tmp_path / "a.vila"))
    assert (
        lab.redirect(opened, image=0, heads=None).after.tokens == lab.redirect(plain, image=0, heads=None).after.tokens
    )
    with pytest.raises(OptionError, match="of another model"):
        golden_session("nvila-lite").redirect(opened, image=0, heads=None)
