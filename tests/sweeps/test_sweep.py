"""A sweep: every question once, whatever is killed; bad rows stay rows; what was kept opens without a model."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import vila_lab
from vila_lab import Answer, Session, demo_images
from vila_lab.errors import CaptureError, FileError, OptionError, SavedFileNotFound, SweepStopped
from vila_lab.sweeps import running
from vila_lab.sweeps.opened import Sweep
from vila_lab.sweeps.plan import weights_of
from vila_lab.sweeps.store import Store

pytest.importorskip("pyarrow")

FOLDER = demo_images()
Questions = Callable[[int], list[dict[str, Any]]]


@pytest.fixture
def calls(lab: Session, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many questions each call of `ask_many` was given."""
    counts: list[int] = []
    ask_many = Session.ask_many

    def counted(self: Session, prompts: Any, **options: Any) -> Any:
        counts.append(len(list(prompts)))
        return ask_many(self, prompts, **options)

    monkeypatch.setattr(Session, "ask_many", counted)
    return counts


def test_answers_are_those_of_ask_many(questions: Questions, lab: Session, tmp_path: Path) -> None:
    rows = questions(8)
    frame = vila_lab.sweep(rows, tmp_path, lab=lab, methods="ledger,leave_one_out", batch_size=3).frame()
    answers = lab.ask_many([[*row["images"], row["question"]] for row in rows])
    assert frame["id"].tolist() == [row["id"] for row in rows]
    assert frame["answer"].tolist() == [answer.text for answer in answers]
    assert frame["right"].all()
    for shares, scores, answer in zip(frame["ledger"], frame["leave_one_out"], answers, strict=True):
        said = answer.ledger()[["image_1", "image_2"]].to_numpy()[:-1].mean(0)
        assert shares == pytest.approx(said, abs=1e-5)
        assert scores == pytest.approx(answer.attribute("leave_one_out").total()[["image_1", "image_2"]], abs=1e-3)
    assert (frame["leave_one_out_picture"] == [row["rests_on"] for row in rows]).all()


def test_a_batch_is_one_call_and_one_part(questions: Questions, calls: list[int], lab: Session, tmp_path: Path) -> None:
    vila_lab.sweep(questions(7), tmp_path, lab=lab, batch_size=3)
    assert calls == [3, 3, 1]
    assert len(list(tmp_path.glob("part-*.parquet"))) == 3


def test_a_complete_sweep_asks_nothing_but_its_bad_rows(
    questions: Questions, calls: list[int], lab: Session, tmp_path: Path
) -> None:
    rows = questions(6)
    rows[2]["images"] = [str(tmp_path / "late.png")]
    first = vila_lab.sweep(rows, tmp_path / "out", lab=lab).frame()
    assert first["error"].notna().tolist() == [False, False, True, False, False, False]
    assert "picture 1 of 1: there is no file" in first["error"][2]
    assert first["answer"][2] is None
    calls.clear()
    again = vila_lab.sweep(rows, tmp_path / "out", lab=lab).frame()
    assert calls == []  # the picture is still not there, so there is nothing to ask
    assert len(again) == 6
    (tmp_path / "late.png").write_bytes((FOLDER / "g.png").read_bytes())
    mended = vila_lab.sweep(rows, tmp_path / "out", lab=lab).frame()
    assert calls == [1]
    assert len(mended) == 6
    assert mended["error"].isna().all()


@pytest.mark.parametrize("identity", [3, None])
def test_an_error_goes_when_its_row_is_mended_in_the_table(identity: int | None, lab: Session, tmp_path: Path) -> None:
    """Told by the row's id; without one the mended row is another question, and both are told."""
    row = {"id": identity, "images": ["nowhere.png"], "question": "What is in image 1?"}
    assert vila_lab.sweep([row], tmp_path, lab=lab).failed == 1
    mended = vila_lab.sweep([row | {"images": [str(FOLDER / "g.png")]}], tmp_path, lab=lab).frame()
    assert mended["error"].isna().sum() == 1
    assert mended["error"].notna().sum() == (identity is None)


def test_another_question_or_option_is_another_key(
    questions: Questions, calls: list[int], lab: Session, tmp_path: Path
) -> None:
    rows = questions(3)
    first = set(vila_lab.sweep(rows, tmp_path, lab=lab).frame()["key"])
    rows[1]["question"] += " "
    second = set(vila_lab.sweep(rows, tmp_path, lab=lab).frame()["key"])
    assert calls == [3, 1]
    assert first < second
    third = vila_lab.sweep(rows, tmp_path, lab=lab, max_new_tokens=1)
    assert calls == [3, 1, 3]
    assert third.frame().groupby("run").size().tolist() in ([4, 3], [3, 4])
    assert len(third.runs) == 2


