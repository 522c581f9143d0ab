"""A session over the wire is the session in the kernel: the same contract, the same answers to the bit, the same errors."""

from __future__ import annotations

import gc
import pickle
import threading
import time
import warnings
from typing import Any

import httpx
import numpy as np
import pytest
import torch

import vila_lab
from vila_lab.errors import (
    CaptureError,
    NoEffect,
    OptionError,
    PictureNotFound,
    PromptError,
    ServiceError,
    VilaLabError,
)
from vila_lab.experiments import EXPERIMENTS

from .conftest import OTHER, TOKEN

FOLDER = vila_lab.demo_images()
MARKS = [FOLDER / f"{name}.png" for name in ("g", "m", "a", "n")]
EXAMPLE = "图像1是谷歌,以其搜索引擎闻名。图像2是微软,以其操作系统闻名。图像3是苹果,以iPhone和Mac闻名。图像4是"
QUESTION = [*MARKS[:2], "What is in image 2?"]


@pytest.fixture(scope="module")
def lab() -> vila_lab.Session:
    return vila_lab.load()


@pytest.fixture(scope="module")
def there(server) -> Any:
    with vila_lab.connect(server[0], TOKEN) as found:
        yield found


def check_same(one: vila_lab.Answer, other: vila_lab.Answer) -> None:
    """To the bit, whatever can be asked without a model and with queries and keys."""
    for name in ("text", "tokens", "parts", "notes", "choices", "model", "edits"):
        assert getattr(one, name) == getattr(other, name), name
    assert one.token_map.text == other.token_map.text
    np.testing.assert_array_equal(one.token_map.box, other.token_map.box)
    np.testing.assert_array_equal(one.layer_means(), other.layer_means())
    np.testing.assert_array_equal(one.sinks, other.sinks)
    assert one.ledger().equals(other.ledger())
    assert [image.tobytes() for image in one.images] == [image.tobytes() for image in other.images]
    np.testing.assert_array_equal(one.attention(layer=2).to_numpy(), other.attention(layer=2).to_numpy())


ASKED: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "example": ((EXAMPLE,), {"images": MARKS, "conv_mode": "auto"}),
    "parts": (([MARKS[0], "and", MARKS[1], "What is in image 2?"],), {}),
    "text": (("Hello",), {"max_new_tokens": 4}),
    "sampled": ((QUESTION,), {"do_sample": True, "temperature": 20.0, "seed": 5, "max_new_tokens": 6, "top_k": 50}),
    "model's own sampling": ((QUESTION,), {"do_sample": True, "seed": 7}),
    "choices": ((QUESTION,), {"response_format": ["Google", "Microsoft"], "logprobs": 2}),
    "form": ((QUESTION,), {"response_format": {"type": "json_schema", "json_schema": {"schema": {"enum": ["Google", 3]}}}}),
    "stop": ((EXAMPLE,), {"images": MARKS, "stop": "GPU", "logprobs": 0}),
    "notes": (([vila_lab.demo_images() / "g.png", "What is this?"],), {"tile_all_images": True}),
    "messages": (([{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "image", "image": MARKS[0]}]},
                   {"role": "assistant", "content": "Google."}, {"role": "user", "content": "Sure?"}],), {"max_new_tokens": 5}),
}  # fmt: skip


@pytest.mark.parametrize("name", ASKED)
def test_an_answer_is_the_kernels_to_the_bit(name, lab, there):
    given, options = ASKED[name]
    check_same(there.ask(*given, **options), lab.ask(*given, **options))


def test_notes_of_pictures_are_told(lab, there, tmp_path):
    turned = tmp_path / "turned.png"
    image = vila_lab.Prompt.of([MARKS[0]]).images[0].convert("RGBA")
    image.putalpha(100)
    image.save(turned)
    answers = [each.ask([turned, "What is this?"]) for each in (lab, there)]
    assert answers[0].notes == answers[1].notes != ()


def test_a_stream_is_the_answer_as_it_comes(lab, there):
    stream = there.stream(EXAMPLE, MARKS)
    said = [token for token in stream]
    whole = lab.ask(EXAMPLE, MARKS)
    assert tuple(said) == whole.tokens
    check_same(stream.answer, whole)
    stopped = there.stream(QUESTION, do_sample=True, temperature=50.0, seed=1, max_new_tokens=800)
    first = next(stopped)
    stopped.close()
    assert list(stopped) == []
    assert stopped.answer.tokens[0] == first
    assert "interrupted" in stopped.answer.notes[-1]
    assert len(stopped.answer.tokens) < 800
    assert there.ask(QUESTION).text == "Microsoft."


