"""The payload: small, deterministic, on one scale, and clear about what does not fit."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from vila_lab.errors import CaptureError, PictureError, PromptError
from vila_lab.view.payload import CELL_BUDGET, MISSING, encode_pictures, pack, peak, quantise, shrink, to_json


def cells_of(payload):
    """The levels as they were packed: heatmaps (token, rows, cols) and totals (rows, cols) of every picture."""
    block = np.frombuffer(zlib.decompress(base64.b64decode(payload["cells"])), dtype=np.uint8)
    n, at, heatmaps, totals = len(payload["tokens"]), 0, [], []
    for shape, into in [((n,), heatmaps)] * len(payload["images"]) + [((), totals)] * len(payload["images"]):
        image = payload["images"][len(into)]
        size = int(np.prod(shape)) * image["rows"] * image["cols"]
        into.append(block[at : at + size].reshape(*shape, image["rows"], image["cols"]))
        at += size
    assert at == block.size
    return heatmaps, totals


@pytest.mark.parametrize("pictures", [1, 4, 8])
@pytest.mark.parametrize("tokens", ["one", "many"])
@pytest.mark.parametrize("cells", [(1, 1), (6, 6), (5, 9)])
def test_cells_come_back_within_half_a_step(make_view, pictures, tokens, cells):
    view = make_view(pictures, tokens, cells=cells)
    payload = pack(view)
    heatmaps, totals = cells_of(payload)
    for arrays, packed, scale in (
        (view.heatmaps, heatmaps, payload["scale"]),
        (view.total, totals, payload["totalScale"]),
    ):
        for array, levels in zip(arrays, packed, strict=True):
            error = np.abs(levels / payload["levels"] * scale - array).max()
            assert (
                error <= 0.5001 * scale / payload["levels"] + 1e-5 * scale
            )  # the scale itself is written with 5 digits


def test_one_scale_half_the_share_is_half_as_strong(make_view):
    view = make_view(2, "one", shape="square")
    view = replace(
        view,
        heatmaps=(np.full((1, 6, 6), 0.02), np.full((1, 6, 6), 0.01)),
        total=(np.full((6, 6), 0.02), np.full((6, 6), 0.01)),
    )
    heatmaps, totals = cells_of(pack(view))
    for first, second in (heatmaps, totals):
        assert first.max() == 2 * second.max() == pack(view)["levels"]


def test_one_scale_over_tokens_too(make_view):
    view = make_view(1, ("a", "b"))
    heat = np.stack([np.full((6, 6), 0.5), np.full((6, 6), 0.125)])
    (levels,), _ = cells_of(pack(replace(view, heatmaps=(heat,))))
    assert levels[0].max() == 254
    assert levels[1].max() == pytest.approx(254 / 4, abs=0.5)


def test_missing_cells_are_marked_and_said(make_view):
    view = make_view(2, "words")
    heat = view.heatmaps[0].copy()
    heat[3, 2, 1] = np.nan
    view = replace(view, heatmaps=(heat, view.heatmaps[1]))
    payload = pack(view)
    heatmaps, _ = cells_of(payload)
    assert np.argwhere(heatmaps[0] == MISSING).tolist() == [[3, 2, 1]]
    assert payload["missing"]
    assert "Hatched cells have no number." in payload["notes"]
    assert not pack(make_view(2, "words"))["missing"]


def test_tokens_without_shares_are_null_and_said(make_view):
    view = make_view(2, "words")
    rows = view.ledger.copy()
    rows[4] = np.nan
    payload = pack(replace(view, ledger=rows))
    assert payload["ledger"][4] is None
    assert payload["totalLedger"] == pytest.approx(np.delete(view.ledger, 4, axis=0).mean(axis=0), abs=5.01e-4)
    assert "1 token of 14 without captured shares." in payload["notes"]


def test_signed_scores_have_zero_in_the_middle(make_view):
    view = make_view(1, ("a", "b"))
    heat = np.linspace(-0.5, 1.0, 72).reshape(2, 6, 6)
    payload = pack(replace(view, heatmaps=(heat,)))
    (levels,), _ = cells_of(payload)
    assert payload["signed"]
    assert (levels[heat > 0.01] > 127).all()
    assert (levels[heat < -0.01] < 127).all()
    assert quantise(np.zeros(3), 1.0, payload["levels"], signed=True).tolist() == [127, 127, 127]


def test_rounding_noise_below_zero_is_not_a_sign(make_view):
    view = make_view(1, "words")
    assert not replace(view, heatmaps=(view.heatmaps[0] - 1e-9,)).signed


def test_nothing_read_at_all(make_view):
    view = make_view(2, "words")
    zero = replace(view, heatmaps=tuple(0 * h for h in view.heatmaps), total=tuple(0 * t for t in view.total))
    heatmaps, _ = cells_of(pack(zero))
    assert pack(zero)["scale"] == 0
    assert all((levels == 0).all() for levels in heatmaps)


@pytest.mark.parametrize("tokens", ["none", "one", "many", "chinese", "hostile"])
@pytest.mark.parametrize("pictures", [0, 1, 4])
def test_json_is_deterministic_and_reads_back(make_view, pictures, tokens):
    text = to_json(pack(make_view(pictures, tokens)))
    assert text == to_json(pack(make_view(pictures, tokens)))
    assert json.loads(text) == pack(make_view(pictures, tokens))
    text.encode("utf-8")
    assert not set("<>&\u2028\u2029") & set(text)


def test_noise_that_does_not_compress_gets_fewer_levels(make_view):
    view = make_view(8, "many", cells=(24, 24))
    rng = np.random.default_rng(0)
    noisy = pack(replace(view, heatmaps=tuple(rng.random((64, 24, 24)) for _ in range(8))))
    assert len(pack(view)["cells"]) <= CELL_BUDGET
    assert pack(view)["levels"] == 254
    assert noisy["levels"] == 6
    assert len(noisy["cells"]) <= 1.1 * CELL_BUDGET  # measured 1.05: seven equally likely levels, which no real map has


def test_pictures_share_a_budget():
    rng = np.random.default_rng(0)
    noise = [Image.fromarray(rng.integers(0, 256, (600, 800, 3), dtype=np.uint8)) for _ in range(8)]
    plain = [Image.new("RGB", (800, 600), "teal")] * 8
    assert sum(map(len, encode_pictures(noise))) < 120_000
    assert sum(map(len, encode_pictures(plain))) < 10_000


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (1000, 10), (10, 1000), (384, 384), (801, 600)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "LA", "CMYK"])
def test_shrinking_keeps_the_shape_and_never_enlarges(size, mode):
    small = shrink(Image.new("RGB", size).convert(mode) if mode != "LA" else Image.new("LA", size), 384)
    factor = min(1, 384 / max(size))
    assert small.mode == "RGB"
    assert small.size == tuple(max(1, round(side * factor)) for side in size)


def test_transparent_pictures_stand_on_white():
    assert shrink(Image.new("RGBA", (4, 4), (0, 0, 0, 0)), 384).getpixel((1, 1)) == (255, 255, 255)


def test_peak_of_nothing_is_zero():
    assert peak([]) == 0
    assert peak([np.full((2, 2), np.nan)]) == 0


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"prompt_parts": (2, "x")}, PromptError, "picture index 2, but there are 2 pictures"),
        ({"prompt_parts": (-1, "x")}, PromptError, "indices count from 0"),
        ({"images": ("a.png", "b.png")}, PictureError, "picture 1 of 2: a PIL image is needed, not str"),
        ({"heatmaps": (np.zeros((14, 6, 6)),)}, CaptureError, "heatmaps has 1 arrays for 2 pictures"),
        (
            {"heatmaps": (np.zeros((14, 6, 6)), np.zeros((14, 6, 5)))},
            CaptureError,
            r"picture 2 of 2: .*\(14, 6, 5\).*\(14, 6, 6\)",
        ),
        (
            {"heatmaps": (np.zeros((14, 6, 6)), np.full((14, 6, 6), np.inf))},
            CaptureError,
            "picture 2 of 2: a cell is infinite",
        ),
        ({"total": (np.zeros((6, 6)), np.zeros(6))}, CaptureError, "picture 2 of 2: total has shape"),
        ({"columns": ("image_1", "prompt", "answer", "sink", "x")}, CaptureError, "image_1 to image_2"),
        ({"columns": ("image_1", "image_2", "x", "x", "sink")}, CaptureError, "twice"),
        ({"ledger": np.zeros((14, 4))}, CaptureError, r"ledger has shape \(14, 4\)"),
        ({"ledger": np.full((14, 5), 0.3)}, CaptureError, "ledger row 1 .*sums to 1.5"),
        ({"ledger": np.tile([1.5, -0.5, 0, 0, 0], (14, 1))}, CaptureError, "least share -0.5"),
    ],
)
def test_parts_that_do_not_fit_are_named(make_view, change, error, words):
    view = make_view(2, "words")
    with pytest.raises(error, match=words):
        replace(view, **change)


def test_repr_is_short_and_stable(make_view):
    assert (
        repr(make_view(2, "words")) == "AnswerView('The red circle is in picture two, the sq', 14 tokens, 2 pictures)"
    )


def test_the_payload_names_the_model_and_says_what_a_sink_is(make_view):
    packed = pack(replace(make_view(1), model="NVILA-8B"))
    assert packed["model"] == "NVILA-8B"
    assert packed["sink_note"].startswith("positions that are looked at whatever they hold")
    plain = make_view(1)
    bare = replace(
        plain, columns=plain.columns[:-1], ledger=plain.ledger[:, :-1] / plain.ledger[:, :-1].sum(1, keepdims=True)
    )
    assert pack(bare)["sink_note"] == ""