def test_an_edit_that_acts_is_another_key(questions: Questions, calls: list[int], lab: Session, tmp_path: Path) -> None:
    rows = questions(1)
    vila_lab.sweep(rows, tmp_path, lab=lab)
    with lab.knockout("image_1 -> *"):
        edited = vila_lab.sweep(rows, tmp_path, lab=lab)
    assert calls == [1, 1]
    frame = edited.frame()
    assert frame["key"].is_unique
    assert sum(bool(edited[key].edits) for key in frame["key"]) == 1


def test_rows_may_have_other_columns_than_the_first(lab: Session, tmp_path: Path) -> None:
    g, m = (str(FOLDER / name) for name in ("g.png", "m.png"))
    rows = [
        {"image_1": g, "question": "What is in image 1?"},
        {"image_1": g, "image_2": m, "question": "What is in image 2?"},
    ]
    path = tmp_path / "q.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert vila_lab.sweep(path, tmp_path / "out", lab=lab).frame()["answer"].tolist() == ["Google.", "Microsoft."]


def test_what_is_no_session_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="session of this process"):
        vila_lab.sweep([{"question": "?"}], tmp_path, lab="embedded")  # type: ignore[arg-type]


def test_a_picture_that_changed_is_another_key(calls: list[int], lab: Session, tmp_path: Path) -> None:
    file = tmp_path / "p.png"
    row = {"id": 1, "images": [str(file)], "question": "What is in image 1?"}
    for mark in "gm":
        file.write_bytes((FOLDER / f"{mark}.png").read_bytes())
        sweep = vila_lab.sweep([row], tmp_path / "out", lab=lab)
    assert calls == [1, 1]
    assert sorted(sweep.frame()["answer"]) == ["Google.", "Microsoft."]


def test_shards_together_are_the_whole(questions: Questions, lab: Session, tmp_path: Path) -> None:
    rows = questions(7)
    for shard in ("1/3", "3/3", "2/3"):
        sweep = vila_lab.sweep(rows, tmp_path, lab=lab, shard=shard)
    assert sweep.frame()["id"].tolist() == [row["id"] for row in rows]


@pytest.mark.parametrize("shard", ["0/2", "3/2", "a/b", "1", (1,)])
def test_a_shard_that_cannot_be_is_refused(questions: Questions, lab: Session, tmp_path: Path, shard: Any) -> None:
    with pytest.raises(OptionError, match="shard"):
        vila_lab.sweep(questions(1), tmp_path, lab=lab, shard=shard)


