"""The main jobs in the environment that runs this, in half a minute: import, demo, an edit, an attribution. Knows no pytest.

    python .ci/probe.py

Ends with status 1 and a traceback when one fails. A library's deprecation warning is a failure too: users would see it.
"""

import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
QUESTION = "What is in image 2?"


def quick_import() -> None:
    """``import vila_lab`` pulls in neither torch nor transformers."""
    code = "import sys, vila_lab; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def demo() -> None:
    """The demo answers, writes its page, and prints no warning."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "vila_lab.cli", "demo"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "英伟达" in done.stdout, done.stdout
        assert "Warning" not in done.stderr, done.stderr
        assert (Path(folder) / "vila-lab-demo.html").stat().st_size > 100_000


def answer() -> None:
    """A question about two pictures is answered from the right one, and its ledger adds up."""
    asked = _lab().ask(_parts(), max_new_tokens=6)
    assert asked.text == "Microsoft.", asked.text
    assert abs(float(asked.ledger().to_numpy()[0].sum()) - 1) < 1e-3


def edit() -> None:
    """A cut changes what is said, and is gone afterwards."""
    lab = _lab()
    before = lab.ask(_parts(), max_new_tokens=6)
    with lab.knockout("image_2 -> *"):
        cut = lab.ask(_parts(), max_new_tokens=6)
    after = lab.ask(_parts(), max_new_tokens=6)
    assert cut.text != before.text, cut.text
    assert [t.logprob for t in after.tokens] == [t.logprob for t in before.tokens]


def edit_of_a_plain_model() -> None:
    """An edit reaches the rows that are written after the prompt: in one version of transformers none did."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from vila_lab.hooks.editing import Editing
    from vila_lab.hooks.edits import EdgeBias
    from vila_lab.hooks.spans import Span

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=1.0,
    )
    model, ids = Qwen2ForCausalLM(config).eval(), torch.arange(5)[None]
    options = {"max_new_tokens": 4, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    plain = torch.stack(model.generate(ids, pad_token_id=0, **options).logits)
    with Editing(model, [EdgeBias(Span.of([1]), Span(onward=5), {0: None, 1: None})]):
        edited = torch.stack(model.generate(ids, pad_token_id=0, **options).logits)
    assert torch.equal(plain[0], edited[0])
    assert not torch.equal(plain[1:], edited[1:])


def attribution() -> None:
    """Leaving the named picture out costs the most."""
    shares = _lab().ask(_parts(), max_new_tokens=6).attribute("leave_one_out").per_image().to_numpy()
    assert shares[0].argmax() == 1, shares


def _lab():
    import vila_lab

    return vila_lab.load()


def _parts():
    import vila_lab

    folder = vila_lab.demo_images()
    return [folder / "g.png", folder / "m.png", QUESTION]


JOBS: tuple[Callable[[], None], ...] = (quick_import, demo, answer, edit, edit_of_a_plain_model, attribution)

if __name__ == "__main__":
    warnings.simplefilter("error", FutureWarning)  # what Python shows to everybody
    for job in JOBS:
        job()
        print("ok", job.__name__.replace("_", " "), flush=True)
