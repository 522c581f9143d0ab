"""What was computed once is not computed again, and no bit of an answer tells whether it was."""

from __future__ import annotations

import gc
from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import vila_lab
from tests.conftest import CHECKPOINTS
from vila_lab.engine.cuts import WORTH_A_CUT, cuts
from vila_lab.engine.reuse import Features, Prefix, Reuse
from vila_lab.errors import CaptureError, OutOfMemory
from vila_lab.hooks import Capture
from vila_lab.session import Session
from vila_lab.tokenmap import Kind, TokenMap
from vila_lab.upstream import cache_bytes

QUESTIONS = ("What is in image 2?", "Which picture shows a search engine?", "图像1是谷歌，图像2是")


def same(one: vila_lab.Answer, other: vila_lab.Answer) -> None:
    """To the bit: words, scores, tape, norms and all that follows from them."""
    assert [vars(token) for token in one.tokens] == [vars(token) for token in other.tokens]
    np.testing.assert_array_equal(one.attention().values, other.attention().values)
    np.testing.assert_array_equal(one.record.norms, other.record.norms)
    np.testing.assert_array_equal(one.sinks, other.sinks)
    np.testing.assert_array_equal(one.ledger().values, other.ledger().values)
    assert torch.equal(one.record.tape().positions, other.record.tape().positions)


@pytest.fixture
def work(monkeypatch) -> Callable[[Session], dict[str, list[int]]]:
    """Rows of every pass of a session's decoder, and tiles of every pass of its tower."""

    def watch(lab: Session) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {"rows": [], "tiles": []}
        run, see = lab.family.decode_copies, lab.model.get_vision_features

        def decode_copies(embedded: Any, *given: Any) -> Any:
            found["rows"].append(len(embedded))
            return run(embedded, *given)

        def get_vision_features(pixels: torch.Tensor) -> torch.Tensor:
            found["tiles"].append(len(pixels))
            seen: torch.Tensor = see(pixels)
            return seen

        monkeypatch.setattr(lab.family, "decode_copies", decode_copies)
        monkeypatch.setattr(lab.model, "get_vision_features", get_vision_features)
        lab.forget()
        return found

    return watch


@pytest.fixture(params=["embedded", *CHECKPOINTS])
def any_lab(request, golden_session) -> Session:
    found: Session = vila_lab.load() if request.param == "embedded" else golden_session(request.param)
    return found


@pytest.fixture
def pictures(demo) -> list[Any]:
    return [demo / name for name in ("g.png", "m.png", "a.png", "n.png")]


# -- reuse -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 4])
def test_an_answer_behind_a_kept_prefix_is_the_same_to_the_bit(any_lab, count, pictures, work):
    done = work(any_lab)
    some = pictures[:count]
    fresh = []
    for question in QUESTIONS:
        any_lab.forget()
        fresh.append(any_lab.ask([*some, question], max_new_tokens=4))
    any_lab.forget()
    any_lab.ask([*some, "Something else altogether."], max_new_tokens=1)
    for question, expected in zip(QUESTIONS, fresh, strict=True):
        for passes in done.values():
            passes.clear()
        same(any_lab.ask([*some, question], max_new_tokens=4), expected)
        length, read = expected.token_map.prompt_length, cuts(expected.token_map)[-1]
        assert done == {"rows": [length - read, *[1] * (len(expected.tokens) - 1)], "tiles": []}


def test_the_last_picture_exchanged_the_others_are_reused(golden_session, golden_image, work):
    """Tiled, these pictures have rows enough to be worth more cuts than one."""
    lab = golden_session("nvila-lite")
    land, port, square = (golden_image(name) for name in ("a_land.png", "b_port.png", "c_sq.png"))
    lab.forget()
    expected = lab.ask([land, port, square, land, "Say it."], max_new_tokens=3, tile_all_images=True)
    places = cuts(expected.token_map)
    assert len(places) == 2
    done = work(lab)
    lab.ask([land, port, square, port, "Say it."], max_new_tokens=3, tile_all_images=True)
    done["rows"].clear()
    same(lab.ask([land, port, square, land, "Say it."], max_new_tokens=3, tile_all_images=True), expected)
    assert done["rows"][:2] == [places[1] - places[0], expected.token_map.prompt_length - places[1]]
    done["rows"].clear()
    same(lab.ask([land, port, square, land, "Say it."], max_new_tokens=3, tile_all_images=True), expected)
    assert done["rows"][0] == expected.token_map.prompt_length - places[1]


