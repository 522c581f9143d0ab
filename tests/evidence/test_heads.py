"""Ranking heads: the rule on maps made by hand, and the whole on a checkpoint."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

import vila_lab
from training.rank_heads import digest, sample_of
from vila_lab.engine.band import Band
from vila_lab.errors import OptionError
from vila_lab.evidence.causal import most
from vila_lab.evidence.heads import (
    HeadRanking,
    Sample,
    SampleAttention,
    controls,
    points,
    rank_heads,
    routes,
    select,
)
from vila_lab.evidence.localization import elbow, spatial_entropy
from vila_lab.tiny import band_file, heads_file, weights_folder
from vila_lab.tiny.probes import probes

ROOT = Path(__file__).parents[2]
SHAPE = (2, 3)
GOOD = (1, 2)


def planted(picture: int, count: int = 3) -> SampleAttention:
    """Head (1, 2) looks at one blob of the right picture, head (0, 0) at scattered cells of it, the rest at nothing much."""
    rng = np.random.default_rng(picture)
    mass = rng.random((*SHAPE, count)) * 0.01
    mass[GOOD][picture] = mass[0, 0][picture] = 0.9
    maps = rng.random((*SHAPE, 6, 6)) * 0.001
    maps[GOOD][1:3, 1:3] = 0.2
    maps[0, 0][::2, ::2] = 0.1
    sample = Sample(("a",) * count, "?", picture, ((10.0, 10.0, 30.0, 30.0),))
    return SampleAttention(sample, mass, maps, (60, 60))


def test_the_planted_head_is_selected_in_every_sample():
    sums, kept, selected = select([planted(k % 3) for k in range(6)])
    assert kept.tolist() == (sums > 0.5).tolist()
    assert selected[:, GOOD[0], GOOD[1]].all()
    assert selected.sum() == 6


def test_the_planted_head_points_and_routes():
    for reading in map(planted, range(3)):
        assert routes(reading, [GOOD]) == points(reading, [GOOD]) == 1
        assert points(reading, [(0, 0)]) == pytest.approx(1 / 9)  # one of nine equal cells is in the box


def test_equal_masses_route_by_chance():
    reading = planted(0)
    reading.mass[:] = 0.25
    assert routes(reading, [GOOD]) == pytest.approx(1 / 3)


def test_the_elbow_parts_few_large_sums_from_many_small():
    values = np.array([0.01] * 20 + [0.5, 0.6, 0.7])
    kept = values >= elbow(values)
    assert kept.tolist() == [False] * 20 + [True] * 3
    assert elbow(np.array([0.1, 0.8, 0.9, 1.0])) == 0.8
    assert (np.full(4, 0.2) >= elbow(np.full(4, 0.2))).all()


@pytest.mark.parametrize(
    ("cells", "blobs"),
    [([(0, 0), (1, 1)], 1), ([(0, 0), (0, 3)], 2), ([(0, 0), (0, 3), (3, 0), (3, 3)], 4)],
    ids=["diagonal touches", "two", "four"],
)
def test_entropy_counts_equal_blobs(cells, blobs):
    heat = np.zeros((4, 4))
    for cell in cells:
        heat[cell] = 1
    assert spatial_entropy(heat[None])[0] == pytest.approx(np.log(blobs))


def test_a_snake_is_one_blob():
    heat = np.zeros((7, 7))
    heat[0], heat[2], heat[4], heat[6] = 1, 1, 1, 1
    heat[1, 6] = heat[3, 0] = heat[5, 6] = 1
    assert spatial_entropy(heat[None])[0] == 0
    assert np.isinf(spatial_entropy(np.ones((1, 3, 3)))[0])


def test_controls_are_other_heads_of_the_same_layers():
    chosen = [(0, 1), (0, 2), (3, 0)]
    found = controls(chosen, (4, 4), np.random.default_rng(0))
    assert sorted(layer for layer, _ in found) == [0, 0, 3]
    assert not set(found) & set(chosen)
    assert len(set(found)) == 3


def dataset(golden_image) -> list[Sample]:
    images = (golden_image("a_land.png"), golden_image("d_wide.png"))
    return [Sample(images, f"What {k}?", k % 2, ((10, 10, 100, 100),)) for k in range(4)]


def test_controls_of_a_whole_layer_are_of_the_nearest_with_others_left():
    """And none of them is in the set, as it once could be."""
    chosen = [(2, head) for head in range(4)] + [(3, 0), (3, 1), (3, 2)]
    found = controls(chosen, (4, 4), np.random.default_rng(0))
    assert len(set(found)) == len(chosen)
    assert not set(found) & set(chosen)
    assert {layer for layer, _ in found[:4]} <= {1, 3}


def test_a_causal_set_leaves_each_of_its_layers_as_many_heads():
    carried = np.array([[0.0, 0.1, 0.2, 0.0], [0.9, 0.8, 0.7, 0.6]])
    assert most(carried, 4) == [(1, 0), (1, 1), (0, 2), (0, 1)]
    assert most(carried[:, :1], 4) == [(1, 0), (0, 0)]


def test_causal_heads_carry_the_change_and_early_ones_do_not(lab):
    """The embedded model moves what it sees to the answer behind its middle, which is plain before any ranking."""
    before = lab.head_sets["causal"]
    found = lab.rank_heads([sample_of(probe) for probe in islice(probes(2), 8)], "causal", top=4)
    lab.head_sets["causal"] = before
    assert found.shape == (6, 4)
    assert min(layer for layer, _ in found.heads) >= 2
    assert max(sum(layer == each for layer, _ in found.heads) for each in range(6)) == 2
    assert found.scores["chosen"].low > found.scores["random"].high
    assert "patching" in found.note
    assert "not causal" not in found.note


@pytest.mark.parametrize("kind", ["routing", "localization"])
def test_a_ranking_is_kept_and_used_by_name(golden_session, golden_image, kind, tmp_path):
    session = golden_session("nvila-resize")
    ranking = session.rank_heads(dataset(golden_image), kind, top=2)
    assert len(ranking.ranking) == np.prod(ranking.shape)
    assert 1 <= len(ranking.heads) <= 2
    assert set(ranking.scores) == {"chosen", "random", "control", "chance"}
    answer = session.ask([golden_image("a_land.png"), "What?"], max_new_tokens=2)
    by_name = answer.attribute("attention", heads=kind)
    np.testing.assert_allclose(
        by_name.values, answer.attribute("attention", heads=ranking.heads).values, rtol=1e-4, atol=1e-5
    )
    assert f"the {kind} heads" in by_name.note
    path = ranking.save(tmp_path / "heads.json")
    back = HeadRanking.from_json(json.loads(path.read_text(encoding="utf-8"))[kind])
    assert (back.heads, back.scores, back.ranking) == (ranking.heads, ranking.scores, ranking.ranking)
    assert repr(back) == repr(ranking)
    assert "not causal evidence" in ranking._repr_html_()


@pytest.mark.parametrize(
    ("samples", "kind", "message"),
    [
        (
            [Sample(("a", "b"), "?", 0)] * 4,
            "looking",
            "unknown kind of heads 'looking'; known: routing, localization, causal",
        ),
        ([Sample(("a", "b"), "?", 0)] * 3, "routing", "at least 4 samples, not 3"),
        ([Sample(("a", "b"), "?", 2)] * 4, "routing", "sample 0 is about picture 2, but has 2"),
        ([Sample(("a",), "?", 0)] * 4, "routing", "sample 0 has one picture"),
        ([Sample(("a",), "?", 0)] * 4, "causal", "sample 0 has one picture: causal needs at least two"),
        ([Sample(("a", "b"), "?", 0)] * 4, "localization", "sample 0 has no boxes"),
    ],
    ids=["kind", "few", "picture", "one", "alone", "boxes"],
)
def test_a_wrong_dataset_gets_one_sentence(tiny, samples, kind, message):
    with pytest.raises(OptionError, match=message):
        rank_heads(tiny, samples, kind)


def test_an_unknown_head_set_names_the_way_out(golden_session, golden_image):
    answer = golden_session("nvila-lite").ask([golden_image("a_land.png"), "What?"], max_new_tokens=1)
    with pytest.raises(OptionError, match=r"unknown head set 'routing'; known: none; lab.rank_heads"):
        answer.attribute("attention", heads="routing")


def test_the_shipped_ranking_was_made_for_the_shipped_weights():
    content = json.loads(heads_file().read_text(encoding="utf-8"))
    assert set(content) == {"routing", "localization", "causal"}
    for entry in content.values():
        assert entry["extra"]["weights"] == digest(weights_folder()), "run python -m training.rank_heads"
        assert HeadRanking.from_json(entry).scores["chosen"].low > entry["scores"]["chance"][0]


@pytest.mark.parametrize("folder", [None, ROOT / "tests" / "goldens" / "second"], ids=["embedded", "second"])
def test_the_shipped_band_was_found_for_the_shipped_weights(folder):
    file, weights = (band_file(), weights_folder()) if folder is None else (folder / "band.json", folder)
    content = json.loads(file.read_text(encoding="utf-8"))
    assert content["weights"] == digest(weights), "run python -m training.rank_heads"
    found = Band.from_json(content)
    assert found.questions >= 12
    assert found.followed > 0.7
    assert folder is not None or vila_lab.load().engine.band == found


def test_a_set_too_large_to_have_controls_is_refused(golden_session, golden_image):
    session = golden_session("nvila-resize")
    every = session.shape.layers * session.shape.heads
    with pytest.raises(OptionError, match=rf"top={every} leaves too few of the decoder's {every} heads"):
        session.rank_heads(dataset(golden_image), top=every)


def test_the_embedded_model_knows_its_heads(lab, demo):
    answer = lab.ask([demo / "g.png", demo / "m.png", "What is in image 2?"])
    assert answer.attribute("attention", 0, heads="routing").shares().idxmax() == "image_2"
    assert vila_lab.load().head_sets["localization"]


def test_probes_stand_at_every_place_and_tell_the_truth():
    found = list(islice(probes(3), 8))
    assert [probe.picture for probe in found] == [0, 1, 2, 3] * 2
    for probe in found:
        scene = probe.scenes[probe.picture]
        assert probe.box in [tuple(map(float, placed.box)) for placed in scene.placed]
        width, height = scene.image.size
        x0, y0, x1, y1 = probe.box
        assert (x1 - x0) * (y1 - y0) < 0.6 * width * height
        assert str(probe.picture + 1) in probe.question
        assert sample_of(probe).word == probe.word
