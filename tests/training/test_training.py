"""Training: batches are NVILA's own prompts, a few steps learn, a stopped run resumes, and what is written loads."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import SiglipVisionModel

from training.evaluate import Row, on_card, table
from training.export import main as export
from training.pool import pack
from training.questions import ask
from training.sets import EASY, FULL, PRACTICE, TASK_WEIGHTS, SetSampler
from training.tokenizer import build_tokenizer
from training.train_language import Plan, exact
from training.train_language import train as train_language
from training.train_vision import TOWER, features, normalise
from training.train_vision import train as train_vision
from vila_lab.prompt import Prompt
from vila_lab.tiny import weights_folder
from vila_lab.tiny.names import COMPANIES, OBJECTS
from vila_lab.tiny.world import draw_scene

NAMES = [*(t.name for t in OBJECTS), *(t.name for t in COMPANIES)]


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(0)
    singles = [draw_scene(rng, [name], size=(96, 96)) for name in NAMES * 2]
    pairs = [
        draw_scene(rng, list(rng.choice(NAMES[:52], count, replace=False)), size=(96, 96))
        for count in (2, 3, 4)
        for _ in range(15)
    ]
    return singles + pairs


@pytest.fixture(scope="module")
def sampler(scenes):
    return SetSampler(pack(scenes), build_tokenizer(), np.random.default_rng(1), range(len(scenes)))


@pytest.mark.parametrize("style", ["plain", "en", "zh"])
def test_a_branch_is_exactly_the_processors_prompt(lab, sampler, scenes, style):
    label = {"plain": "", "en": "Image {}: ", "zh": "图像{}:"}[style]
    parts = []
    for k in range(3):
        parts += [label.format(k + 1)] * bool(label) + [scenes[k].image]
    prepared = lab.family.prepare(Prompt.of([*parts, "What is in image 2?"]))
    image = lab.family.processor.image_token_id
    expected = [-1 if i == image else i for i in prepared.inputs["input_ids"][0].tolist()]
    mine = [*sampler.prefix(3, style), *sampler.encode("What is in image 2?<|im_end|>\n<|im_start|>assistant\n")]
    assert mine == expected


@pytest.mark.parametrize("mixture", [EASY, FULL], ids=["easy", "full"])
def test_a_row_sees_the_pictures_and_its_own_branch_only(sampler, mixture):
    batch = sampler.batch(2, mixture)
    visual = set(batch.visual.tolist())
    for row in range(2):
        for turn, first, last in batch.turns[row]:
            assert (batch.targets[row, first:last] >= 0).all()
            seen = torch.nonzero(batch.mask[row, 0, first]).flatten().tolist()
            assert visual <= set(seen)
            assert max(seen) == first
            positions = batch.positions[row, seen]
            assert positions.tolist() == list(range(len(seen))), turn  # as if the branch were a prompt of its own


def test_targets_spell_the_answers(sampler):
    batch = sampler.batch(3, FULL)
    tokenizer = build_tokenizer()
    for row, turns in enumerate(batch.turns):
        for turn, first, last in turns:
            assert tokenizer.decode(batch.targets[row, first:last].tolist()) == turn.answer + "<|im_end|>"


def test_exactness_counts_whole_answers(sampler):
    batch = sampler.batch(2, EASY)
    targets = batch.targets[batch.targets >= 0]
    perfect = torch.nn.functional.one_hot(targets, 2000).float()
    assert all(all(right) for right in exact(batch, perfect).values())
    perfect[0] = 0
    perfect[0, (targets[0] + 1) % 2000] = 1
    assert sum(not r for right in exact(batch, perfect).values() for r in right) == 1


@pytest.mark.parametrize("steps", [40, 11_000])
def test_the_rate_comes_to_nothing_before_what_is_weak_is_practised(steps):
    plan = Plan.of(steps)
    rates = [plan.rate(step) for step in range(steps)]
    assert max(rates) == pytest.approx(1)
    assert min(rates) >= 0
    assert plan.rate(plan.practice) == 0
    assert rates[-1] < 0.03
    assert max(rates[plan.practice :]) < 0.2
    assert plan.aid(0) == 1
    assert plan.aid(plan.practice - 1) == 0
    assert plan.mixture(plan.practice - 1).tasks is TASK_WEIGHTS
    assert plan.mixture(plan.practice).tasks is PRACTICE


@pytest.mark.parametrize("weights", [TASK_WEIGHTS, PRACTICE], ids=["usual", "practice"])
def test_every_kind_of_set_can_be_asked_every_task_that_has_a_weight(sampler, weights):
    for kind, tasks in weights.items():
        sets = [(made, sampler.contents(rows)) for made, rows in (sampler.compose(5, FULL) for _ in range(60))]
        mine = [contents for made, contents in sets if made == kind] or [sampler.contents(sampler.compose(5, EASY)[1])]
        for task in tasks:
            assert any(ask(task, contents, sampler.rng, "en") for contents in mine for _ in range(20)), (kind, task)


def test_features_are_the_selected_hidden_state():
    tower = SiglipVisionModel(TOWER).eval()
    pixels = normalise(np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), dtype=np.uint8))
    with torch.no_grad():
        expected = tower(pixels, output_hidden_states=True).hidden_states[-2]
        assert torch.equal(features(tower, pixels), expected)


@pytest.mark.slow
def test_both_stages_learn_resume_and_load(scenes, tmp_path, monkeypatch):
    import vila_lab
    from training import train_language as language
    from training import train_vision as vision

    pool = pack(scenes)
    monkeypatch.setattr(vision, "HELD_OUT", 20)
    monkeypatch.setattr(language, "HELD_OUT", 0)
    train_vision(pool, tmp_path / "vision", steps=60, batch=8, rate=1e-3, seed=0, save_every=30)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "vision" / "log.jsonl").read_text().splitlines()]
    assert losses[-1] < 2.5  # 67 classes: 4.2 at the start

    tower = SiglipVisionModel.from_pretrained(tmp_path / "vision" / "tower")
    options = {"steps": 40, "batch": 2, "rate": 1e-3, "seed": 0, "save_every": 20}
    with pytest.raises(KeyboardInterrupt):
        train_language(pool, tower, tmp_path / "language", **options, on_step=_interrupt_at(25))
    train_language(pool, tower, tmp_path / "language", **options)
    records = [json.loads(line) for line in (tmp_path / "language" / "log.jsonl").read_text().splitlines()]
    steps = [record["step"] for record in records if "answer" in record]
    assert steps == [20, 40]
    answers = [record["answer"] for record in records if "answer" in record]
    assert answers[-1] < answers[0]

    monkeypatch.setattr("sys.argv", ["export", *_export_options(tmp_path)])
    export()
    lab = vila_lab.load(tmp_path / "weights")
    assert lab.ask([scenes[0].image, "What is in image 1?"], max_new_tokens=3).tokens
    lab.unload()


def _interrupt_at(step):
    def stop(found):
        if found == step:
            raise KeyboardInterrupt

    return stop


def _export_options(place):
    return [
        "--vision",
        str(place / "vision" / "tower"),
        "--language",
        str(place / "language" / "state.pt"),
        "--out",
        str(place / "weights"),
    ]


def test_the_shipped_files_are_small_and_in_three_folders():
    folder = weights_folder()
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"llm", "vision_tower", "mm_projector"}
    total = sum(
        path.stat().st_size for path in folder.parent.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    )
    assert total < 20e6
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "llava_llama"
    assert config["image_aspect_ratio"] == "resize"


def test_a_cards_tables_are_replaced_and_nothing_else():
    card = "# A\n<!-- six -->\nold\n<!-- end -->\nb\n<!-- rings -->\n<!-- end -->\n"
    written = on_card(card, {"six": "new", "rings": "other"})
    assert written == "# A\n<!-- six -->\nnew\n<!-- end -->\nb\n<!-- rings -->\nother\n<!-- end -->\n"
    assert on_card(written, {"six": "new", "rings": "other"}) == written
    with pytest.raises(ValueError, match="no place for the table of 'checks'"):
        on_card(card, {"checks": "new"})


def test_the_cards_say_what_was_evaluated():
    folder = weights_folder().parent
    found = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    rows = {
        suite: [Row(**{k: v for k, v in row.items() if k != "share"}) for row in rows] for suite, rows in found.items()
    }
    card = (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert on_card(card, {suite: table(each) for suite, each in rows.items()}) == card
