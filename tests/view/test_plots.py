"""answer.plot(kind): every kind reaches its figure, with the numbers of the answer."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

import vila_lab
from tests.inside import left_title
from vila_lab import gallery
from vila_lab.errors import OptionError
from vila_lab.view import deletion_curves, frame_shares, head_grid, layer_shares, lettering, plots
from vila_lab.view.lettering import MissingFontWarning, drawable


@pytest.fixture(scope="module")
def answer(lab, demo):
    return lab.ask("What is in image 2?", images=[demo / "g.png", demo / "cat_and_dog.png"], max_new_tokens=8)


@pytest.fixture
def options(answer):
    """What a kind cannot do without, or would take long without, by kind."""
    values = np.linspace(-1, 1, 3 * answer.token_map.prompt_length).reshape(3, -1)
    scan = xr.DataArray(values, dims=("layer", "position"), coords={"layer": [0, 2, 5]})
    return {"patching": {"scan": scan}, "curves": {"methods": "attention"}}


@pytest.mark.parametrize("kind", plots.KINDS)
def test_every_kind_draws_on_its_own_and_where_it_is_told(answer, options, kind):
    mine = Figure().subplots()
    assert answer.plot(kind, mine, **options.get(kind, {})) is mine
    own = answer.plot(kind, **options.get(kind, {}))
    assert isinstance(own, Axes)
    assert own._repr_png_().startswith(b"\x89PNG")


def test_without_a_chinese_font_every_kind_falls_back_and_one_warning_says_so(lab, demo, options, fonts, monkeypatch):
    monkeypatch.setattr(lettering, "CJK_FONTS", ())
    google, microsoft, apple = (demo / f"{name}.png" for name in "gma")
    chinese, other = (
        lab.ask("图像1是谷歌,以其搜索引擎闻名。图像2是", images=[google, second], max_new_tokens=8)
        for second in (microsoft, apple)
    )
    scan = lab.patch_scan(chinese, other, layers=[1], positions=[0, chinese.token_map.prompt_length - 1])
    written = set()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for kind in plots.KINDS:
            ax = chinese.plot(kind, **{"patching": {"scan": scan}}.get(kind, options.get(kind, {})))
            ax.figure.savefig(io.BytesIO())
            written |= {text.get_text() for text in ax.figure.findobj(Text)}
        for ax in in_chinese():
            ax.figure.savefig(io.BytesIO())
            written |= {text.get_text() for text in ax.figure.findobj(Text)}
    assert [each.category for each in said] == [MissingFontWarning], [str(each.message) for each in said]
    assert any("▯" in text for text in written)
    assert [text for text in written if drawable(text) != text] == []


def in_chinese():
    """Figures of which the names are what a caller gives, each with one that is Chinese."""
    yield frame_shares({"词": [0.1, 0.2], "答": [0.2, 0.3]}, [[0, 1]], whole="答", names=["片"], across="秒", unit="份")
    curve = [0.9, 0.5, 0.1]
    yield deletion_curves([0, 0.5, 1], {"图": curve}, {"图": curve}, baselines=["图"], unit="概率", title="图")
    yield layer_shares(np.full((2, 2), 0.5), ["图", "词"], title="层")
    yield head_grid(np.full((2, 2, 1), 0.5), ["图"], unit="份", title="头")


@pytest.mark.parametrize("kind", ["heatmap", "ledger", "layers", "heads"])
def test_attention_is_called_attention_and_not_a_reason(answer, kind):
    ax = answer.plot(kind)
    assert "attention" in ax.get_title(loc="left")
    if kind != "ledger":
        assert "not why it" in " ".join(ax.get_title(loc="left").split())


def test_an_unknown_kind_lists_those_there_are(answer):
    with pytest.raises(OptionError, match=r"unknown kind of figure 'pie'; known: heatmap, ledger, .*agreement"):
        answer.plot("pie")
    with pytest.raises(OptionError, match=r"unknown kind of figure \['ledger'\]"):
        answer.plot(["ledger"])


def test_an_unknown_option_lists_those_there_are(answer):
    with pytest.raises(OptionError, match=r"the layers figure has no option 'scan'; it has token, ax"):
        answer.plot("layers", scan=3)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("heatmap", {"image": 2}, "there is no picture 2: the prompt has 2"),
        ("heads", {"image": -3}, "there is no picture -3"),
        ("logit_lens", {"image": 9}, "there is no picture 9"),
        ("layers", {"token": 99}, "there is no token 99"),
        ("leakage", {"layer": 77}, "there is no layer 77; there are: 0, 1"),
        ("curves", {"methods": []}, "methods= is empty"),
        ("patching", {}, r"needs scan=: lab.patch_scan\(answer, other\) makes one"),
        ("patching", {"scan": xr.DataArray(np.zeros((2, 2)), dims=("layer", "head"))}, "but .* are needed"),
    ],
)
def test_what_is_not_there_is_one_sentence(answer, kind, options, message):
    with pytest.raises(OptionError, match=message):
        answer.plot(kind, **options)


@pytest.mark.parametrize("kind", ["heatmap", "heads", "leakage", "logit_lens", "agreement"])
def test_without_a_picture_the_way_out_is_named(lab, kind):
    with pytest.raises(OptionError, match=f"no picture, so there is no {kind} figure; 'ledger' and 'layers' need none"):
        lab.ask("Hello", max_new_tokens=2).plot(kind)


@pytest.mark.parametrize("kind", ["ledger", "layers"])
def test_what_needs_no_picture_is_drawn_without_one(lab, kind):
    assert lab.ask("Hello", max_new_tokens=2).plot(kind).has_data()


def test_heatmaps_of_an_answer_share_one_scale(answer):
    tops = {answer.plot("heatmap", image=k).figure.axes[1].get_ylim()[1] for k in range(2)}
    assert tops == {max(float(answer.heatmap(k).max()) for k in range(2))}


def test_layer_shares_sum_to_one_and_average_to_the_ledger(answer):
    lines = answer.plot("layers").get_lines()
    shares = np.array([line.get_ydata() for line in lines]).T  # (layers, columns)
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-3)
    said = [k for k, token in enumerate(answer.tokens) if not token.stop]
    np.testing.assert_allclose(shares.mean(0), answer.ledger().iloc[said].mean(), atol=1e-3)


def test_the_head_map_is_of_the_picture_that_is_read_most(answer):
    ax = answer.plot("heads")
    best = int(answer.ledger()[["image_1", "image_2"]].iloc[:-1].mean().to_numpy().argmax())
    assert f"picture {best + 1}" in ax.get_title(loc="left")
    weights = answer.attention()[:-1].mean("token")
    mine = weights[..., answer.token_map.positions(f"image_{best + 1}")].sum("position")
    np.testing.assert_allclose(ax.images[0].get_array(), mine, atol=2e-2)  # what a picture's sinks hold is left out


def test_causal_leakage_is_drawn_where_there_is_a_path(answer):
    lost = answer.leakage(causal=True)
    drawn = answer.plot("leakage", causal=True).images[0].get_array()
    assert np.ma.getmaskarray(drawn).tolist() == [[True, True], [False, True]]
    assert drawn[1, 0] == pytest.approx(float(lost[1, 0]))


def test_layers_of_leakage_share_one_scale(answer):
    tops = {answer.plot("leakage", layer=layer).images[0].get_clim() for layer in (0, 3)}
    assert tops == {(0.0, float(answer.leakage()[:, 1, 0].max()))}


def test_a_patch_scan_says_what_was_patched(lab, demo, answer):
    other = lab.ask("What is in image 2?", images=[demo / "g.png", demo / "m.png"], max_new_tokens=8)
    ax = answer.plot("patching", scan=lab.patch_scan(answer, other, layers=[1, 4], positions=["image_1", "image_2"]))
    assert [text.get_text() for text in ax.get_xticklabels()] == ["picture 1", "picture 2"]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["1", "4"]
    assert repr(other.tokens[0].text) in ax.get_title(loc="left")


def test_a_method_beside_attention_says_its_name(answer):
    ax = answer.plot("heatmap", image=1, method="leave_one_out")
    assert ax.get_title(loc="left").startswith("leave_one_out of")


def test_positions_of_a_scan_are_named_by_the_token_map(answer, options):
    labels = [text.get_text() for text in answer.plot("patching", **options["patching"]).get_xticklabels()]
    assert {"template", "picture 1", "picture 2"} <= set(labels)
    scan = xr.DataArray([[0.5, 0.1]], dims=("layer", "position"), coords={"position": ["image_1", "answer"]})
    assert [t.get_text() for t in answer.plot("patching", scan=scan).get_xticklabels()] == ["picture 1", "answer"]


def test_of_tiles_and_thumbnail_the_finest_patches_speak(golden_session, golden_image):
    tokens = golden_session("nvila-lite").ask([golden_image("a_land.png"), "What?"], max_new_tokens=1).token_map
    finest = plots.finest(tokens, 0)
    width, height = tokens.sizes[0]
    boxes = tokens.box[finest]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    assert areas.sum() == pytest.approx(width * height)  # they cover the picture once
    assert len(finest) < len(tokens.positions("image_1"))


class TestGallery:
    def test_it_draws_what_is_asked_for(self, tmp_path):
        assert gallery.main([str(tmp_path), "ledger"]) == 0
        assert [path.name for path in tmp_path.iterdir()] == ["ledger.png"]

    def test_its_page_shows_every_picture(self):
        page = gallery.page()
        for name in gallery.PICTURES:
            assert f'src="{name}.png"' in page

    def test_every_kind_of_figure_is_in_it(self):
        assert set(plots.KINDS) <= set(gallery.PICTURES)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [([], "usage: "), (["--help"], "usage: "), (["out", "pie"], "no picture 'pie'; it has first_look")],
    )
    def test_what_it_cannot_do_is_said(self, tmp_path, monkeypatch, capsys, arguments, message):
        monkeypatch.chdir(tmp_path)
        assert gallery.main(arguments) == 2
        assert message in capsys.readouterr().err
        assert not list(tmp_path.iterdir())


def test_a_heatmap_that_was_computed_is_not_computed_again(lab):
    folder = vila_lab.demo_images()
    answer = lab.ask([folder / "g.png", folder / "m.png", "What is in image 2?"])
    answer.heatmap(1, 0, "leave_one_out")
    kept = answer.attributions
    answer.plot("heatmap", token=0, method="leave_one_out")
    assert answer.attributions == kept
    answer.plot("heatmap", token=1, method="leave_one_out")
    assert len(answer.attributions) == 2


@pytest.mark.parametrize("kind", ["heatmap", "ledger", "frames", "layers", "heads", "grid", "words", "flow"])
@pytest.mark.parametrize(
    "text", ["What is the difference between image 1 and image 2? ", "图像1是谷歌,以其搜索引擎闻名。图像2是"]
)
def test_titles_wrap_inside_the_figure_and_keep_what_they_must_say(lab, demo, kind, text):
    answer = lab.ask([demo / "g.png", demo / "m.png", text * 3], max_new_tokens=60)
    ax = answer.plot(kind)
    figure = ax.get_figure(root=True)
    figure.canvas.draw()
    title, room = left_title(ax).get_window_extent(), figure.bbox
    assert room.x0 <= title.x0
    assert title.x1 <= room.x1
    assert room.y0 <= title.y0
    assert title.y1 <= room.y1 + 1
    said = " ".join(left_title(ax).get_text().split())
    assert kind in ("ledger", "flow") or "not why it answered" in said
