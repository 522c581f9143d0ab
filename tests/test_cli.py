"""The command line: vila-infer's words, one line per error, nothing but the answer on stdout."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from tests.conftest import GOLDENS
from vila_lab.cli import main

RESIZE = str(GOLDENS / "checkpoints" / "nvila-resize")
A, B = (str(GOLDENS / "images" / name) for name in ("a_land.png", "b_port.png"))


def test_infer_prints_the_answer_alone(capsys):
    assert main(["infer", "-m", RESIZE, "-c", "auto", "--text", "Hello", "--media", A, B, "--max-new-tokens", "4"]) == 0
    out, err = capsys.readouterr()
    assert len(out.strip().splitlines()) == 1
    assert "loading" in err


def test_json_holds_answer_tokens_and_ledger(capsys):
    main(["infer", "-m", RESIZE, "--text", "Hello", "--media", A, B, "--max-new-tokens", "4", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert len(found["tokens"]) == len(found["ledger"]["rows"]) == 4
    assert found["ledger"]["columns"] == ["image_1", "image_2", "prompt", "answer", "sink"]
    assert all(sum(row) == pytest.approx(1, abs=1e-4) for row in found["ledger"]["rows"])


def test_html_writes_a_page_and_says_where(capsys, tmp_path):
    page = tmp_path / "page.html"
    main(["infer", "-m", RESIZE, "--text", "Hello", "--media", A, "--max-new-tokens", "2", "--html", str(page)])
    assert str(page) in capsys.readouterr().err
    assert "<html" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["infer"], "nothing to ask"),
        (["infer", "--text", "Hello", "--media", "missing.png"], "picture 1 of 1.*missing.png"),
        (["infer", "--text", "Hello", "--media", "clip.mp4"], "video 1 of 1: there is no file 'clip.mp4'"),
        (["infer", "--text", "Hello", "-m", "./no/such/folder"], "no/such/folder"),
        (["infer", "--text", "Hello", "-m", RESIZE, "-c", "chatty"], "chatty"),
        (["infer", "--text", "Hello", "-m", RESIZE, "--device", "abacus"], "abacus"),
        (["infer", "--text", "Hello", "-m", RESIZE, "--dtype", "float3"], "float3"),
    ],
    ids=["nothing", "missing", "video", "model", "mode", "device", "dtype"],
)
def test_an_error_is_one_line_and_status_2(capsys, arguments, message):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("vila-lab: ")]
    assert out == ""
    assert len(lines) == 1
    assert re.search(message, lines[0])
    assert "Traceback" not in err


@pytest.mark.parametrize("arguments", [["--help"], ["infer", "--help"], ["--version"]])
def test_help_is_quick_and_loads_no_torch(arguments):
    code = f"import sys; from vila_lab.cli import main\ntry: main({arguments})\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["vila-lab", "not"], {"notebooks"}),
        (["vila-lab", "infer", "--json-s"], {"--json-schema"}),
        (["vila-lab", "completion", ""], {"bash", "zsh", "tcsh"}),
        (["vila-lab", "infer", "--media", "a.p"], {"a.png"}),
        (["vila-lab", "notebooks", "a"], {"a_folder"}),
    ],
)
def test_a_shell_completes_commands_options_and_files(tmp_path, capsys, typed, offered):
    (tmp_path / "a.png").touch()
    (tmp_path / "a_folder").mkdir()
    assert main(["completion", "bash"]) == 0
    words = " ".join(f"'{word}'" for word in typed)
    asked = f"COMP_WORDS=({words}); COMP_CWORD={len(typed) - 1}; _shtab_vila_lab; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    script = capsys.readouterr().out + asked
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=True)
    assert set(done.stdout.split()) == offered


def test_completion_without_its_package_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert 'pip install "vila-lab[completion]"' in capsys.readouterr().err