@pytest.mark.parametrize("change", ["order", "picture", "text before", "option"])
def test_what_begins_otherwise_is_computed_anew(lab, change, pictures, work):
    google, microsoft, apple, _ = pictures
    lab.ask([google, microsoft, QUESTIONS[0]], max_new_tokens=2)
    asked: dict[str, tuple[list[Any], dict[str, Any]]] = {
        "order": ([microsoft, google, QUESTIONS[0]], {}),
        "picture": ([google, apple, QUESTIONS[0]], {}),
        "text before": (["Look:", google, microsoft, QUESTIONS[0]], {}),
        "option": ([google, microsoft, QUESTIONS[0]], {"conv_mode": "plain"}),
    }
    parts, options = asked[change]
    kept = lab.ask(parts, max_new_tokens=2, **options)
    lab.forget()
    same(kept, lab.ask(parts, max_new_tokens=2, **options))


def test_pictures_are_told_by_what_they_show(lab, demo, tmp_path, work):
    """A file that was changed is another picture, and a copy under another name is the same."""
    path, copy = tmp_path / "one.png", tmp_path / "copy.png"
    path.write_bytes((demo / "g.png").read_bytes())
    copy.write_bytes((demo / "g.png").read_bytes())
    done = work(lab)
    google = lab.ask([path, demo / "n.png", "What is in image 1?"])
    lab.ask([copy, demo / "n.png", "What is in image 1?"])
    assert done["tiles"] == [2]
    path.write_bytes((demo / "a.png").read_bytes())
    apple = lab.ask([path, demo / "n.png", "What is in image 1?"])
    assert done["tiles"] == [2, 1]
    assert (google.text, apple.text) == ("Google.", "Apple.")


def test_a_picture_that_was_drawn_on_is_another(lab, demo):
    image = Image.open(demo / "g.png").convert("RGB")
    before = lab.ask([image, image, "What is in image 1?"])
    ImageDraw.Draw(before.images[0]).rectangle((0, 0, *image.size), fill="white")
    again = lab.ask([image, image, "What is in image 1?"])
    assert again.images[0].getextrema() == image.getextrema()
    lab.forget()
    same(again, lab.ask([image, image, "What is in image 1?"]))


def test_experiments_find_and_leave_features(lab, pictures, work):
    done = work(lab)
    answer = lab.ask([*pictures, QUESTIONS[0]])
    assert sum(done["tiles"]) == 4
    first = answer.attribute("leave_one_out", baseline="mean")
    covered = sum(done["tiles"])
    lab.ask([*pictures, QUESTIONS[0]]).attribute("shapley", baseline="mean")
    assert sum(done["tiles"]) == covered  # the same pictures, the same baselines
    lab.forget()
    again = lab.ask([*pictures, QUESTIONS[0]]).attribute("leave_one_out", baseline="mean")
    np.testing.assert_array_equal(first.values, again.values)


def test_gradients_still_reach_the_pixels(lab, pictures):
    answer = lab.ask([*pictures[:2], QUESTIONS[0]])
    again = lab.ask([*pictures[:2], QUESTIONS[0]])
    values = again.attribute("integrated_gradients", steps=2).values
    assert values.any()
    np.testing.assert_array_equal(values, answer.attribute("integrated_gradients", steps=2).values)


# -- where a prompt is cut -------------------------------------------------------------------------------------------------