def test_a_chat_is_the_kernels(lab, there):
    here = []
    for each in (lab, there):
        chat = each.chat("Be brief.")
        chat.ask([MARKS[0], "What is in image 1?"])
        chat.stream([MARKS[1], "What is in image 2?"]).answer  # noqa: B018 - which has it asked
        chat.ask("What is in image 1?")
        here.append(chat)
    for one, other in zip(here[0].answers, here[1].answers, strict=True):
        check_same(other, one)
    assert [said.ids for said in here[0].answers[-1].record.history] == [
        said.ids for said in here[1].answers[-1].record.history
    ]


def test_many_questions(lab, there):
    prompts = [[mark, "What is this?"] for mark in MARKS] + [["lost.png", "What?"]]
    found = there.ask_many(prompts, errors="keep")
    assert [each.text for each in found[:4]] == [lab.ask(prompt).text for prompt in prompts[:4]]
    assert isinstance(found[4], PictureNotFound)
    assert list(found.frame().columns) == list(lab.ask_many(prompts, errors="keep").frame().columns)
    assert [each.text for each in there.ask(QUESTION, n=2, do_sample=True, seed=3)] == [
        each.text for each in lab.ask(QUESTION, n=2, do_sample=True, seed=3)
    ]


OPTIONS: dict[str, dict[str, Any]] = {
    "attribute": {"method": "shapley", "token": 0, "contrast": "Google"},
    "evidence": {"token": 0},
    "metric_card": {"method": "attention", "token": 0, "boxes": {1: (40, 40, 216, 216)}, "baseline": "grey"},
    "random_weights_map": {"method": "attention", "token": 0},
    "flow": {"token": 0, "stride": 3, "edges": ("images -> answer", '"image 2" -> answer')},
    "leakage": {},
    "causal_leakage": {},
    "patch_scan": {"layers": 2, "positions": ["images", '"What is"']},
    "patch_heads": {"sets": [[(4, 0), (4, 1)], [(5, 1)]]},
    "redirect": {"image": 0, "strength": 16, "heads": [(4, 0), (5, 1)]},
    "vision_attention": {"image": 1, "at": (100, 40)},
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_is_the_kernels(name, lab, there):
    answers = [each.ask(QUESTION) for each in (lab, there)]
    others = [each.ask([MARKS[0], MARKS[2], "What is in image 2?"]) for each in (lab, there)]
    found = []
    for answer, other in zip(answers, others, strict=True):
        more = {"from_record": other.record} if name in ("patch_scan", "patch_heads") else {}
        found.append(answer.experiment(name, **OPTIONS[name], **more))
    assert type(found[0]) is type(found[1])
    for field in ("values", "scores", "table", "shares", "shape", "share_after", "heatmap"):
        if hasattr(found[0], field) and not callable(getattr(found[0], field)):
            np.testing.assert_array_equal(np.asarray(getattr(found[1], field)), np.asarray(getattr(found[0], field)))
    if name != "attribute":  # whose words hold how long it took
        assert repr(found[1]) == repr(found[0])


def test_edits_are_the_kernels(lab, there):
    def edited(each: Any) -> list[vila_lab.Answer]:
        other = each.ask([MARKS[0], MARKS[2], "What is in image 2?"])
        made = [
            lambda: each.knockout("image_2 -> *", layers=np.int64(4)),
            lambda: each.knockout("image_2 -> answer", heads="routing"),
            lambda: each.steer("image_1", 8),
            lambda: each.scale_heads([(4, 0), (5, 1)], 0.5, rows="answer"),
            lambda: each.ablate_heads("routing", "mean"),
            lambda: each.patch(other, "image_2", layers=0),
        ]
        found = []
        for make in made:
            with make() as handle:
                assert handle.active
                assert each.cross_modal_layers["edits"].sum() > 0
                found.append(each.ask(QUESTION))
        return found

    for one, other in zip(edited(lab), edited(there), strict=True):
        assert one.edits == other.edits != ()
        assert one.tokens == other.tokens
    assert there.ask(QUESTION).edits == ()
    assert there.cross_modal_layers.equals(lab.cross_modal_layers)
    assert there.vision_layers.equals(lab.vision_layers)
    for each in (lab, there):
        with pytest.raises(NoEffect, match="image_1"), each.knockout("image_2 -> image_1"):
            each.ask(QUESTION)
        with pytest.raises(NoEffect, match="there is no layer 9"):
            each.knockout("image_1 -> *", layers=9)


def test_an_order_test_and_a_ranking_of_heads(lab, there):
    tests = [each.order_test("What is in image 2?", MARKS[:2]) for each in (lab, there)]
    assert tests[0].table.equals(tests[1].table)
    samples = [
        vila_lab.evidence.Sample((MARKS[k], MARKS[j]), "What is in image 2?", 1)
        for k, j in ((0, 1), (1, 2), (2, 3), (3, 0))
    ]
    before = dict(lab.head_sets)
    rankings = [each.rank_heads(samples, "routing", top=2) for each in (lab, there)]
    lab.head_sets.update(before)
    assert rankings[0].heads == rankings[1].heads == tuple(there.head_sets["routing"])
    assert there.ask(QUESTION).attribute("attention", 0, heads="routing").per_image().shape[1] == 3
    there.head_sets.update(before)


def test_what_cannot_travel_says_so(there):
    answer = there.ask(QUESTION)
    for call in (
        lambda: there.on_attention(lambda event: None),
        lambda: there.on_hidden(lambda event: None),
        lambda: answer.replay,
        lambda: there.model,
        lambda: there.family,
        lambda: answer.attribute("occlusion", baseline=lambda image: image),
    ):
        with pytest.raises(VilaLabError, match=r"travel|be sent|on a server"):
            call()
    assert not hasattr(there, "model")
    with pytest.raises(AttributeError, match="has no 'colour'"):
        there.colour  # noqa: B018


def test_errors_are_the_kernels(lab, there):
    calls = [
        (PromptError, lambda each: each.ask("")),
        (PictureNotFound, lambda each: each.ask(["lost.png", "What?"])),
        (OptionError, lambda each: each.ask("Hello", conv_mode="nope")),
        (OptionError, lambda each: each.ask("Hello", colour="red")),
        (OptionError, lambda each: each.ask(QUESTION).attribute("nope")),
        (OptionError, lambda each: each.ask(QUESTION).attribute("attention", token=99)),
        (OptionError, lambda each: each.ask(QUESTION).experiment("nope")),
        (vila_lab.VilaLabError, lambda each: each.ask("word " * 9000)),
        (OptionError, lambda each: each.ask("Hello", max_new_tokens=0)),
    ]
    for kind, call in calls:
        said = []
        for each in (lab, there):
            with pytest.raises(kind) as caught:
                call(each)
            said.append(caught.value)
        assert type(said[0]) is type(said[1]) or kind is VilaLabError
        assert there.ask(QUESTION).text == "Microsoft."


def test_the_address_may_be_openais(server, there):
    for end in ("/", "/v1", "/v1/"):
        with vila_lab.connect(server[0] + end, TOKEN) as found:
            assert found.url == there.url


def test_who_is_not_let_in_is_told(server):
    for url, token in ((server[0], "a-wrong-token"), (server[0], None), ("http://127.0.0.1:9", TOKEN)):
        with pytest.raises(ServiceError):
            vila_lab.connect(url, token)
    for url in ("", "ftp://a", "a.png", None):
        with pytest.raises(OptionError, match="address"):
            vila_lab.connect(url, TOKEN)


def test_answers_are_their_owners(server, there):
    """Another's id is as good as none, for all that can be asked of an answer."""
    answer = there.ask(QUESTION)
    kept = server[1].state.kept
    name = kept.of("one")[0]["id"]
    paths = [
        ("GET", ""),
        ("GET", "/ledger"),
        ("GET", "/view"),
        ("GET", "/attention"),
        ("DELETE", ""),
        ("POST", "/stop"),
    ]
    paths += [("POST", "/experiments/leakage")]
    with httpx.Client(base_url=f"{server[0]}/v1/answers", headers={"Authorization": f"Bearer {OTHER}"}) as other:
        for method, path in paths:
            told = [other.request(method, f"/{each}{path}") for each in (name, "chatcmpl-nothing")]
            assert [each.status_code for each in told] == [404, 404], path
            assert told[0].json() == told[1].json()
        assert other.get(f"{server[0]}/v1/answers").json()["data"] == []
    assert answer.attention(layer=0).shape[0] == 3
    with httpx.Client(base_url=f"{server[0]}/v1/answers", headers={"Authorization": f"Bearer {TOKEN}"}) as own:
        assert own.get(f"/{name}/ledger").json()["columns"] == list(answer.ledger().columns)
        assert own.delete(f"/{name}").status_code == 204
        assert own.get(f"/{name}").status_code == 404


def test_an_answer_that_the_server_let_go_of_is_sent_again(server, lab, there):
    answer = there.ask(QUESTION)
    means = answer.layer_means()
    answer.attention(layer=1)  # queries and keys are here now
    kept = server[1].state.kept
    kept.drop("one", [entry["id"] for entry in kept.of("one")])
    np.testing.assert_array_equal(
        answer.attribute("leave_one_out").values, lab.ask(QUESTION).attribute("leave_one_out").values
    )
    other = there.ask(QUESTION)
    kept.drop("one", [entry["id"] for entry in kept.of("one")])
    with pytest.raises(ServiceError, match="no answer of that id"):
        other.attention(layer=1)
    np.testing.assert_array_equal(other.layer_means(), means)
    assert other.attribute("leave_one_out").shares().idxmax() == "image_2"


def test_answers_are_let_go_of_with_those_who_hold_them(server, there):
    gc.collect()
    there.ask(QUESTION)
    gc.collect()
    there.ask(QUESTION)
    assert len(server[1].state.kept.of("one")) <= 2


def test_an_answer_goes_into_a_file_and_to_another_session(lab, there, tmp_path):
    answer = there.ask(EXAMPLE, MARKS)
    saved = vila_lab.open(answer.save(tmp_path / "a.vila"))
    check_same(saved, answer)
    for copy in (saved.bind(there), pickle.loads(pickle.dumps(answer)).bind(there), saved.bind(lab)):
        assert copy.attribute("leave_one_out", 0).shares().idxmax() == "image_4"
    assert vila_lab.compare(answer, lab.ask(EXAMPLE, MARKS)) is not None
    page = answer.to_html(tmp_path / "a.html")
    assert "英伟达" in page.read_text(encoding="utf-8")


def test_threads_share_a_session(lab, there):
    expected = [lab.ask([mark, "What is this?"]).text for mark in MARKS]
    found: dict[int, str] = {}

    def ask(k: int) -> None:
        with there.knockout("image_1 -> *") if k % 2 else there.chat.__self__.steer("image_1", 1):
            found[k] = there.ask([MARKS[k], "What is this?"]).text

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert [found[0], found[2]] == [expected[0], expected[2]]
    assert found[1] != expected[1]


def test_the_live_widget_reads_what_is_there(there, lab):
    explorers = [each.ask(QUESTION).explore() for each in (lab, there)]
    told: list[list[Any]] = [[], []]
    for explorer, heard in zip(explorers, told, strict=True):
        explorer.send = heard.append
        explorer.answer_browser(None, {"id": 1, "layer": 3, "head": 2, "sinks": False}, None)
    assert told[0] == told[1] != []


def test_a_server_that_ends_is_told_in_a_sentence(another_server):
    with another_server() as (address, _):
        there = vila_lab.connect(address, TOKEN)
        answer = there.ask(QUESTION)
    with pytest.raises(ServiceError, match="cannot be reached"):
        there.ask(QUESTION)
    with pytest.raises(ServiceError, match="cannot be reached"):
        answer.attribute("leave_one_out")
    assert answer.ledger().shape == (3, 5)  # what is known stays
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        there.close()


def test_a_closed_session_says_so(server):
    with vila_lab.connect(server[0], TOKEN) as there:
        answer = there.ask(QUESTION)
    with pytest.raises(ServiceError, match="was closed"):
        answer.attribute("rollout")
    there.close()  # a second time does nothing


def test_equal_questions_are_answered_once(server, there, lab):
    """Also those of several clients, while the first of them is under way."""
    asked: list[int] = []
    begin = vila_lab.Session.begin

    def counted(self: Any, request: Any) -> Any:
        asked.append(1)
        time.sleep(0.3)
        return begin(self, request)

    found: list[vila_lab.Answer] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vila_lab.Session, "begin", counted)
        threads = [threading.Thread(target=lambda: found.append(there.ask(EXAMPLE, MARKS))) for _ in range(6)]
        for each in threads:
            each.start()
        for each in threads:
            each.join(60)
    assert len(asked) < 6
    for answer in found:
        check_same(answer, lab.ask(EXAMPLE, MARKS))
    assert len({id(answer.record) for answer in found}) == 6


