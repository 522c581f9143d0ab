"""The field `vila_lab` of a request: everything beyond OpenAI's words, through OpenAI's own client and plain HTTP."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest

import vila_lab
from vila_lab.parcels import unpack
from vila_lab.serve import looking
from vila_lab.serve.kept import Kept

from .conftest import TOKEN

FOLDER = vila_lab.demo_images()
QUESTION = [FOLDER / "g.png", FOLDER / "m.png", "What is in image 2?"]


def picture(name: str) -> dict[str, Any]:
    data = base64.b64encode((FOLDER / f"{name}.png").read_bytes()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}


MESSAGES: Any = [
    {"role": "user", "content": [picture("g"), picture("m"), {"type": "text", "text": "What is in image 2?"}]}
]


@pytest.fixture(scope="module")
def lab() -> vila_lab.Session:
    return vila_lab.load()


@pytest.fixture
def client(server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server[0]}/v1", api_key=TOKEN, max_retries=0)


@pytest.fixture
def http(server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server[0], headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60) as found:
        yield found


def asked(client: openai.OpenAI, messages: Any = MESSAGES, **wanted: Any) -> Any:
    reply = client.chat.completions.create(model="any", messages=messages, extra_body={"vila_lab": wanted})
    return reply.choices[0]


def test_everything_at_once(client, lab):
    answer = lab.ask(QUESTION)
    choice = asked(
        client, ledger=True, heatmaps=True, attention=True,
        experiments=[{"name": "attribute", "method": "leave_one_out", "token": 0}, {"name": "leakage"}],
    )  # fmt: skip
    assert choice.message.content == answer.text
    told = choice.vila_lab
    assert told["layout"] == [{"role": "user", "parts": [{"picture": 1}, {"picture": 2}, "What is in image 2?"]}]
    assert told["notes"] == list(answer.notes)
    np.testing.assert_array_equal(told["ledger"]["rows"], answer.ledger().to_numpy())
    assert told["ledger"]["columns"] == list(answer.ledger().columns)
    known = {"token_map": answer.token_map, **{f"image.{k}": image for k, image in enumerate(answer.images)}}
    parcel = unpack(base64.b64decode(told["parcel"]), known)
    np.testing.assert_array_equal(parcel["attention"], answer.layer_means())
    for image, found in enumerate(parcel["heatmaps"]):
        np.testing.assert_array_equal(found[1], answer.heatmap(image, 1))
    np.testing.assert_array_equal(parcel["experiments"][0].values, answer.attribute("leave_one_out", 0).values)
    assert parcel["experiments"][1].identical(answer.leakage())


def test_edits_are_data(client, lab):
    with lab.knockout("image_2 -> *", layers=[4, 5]):
        blind = lab.ask(QUESTION)
    choice = asked(client, edits=[{"edit": "knockout", "edge": "image_2 -> *", "layers": [4, 5]}])
    assert choice.message.content == blind.text != lab.ask(QUESTION).text
    with lab.steer("image_1", 4, heads="routing"), lab.scale_heads([(4, 0)], 0.5):
        steered = lab.ask(QUESTION)
    edits = [
        {"edit": "steer", "source": "image_1", "strength": 4, "heads": "routing"},
        {"edit": "scale_heads", "heads": [[4, 0]], "factor": 0.5},
    ]
    told = client.chat.completions.create(
        model="any", messages=MESSAGES, logprobs=True, top_logprobs=2, extra_body={"vila_lab": {"edits": edits}}
    )
    assert [each.logprob for each in told.choices[0].logprobs.content] == [each.logprob for each in steered.tokens]


def test_an_answer_is_looked_at_by_its_id(client, http, lab, tmp_path):
    answer = lab.ask(QUESTION)
    reply = client.chat.completions.create(model="any", messages=MESSAGES, extra_body={"vila_lab": {}})
    name = reply.choices[0].vila_lab["answer"]
    assert name == reply.id
    listed = http.get("/v1/answers").json()
    assert name in [entry["id"] for entry in listed["data"]]
    assert listed["bounds"]["bytes"] > 2**20
    path = tmp_path / "a.vila"
    path.write_bytes(http.get(f"/v1/answers/{name}").content)
    assert vila_lab.open(path).ledger().equals(answer.ledger())
    heads = unpack(http.get(f"/v1/answers/{name}/attention", params={"layer": 4, "head": 0}).content)
    assert heads.identical(answer.attention(4, 0))
    maps = unpack(http.get(f"/v1/answers/{name}/heatmaps").content)
    np.testing.assert_array_equal(maps[1][0], answer.heatmap(1, 0))
    shapley = http.post(f"/v1/answers/{name}/experiments/attribute", json={"method": "shapley", "token": 0})
    known = {"token_map": answer.token_map, **{f"image.{k}": image for k, image in enumerate(answer.images)}}
    np.testing.assert_array_equal(unpack(shapley.content, known).values, answer.attribute("shapley", 0).values)
    assert "Microsoft" in http.get(f"/v1/answers/{name}/page").text
    view = http.get(f"/v1/answers/{name}/view").json()
    assert view["live"] == {"layers": 6, "heads": 4}
    assert "shapley" in {reading["name"] for reading in view["readings"]}
    assert http.get(f"/v1/answers/{name}/reading", params={"layer": 3, "head": 1}).json()["layer"] == 3
    assert http.delete(f"/v1/answers/{name}").status_code == 204
    assert http.get(f"/v1/answers/{name}").status_code == 404
    kept = client.chat.completions.create(model="any", messages=MESSAGES)
    assert http.get(f"/v1/answers/{kept.id}").status_code == 404  # nobody asked for it to be kept


def test_progress_is_told(client, http):
    name = asked(client).vila_lab["answer"]
    path, options = f"/v1/answers/{name}/experiments/attribute", {"method": "relevancy"}
    with http.stream("POST", path, json=options, headers={"Accept": "text/event-stream"}) as response:
        events = [json.loads(line.removeprefix("data: ")) for line in response.iter_lines() if line]
    done = [event["progress"]["done"] for event in events if "progress" in event]
    assert done == sorted(done)
    assert done[-1] == events[0]["progress"]["total"]
    assert "parcel" in events[-1]


def test_a_conversation_with_the_models_own_tokens(client, lab):
    chat = lab.chat()
    first = chat.ask([FOLDER / "g.png", "What is in image 1?"])
    second = chat.ask([FOLDER / "m.png", "What is in image 2?"])
    messages = [
        {"role": "user", "content": [picture("g"), {"type": "text", "text": "What is in image 1?"}]},
        {"role": "assistant", "content": first.text},
        {"role": "user", "content": [picture("m"), {"type": "text", "text": "What is in image 2?"}]},
    ]
    ids = [token.id for token in first.tokens if not token.stop]
    told = asked(client, messages, replies=[ids], ledger=True).vila_lab
    np.testing.assert_array_equal(told["ledger"]["rows"], second.ledger().to_numpy())
    for replies, message in (([ids[::-1]], "other words"), ([], "one for every"), ([[10**9]], "ids of tokens")):
        with pytest.raises(openai.BadRequestError, match=message):
            asked(client, messages, replies=replies)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"edits": [{"edit": "knock"}]}, "unknown edit 'knock' (did you mean 'knockout'?); known: knockout, steer"),
        ({"edits": [{"edge": "image_1 -> *"}]}, "an edit is a table with its name"),
        ({"edits": [{"edit": "knockout"}]}, "missing a required argument: 'edge'"),
        ({"edits": [{"edit": "knockout", "edge": "image_1 -> *", "colour": 1}]}, "'colour'"),
        ({"edits": [{"edit": "knockout", "edge": "image_9 -> *"}]}, "image_9"),
        ({"edits": [{"edit": "patch", "from_answer": "chatcmpl-x", "positions": "image_1"}]}, "no answer of that id"),
        ({"edits": [{"edit": "knockout", "edge": "image_2 -> image_1"}]}, "image_1"),
        ({"experiments": [{"method": "shapley"}]}, "an experiment is a table with its name"),
        ({"experiments": [{"name": "nope"}]}, "unknown experiment 'nope'"),
        ({"experiments": [{"name": "attribute"}]}, "attribute needs method"),
        ({"experiments": [{"name": "attribute", "method": "attention", "token": 99}]}, "99"),
        ({"colour": 1}, "vila_lab.colour"),
        ({"alternatives": -1}, "vila_lab.alternatives"),
    ],
)
def test_what_makes_no_sense_is_refused(client, wanted, message):
    with pytest.raises(openai.APIStatusError) as caught:
        asked(client, **wanted)
    assert caught.value.status_code in (400, 404)
    assert message in str(caught.value)
    assert asked(client).message.content == "Microsoft."


# -- what is kept --------------------------------------------------------------------------------------------------------


def test_what_is_kept_stays_within_its_bounds(lab):
    now = [0.0]
    answer = lab.ask(QUESTION)
    size = answer.nbytes
    kept = Kept(most_bytes=4 * size, most_each=3, seconds=10, clock=lambda: now[0])
    for k in range(5):
        kept.add("ana", f"a{k}", answer)
    assert [entry["id"] for entry in kept.of("ana")] == ["a4", "a3", "a2"]
    kept.get("ana", "a2")
    kept.add("ben", "b0", answer)
    kept.add("ben", "b1", answer)  # one too many: she has most, and a3 was looked at least recently
    assert {entry["id"] for entry in kept.of("ana")} == {"a2", "a4"}
    assert kept.nbytes <= kept.most_bytes
    now[0] = 9
    kept.get("ben", "b1")
    now[0] = 11
    assert kept.of("ana") == []
    assert [entry["id"] for entry in kept.of("ben")] == ["b1"]
    assert kept.drop("ana", ["b1"]) == 0
    assert len({Kept.new_id() for _ in range(1000)}) == 1000
    assert all(len(Kept.new_id()) > 30 for _ in range(10))


def test_an_answer_whose_pictures_are_too_large_is_not_taken_in(http, lab, monkeypatch):
    data = lab.ask(QUESTION).record.to_bytes()
    assert "id" in http.post("/v1/answers", content=data).json()
    monkeypatch.setattr(looking, "MOST_PIXELS", 256 * 256)
    monkeypatch.setattr("vila_lab.wire.picture_of", lambda *given: pytest.fail("decoded"))
    refused = http.post("/v1/answers", content=data)
    assert refused.status_code == 400
    assert "131,072 pixels, and may have 65,536 together" in refused.json()["error"]["message"]