def map_of(blocks: list[tuple[str, int]]) -> TokenMap:
    """A prompt of texts and pictures of so many rows."""
    kinds, owner = [], []
    picture = -1
    for what, rows in blocks:
        picture += what == "picture"
        kinds += [{"picture": Kind.IMAGE, "text": Kind.TEXT, "reply": Kind.REPLY}[what]] * rows
        owner += [picture if what == "picture" else -1] * rows
    nothing = [-1] * len(kinds)
    return TokenMap.build(
        text="", kinds=kinds, spans=[(-1, -1)] * len(kinds), sizes=[(8, 8)] * (picture + 1), picture=owner,
        tile=nothing, scale=nothing, box=[None] * len(kinds),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        ([("text", 9)], ()),
        ([("picture", 20), ("text", 9)], (20,)),
        ([("picture", 20), ("picture", 20), ("text", 9)], (40,)),
        ([("picture", WORTH_A_CUT), ("picture", 20), ("text", 9)], (WORTH_A_CUT, WORTH_A_CUT + 20)),
        ([("text", 100), ("picture", 28), ("text", 5), ("picture", 200), ("picture", 1), ("text", 9)], (128, 333, 334)),
        ([("picture", 20)], ()),  # a row is left to choose the first token
    ],
)
def test_a_prompt_is_cut_behind_pictures(blocks, expected):
    assert cuts(map_of(blocks)) == expected
    assert cuts(map_of(blocks).with_answer(7)) == expected


def test_where_a_pass_costs_more_it_is_cut_less_often():
    tokens = map_of([("picture", 300), ("picture", 300), ("picture", 300), ("text", 9)])
    assert cuts(tokens, 500) == (600, 900)
    assert cuts(tokens, 5000) == (900,)


def test_a_conversation_is_cut_at_the_end_of_every_turns_prompt():
    tokens = map_of(
        [("picture", 20), ("text", 5), ("reply", 3), ("text", 6), ("reply", 2), ("picture", 9), ("text", 4)]
    )
    assert cuts(tokens) == (20, 25, 34, 45)
    assert tokens.turn.tolist() == [0] * 28 + [1] * 8 + [2] * 13


# -- what is not reused ----------------------------------------------------------------------------------------------------


def test_edits_neither_use_nor_leave_anything(lab, pictures, work):
    done = work(lab)
    lab.ask([*pictures, QUESTIONS[0]])
    length = sum(done["rows"][:2])
    done["rows"].clear()
    with lab.knockout("image_1 -> answer"):
        edited = lab.ask([*pictures, QUESTIONS[0]], max_new_tokens=1)
    assert done["rows"][0] == length
    assert lab.memory().prefix == sum(kept.nbytes for kept in lab.engine.reuse if isinstance(kept, Prefix))
    plain = lab.ask([*pictures, QUESTIONS[0]])
    assert plain.tokens[0].logprob != edited.tokens[0].logprob
    lab.forget()
    same(plain, lab.ask([*pictures, QUESTIONS[0]]))


def test_hooks_of_others_see_the_whole_prompt(lab, pictures):
    lab.ask([*pictures, QUESTIONS[0]])
    rows: list[int] = []
    handle = lab.family.decoder_layers[0].register_forward_hook(lambda m, args, out: rows.append(args[0].shape[1]))
    answer = lab.ask([*pictures, QUESTIONS[0]])
    handle.remove()
    assert rows[0] == answer.token_map.prompt_length


def test_a_captured_tower_is_not_passed_by(lab, pictures):
    lab.ask([*pictures, QUESTIONS[0]])
    with Capture(lab.model, towers=["vision"]) as tape:
        lab.ask([*pictures, QUESTIONS[0]])
    assert tape.lengths(0)


@pytest.mark.parametrize("how", ["in place", "exchanged", "moved"])
def test_what_other_weights_computed_is_let_go_of(how, pictures):
    with vila_lab.load(dtype=torch.float64) as lab:  # a session of its own
        fresh = lab.ask([*pictures, QUESTIONS[0]], max_new_tokens=2)
        weight = lab.family.decoder_layers[2].mlp.down_proj.weight
        if how == "in place":
            with torch.no_grad():
                weight.mul_(0)
        elif how == "exchanged":
            weight.data = torch.zeros_like(weight)
        else:
            lab.model.to(torch.float32)
        changed = lab.ask([*pictures, QUESTIONS[0]], max_new_tokens=2)
        assert changed.tokens[0].alternatives != fresh.tokens[0].alternatives
        lab.forget()
        same(changed, lab.ask([*pictures, QUESTIONS[0]], max_new_tokens=2))