def test_limit_takes_the_first(questions: Questions, lab: Session, tmp_path: Path) -> None:
    assert vila_lab.sweep(questions(5), tmp_path, lab=lab, limit=2).frame()["id"].tolist() == ["q0", "q1"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"methods": "leave_one_uot"}, "did you mean 'leave_one_out'"),
        ({"batch_size": 0}, "batch_size"),
        ({"conv_mod": "auto"}, "conv_mode"),
        ({"temperature": 0.5}, "do_sample"),
        ({"logprobs": -1}, "logprobs"),
        ({"background": "whit"}, "did you mean 'white'"),
        ({"columns": {"question": "qestion"}}, "did you mean 'question'"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_asked(
    questions: Questions, calls: list[int], lab: Session, tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(OptionError, match=said):
        vila_lab.sweep(questions(2), tmp_path, lab=lab, **options)
    assert calls == []
    assert not list(tmp_path.glob("part-*"))


def test_too_many_errors_stop_it(lab: Session, tmp_path: Path) -> None:
    rows = [{"id": k, "images": ["nowhere.png"], "question": "?"} for k in range(8)]
    with pytest.raises(SweepStopped, match="4 of 4 questions failed, more than max_errors=2") as stopped:
        vila_lab.sweep(rows, tmp_path, lab=lab, batch_size=2, max_errors=2)
    assert len(vila_lab.open_sweep(tmp_path).frame()) == 4
    assert stopped.value.sweep.frame()["run"].unique().tolist() == [stopped.value.sweep.run]


def test_what_each_row_may_have_wrong_stands_in_its_error(lab: Session, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    rows = [
        {"images": [str(tmp_path / "text.png")], "question": "?"},
        {"images": [], "question": ""},
        {"images": [str(FOLDER / "g.png")] * 200, "question": "What?"},
        {"images": [3], "question": "?"},
        {"images": [str(FOLDER / "g.png")], "question": "What is in image 1?"},
        {"images": ["http://127.0.0.1/a.png"], "question": "?"},
        {"images": ["http://127.0.0.1/a b"], "question": "What is in image 1?"},
        {"images": ["data:nothing"], "question": "What is in image 1?"},
    ]
    frame = vila_lab.sweep(rows, tmp_path / "out", lab=lab).frame()
    said = frame["error"].tolist()
    assert [bool(each) for each in said] == [True, True, True, True, False, True, True, True]
    assert all("\n" not in each for each in said if each)
    assert said[2].startswith("the prompt")
    assert "public internet" in said[5]


def test_what_a_model_raises_is_one_question_s_error(
    lab: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_many = Session.ask_many

    def failing(self: Session, prompts: Any, **options: Any) -> Any:
        if any("Microsoft" in prompt.text for prompt in prompts):
            raise RuntimeError("CUDA error:\n an illegal access")
        return ask_many(self, prompts, **options)

    monkeypatch.setattr(Session, "ask_many", failing)
    rows = [
        {"id": k, "images": [str(FOLDER / "g.png")], "question": said}
        for k, said in enumerate(("What is in image 1?", "Microsoft?"))
    ]
    frame = vila_lab.sweep(rows, tmp_path, lab=lab).frame()
    assert frame["error"].tolist() == [None, "RuntimeError: CUDA error: an illegal access"]


def test_a_method_that_fails_takes_nothing_with_it(
    questions: Questions, lab: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: Answer, **_: Any) -> Any:
        raise RuntimeError("CUDA out\nof memory")

    monkeypatch.setattr(Answer, "evidence", failing)
    sweep = vila_lab.sweep(questions(2), tmp_path, lab=lab, methods="evidence,leave_one_out")
    frame = sweep.frame()
    assert frame["error"].tolist() == ["evidence: RuntimeError: CUDA out of memory"] * 2
    assert frame["right"].all()
    assert (frame["leave_one_out_picture"] == frame["rests_on"].str[0]).all()
    assert sweep[frame["key"][0]].text == frame["answer"][0]
    monkeypatch.undo()
    mended = vila_lab.sweep(questions(2), tmp_path, lab=lab, methods="evidence,leave_one_out").frame()
    assert mended["error"].isna().all()
    assert len(mended) == 2


def test_words_alone_are_answered_with_nothing_to_share_out(lab: Session, tmp_path: Path) -> None:
    rows = [{"question": "Hello"}, {"images": [str(FOLDER / "g.png")], "question": "What is in image 1?"}]
    frame = vila_lab.sweep(rows, tmp_path, lab=lab, methods="ledger,evidence,leave_one_out").frame()
    assert frame["error"].isna().all()
    assert frame["answer"][0] == lab.ask("Hello").text
    assert frame["pictures"].tolist() == [0, 1]


def test_options_reach_every_question(lab: Session, tmp_path: Path) -> None:
    picture = Image.new("RGBA", (84, 84), (255, 0, 0, 0))
    picture.save(tmp_path / "clear.png")
    row = {"images": [str(tmp_path / "clear.png")], "question": "What is in image 1?"}
    asked = {"stop": ".", "background": "white", "logprobs": 2, "conv_mode": "auto"}
    sweep = vila_lab.sweep([row], tmp_path / "out", lab=lab, **asked)
    answer = sweep[next(iter(sweep))]
    assert "." not in answer.text
    assert answer.images[0].getpixel((0, 0)) == (255, 255, 255)
    assert len(answer.tokens[0].alternatives) == 2
    assert sweep.runs[0]["plan"]["options"] == asked


def test_a_question_that_two_asked_at_once_is_there_once(
    questions: Questions, lab: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers that draw other answers: the row, its tokens, its maps and what opens are of one of them."""
    rows = questions(3)
    for shape in (2, 3):  # as if the other had not written yet
        with monkeypatch.context() as patch:
            patch.setattr(running, "answered", lambda store: set())
            vila_lab.sweep(
                rows, tmp_path, lab=lab, batch_size=shape, do_sample=True, temperature=50.0, max_new_tokens=6
            )
    sweep = vila_lab.open_sweep(tmp_path)
    frame, tokens = sweep.frame(), sweep.tokens()
    assert len(frame) == 3
    for key in sweep:
        answer = sweep[key]
        assert frame.set_index("key")["answer"][key] == answer.text
        assert tokens[(tokens["key"] == key) & (tokens["picture"] == 1)]["text"].tolist() == [
            token.text for token in answer.tokens
        ]
        assert sweep.maps()[key][0].to_numpy() == pytest.approx(answer.heatmap(0), abs=1e-6)


# ---- what was kept ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(questions: Questions, lab: Session, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    folder = tmp_path_factory.mktemp("sweep")
    vila_lab.sweep(questions(6), folder, lab=lab, methods=["ledger", "leave_one_out"], batch_size=4)
    return vila_lab.open_sweep(folder)


def test_an_answer_opens_without_a_model_and_asks_again_with_one(kept: Sweep, lab: Session) -> None:
    frame = kept.frame()
    answer = kept[frame["key"][1]]
    assert answer.text == frame["answer"][1]
    assert "text/html" in answer._repr_mimebundle_()
    with pytest.raises(CaptureError):
        answer.attribute("shapley")
    assert answer.bind(lab).attribute("leave_one_out").total()["image_1"] == pytest.approx(
        frame["leave_one_out"][1][0], abs=1e-3
    )
    assert kept.rerun(frame["key"][1], lab).text == answer.text
    assert kept[frame["key"][1][:12]].text == answer.text


def test_maps_are_those_of_the_answers(kept: Sweep) -> None:
    maps = kept.maps()
    assert len(maps) == 6
    key = next(iter(maps))
    for k, each in enumerate(maps[key]):
        assert each.to_numpy() == pytest.approx(kept[key].heatmap(k), abs=1e-6)
    with pytest.raises(OptionError, match="no maps of 'shapley'"):
        kept.maps("shapley")


def test_tokens_are_a_row_each_for_every_picture(kept: Sweep) -> None:
    tokens, frame = kept.tokens(), kept.frame()
    assert len(tokens) == 2 * frame["n_tokens"].sum()
    one = tokens[(tokens["key"] == frame["key"][0]) & (tokens["picture"] == 1)]
    assert one["ledger"].to_numpy() == pytest.approx(kept[frame["key"][0]].ledger()["image_1"].to_numpy(), abs=1e-6)
    assert one["leave_one_out"].sum() == pytest.approx(frame["leave_one_out"][0][0], abs=1e-4)


@pytest.mark.parametrize("key", ["", "no such key", 3])
def test_a_key_that_is_not_there_is_refused(kept: Sweep, key: Any) -> None:
    with pytest.raises(OptionError, match="key"):
        kept[key]


def test_without_records_everything_but_the_answers_is_there(
    questions: Questions, lab: Session, tmp_path: Path
) -> None:
    sweep = vila_lab.sweep(questions(2), tmp_path, lab=lab, records=False)
    assert len(sweep.maps()) == 2
    with pytest.raises(CaptureError, match="records=False"):
        sweep[sweep.frame()["key"][0]]


def test_without_originals_a_picture_is_as_fine_as_the_model_saw_it(lab: Session, tmp_path: Path) -> None:
    Image.effect_noise((1200, 900), 80).convert("RGB").save(tmp_path / "large.png")
    row = {"images": [str(tmp_path / "large.png")], "question": "What is in image 1?"}
    sizes = []
    for originals in (True, False):
        out = tmp_path / f"out {originals}"
        sweep = vila_lab.sweep([row], out, lab=lab, originals=originals)
        sizes.append(sum(file.stat().st_size for file in out.glob("*.safetensors")))
        assert sweep[next(iter(sweep))].text == sweep.frame()["answer"][0]
    assert sizes[1] < sizes[0] / 3


def test_ids_stay_what_they_were(lab: Session, tmp_path: Path) -> None:
    rows = [
        {"id": name, "images": [str(FOLDER / "g.png")], "question": "What is in image 1?"}
        for name in (7, "007", 12345678901)
    ]
    assert vila_lab.sweep(rows, tmp_path, lab=lab).frame()["id"].tolist() == [7, "007", 12345678901]


def test_a_place_of_fsspec_is_as_good_as_a_folder(questions: Questions, lab: Session) -> None:
    place = f"memory://sweep {os.getpid()}"
    made = vila_lab.sweep(questions(3), place, lab=lab, batch_size=2)
    opened = vila_lab.open_sweep(place)
    assert opened.frame()["answer"].tolist() == made.frame()["answer"].tolist()
    assert opened[opened.frame()["key"][0]].text == opened.frame()["answer"][0]
    assert len(opened.maps()) == 3


def test_a_folder_that_is_not_there_is_no_sweep(tmp_path: Path) -> None:
    with pytest.raises(SavedFileNotFound, match="with a sweep"):
        vila_lab.open_sweep(tmp_path / "nowhere")


@pytest.mark.parametrize("kind", ["parquet", "safetensors"])
def test_a_damaged_file_is_named_and_asked_again_once_it_is_gone(
    questions: Questions, calls: list[int], lab: Session, tmp_path: Path, kind: str
) -> None:
    rows = questions(4)
    key = next(iter(vila_lab.sweep(rows, tmp_path, lab=lab, batch_size=2)))
    store = Store(tmp_path)
    part = next(name for name in store.names() if key in store.table("part", ["key"], [name])["key"].to_pylist())
    damaged = tmp_path / f"part-{part}.{kind}"
    damaged.write_bytes(damaged.read_bytes()[:-7])
    sweep = vila_lab.open_sweep(tmp_path)
    with pytest.raises(FileError, match=f"{damaged.name}.*is damaged.*delete 'part-{part}.parquet' and run"):
        sweep[key]
    (tmp_path / f"part-{part}.parquet").unlink()
    calls.clear()
    assert vila_lab.sweep(rows, tmp_path, lab=lab, batch_size=2)[key].text
    assert calls == [2]


def test_an_empty_table_is_an_empty_sweep(lab: Session, tmp_path: Path) -> None:
    sweep = vila_lab.sweep([], tmp_path, lab=lab)
    assert len(sweep) == 0
    assert sweep.frame().empty
    assert sweep.tokens().empty


def test_weights_that_differ_in_one_number_are_others(lab: Session) -> None:
    import torch

    model = torch.nn.Linear(3, 3)
    before = weights_of(model)
    with torch.no_grad():
        model.weight[0, 0] += 1
    assert weights_of(model) != before
    assert weights_of(lab.family.model) == weights_of(lab.family.model)
    assert weights_of(model.to("meta")) == weights_of(torch.nn.Linear(3, 3, device="meta"))


# ---- stopped at any time ---------------------------------------------------------------------------------------------

DRIVER = """
import json, sys, vila_lab
vila_lab.sweep(sys.argv[1], sys.argv[2], methods="ledger", batch_size=2)
"""


@pytest.mark.parametrize("seed", range(3))
def test_a_killed_sweep_goes_on_where_it_ended(
    questions: Questions, calls: list[int], lab: Session, tmp_path: Path, seed: int
) -> None:
    """kill -9 at a random moment: nothing is lost, nothing is there twice, at most a batch is asked twice."""
    rows = questions(40)
    table, out = tmp_path / "q.jsonl", tmp_path / "out"
    table.write_text("\n".join(map(json.dumps, rows)))
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(table), str(out)], env=os.environ | {"TQDM_DISABLE": "1"}
    )
    wanted = random.Random(seed).randint(1, 6)
    while len(list(out.glob("part-*.parquet"))) < wanted and driver.poll() is None:
        time.sleep(0.002)
    time.sleep(random.Random(seed).random() * 0.1)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    before = len(vila_lab.open_sweep(out).frame())
    sweep = vila_lab.sweep(table, out, lab=lab, batch_size=2)
    assert sum(calls) == 40 - before
    assert sorted(sweep.frame()["id"]) == sorted(row["id"] for row in rows)
    assert sweep.frame()["key"].is_unique
    assert sweep.frame()["right"].all()


def test_an_interrupt_keeps_the_batches_before_it(
    questions: Questions, lab: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Store.write
    written: list[str] = []

    def interrupted(self: Store, name: str, *rest: Any) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        write(self, name, *rest)
        written.append(name)

    monkeypatch.setattr(Store, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        vila_lab.sweep(questions(9), tmp_path, lab=lab, batch_size=2)
    monkeypatch.undo()
    assert len(vila_lab.open_sweep(tmp_path).frame()) == 4
    assert len(vila_lab.sweep(questions(9), tmp_path, lab=lab, batch_size=2).frame()) == 9
