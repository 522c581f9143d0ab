"""Attention inside vision towers is the tower's own, and stands where a change of the picture changes patches."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from PIL import Image

import vila_lab
from tests.conftest import CHECKPOINTS
from tests.families.checkpoints import (
    COUNTS,
    HAS_TORCHVISION,
    NAMES,
    NEED_TORCHVISION,
    image,
    parts,
    prompt,
    session,
    variant,
)
from vila_lab.errors import CaptureError, CheckpointError, OptionError
from vila_lab.families.patches import Patches, grouped, in_groups, in_tiles
from vila_lab.hooks import Capture
from vila_lab.hooks.sites import select_sites
from vila_lab.parcels import pack, unpack
from vila_lab.prompt import Picture
from vila_lab.upstream import attention_name

EXACT = 6e-6  # sdpa's queries and keys against eager's weights; measured 2e-6
NEAR = 4.0  # pixels by which a patch that changed may miss the square: filters reach beyond it; measured 3.03
APART = 1.0  # by which one that did not may overlap it: bytes of pixels are rounded
CHANGED, UNTOUCHED = 0.05, 0.01  # of the largest change
ALL = (*NAMES, *CHECKPOINTS)


@pytest.fixture
def family_of(golden_session):
    """A family by the name of its model type, or of a checkpoint of NVILA."""
    return lambda name: (golden_session(name) if name in CHECKPOINTS else session(name)).family


@pytest.fixture
def eager(monkeypatch):
    """What a tower's own eager attention computes while a prompt is embedded: each layer's items."""

    def weights(family, prepared):
        sites = select_sites(family.model, ("vision",))["vision"]
        layer_of = {id(site.module): site.layer for site in sites}
        found = {}

        def wrapped(base):
            def attention(module, *args, **kwargs):
                output, own = base(module, *args, **kwargs)
                if id(module) in layer_of:
                    found.setdefault(layer_of[id(module)], []).extend(own.float())  # (H, T, T) each
                return output, own

            return attention

        before = attention_name(family.model.config.vision_config)
        with monkeypatch.context() as patch, torch.no_grad():
            for module in {sys.modules[type(site.module).__module__] for site in sites}:
                patch.setattr(module, "eager_attention_forward", wrapped(module.eager_attention_forward))
            family.model.set_attn_implementation({"vision_config": "eager"})
            try:
                family.embed(prepared)
            finally:
                family.model.set_attn_implementation({"vision_config": before})
        return found

    return weights


def recorded(family, prepared):
    with torch.no_grad(), Capture(family.model, towers=("vision",)) as tape:
        family.embed(prepared)
    return tape


def first_input(family, prepared):
    """What the tower's first layer is given, patch by patch in the order of its items.  # (n, C)"""
    module = select_sites(family.model, ("vision",))["vision"][0].module
    seen = []

    def keep(module, args, kwargs):
        seen.append((args[0] if args else kwargs["hidden_states"]).flatten(0, -2))

    handle = module.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        with torch.no_grad():
            family.embed(prepared)
    finally:
        handle.remove()
    return torch.cat(seen)


def with_square(asked, number, square):
    """A prompt in one of whose pictures a square is turned into its negative."""

    def changed(picture):
        pixels = np.array(picture.image.convert("RGB"))
        x0, y0, x1, y1 = square
        pixels[y0:y1, x0:x1] = 255 - pixels[y0:y1, x0:x1]
        return Picture.of(Image.fromarray(pixels))

    return asked.with_pictures(lambda k, picture: changed(picture) if k == number else picture)