@pytest.mark.parametrize("options", [{"rows": "all"}, {"groups": torch.zeros(80, dtype=torch.int64)}], ids=str)
def test_a_capture_that_would_be_short_says_so(lab, pictures, options):
    family = lab.family
    embedded = family.embed(family.prepare(vila_lab.Prompt.of([*pictures[:2], QUESTIONS[0]])))
    with torch.no_grad():
        cache = family.decode(embedded[:60], family.new_cache(), keep=[0])[1]
        with pytest.raises(CaptureError, match="holds its first 60 positions"), Capture(lab.model, **options):
            family.decode(embedded[60:], cache, keep=[0])


# -- bounds ----------------------------------------------------------------------------------------------------------------


def test_what_is_kept_stays_within_its_bytes_and_the_oldest_goes_first(lab, pictures):
    lab.forget()
    lab.ask([*pictures, QUESTIONS[0]], max_new_tokens=1)
    one = lab.memory()
    assert one.prefix + one.features == lab.engine.reuse.nbytes > 0
    before = lab.cache_bytes
    try:
        lab.cache_bytes = one.prefix + one.features
        for grey in range(12):
            lab.ask([np.full((40, 40, 3), grey, np.uint8), pictures[0], QUESTIONS[0]], max_new_tokens=1)
            held = lab.memory()
            assert held.prefix + held.features == lab.engine.reuse.nbytes <= lab.cache_bytes
            assert sum(kept.nbytes for kept in lab.engine.reuse) == lab.engine.reuse.nbytes
        lab.cache_bytes = 0
        assert lab.memory().prefix == lab.memory().features == 0
        fresh = lab.ask([*pictures, QUESTIONS[0]])
        assert lab.memory().prefix == lab.memory().features == 0
    finally:
        lab.cache_bytes = before
    same(fresh, lab.ask([*pictures, QUESTIONS[0]]))


def test_bytes_are_those_of_the_storage(lab, pictures):
    """A tensor that is part of another holds all of it."""
    lab.forget()
    lab.ask([*pictures, QUESTIONS[0]], max_new_tokens=1)
    for kept in lab.engine.reuse:
        if isinstance(kept, Features):
            assert kept.nbytes == kept.tensor.nbytes
        else:
            tensors = [each for layer in kept.cache.layers for each in (layer.keys, layer.values)]
            assert cache_bytes(kept.cache) == sum(each.nbytes for each in tensors)


def test_the_store_counts_what_it_holds():
    reuse, rng = Reuse(limit=400), np.random.default_rng(0)
    for _ in range(300):
        chain = tuple(f"{rng.integers(3)}" for _ in range(rng.integers(1, 4)))
        keys = tuple("/".join(chain[: k + 1]) for k in range(len(chain)))
        if rng.random() < 0.5:
            reuse.keep_features(f"f{rng.integers(6)}", torch.zeros(int(rng.integers(1, 20))))
        else:
            reuse.put(Prefix(keys, tuple(range(len(keys))), NoCache(), torch.zeros(int(rng.integers(1, 20)))))
            found = reuse.longest((*keys, "another"))
            assert found is not None
            assert found[1] == len(keys)
        assert reuse.nbytes == sum(kept.nbytes for kept in reuse) <= 400
        for kept in reuse:
            assert all(reuse.get(key) is not None for key in kept.keys)
    reuse.limit = 0
    assert reuse.nbytes == 0
    assert not list(reuse)
    assert reuse.get("f1") is None


class NoCache:
    """A cache of no layers."""

    layers = ()


