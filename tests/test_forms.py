"""Answers in a form: JSON of a schema, one of some choices, ended by a text; the scores stay the model's own."""

from __future__ import annotations

import json
import sys
from typing import Any

import jsonschema
import numpy as np
import pydantic
import pytest
import torch

import vila_lab
from tests.conftest import CHECKPOINTS
from tests.engine.test_reuse import any_lab  # noqa: F401 - a fixture
from vila_lab.cli import main
from vila_lab.engine.form import Form
from vila_lab.errors import MissingExtra, OptionError

BRANDS = ("Google", "Microsoft", "Apple", "NVIDIA")
SCHEMAS: dict[str, Any] = {
    "enum": {"type": "object", "properties": {"brand": {"enum": list(BRANDS)}}, "required": ["brand"], "additionalProperties": False},
    "limits": {"type": "object", "properties": {"picture": {"type": "integer", "minimum": 1, "maximum": 2}},
               "required": ["picture"], "additionalProperties": False},
    "list": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 3},
    "pattern": {"type": "string", "pattern": "^[a-c]{2,4}$"},
    "either": {"anyOf": [{"const": 1}, {"$ref": "#/$defs/b"}], "$defs": {"b": {"const": "b"}}},
}  # fmt: skip


@pytest.fixture
def parts(demo) -> list[Any]:
    return [demo / "g.png", demo / "m.png", "What is in image 2?"]


def schema(of: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": of, "strict": True}}


@pytest.mark.parametrize("name", SCHEMAS)
def test_an_answer_is_valid_for_its_schema(any_lab, name, parts):  # noqa: F811
    """Of random models, too: the form is kept whatever the model would say."""
    answer = any_lab.ask(parts, response_format=schema(SCHEMAS[name]), max_new_tokens=80)
    jsonschema.validate(json.loads(answer.text), SCHEMAS[name])
    assert " " not in answer.text
    assert answer.tokens[-1].stop


@torch.no_grad()
def test_the_scores_are_those_of_the_model(lab, parts):
    """Not those behind the mask."""
    answer = lab.ask(parts, response_format=schema(SCHEMAS["enum"]))
    assert json.loads(answer.text) == {"brand": "Microsoft"}
    ids = [token.id for token in answer.tokens]
    replay = answer.replay
    logits = replay.decode(replay.followed(replay.embedded, ids[:-1]))[0][replay.prompt_length - 1 :]
    expected = torch.log_softmax(logits, -1)[torch.arange(len(ids)), torch.tensor(ids)]
    np.testing.assert_allclose([token.logprob for token in answer.tokens], expected, atol=1e-4)
    np.testing.assert_allclose(answer.attention().sum("position"), 1, atol=1e-5)


def closed(cut: str) -> str:
    """An object of JSON that was cut inside its first key, brought to its end."""
    return f'{cut}": 0}}'


def test_a_pydantic_class_is_its_schema(lab, parts):
    class Seen(pydantic.BaseModel):
        picture: int = pydantic.Field(ge=1, le=2)
        brands: list[str] = pydantic.Field(max_length=1)

    answer = lab.ask(parts, response_format=Seen, max_new_tokens=120)
    if answer.tokens[-1].stop:
        Seen.model_validate_json(answer.text)
    else:
        assert "cut at 120 tokens" in answer.notes[0]
    free = lab.ask(parts, response_format={"type": "json_object"}, max_new_tokens=60)
    if free.tokens[-1].stop:
        assert isinstance(json.loads(free.text), dict)
    else:  # a model that never wrote JSON may not come to an end; then what is cut is all that is wrong with it
        assert "cut at 60 tokens" in free.notes[0]
        assert isinstance(json.loads(closed(free.text)), dict)
    assert lab.ask(parts, response_format={"type": "text"}).text == "Microsoft."


@torch.no_grad()
def test_one_of_some_choices_with_a_probability_for_each(any_lab, parts):  # noqa: F811
    answer = any_lab.ask(parts, response_format=list(BRANDS))
    assert list(answer.choices) == list(BRANDS)
    assert sum(answer.choices.values()) == pytest.approx(1)
    assert answer.text == max(answer.choices, key=answer.choices.__getitem__)
    # As whole answers, each scored by itself from the beginning.
    replay, totals = answer.replay, []
    stops = torch.tensor(any_lab.family.generation_config(replay.options).eos_token_id)
    for choice in BRANDS:
        ids = any_lab.tokenizer(choice, add_special_tokens=False).input_ids
        logits = replay.decode(replay.followed(replay.embedded, ids))[0][replay.prompt_length - 1 :]
        logprobs = torch.log_softmax(logits, -1)
        said = logprobs[torch.arange(len(ids)), torch.tensor(ids)].sum()
        totals.append(float(said + logprobs[-1, stops.reshape(-1)].logsumexp(0)))
    np.testing.assert_allclose(list(answer.choices.values()), torch.tensor(totals).softmax(0), atol=1e-4)
    assert answer.tokens[-1].stop
    copy = vila_lab.engine.record.Record.from_bytes(answer.record.to_bytes())
    assert (copy.choices, copy.text) == (answer.choices, answer.text)


def test_a_choice_is_drawn_where_sampling_is_asked_for(lab, parts):
    drawn = {
        lab.ask(parts, response_format=list(BRANDS), do_sample=True, temperature=8.0, seed=k).text for k in range(12)
    }
    assert 1 < len(drawn) <= 4
    assert drawn <= set(BRANDS)


def test_choices_feel_edits(lab, parts):
    plain = lab.ask(parts, response_format=list(BRANDS))
    with lab.knockout("image_2 -> *"):
        blind = lab.ask(parts, response_format=list(BRANDS))
    assert blind.choices["Microsoft"] < plain.choices["Microsoft"] / 2


def test_forms_in_streams_chats_and_batches(lab, parts, demo):
    form = schema(SCHEMAS["enum"])
    stream = lab.stream(parts, response_format=form)
    assert "".join(token.text for token in stream) == stream.answer.text == '{"brand":"Microsoft"}'
    asked = [[demo / f"{mark}.png", "What is in image 1?"] for mark in "gman"]
    many = lab.ask_many(asked, response_format=form)
    assert [answer.text for answer in many] == [lab.ask(one, response_format=form).text for one in asked]
    assert {json.loads(answer.text)["brand"] for answer in many} <= set(BRANDS)
    chosen = lab.ask_many(asked, response_format=list(BRANDS))
    assert [answer.text for answer in chosen] == list(BRANDS)
    chat = lab.chat()
    chat.ask(parts, response_format=list(BRANDS))
    assert chat.ask("What is in image 1?").text == "Google."


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (schema({"type": "array", "uniqueItems": True}), "cannot be followed.*uniqueItems"),
        (schema({"type": "nonsense"}), "cannot be followed"),
        ({"type": "json_schema"}, "no schema"), ({"type": "xml"}, "the type 'xml'"), ("json", "not 'json'"), (3, "not 3"),
        ([], "at least one"), (["a", ""], "none of them empty"), (["a", 3], "are texts"), (["a", "a"], "one text twice"),
        (schema({"const": {1, 2}}), "no JSON"),
    ],
)  # fmt: skip
def test_what_cannot_be_followed_is_one_sentence(lab, parts, form, words):
    with pytest.raises(OptionError, match=words):
        lab.ask(parts, response_format=form)
    assert lab.ask(parts).text == "Microsoft."