def test_capture_errors_stay_what_they_are(there):
    stream = there.stream(QUESTION)
    stream.close()
    with pytest.raises(CaptureError):
        stream.answer  # noqa: B018


def test_an_equal_question_is_answered_from_what_was_said(server, there, lab):
    """Until the model is another one: then it is asked."""
    begun: list[int] = []
    begin = vila_lab.Session.begin

    def counted(self: Any, request: Any) -> Any:
        begun.append(1)
        return begin(self, request)

    question = [MARKS[3], MARKS[0], "What is in image 1?"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vila_lab.Session, "begin", counted)
        first = there.ask(question)
        again = there.ask(question)
        streamed = there.stream(question)
        assert tuple(streamed) == first.tokens
        assert len(begun) == 1
        check_same(again, first)
        check_same(streamed.answer, first)
        assert again.attribute("leave_one_out").shares().idxmax() == "image_1"
        for _ in range(2):  # drawn without a seed, or under edits: nobody else's answer
            there.ask(question, do_sample=True, max_new_tokens=1)
            with there.steer("image_1", 1):
                there.ask(question)
        assert len(begun) == 5
        weight = lab.model.get_output_embeddings().weight
        with torch.no_grad():
            weight.mul_(2)
        try:
            assert there.ask(question).tokens[0].logprob != first.tokens[0].logprob
        finally:
            with torch.no_grad():
                weight.div_(2)
        assert there.ask(question).tokens == first.tokens
        assert len(begun) == 7