def test_load_bounds_it_and_forget_empties_it(lab, pictures):
    lab.ask([*pictures, QUESTIONS[0]], max_new_tokens=1)
    assert lab.memory().prefix > 0 < lab.memory().features
    assert "forget" in str(lab.memory())
    lab.forget()
    assert lab.memory().prefix == lab.memory().features == 0
    assert vila_lab.load(cache_bytes=12345) is lab
    assert lab.cache_bytes == lab.memory().cache_bytes == 12345
    assert vila_lab.load() is lab
    assert lab.cache_bytes > 12345


def test_an_unloaded_session_keeps_nothing(pictures):
    lab = vila_lab.load(dtype=torch.float64)
    lab.ask([*pictures, QUESTIONS[0]], max_new_tokens=1)
    tensors = [torch.utils.weak.WeakTensorKeyDictionary()]
    for kept in lab.engine.reuse:
        tensors[0][kept.tensor if isinstance(kept, Features) else kept.norms] = 1
    assert len(tensors[0]) == 5
    del kept
    lab.unload()
    gc.collect()
    assert not len(tensors[0])


# -- memory that runs out --------------------------------------------------------------------------------------------------


ERRORS = (torch.OutOfMemoryError("CUDA out of memory. planted"), MemoryError("planted"), RuntimeError("[enforce] DefaultCPUAllocator: planted"))  # fmt: skip


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("phase", ["tower", "prefill", "decode", "capture", "experiment"])
def test_where_memory_runs_out_once_the_answer_is_the_same(lab, phase, error, pictures, monkeypatch):
    expected = lab.ask([*pictures, QUESTIONS[0]])
    values = expected.attribute("leave_one_out").values
    count = {"left": 1}

    def failing(function: Any, after: int = 0) -> Any:
        seen = [0]

        def call(*given: Any, **options: Any) -> Any:
            seen[0] += 1
            if count["left"] and seen[0] > after:
                count["left"] -= 1
                raise error
            return function(*given, **options)

        return call

    if phase == "tower":
        lab.forget()
        monkeypatch.setattr(lab.model, "get_vision_features", failing(lab.model.get_vision_features))
    elif phase == "capture":
        monkeypatch.setattr("vila_lab.engine.generation.tape_of", failing(vila_lab.engine.generation.tape_of))
    else:
        after = {"prefill": 0, "decode": 2, "experiment": 3}[phase]
        monkeypatch.setattr(lab.family, "decode_copies", failing(lab.family.decode_copies, after))
    answer = lab.ask([*pictures, QUESTIONS[0]])
    again = answer.attribute("leave_one_out").values
    assert count["left"] == 0
    same(answer, expected)
    np.testing.assert_array_equal(again, values)


def test_where_memory_is_not_enough_one_sentence_says_so(lab, pictures, monkeypatch):
    expected = lab.ask([*pictures, QUESTIONS[0]])

    def failing(*given: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. planted")

    with monkeypatch.context() as patch:
        patch.setattr(lab.family, "decode_copies", failing)
        with pytest.raises(OutOfMemory, match="fewer or smaller pictures") as caught:
            lab.ask([*pictures, QUESTIONS[0]])
        assert isinstance(caught.value, MemoryError)
        assert lab.memory().prefix == 0
    same(lab.ask([*pictures, QUESTIONS[0]]), expected)


def test_a_sampled_answer_that_is_begun_again_draws_the_same(lab, pictures, monkeypatch):
    for _ in range(50):  # nobody gave a seed, so some of them end too early
        stream = lab.stream([*pictures, QUESTIONS[0]], do_sample=True, temperature=5.0, max_new_tokens=6)
        said = [token.id for token in islice(stream, 3)]
        if "open" in repr(stream):
            break
    run, count = lab.family.decode_copies, [0]

    def once(*given: Any) -> Any:
        count[0] += 1
        if count[0] == 1:
            raise MemoryError("planted")
        return run(*given)

    monkeypatch.setattr(lab.family, "decode_copies", once)
    list(stream)
    assert count[0] > 1
    assert [token.id for token in stream.answer.tokens][:3] == said
    assert len(stream.answer.tokens) <= 6