def squares(size, number):
    """A few squares of a picture, one of them in its middle and one at its end."""
    width, height = size
    side = max(8, min(size) // 5)
    drawn = np.random.default_rng(number).random((2, 2)) * (width - side, height - side)
    corners = [(int(x), int(y)) for x, y in drawn]
    corners += [((width - side) // 2, (height - side) // 2), (width - side, height - side)]
    return [(x, y, x + side, y + side) for x, y in corners]


def misses(boxes, square, moved):
    """How far patches that changed lie from the changed square, and how far patches that did not reach into it, at most."""
    gap = np.maximum(boxes[:, :2] - square[2:], square[:2] - boxes[:, 2:]).max(1)  # (n,), negative where they meet
    has_box = ~np.isnan(gap)
    changed, untouched = moved > CHANGED * moved.max(), moved <= UNTOUCHED * moved.max()
    return gap[has_box & changed].max(initial=0), (-gap[has_box & untouched]).max(initial=0)


# -- weights ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_weights_are_those_of_the_towers_own_eager_attention(name, family_of, eager):
    family = family_of(name)
    prepared = family.prepare(prompt(2))
    tape, truth = recorded(family, prepared), eager(family, prepared)
    assert tape.layers == sorted(truth)
    for layer in tape.layers:
        lengths = tape.lengths(layer)
        assert lengths == [each.shape[-1] for each in truth[layer]]
        for item, own in enumerate(truth[layer]):
            weights = tape.weights(layer, item=item).transpose(0, 1)  # (H, R, K)
            assert (weights - own).abs().max() < EXACT
            assert (weights.sum(-1) - 1).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["qwen2_5_vl"])
def test_layers_with_windows_have_more_items(name, family_of):
    tape = recorded(family_of(name), family_of(name).prepare(prompt(2)))
    assert len(tape.lengths(0)) > len(tape.lengths(1)) == 2
    assert max(tape.lengths(0)) == 16
    assert sum(tape.lengths(0)) == sum(tape.lengths(1))


# -- where patches stand ------------------------------------------------------------------------------------------------


def check_squares(family, asked, options=None):
    """Change squares of the first and last picture, one after the other; how many of them the tower sees."""
    prepared = family.prepare(asked, options)
    patches, before = family.patches(prepared), first_input(family, prepared)
    assert len(patches) == len(before)
    seen = 0
    for number in {0, prepared.token_map.n_pictures - 1}:
        mine = patches.picture == number
        for square in squares(prepared.token_map.sizes[number], number):
            after = first_input(family, family.prepare(with_square(asked, number, square), options))
            moved = (after - before).norm(dim=1).numpy()
            assert not moved[~mine].any()
            if not moved.any():
                continue
            seen += 1
            near, apart = misses(patches.box[mine], np.array(square), moved[mine])
            assert near <= NEAR
            assert apart <= APART
    return seen


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", ALL)
def test_patches_are_where_a_change_of_the_picture_changes_them(name, count, family_of):
    drawn = 4 * min(count, 2)
    seen = check_squares(family_of(name), prompt(count))
    assert seen == drawn or (name == "llava" and seen >= drawn // 4)  # which sees nothing outside of what it cuts out


@pytest.mark.parametrize("name", ["llava_siglip", "llava_padded", "internvl_qwen3"])
def test_other_checkpoints_of_the_same_classes(name):
    lab = vila_lab.load(variant(name), device="cpu", dtype="float32")
    for count in (1, 2):
        assert check_squares(lab.family, prompt(count)) == 4 * count
    found = lab.ask(parts(2), max_new_tokens=2).vision_attention(1)
    assert found.heatmap.sum() + found.elsewhere == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    "given", [{"tile_all_images": True}, {"tile_first": True}, {"image_aspect_ratio": "pad"}], ids=str
)
@pytest.mark.parametrize("name", ["nvila-lite", "nvila-resize"])
def test_pictures_that_are_cut_otherwise(name, given, family_of):
    family = family_of(name)
    assert check_squares(family, prompt(2), family.options(**given)) == 8


@pytest.mark.parametrize(("name", "wrong"), [("qwen2_5_vl", in_groups), ("llava_next", in_tiles)])
def test_the_truth_tells_a_wrong_rule(name, wrong, family_of, monkeypatch):
    family, asked = family_of(name), prompt(1)
    prepared = family.prepare(asked)
    before = first_input(family, prepared)
    found = []
    for rule in (type(family).tower, wrong):
        monkeypatch.setattr(type(family), "tower", rule)
        patches = family.patches(prepared)
        for square in squares(prepared.token_map.sizes[0], 0):
            moved = (first_input(family, family.prepare(with_square(asked, 0, square))) - before).norm(dim=1).numpy()
            found.append(max(misses(patches.box, np.array(square), moved)))
    assert max(found[:4]) <= NEAR < max(found[4:])


def test_the_order_of_groups_and_windows():
    assert grouped(4, 4, 2).reshape(4, 2, 2)[1].tolist() == [[2, 3], [6, 7]]
    windows = grouped(6, 6, 4, 2)
    assert windows[:16].reshape(4, 4)[1].tolist() == [2, 3, 8, 9]
    assert windows[16:20].tolist() == [4, 5, 10, 11]
    assert sorted(windows) == list(range(36))


# -- the experiment -----------------------------------------------------------------------------------------------------


def expected(patches, items, number, sizes, point, head):
    """The map, from whole matrices of weights."""
    total = np.zeros((len(patches), len(patches)))
    start = 0
    for own in items:  # (H, T, T)
        stop = start + own.shape[-1]
        total[start:stop, start:stop] = own.mean(0) if head is None else own[head]
        start = stop
    x0, y0, x1, y1 = patches.box.T
    reads = (patches.picture == number) & ~np.isnan(x0)
    if point is not None:
        reads &= (x0 <= point[0]) & (point[0] < x1) & (y0 <= point[1]) & (point[1] < y1)
    return patches.heatmap(total[reads].mean(0), number, sizes), int(reads.sum())


@pytest.mark.parametrize("name", ALL)
def test_the_map_of_a_picture_is_that_of_the_whole_prompt(name, family_of, golden_session, eager):
    lab, family = (golden_session(name) if name in CHECKPOINTS else session(name)), family_of(name)
    answer = lab.ask(parts(2), max_new_tokens=2)
    prepared = family.prepare(answer.record.prompt, family.options_of(answer.record.options))
    patches, truth, sizes = family.patches(prepared), eager(family, prepared), prepared.token_map.sizes
    last = max(truth)
    for number, layer, head, portion in ((0, 0, None, None), (1, last, 1, None), (0, last, 0, 0.4), (1, 0, None, 0.6)):
        point = None if portion is None else tuple(portion * side for side in sizes[number])
        found = answer.vision_attention(number, layer=layer, head=head, at=point)
        heat, readers = expected(patches, truth[layer], number, sizes, point, head)
        np.testing.assert_allclose(found.heatmap, heat, atol=EXACT)
        assert (found.layer, found.head, found.at, found.image, found.patches) == (layer, head, point, number, readers)
        assert found.heatmap.sum() + found.elsewhere == pytest.approx(1, abs=1e-5)
        assert found.picture is answer.record.images[number]
        assert found.is_read == (layer < family.layers_read(len(lab.vision_layers)))
    assert answer.vision_attention().layer == family.layers_read(len(lab.vision_layers)) - 1


def test_what_shows_no_pixels_is_told():
    answer = session("llava").ask(parts(1), max_new_tokens=2)
    assert 0 < answer.vision_attention().elsewhere < 0.9  # CLIP's class token
    assert session("qwen2_vl").ask(parts(1), max_new_tokens=2).vision_attention().elsewhere < 1e-6


def test_in_parts_the_map_is_the_same(monkeypatch):
    answer = session("qwen2_vl").ask(parts(1), max_new_tokens=2)
    whole = answer.vision_attention().heatmap
    monkeypatch.setattr("vila_lab.attribution.vision.AT_ONCE", 2000)
    np.testing.assert_allclose(answer.vision_attention().heatmap, whole, atol=1e-7)


def test_an_answer_from_a_file(tmp_path):
    lab = session("internvl")
    answer = lab.ask(parts(2), max_new_tokens=2)
    saved = vila_lab.open(answer.save(tmp_path / "a.vila"))
    with pytest.raises(CaptureError, match="no model any more"):
        saved.vision_attention()
    before, after = (each.vision_attention(1, at=(60, 40)) for each in (answer, saved.bind(lab)))
    np.testing.assert_array_equal(before.heatmap, after.heatmap)


def test_it_travels():
    found = session("qwen2_vl").ask(parts(1), max_new_tokens=2).vision_attention(at=(30.5, 20))
    copy = unpack(pack(found))
    assert repr(copy) == repr(found)
    np.testing.assert_array_equal(copy.heatmap, found.heatmap)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": 2}, "there is no picture 2: the prompt has 2"),
        ({"image": -3}, "there is no picture -3"),
        ({"image": 1.5}, "a picture must be a whole number"),
        ({"layer": 9}, "there is no layer 9 in the vision tower: it has 3, counted from 0, of which the model reads 2"),
        ({"layer": -3}, "there is no layer -3 in the vision tower"),
        ({"layer": None}, "layer must be a whole number"),
        ({"head": 2}, "head 2 does not exist; there are 2"),
        ({"at": (9999, 3)}, r"the point \(9999, 3\) is outside the picture"),
        ({"at": (3, float("nan"))}, "is outside the picture"),
        ({"at": [10**400, 1]}, "is outside the picture"),
        ({"at": (True, 1)}, "at must be a point"),
        ({"at": "ab"}, "at must be a point"),
        ({"at": "middle"}, "at must be a point"),
        ({"at": 7}, "at must be a point"),
        ({"at": (1, 2, 3)}, "at must be a point"),
        ({"at": (60, 2)}, "no patch shows the point"),  # above what is cut out of a portrait
    ],
)
def test_what_there_is_not_is_one_sentence(options, message):
    answer = session("llava").ask(parts(2), max_new_tokens=2)
    with pytest.raises(OptionError, match=message):
        answer.vision_attention(**options)


