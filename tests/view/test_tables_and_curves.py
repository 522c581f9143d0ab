"""The small figures, all by the same rules: drawn where told, nothing cut off, what is missing is seen, bad shapes are refused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from tests.inside import left_title
from vila_lab import view as figures
from vila_lab.errors import OptionError
from vila_lab.view.style import BLUE_RED, INK

RNG = np.random.default_rng(0)
PICTURES = [f"image_{k + 1}" for k in range(3)]
WORDS = ["苹果", "$x^2$", "supercalifragilistic", "\n", "<b>", "🦖"]
BOXES = [(col * 40, row * 30, col * 40 + 40, row * 30 + 30) for row in range(2) for col in range(3)]
METHODS = ["attention", "leave_one_out", "英伟达 $m$"]
GROUPS = ["template", "image_1", "image_1", "图像", "$x$", "answer"]
STEPS = np.linspace(0, 1, 5)
Draw = Callable[..., Axes]

# Each figure with arrays that fit it. The keyword that holds the numbers comes first, so that tests can spoil it.
FITTING: dict[str, tuple[Draw, dict[str, Any]]] = {
    "heatmap_overlay": (figures.heatmap_overlay, {"heat": RNG.random((3, 4)), "image": Image.new("RGB", (90, 60))}),
    "logit_lens_grid": (
        figures.logit_lens_grid,
        {"chances": RNG.random(6), "image": Image.new("RGB", (120, 60)), "boxes": BOXES, "words": WORDS},
    ),
    "layer_shares": (
        figures.layer_shares,
        {"shares": RNG.dirichlet(np.ones(5), 6), "names": [*PICTURES, "prompt", "sink"], "title": "英伟达 $x$ " * 9},
    ),
    "head_map": (figures.head_map, {"shares": RNG.random((6, 4)), "outline": [(2, 3)], "title": "a long title " * 9}),
    "leakage_matrix": (figures.leakage_matrix, {"shares": RNG.random((3, 3)), "names": PICTURES, "title": "reads"}),
    "flow_by_layer": (
        figures.flow_by_layer,
        {"effects": {"image -> question": -RNG.random(4), "question -> answer": -RNG.random(4)}, "layers": [1, 3, 5, 7]},
    ),
    "deletion_curves": (
        figures.deletion_curves,
        {"deletion": {"attention": 1 - STEPS, "flat map": STEPS}, "fractions": STEPS, "insertion": {"attention": STEPS}},
    ),
    "patching_scan": (figures.patching_scan, {"recovered": RNG.normal(size=(5, 6)), "positions": GROUPS, "title": "back"}),
    "method_agreement": (
        figures.method_agreement,
        {"shares": RNG.dirichlet(np.ones(3), 3), "methods": METHODS, "pictures": PICTURES, "tau": np.eye(3), "title": "为"},
    ),
}  # fmt: skip
EVERY = pytest.mark.parametrize("name", FITTING)
CELLS = ("heatmap_overlay", "logit_lens_grid", "head_map", "leakage_matrix", "patching_scan", "method_agreement")
LINES = ("layer_shares", "flow_by_layer", "deletion_curves")


def drawn(name: str, **changed: Any) -> Axes:
    draw, arrays = FITTING[name]
    return draw(**{**arrays, **changed})


def numbers(name: str) -> tuple[str, Any]:
    """The keyword that holds a figure's numbers, and a copy of them."""
    keyword, values = next(iter(FITTING[name][1].items()))
    return keyword, {k: np.array(v) for k, v in values.items()} if isinstance(values, dict) else np.array(values)


def changed(values: Any, change: Callable[[np.ndarray], np.ndarray]) -> Any:
    """The numbers (of the first line, where there are several) changed."""
    if not isinstance(values, dict):
        return change(values)
    first = next(iter(values))
    return {**values, first: change(values[first])}


