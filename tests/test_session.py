"""A resident model: the same answers as plain generate, one question at a time, and usable after every mishap."""

from __future__ import annotations

import contextlib
import gc
import threading
import weakref

import pytest
import torch

import vila_lab
from tests.conftest import CHECKPOINTS, GOLDENS
from tests.inside import hooks_in
from vila_lab.errors import ContextTooLong, DeviceError, OptionError, PictureNotFound, PromptError
from vila_lab.hooks import Tape
from vila_lab.prompt import Prompt
from vila_lab.upstream import attention_name

QUESTION = "What are the differences?"


def implementation(model):
    return {attention_name(module.config) for module in model.modules() if hasattr(module, "config")}


def hooks(model):
    return hooks_in(model)


def plain_ids(lab, parts, max_new_tokens):
    prepared = lab.family.prepare(Prompt.of(parts))
    config = lab.family.generation_config(prepared.options)
    config.max_new_tokens, config.max_length = max_new_tokens, None
    with torch.no_grad():
        sequence = lab.model.generate(**prepared.inputs, generation_config=config)
    return sequence[0, len(prepared.token_map) :].tolist()


@pytest.mark.parametrize("name", CHECKPOINTS)
@pytest.mark.parametrize(
    "images", [(), ("a_land.png",), ("a_land.png", "b_port.png", "h_exif6.jpg")], ids=["none", "one", "three"]
)
def test_ids_are_those_of_plain_generate(golden_session, golden_image, name, images):
    lab = golden_session(name)
    parts = [*(golden_image(image) for image in images), QUESTION]
    answer = lab.ask(parts, max_new_tokens=12)
    assert [token.id for token in answer.tokens] == plain_ids(lab, parts, 12)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_log_probabilities_are_those_of_one_teacher_forced_pass(golden_session, golden_image, name):
    lab = golden_session(name)
    answer = lab.ask([golden_image("a_land.png"), QUESTION], max_new_tokens=6)
    prepared = lab.family.prepare(Prompt.of([golden_image("a_land.png"), QUESTION]))
    ids = torch.tensor([[token.id for token in answer.tokens]])
    inputs = dict(prepared.inputs)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], ids], 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with torch.no_grad():
        logits = lab.model(**inputs).logits[0, len(prepared.token_map) - 1 : -1].float()
    forbidden = lab.family.generation_config(prepared.options).suppress_tokens or []
    logits[:, [token for token in forbidden if token < logits.shape[1]]] = float("-inf")
    expected = logits.log_softmax(-1).gather(1, ids.T)[:, 0]
    assert torch.allclose(torch.tensor([token.logprob for token in answer.tokens]), expected, atol=2e-5)
    for token in answer.tokens:
        assert token.alternatives[0][1:] == (token.id, pytest.approx(token.logprob))  # greedy: the best one was taken
        assert len(token.alternatives) == 5


def test_positions_and_text_belong_together(golden_session, golden_image):
    answer = golden_session("nvila-lite").ask([golden_image("b_port.png"), QUESTION], max_new_tokens=9)
    assert [token.position for token in answer.tokens] == answer.token_map.positions("answer").tolist()
    assert "".join(token.text for token in answer.tokens).strip() == answer.text


def test_the_same_call_gives_the_same_session():
    folder = GOLDENS / "checkpoints" / "nvila-resize"
    lab = vila_lab.load(folder)
    assert vila_lab.load(folder) is lab
    assert vila_lab.load(str(folder)) is lab
    assert vila_lab.load(folder, dtype="float16") is not lab
    assert lab in vila_lab.loaded()


def test_unloading_forgets_the_session():
    folder = GOLDENS / "checkpoints" / "nvila-resize"
    lab = vila_lab.load(folder, dtype="bfloat16")
    lab.unload()
    assert lab not in vila_lab.loaded()
    assert repr(lab).endswith("unloaded)")
    with pytest.raises(OptionError, match="was unloaded"):
        lab.ask("Hello")
    fresh = vila_lab.load(folder, dtype="bfloat16")
    assert fresh is not lab
    assert fresh.ask("Hello", max_new_tokens=2).tokens
    fresh.unload()


def test_interleaved_pictures_keep_their_order(golden_session, golden_image):
    a, b = golden_image("a_land.png"), golden_image("b_port.png")
    answer = golden_session("nvila-dynamic_s2").ask(["First:\n", a, "\nSecond:\n", b, "\n", QUESTION], max_new_tokens=2)
    assert answer.parts == ("First:\n", 0, "\nSecond:\n", 1, "\n", QUESTION)
    assert answer.token_map.sizes == (answer.images[0].size, answer.images[1].size) == ((320, 200), (150, 290))
    first, second = (answer.token_map.positions(f"image_{k}") for k in (1, 2))
    assert first.max() < second.min()


def test_pictures_first_is_the_same_either_way(golden_session, golden_image):
    lab = golden_session("nvila-lite")
    pictures = [golden_image("a_land.png"), golden_image("c_sq.png")]
    one, other = lab.ask([*pictures, QUESTION], max_new_tokens=5), lab.ask(QUESTION, images=pictures, max_new_tokens=5)
    assert [t.id for t in one.tokens] == [t.id for t in other.tokens]


def test_sampling_is_reproducible_and_greedy_refuses_its_options(golden_session):
    lab = golden_session("nvila-resize")
    runs = [
        [t.id for t in lab.ask("Hello", max_new_tokens=8, do_sample=True, temperature=1.5, seed=3).tokens]
        for _ in range(2)
    ]
    assert runs[0] == runs[1]
    assert runs[0] != [t.id for t in lab.ask("Hello", max_new_tokens=8).tokens]
    with pytest.raises(OptionError, match="add do_sample=True"):
        lab.ask("Hello", temperature=0.5)