def test_without_the_extra_its_name_is_said(lab, parts, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    vars(lab.engine).pop("guides", None)
    with pytest.raises(MissingExtra, match=r"vila-lab\[structured\]"):
        lab.ask(parts, response_format={"type": "json_object"})
    vars(lab.engine).pop("guides", None)
    assert lab.ask(parts, response_format=["Google", "Apple"]).text in ("Google", "Apple")


def test_a_form_is_plain_data():
    assert Form.of(None) is Form.of({"type": "text"}) is None
    assert Form.of(schema({"type": "string"})) == Form('{"type": "string"}')


# -- where an answer ends, and what is kept of each token --------------------------------------------------------------------


@pytest.mark.parametrize(("stop", "text"), [(".", "Microsoft"), (["x", "soft"], "Micro"), ("never", "Microsoft.")])
def test_an_answer_ends_before_a_stop_text(lab, parts, stop, text):
    answer = lab.ask(parts, stop=stop)
    assert answer.text == text
    assert any("ended before" in note for note in answer.notes) == (text != "Microsoft.")
    assert answer.tokens[-1].stop
    (many,) = lab.ask_many([parts], stop=stop)
    assert many.text == text
    for wrong in ("", ["a", ""], [3]):
        with pytest.raises(OptionError, match="stop"):
            lab.ask(parts, stop=wrong)


@pytest.mark.parametrize("count", [0, 1, 9])
def test_so_many_alternatives_are_kept(lab, parts, count):
    answer = lab.ask(parts, logprobs=count)
    assert [len(token.alternatives) for token in answer.tokens] == [count] * 3
    assert answer.text == "Microsoft."
    with pytest.raises(OptionError, match="logprobs"):
        lab.ask(parts, logprobs=-1)


def test_min_p_leaves_improbable_tokens_out(lab, parts):
    wild = {lab.ask(parts, do_sample=True, temperature=2.0, seed=k, max_new_tokens=1).text for k in range(15)}
    tame = {
        lab.ask(parts, do_sample=True, temperature=2.0, min_p=0.9, seed=k, max_new_tokens=1).text for k in range(15)
    }
    assert tame == {"Microsoft"}
    assert len(wild) > 1
    with pytest.raises(OptionError, match="min_p"):
        lab.ask(parts, do_sample=True, min_p=1.5)


# -- the command line --------------------------------------------------------------------------------------------------------


def test_the_command_line_takes_a_form(lab, demo, tmp_path, capsys):
    asked = ["infer", "--text", "What is in image 2?", "--media", str(demo / "g.png"), str(demo / "m.png")]
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(SCHEMAS["enum"]))
    assert main([*asked, "--json-schema", str(path)]) == 0
    assert json.loads(capsys.readouterr().out) == {"brand": "Microsoft"}
    assert main([*asked, "--json-mode"]) == 0
    said = lab.ask([demo / "g.png", demo / "m.png", asked[2]], response_format={"type": "json_object"})
    assert capsys.readouterr().out == f"{said.text}\n"
    path.write_text("{")
    for name, words in ((path, "no JSON"), (tmp_path / "none.json", "cannot be read")):
        assert main([*asked, "--json-schema", str(name)]) == 2
        assert words in capsys.readouterr().err


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_rows_of_logits_bound_what_a_form_may_take(golden_session, name, parts):
    """Media tokens lie beyond the logits in some checkpoints."""
    lab = golden_session(name)
    answer = lab.ask(parts, response_format=schema({"type": "string", "maxLength": 6}), max_new_tokens=60)
    assert max(token.id for token in answer.tokens) < lab.model.get_output_embeddings().weight.shape[0]
