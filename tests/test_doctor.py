"""The doctor says what there is, and what to do where something is missing."""

from __future__ import annotations

import pytest
import torch
import transformers

from vila_lab import doctor
from vila_lab.cli import main


def found(check):
    return {each.name: each for each in check()}


def test_everything_is_examined_and_nothing_here_is_a_fault(capsys):
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    lines = {line.split()[0]: line for line in said.splitlines() if not line.startswith(" ")}
    assert {"vila_lab", "torch", "transformers", "device", "model", "fonts", "widgets", "weights", "tapes"} <= set(
        lines
    )
    assert transformers.__version__ in lines["transformers"]
    assert ", verified" in lines["transformers"]
    assert torch.__version__ in lines["torch"]
    assert "Google" in lines["model"]
    assert max(map(len, said.splitlines())) <= 120


def test_a_version_outside_the_verified_range_is_a_fault_with_the_way_back(monkeypatch):
    monkeypatch.setattr(doctor, "installed", lambda name: "4.2.0" if name == "transformers" else "99.0")
    line = found(doctor.needed)["transformers"]
    assert line.is_fault
    assert "4.2.0, not verified" in line.state
    assert "pip install 'transformers<" in line.remedy


def test_a_missing_extra_is_no_fault_and_its_pip_line_is_there(monkeypatch):
    monkeypatch.setattr(doctor, "installed", lambda name: None)
    line = found(doctor.widgets)["widgets"]
    assert not line.is_fault
    assert "anywidget not installed" in line.state
    assert line.remedy == 'pip install "vila-lab[lab]"'
    assert all("not installed" in each.state and each.remedy for each in doctor.extras())


def test_a_version_before_its_release_is_as_good_in_an_extra_as_elsewhere(monkeypatch):
    monkeypatch.setattr(doctor, "installed", lambda name: "99.0rc1")
    assert "99.0rc1, verified" in found(doctor.needed)["torch"].state
    assert not found(doctor.widgets)["widgets"].remedy


def test_without_a_chinese_font_it_names_the_package(monkeypatch):
    monkeypatch.setattr("vila_lab.view.lettering.font_family", lambda: ("DejaVu Sans",))
    (line,) = doctor.fonts()
    assert "fonts-noto-cjk" in line.remedy


def test_a_full_disk_is_said(monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda place: type("Usage", (), {"free": 5_000_000_000})())
    lines = found(doctor.disk)
    assert "HF_HOME" in lines["weights"].remedy
    assert lines["tapes"].remedy == ""


def test_a_gpu_is_named_and_a_driver_without_a_cuda_torch_too(monkeypatch):
    card = type("Card", (), {"name": "A card", "total_memory": 80e9})()
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "get_device_properties", lambda number: card)
        assert [each.state for each in doctor.device()] == ["cuda:0: A card, 80 GB"]
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "torch with CUDA" in found(doctor.device)["device"].remedy


@pytest.mark.parametrize("wrong", ["wrong answer", "error"])
def test_a_model_that_fails_is_a_fault(monkeypatch, capsys, wrong):
    class Lab:
        def ask(self, prompt):
            if wrong == "error":
                raise RuntimeError("an operator\nis gone")
            return type("Answer", (), {"text": "A cat."})()

    monkeypatch.setattr("vila_lab.resident.load", Lab)
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert ("RuntimeError: an operator is gone" in said) == (wrong == "error")
    assert "to mend it:" in said
