"""What is said to be proven was proven, and what cannot be is not written down."""

from __future__ import annotations

import json

import pytest

import vila_lab
from tests.families.checkpoints import NAMES, folder, parts, session, variant
from vila_lab.families import FAMILIES, verified, verify
from vila_lab.families.geometry import even


def test_the_table_names_every_family_and_what_was_proven():
    table = vila_lab.families()
    assert list(table.index) == list(FAMILIES)
    assert not table[list(verify.LIMITS)].isna().any(axis=None)
    for what, limit in verify.LIMITS.items():
        assert (table[what] <= (9 if what == "changed rows miss by" else limit)).all()
    assert table["date"].str.fullmatch(r"\d{4}-\d\d-\d\d").all()


def test_the_package_of_families_is_still_a_package():
    assert vila_lab.families.verified is verified
    assert "families" in dir(vila_lab)


@pytest.mark.parametrize("name", ["qwen3_vl", "gemma3", "llava_next"])
def test_a_family_is_proven_again(name):
    kind, entry = verify.verify(folder(name))
    assert kind == name
    assert entry["model_class"] == verified.read()[name]["model_class"]
    assert set(entry["proven"]) == set(verify.LIMITS)


@pytest.mark.parametrize(
    ("name", "kind"), [("llava_siglip", "llava"), ("llava_padded", "llava"), ("internvl_qwen3", "internvl")]
)
def test_parts_of_another_kind_are_proven_too(name, kind):
    """LLaVA-NeXT-Interleave, the first LLaVA's processor, InternVL 3.5."""
    assert verify.verify(variant(name))[0] == kind


def test_a_wrong_rule_is_not_proven(monkeypatch, tmp_path):
    """Transposed boxes have the right number, and lie elsewhere."""
    family = type(session("qwen2_vl").family)
    rule = family.rows

    def transposed(seen):
        rows = rule(seen)
        right = len(set(rows.box[:, 0]))
        return even(right, len(rows) // right, seen.whole)

    monkeypatch.setattr(family, "rows", transposed)
    monkeypatch.setattr(verify, "__file__", str(tmp_path / "verify.py"))
    with pytest.raises(verify.NotProven, match="changed rows miss by"):
        verify.verify(folder("qwen2_vl"))
    assert verify.main([str(folder("qwen2_vl"))]) == 1
    assert not list(tmp_path.iterdir())


def test_what_was_proven_is_written_beside_what_was_proven_before(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(verify, "__file__", str(tmp_path / "verify.py"))
    assert verify.main([str(folder("internvl"))]) == 0
    written = json.loads((tmp_path / "verified.json").read_text())
    assert written.keys() == verified.read().keys()
    assert written["internvl"]["checkpoint"] == str(folder("internvl"))
    assert capsys.readouterr().out.startswith("internvl: own forward ")


def test_nothing_to_verify_is_said(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        verify.main([])
    assert "name the checkpoints" in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_another_minor_version_of_transformers_is_one_note(name, monkeypatch):
    proven = verified.read()[name]["transformers"]
    monkeypatch.setattr(verified, "installed", lambda package: proven)
    assert verified.note_of(name) is None
    monkeypatch.setattr(verified, "installed", lambda package: "4.9.9")
    assert verified.note_of(name).startswith(f"{name} was verified with transformers {proven}, and 4.9.9 is installed")


def test_the_note_stands_on_answers(monkeypatch):
    lab = session("qwen2_vl")
    monkeypatch.setattr(lab.family, "notes", ("not proven here",))
    assert "not proven here" in lab.ask(parts(1), max_new_tokens=1).notes