@pytest.mark.parametrize(
    ("question", "error", "message"),
    [
        ({"prompt": []}, PromptError, "nothing to ask"),
        ({"prompt": ["missing.png", "What?"]}, PictureNotFound, "picture 1 of 1: .*missing.png"),
        ({"prompt": "What?", "conv_mode": "vicuna"}, OptionError, "vicuna"),
        ({"prompt": "What?", "max_new_tokens": 0}, OptionError, "at least 1"),
        ({"prompt": "What? " * 4000}, ContextTooLong, "positions .* but .* holds 4096"),
        ({"prompt": "What?", "max_new_tokens": 5000}, ContextTooLong, "lower max_new_tokens"),
    ],
    ids=["empty", "missing", "mode", "none", "long", "room"],
)
def test_a_bad_question_is_one_sentence_and_changes_nothing(golden_session, question, error, message):
    lab = golden_session("nvila-lite")
    before = implementation(lab.model)
    with pytest.raises(error, match=message):
        lab.ask(**question)
    assert implementation(lab.model) == before
    assert lab.ask("Hello", max_new_tokens=2).tokens


def test_too_many_pictures_are_refused_before_running_with_the_count(golden_session, golden_image, monkeypatch):
    lab = golden_session("nvila-lite")
    monkeypatch.setattr(lab.model, "generate", None)  # reaching it would raise something else
    with pytest.raises(ContextTooLong, match=r"positions \(\d+ of them for 420 pictures\)"):
        lab.ask(QUESTION, images=[golden_image("c_sq.png")] * 420)


def test_a_device_that_is_not_there():
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(DeviceError, match="no CUDA"):
        vila_lab.load(device="cuda")


@pytest.mark.parametrize("mishap", [KeyboardInterrupt, RuntimeError])
def test_usable_after_a_mishap_inside_generate(golden_session, golden_image, mishap):
    lab = golden_session("nvila-lite")
    parts = [golden_image("a_land.png"), QUESTION]
    expected = [token.id for token in lab.ask(parts, max_new_tokens=6).tokens]
    before, hooked = implementation(lab.model), hooks(lab.model)
    calls = 0

    def fail(module, inputs):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise mishap

    handle = lab.family.decoder_layers[1].register_forward_pre_hook(fail)
    with pytest.raises(mishap):
        lab.ask(parts, max_new_tokens=6)
    handle.remove()
    assert implementation(lab.model) == before
    assert hooks(lab.model) == hooked
    assert [token.id for token in lab.ask(parts, max_new_tokens=6).tokens] == expected


def test_questions_from_two_threads_wait_for_each_other(golden_session, golden_image):
    lab = golden_session("nvila-lite")
    prompts = [[golden_image("a_land.png"), QUESTION], [golden_image("b_port.png"), "Please describe the image."]]
    expected = [[t.id for t in lab.ask(parts, max_new_tokens=8).tokens] for parts in prompts]
    found: dict[int, list[list[int]]] = {0: [], 1: []}

    def keep_asking(which):
        for _ in range(4):
            found[which].append([t.id for t in lab.ask(prompts[which], max_new_tokens=8).tokens])

    threads = [threading.Thread(target=keep_asking, args=(k,)) for k in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {0: [expected[0]] * 4, 1: [expected[1]] * 4}


def test_a_typed_image_token_is_removed_with_a_hint(golden_session, golden_image):
    lab = golden_session("nvila-lite")
    with pytest.warns(UserWarning, match="list"):
        answer = lab.ask([golden_image("b_port.png"), "What <image> are the differences?"], max_new_tokens=2)
    assert answer.token_map.text.count("<image>") == len(
        set(answer.token_map.tile[answer.token_map.positions("images")])
    )


def test_notes_say_what_was_done_to_a_picture(golden_session, golden_image):
    answer = golden_session("nvila-resize").ask([golden_image("h_exif6.jpg"), QUESTION], max_new_tokens=2)
    assert any("picture 1" in note and "EXIF" in note for note in answer.notes)
    assert any("cut at 2 tokens" in note for note in answer.notes)


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_as_a_block_the_model_is_let_go_of_at_its_end(error):
    """Everything: no weight of it is alive afterwards, though an answer is."""
    folder = GOLDENS / "checkpoints" / "nvila-lite"
    with contextlib.suppress(KeyboardInterrupt), vila_lab.load(folder, device="cpu", dtype="bfloat16") as lab:
        answer = lab.ask("Hello", max_new_tokens=2)
        answer.attribute("input_x_gradient")
        alive = [weakref.ref(parameter) for parameter in lab.model.parameters()]
        assert lab in vila_lab.loaded()
        if error is not None:
            raise error
    assert lab not in vila_lab.loaded()
    gc.collect()
    assert not any(each() is not None for each in alive)
    assert answer.ledger().shape[0] == 2
    with pytest.raises(OptionError, match="was unloaded"):
        lab.ask("Hello")


def test_what_an_answer_holds_is_counted_once(monkeypatch):
    """A session with a thousand answers must not count them all at each further one."""
    lab, counted = vila_lab.load(), []
    nbytes = Tape.nbytes

    def counting(tape: Tape) -> int:
        counted.append(1)
        return int(nbytes.fget(tape))

    monkeypatch.setattr(Tape, "nbytes", property(counting))
    answers = [lab.ask("Hello", max_new_tokens=1) for _ in range(12)]
    assert len(counted) <= 2 * len(answers)
    before = lab.memory().tapes
    answers[0].offload()
    assert lab.memory().tapes == before
    answers[0].release()
    assert lab.memory().tapes < before