def with_first(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array = array.astype(float)
        array.flat[1] = value
        return array

    return change


# -- all figures -----------------------------------------------------------------------------------------------------


@EVERY
def test_it_draws_where_it_is_told_and_returns_that(name):
    one, other = Figure().subplots(1, 2)
    assert drawn(name, ax=one) is one
    assert one.has_data()
    assert not other.has_data()


@EVERY
def test_on_its_own_it_is_a_picture_that_a_notebook_shows_without_pyplot(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it would now fail
    assert drawn(name)._repr_png_().startswith(b"\x89PNG")


@EVERY
def test_no_text_is_cut_off(name):
    figure = drawn(name).figure
    figure.canvas.draw()
    room = figure.bbox.padded(1)
    for text in (text for ax in figure.axes for text in written(ax)):
        box = text.get_window_extent()
        assert room.x0 <= box.x0, text
        assert room.y0 <= box.y0, text
        assert room.x1 >= box.x1, text
        assert room.y1 >= box.y1, text


def written(ax: Axes) -> list[Any]:
    """Every text that these axes show; tick labels beyond the axes are never drawn."""
    ticks = []
    for axis, limits in ((ax.xaxis, sorted(ax.get_xlim())), (ax.yaxis, sorted(ax.get_ylim()))):
        labels = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
        ticks += [label for place, label in labels if limits[0] <= place <= limits[1]] + [axis.label]
    legend = ax.get_legend()
    found = [*(ticks if ax.axison else []), left_title(ax), *ax.texts, *(legend.get_texts() if legend else [])]
    return [text for text in found if text.get_text() and text.get_visible()]


@EVERY
def test_infinite_numbers_are_refused(name):
    keyword, values = numbers(name)
    with pytest.raises(OptionError, match="infinite number; give NaN"):
        drawn(name, **{keyword: changed(values, with_first(np.inf))})


@EVERY
def test_a_wrong_shape_is_one_sentence_that_names_it(name):
    keyword, values = numbers(name)
    with pytest.raises(OptionError, match=rf"{keyword}.* has shape .* is needed") as caught:
        drawn(name, **{keyword: changed(values, lambda array: array[..., None])})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", CELLS)
def test_every_cell_without_a_number_is_hatched(name):
    keyword, values = numbers(name)
    (hatched,) = [p for p in drawn(name, **{keyword: changed(values, with_first(np.nan))}).patches if p.get_hatch()]
    assert (hatched.get_width(), hatched.get_height()) in ((1, 1), (90 / 4, 60 / 3), (40, 30))


@pytest.mark.parametrize("name", LINES)
def test_a_line_has_a_gap_where_there_is_no_number(name):
    keyword, values = numbers(name)
    ax = drawn(name, **{keyword: changed(values, with_first(np.nan))})
    assert sum(np.isnan(np.asarray(line.get_ydata(), float)).sum() for line in ax.get_lines()) == 1


@EVERY
def test_nothing_but_missing_numbers_is_still_a_picture(name):
    keyword, values = numbers(name)
    whole = {k: v * np.nan for k, v in values.items()} if isinstance(values, dict) else values * np.nan
    drawn(name, **{keyword: whole})._repr_png_()


@pytest.mark.parametrize(
    ("name", "labels", "message"),
    [
        ("logit_lens_grid", {"words": ["one"]}, "words has 1 entries for 6 patches"),
        ("layer_shares", {"names": ["image_1"]}, "names has 1 entries for 5 columns"),
        ("layer_shares", {"layers": [1, 2]}, "layers has shape"),
        ("leakage_matrix", {"names": ["image_1"]}, "names has 1 entries for 3 pictures"),
        ("leakage_matrix", {"shares": np.ones((2, 3))}, r"shares has shape \(2, 3\), but \(2, 2\)"),
        ("flow_by_layer", {"layers": [1]}, r"effects\['image -> question'\] has shape \(4,\)"),
        ("flow_by_layer", {"effects": {}}, "effects has shape"),
        ("deletion_curves", {"deletion": {}, "insertion": {}}, "deletion has shape"),
        ("deletion_curves", {"insertion": {"attention": [1, 2]}}, r"insertion\['attention'\] has shape \(2,\)"),
        ("patching_scan", {"positions": ["a"]}, "positions has 1 entries for 6 positions"),
        ("patching_scan", {"layers": [1]}, "layers has 1 entries for 5 layers"),
        ("method_agreement", {"methods": ["a"]}, "methods has 1 entries for 3 methods"),
        ("method_agreement", {"tau": np.eye(2)}, r"tau has shape \(2, 2\), but \(3, 3\)"),
        ("head_map", {"outline": [(6, 0)]}, "no head 0 in layer 6 to outline: there are 6 layers of 4"),
    ],
)
def test_labels_that_do_not_fit_are_refused(name, labels, message):
    with pytest.raises(OptionError, match=message):
        drawn(name, **labels)


# -- scales ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["head_map", "leakage_matrix"])
def test_with_one_top_the_same_number_has_the_same_colour(name):
    low, high = np.full((3, 3), 0.1), np.full((3, 3), 0.1)
    high[0, 1] = 0.4
    framed = {"outline": ()} if name == "head_map" else {}
    images = [drawn(name, shares=shares, vmax=0.4, **framed).images[0] for shares in (low, high)]
    one, other = (image.to_rgba(image.get_array())[2, 1] for image in images)
    np.testing.assert_array_equal(one, other)
    assert images[0].get_clim() == (0, 0.4)


@pytest.mark.parametrize("values", [[[0.5, -0.1]], [[0.5, 0.2]], [[-3.0, -1.0]], [[0.0, 0.0]]])
def test_zero_is_pinned_in_the_middle_of_a_patching_scan(values):
    image = figures.patching_scan(np.array(values), ["a", "b"]).images[0]
    low, high = image.get_clim()
    assert low == -high
    middle = [int(BLUE_RED[3][k : k + 2], 16) / 255 for k in (1, 3, 5)]
    np.testing.assert_allclose(image.cmap(image.norm(0.0))[:3], middle, atol=0.02)


def test_what_a_picture_reads_of_itself_stays_out_of_the_leakage_scale():
    shares = np.array([[0.9, 0.0], [0.02, 0.8]])
    ax = figures.leakage_matrix(shares, PICTURES[:2])
    assert ax.images[0].get_clim() == (0, 0.02)
    assert np.ma.getmaskarray(ax.images[0].get_array()).tolist() == [[True, False], [False, True]]
    assert [text.get_text() for text in ax.texts] == ["0.900", "0.000", "0.020", "0.800"]


def test_a_signed_leakage_matrix_has_zero_in_the_middle():
    ax = figures.leakage_matrix([[np.nan, np.nan], [-0.5, np.nan]], PICTURES[:2], unit="change")
    assert ax.images[0].get_clim() == (-0.5, 0.5)


def test_shares_and_agreement_have_each_their_whole_scale():
    shares, tau = drawn("method_agreement").images
    assert shares.get_clim() == (0, 1)
    assert tau.get_clim() == (-1, 1)
    assert shares.get_extent()[1] < tau.get_extent()[0]


def test_half_as_probable_a_word_is_painted_half_as_strong():
    ax = drawn("logit_lens_grid", chances=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6], vmax=0.6)
    strengths = [patch.get_facecolor()[3] for patch in ax.patches]
    assert strengths[2] * 2 == pytest.approx(strengths[5])


# -- what stands where -----------------------------------------------------------------------------------------------


def test_every_word_stays_in_its_patch():
    words = ["supercalif", "英伟达公司", "WWWWWWWW", "a", "Google", "苹果"]
    ax = drawn("logit_lens_grid", words=words)
    ax.figure.canvas.draw()
    for text, patch in zip(ax.texts, ax.patches, strict=True):
        assert text.get_window_extent().width <= patch.get_window_extent().width


def test_layers_run_upwards_and_heads_to_the_right():
    ax = drawn("head_map", shares=np.arange(24.0).reshape(6, 4))
    assert [label.get_text() for label in ax.get_yticklabels()] == ["0", "1", "2", "3", "4", "5"]
    assert ax.transData.transform((0, 5))[1] > ax.transData.transform((0, 0))[1]
    (text,) = [text for text in ax.texts if text.get_text() == "23.0"]
    assert text.get_position() == (3, 5)
    assert {tuple(patch.get_center()) for patch in ax.patches} == {(3, 2)}


def test_a_line_of_no_effect_crosses_the_flow():
    ax = drawn("flow_by_layer")
    (zero,) = [line for line in ax.get_lines() if np.all(np.asarray(line.get_ydata()) == 0)]
    assert zero.get_color() == INK
    assert ax.get_ylim()[0] < 0 <= ax.get_ylim()[1]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["image → question", "question → answer"]


@pytest.mark.parametrize(("worst", "scale"), [(-0.5, "linear"), (-30.0, "symlog")])
def test_one_ruinous_cut_does_not_flatten_the_others(worst, scale):
    ax = drawn("flow_by_layer", effects={"image -> answer": [worst, -0.2, 0.0, 0.1]})
    assert ax.get_yscale() == scale
    ax.figure.canvas.draw()
    assert not any("$" in text.get_text() for text in ax.get_yticklabels())  # plain numbers, no powers of ten
    assert ("logarithmic beyond" in ax.get_ylabel()) == (scale == "symlog")
    places = ax.transData.transform([(0, 0.0), (0, -0.2)])[:, 1]
    assert places[0] - places[1] > 5  # pixels


def test_areas_under_the_curves_stand_in_the_legend():
    texts = [text.get_text() for text in drawn("deletion_curves").get_legend().get_texts()]
    assert texts == ["attention\ndeletion 0.50, insertion 0.50", "flat map\ndeletion 0.50"]


def test_lines_are_told_apart_without_their_colours():
    shares = RNG.dirichlet(np.ones(11), 6)
    ax = drawn("layer_shares", shares=shares, names=[*(f"image_{k + 1}" for k in range(8)), "prompt", "answer", "sink"])
    looks = [(line.get_marker(), line.get_linestyle()) for line in ax.get_lines()]
    assert len(set(looks)) == 11


def test_neighbours_of_one_group_share_a_label():
    ax = drawn("patching_scan", positions=["template", "picture 1", "picture 1", "picture 1", "answer", "answer"])
    assert [text.get_text() for text in ax.get_xticklabels()] == ["template", "picture 1", "answer"]
    assert ax.get_xticks().tolist() == [0, 2, 4.5]


def test_labels_of_a_long_scan_do_not_run_into_each_other():
    positions = ["template"] * 9 + ["picture 1"] * 120 + [f"word{k}" for k in range(40)]
    ax = figures.patching_scan(RNG.normal(size=(4, len(positions))), positions)
    assert np.diff(ax.get_xticks()).min() >= len(positions) / 45
    assert "picture 1" in [text.get_text() for text in ax.get_xticklabels()]


@pytest.mark.parametrize(("shape", "count"), [((6, 4), 24), ((28, 28), 0)])
def test_numbers_are_written_where_they_fit(shape, count):
    assert len(figures.head_map(RNG.random(shape)).texts) == count
