"""Two hundred seeded random programs of hooks, edits, failures, interrupts and unloading leave nothing behind."""

from __future__ import annotations

import gc
import random
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.edits.conftest import said, state_of
from vila_lab.answer import Answer
from vila_lab.errors import VilaLabError
from vila_lab.hooks.call import ACTING
from vila_lab.hooks.sites import SHADOW_OF
from vila_lab.session import Session
from vila_lab.upstream import attention_name

PROGRAMS = 200
WARM = 80  # programs after which memory is measured the first time: caches of torch and transformers are filled by then
OPTIONS: dict[str, Any] = {"max_new_tokens": 2}

ILL_TIMED = ("raise", "interrupt", "exit", "memory", "return", "clear", "remove", "add", "unload")


class Planted(Exception):
    """What the programs' own code raises."""


ERRORS = {"raise": Planted, "interrupt": KeyboardInterrupt, "exit": SystemExit, "memory": torch.OutOfMemoryError}


def register(rng: random.Random, session: Session, donor: Answer) -> Any:
    """A random hook or edit; some are refused at once, some only when asked."""
    layers: Any = rng.choice([None, None, 0, [1, 4], -1])
    heads: Any = rng.choice([None, None, 0, [1, 3]])
    source = rng.choice(["image_1", "images", "question", "template", "image_2"])
    reader = rng.choice(["answer", "answer", "*", "question"])
    rows: Any = rng.choice(["all", "answer", "image_1", [20, 40]])
    kinds: list[Callable[[], Any]] = [
        lambda: session.knockout(f"{source} -> {reader}", layers, heads),
        lambda: session.steer(source, rng.choice([3.0, -2.0, 0.0]), reader=reader, layers=layers),
        lambda: session.scale_heads(heads, rng.choice([0.5, 1.0]), layers=layers, rows=rows),
        lambda: session.ablate_heads(heads, rng.choice(["zero", "mean"]), layers=layers, rows=rows),
        lambda: session.patch(donor, rng.choice(["image_1", "all"]), layers, state=rng.choice(["residual", "mlp"])),
        lambda: session.on_hidden(lambda event: None, layers, rows),
        lambda: session.on_attention(lambda event: None, layers, heads, rows, rng.choice(["all", source])),
    ]
    return rng.choice(kinds)()


def misbehaving(rng: random.Random, session: Session) -> Callable[[Any], Any]:
    """A hook that does something ill-timed at a random call, on the prompt or on the answer."""
    left, act = [rng.randrange(1, 12)], rng.choice(ILL_TIMED)

    def hook(event: Any) -> Any:
        left[0] -= 1
        if left[0]:
            return None
        if act in ERRORS:
            raise ERRORS[act]("planted")
        if act == "clear":
            session.clear_edits()
        elif act == "remove":
            session.edits[0].remove()
        elif act == "add":
            session.knockout("image_1 -> answer")
        elif act == "unload":
            session.unload()
        return act if act == "return" else None

    return hook


def run(seed: int, session: Session, question: list[Any], donor: Answer) -> str:
    """One program; how it ended."""
    rng = random.Random(seed)
    try:
        with ExitStack() as stack:
            for _ in range(rng.randrange(1, 4)):
                stack.enter_context(register(rng, session, donor))
                if rng.random() < 0.2:
                    session.ask(question, **OPTIONS)
            if rng.random() < 0.6:
                hook = rng.choice([session.on_attention, session.on_hidden])
                stack.enter_context(hook(misbehaving(rng, session), rng.choice([None, 2])))
            session.ask(question, **OPTIONS)
            if rng.random() < 0.3:
                raise Planted("between questions")
            if rng.random() < 0.3:
                register(rng, session, donor)  # and never removed
        session.clear_edits()
    except tuple(ERRORS.values()) as error:
        return type(error).__name__
    except VilaLabError as error:
        return "unloaded" if "unloaded" in str(error) else type(error).__name__
    return "ended"


def tensor_bytes() -> int:
    """Bytes of all tensors that are alive."""
    gc.collect()
    storages: dict[int, int] = {}
    for item in gc.get_objects():
        # Not the fake ones that a compiler leaves behind, nor another test's sparse ones, which have no storage.
        if type(item) in (torch.Tensor, torch.nn.Parameter) and item.layout is torch.strided:
            storage = item.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def resident_bytes() -> int:
    """What the process holds; 0 where the system does not say so in a file."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * 4096 if statm.exists() else 0


@pytest.mark.slow
def test_random_programs_leave_nothing_behind(lab, demo):
    question = [demo / "g.png", "What is it?"]
    reference = Session(lab.family, "fresh").ask(question, **OPTIONS)
    donor = Session(lab.family, "donor").ask([demo / "m.png", "What is it?"], **OPTIONS)
    state, endings, memory = state_of(lab.model), Counter[str](), (0, 0)
    for seed in range(PROGRAMS):
        session = Session(lab.family, f"program {seed}")
        ending = run(seed, session, question, donor)
        endings[ending] += 1
        assert state_of(lab.model) == state, f"program {seed} ({ending}) left hooks, configs or attributes"
        for module in lab.model.modules():
            assert ACTING not in vars(module), f"program {seed} ({ending})"
            assert not hasattr(getattr(module, "config", None), SHADOW_OF), f"program {seed} ({ending})"
        assert attention_name(lab.model.config.get_text_config()) == "sdpa"
        again = (
            Session(lab.family, "fresh") if "unloaded" in repr(session) else session
        )  # an unload lets the answer end
        again.clear_edits()
        assert said(again.ask(question, **OPTIONS)) == said(reference), f"program {seed} ({ending})"
        assert not again.engine.lock.locked()
        if seed == WARM:
            memory = tensor_bytes(), resident_bytes()
    del session, again
    assert tensor_bytes() <= memory[0] * 1.01
    assert resident_bytes() <= memory[1] * 1.01
    # Every way out was taken, so the programs do test what they are meant to.
    assert endings.keys() == {"ended", "unloaded", "NoEffect", "OptionError", *(e.__name__ for e in ERRORS.values())}
    assert endings["ended"] >= PROGRAMS // 5