def test_without_a_picture():
    answer = session("qwen2_vl").ask("Hello", max_new_tokens=2)
    with pytest.raises(OptionError, match="there is no picture 0: the prompt has none"):
        answer.vision_attention()


def test_a_layer_that_a_model_does_not_run(golden_session):
    lab = golden_session("nvila-lite")
    answer = lab.ask([image("a_land"), "What is it?"], max_new_tokens=2)
    last = len(lab.vision_layers) - 1
    with pytest.raises(OptionError, match=f"layer {last} of the vision tower does not run"):
        answer.vision_attention(layer=last)
    assert answer.vision_attention().layer == last - 1


def test_the_layers_that_a_model_reads(family_of):
    """Noise in the last layer that is read changes the features, and behind it nothing does."""
    for name in ("llava", "llava_next", "pixtral", "internvl", "qwen3_vl", "nvila-lite", "nvila-resize"):
        if name in NEED_TORCHVISION and not HAS_TORCHVISION:
            continue
        family = family_of(name)
        prepared = family.prepare(prompt(1))
        sites = select_sites(family.model, ("vision",))["vision"]
        read = family.layers_read(len(sites))
        with torch.no_grad():
            before = family.embed(prepared).features
            changed = []
            for site in sites:
                handle = site.module.register_forward_hook(lambda *given: _doubled(given[-1]))
                changed.append(not torch.equal(family.embed(prepared).features, before))
                handle.remove()
        assert changed == [True] * read + [False] * (len(sites) - read)


