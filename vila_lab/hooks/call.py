"""One attention call, and who acts on it while a model works: an editor, then recorders. Knows none of them, and no numerics.

One function is registered with transformers' `AttentionInterface`, once, under one name. It answers as the implementation
that was active would, through the editor if there is one, and then shows the call to the recorders. Who acts lies in an
attribute of the module that calls, never in a global: two models, or one model in two threads, therefore cannot mix.

Only the modules that somebody acts on are touched: each gets a shallow copy of its config in which the attention
implementation is this function. The model's own config keeps its implementation. So masks are built by the wrapped
implementation itself (padding cannot get lost), a second model that shares the config object does not notice, and taking the
function out means putting the same config object back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from vila_lab.errors import CaptureError
from vila_lab.hooks.sites import SHADOW_OF, Site, base_function, config_of
from vila_lab.interrupts import uninterrupted
from vila_lab.upstream import AttentionFunction, config_with_attention

ATTENTION = "vila_lab"
"""Name of the registered function. Names with "flash", "sdpa" or "/" in them have a special meaning in transformers."""

ACTING = "_vila_lab_acting"
"""Attribute of an attention module on which somebody acts."""

WAY_OUT = "leave that block first, or load the model again if an interrupt left it so."

Answered: TypeAlias = "tuple[Tensor, Tensor | None]"
"""What an attention function returns: the heads' outputs, (B, r, H, D), and weights where the implementation has them."""

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(
    eq=False, slots=True
)  # not frozen: one is made for every layer and token, and a frozen one takes twice as long
class AttentionCall:
    """What one attention module asks in one forward.

    Attributes
    ----------
    layer : int
    module : nn.Module
    query : Tensor (B, H, r, D)
    key, value : Tensor (B, Hkv, K, D)
        A static cache hands out its whole buffer, longer than what was seen; a sliding one only its last keys.
    mask : Tensor, optional
        The model's own: (B|1, H|1, r, K), or one bool per column, (B, K), as flash attention takes it.
    args, kwargs
        Everything else that the wrapped implementation is given.
    acting : Acting
        Who acts on the module.
    is_lent : bool
        Whether the tensors come out of a compiled graph, which may use their memory again.
    """

    layer: int
    module: nn.Module
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    acting: Acting
    is_lent: bool = False

    def plain(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Answered:
        """The wrapped implementation's answer to other queries, keys, values and mask."""
        found: Answered = self.acting.base(self.module, query, key, value, mask, *self.args, **self.kwargs)
        return found

    def edited_mask(self, rows: Sequence[int]) -> Tensor | None:
        """The whole mask of some of the rows where edits change it; None where none touches them."""
        return None if self.acting.editor is None else self.acting.editor.edited_mask(self, rows)

    @property
    def is_edited(self) -> bool:
        return self.acting.editor is not None

    @property
    def scaling(self) -> float:
        given = self.kwargs.get("scaling")
        return float(self.query.shape[-1] ** -0.5 if given is None else given)

    @property
    def softcap(self) -> float | None:
        return self.kwargs.get("softcap")

    @property
    def sinks(self) -> Tensor | None:
        """Logits of the heads' own sinks (gpt-oss), (H,)."""
        return self.kwargs.get("s_aux")

    @property
    def window(self) -> int | None:
        """Of sliding attention: how many columns up to its own a row sees."""
        return self.kwargs.get("sliding_window")

    @property
    def causal(self) -> bool:
        """Whether the rows of this decoder see backwards only, where no mask says otherwise."""
        given = self.kwargs.get("is_causal")
        return bool(getattr(self.module, "is_causal", True) if given is None else given)

    def offset(self, stop: int) -> int:
        """Position of the first key, of a call whose last row stands before `stop`."""
        return max(0, stop - self.key.shape[2])


class Editor(Protocol):
    """Answers calls otherwise than the model would."""

    def attend(self, call: AttentionCall) -> Answered: ...
    def edited_mask(self, call: AttentionCall, rows: Sequence[int]) -> Tensor | None: ...


class Recorder(Protocol):
    """Looks at calls that were answered."""

    def record(self, call: AttentionCall, output: Tensor) -> None: ...


@dataclass(frozen=True, eq=False)
class Acting:
    """Who acts on one attention module, all for one thread; to other threads it answers as if nobody did."""

    thread: int
    layer: int
    base: AttentionFunction
    editor: Editor | None = None
    recorders: tuple[Recorder, ...] = ()

    def joined(self, editor: Editor | None, recorder: Recorder | None) -> Acting:
        """One more; edits come first, and nobody acts twice."""
        is_taken = (
            self.thread != threading.get_ident()
            or editor is not None
            or any(type(each) is type(recorder) for each in self.recorders)
        )
        if is_taken:
            raise CaptureError(f"this model is already being captured or edited; {WAY_OUT}")
        return self if recorder is None else replace(self, recorders=(*self.recorders, recorder))


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """The registered attention function."""
    acting: Acting = module.__dict__[ACTING]
    given = (module, query, key, value, attention_mask, args, kwargs, acting)
    result = (
        acting.base(module, query, key, value, attention_mask, *args, **kwargs)
        if acting.editor is None
        else _edited(given)
    )
    if acting.recorders:
        # Left out of compiled graphs: recorders count in Python, and traced once they would count once.
        if torch.compiler.is_compiling():
            _shown_uncompiled(given, result[0], is_lent=True)
        else:
            _shown(given, result[0])
    return result


def uncompiled(function: F) -> F:
    """The function, left out of compiled graphs."""
    outside: F = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
    return outside


Given: TypeAlias = "tuple[nn.Module, Tensor, Tensor, Tensor, Tensor | None, tuple[Any, ...], Mapping[str, Any], Acting]"


def _edited(given: Given) -> Answered:
    acting = given[-1]
    call = AttentionCall(acting.layer, *given)
    if acting.editor is None or threading.get_ident() != acting.thread:
        return call.plain(call.query, call.key, call.value, call.mask)
    return acting.editor.attend(call)


def _shown(given: Given, output: Tensor, is_lent: bool = False) -> None:
    acting = given[-1]
    if threading.get_ident() != acting.thread:
        return
    call = AttentionCall(acting.layer, *given, is_lent)
    for recorder in acting.recorders:
        recorder.record(call, output)


_shown_uncompiled = uncompiled(_shown)

AttentionInterface.register(ATTENTION, attention)


@contextmanager
def acting_on(
    sites: Sequence[Site], *, editor: Editor | None = None, recorder: Recorder | None = None
) -> Iterator[None]:
    """Somebody acts on some attention modules inside; afterwards they are as before.

    Raises
    ------
    CaptureError
        If another thread acts on one of them; if edits would come after others; if a second recorder of a kind would.
    """
    plan = [(site, *_joined(site, editor, recorder)) for site in sites]
    before: list[tuple[Any, Any, Acting | None, Acting]] = []
    shadows: dict[int, Any] = {}
    try:
        try:
            for site, was, now in plan:
                module, config = site.module, site.module.config
                before.append((module, config, was, now))
                # Where nobody acted it is one step, so that of two threads only one finds the module free.
                if was is None and module.__dict__.setdefault(ACTING, now) is not now:
                    raise CaptureError(f"{site.name} is already being captured or edited; {WAY_OUT}")
                module.__dict__[ACTING] = now
                if was is None:
                    if id(config) not in shadows:
                        shadows[id(config)] = config_with_attention(config, ATTENTION)
                        setattr(shadows[id(config)], SHADOW_OF, config_of(module))
                    module.config = shadows[id(config)]
            yield
        finally:
            _put_back(before)
    finally:  # again: a Ctrl-C may have come while the first ran
        _put_back(before)


def is_acted_on(model: nn.Module) -> bool:
    """Whether somebody captures or edits any attention module of a model."""
    return any(ACTING in module.__dict__ for module in model.modules())


def _joined(site: Site, editor: Editor | None, recorder: Recorder | None) -> tuple[Acting | None, Acting]:
    """Who acts on a module, and who will."""
    was: Acting | None = site.module.__dict__.get(ACTING)
    if was is not None:
        return was, was.joined(editor, recorder)
    recorders = () if recorder is None else (recorder,)
    return None, Acting(threading.get_ident(), site.layer, base_function(site), editor, recorders)


def _put_back(before: Sequence[tuple[Any, Any, Acting | None, Acting]]) -> None:
    with uninterrupted():
        for module, config, was, now in before:
            if module.__dict__.get(ACTING) is not now:
                continue
            if was is None:
                module.config = config
                del module.__dict__[ACTING]
            else:
                module.__dict__[ACTING] = was