def _doubled(output):
    return (2 * output[0], *output[1:]) if isinstance(output, tuple) else 2 * output


def test_another_number_of_patches_is_refused(monkeypatch):
    answer = session("qwen2_vl").ask(parts(1), max_new_tokens=2)
    monkeypatch.setattr(type(session("qwen2_vl").family), "tower", lambda read: Patches.of(0, np.zeros((3, 4))))
    with pytest.raises(CheckpointError, match=r"the vision tower read \d+ patches, and the rule of its family gives 3"):
        answer.vision_attention()


def test_it_is_drawn_and_called_what_it_is():
    answer = session("llava").ask(parts(1), max_new_tokens=2)
    found = answer.vision_attention(layer=0, at=(90, 60))
    ax = found.plot(vmax=0.5)
    title = ax.get_title(loc="left").replace("\n", " ")
    for words in (
        "attention in the vision tower",
        "layer 0",
        "1 patch at (90, 60)",
        "not why the model answered",
    ):
        assert words in title
    assert len(ax.lines) == 3
    assert found.plot(ax=None).figure is not ax.figure
    mean = answer.vision_attention(layer=0).plot()
    assert not mean.lines
    assert "% on tokens without pixels" in mean.get_title(loc="left").replace("\n", " ")
    assert "VisionAttention(image 0, layer 0, mean of heads" in repr(found)
