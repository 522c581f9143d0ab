"""Ways to one thing: what each generated token's attention gave each picture, the mean over layers and heads. Knows no clock.

Each way imports its tool when it begins, and reads what the tool keeps as that tool's users do.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks.beside.subject import Asked
from vila_lab.hooks import Capture, group_indicator
from vila_lab.session import Session

LLAVA_TOKENS = 576  # of a picture, in every map that lvlm-interpret draws
SAMPLE = "_sample"  # generate's loop, which lvlm-interpret runs with gradients; generate itself takes none


@dataclass(frozen=True)
class Looked:
    """What a way found.

    Attributes
    ----------
    ids
        The generated tokens.
    shares : Tensor (tokens, columns) or None
        A column per picture, where the way tells pictures apart.
    kept
        Bytes held when the answer is there.
    """

    ids: list[int]
    shares: Tensor | None
    kept: int


Look = Callable[[Asked], Looked]


@dataclass(frozen=True)
class Way:
    """One tool's way: what it gives, whose version counts, and what it does once for a model."""

    gives: str
    package: str
    begin: Callable[[Session], Look]


def generated(model: Any, asked: Asked, **options: Any) -> Any:
    """What the model's own greedy generate returns, no token of which ends the answer."""
    return model.generate(
        **asked.inputs, max_new_tokens=asked.tokens, min_new_tokens=asked.tokens, do_sample=False, **options
    )


def answer_of(ids: Tensor, asked: Asked) -> list[int]:
    """The last ids of a sequence, which may have been returned with its prompt or without."""
    return ids[0, -asked.tokens :].tolist()


def on_pictures(weights: Tensor, asked: Asked) -> Tensor:
    """The mean over heads of the weight on each picture.  # (..., H, K) -> (..., pictures)"""
    of_picture = group_indicator(asked.pictures).to(weights.device)
    return (weights[..., : len(of_picture)].float() @ of_picture).mean(-2)


def of_last_rows(steps: Sequence[Sequence[Tensor]], asked: Asked) -> Tensor:
    """From one row (H, K) of each layer at each step.  # (tokens, pictures)"""
    return torch.stack([torch.stack([on_pictures(row, asked) for row in step]).mean(0) for step in steps])


def nbytes(steps: Sequence[Sequence[Tensor]]) -> int:
    return sum(row.nbytes for step in steps for row in step)


def attention_modules(model: Any) -> list[torch.nn.Module]:
    """The decoder's, layer by layer."""
    return [layer.self_attn for layer in model.language_model.model.layers]


# ---- nothing, and vila_lab -------------------------------------------------------------------------------------------


def plain(lab: Session) -> Look:
    return lambda asked: Looked(answer_of(generated(lab.model, asked), asked), None, 0)


def recorder(mode: Literal["tape", "live"], lab: Session) -> Look:
    def look(asked: Asked) -> Looked:
        with Capture(lab.model, mode=mode) as tape:
            ids = generated(lab.model, asked)
        layers = torch.stack([on_pictures(tape.weights(layer), asked) for layer in tape.layers])
        return Looked(answer_of(ids, asked), layers.mean(0), tape.nbytes)

    return look


# ---- transformers ----------------------------------------------------------------------------------------------------


def output_attentions(lab: Session) -> Look:
    def look(asked: Asked) -> Looked:
        out = generated(lab.model, asked, output_attentions=True, return_dict_in_generate=True)
        check_came(out.attentions)
        shares = of_last_rows([[layer[0, :, -1] for layer in step] for step in out.attentions], asked)
        return Looked(answer_of(out.sequences, asked), shares, nbytes(out.attentions))

    return look


def check_came(attentions: Sequence[Sequence[Tensor | None]] | None) -> None:
    """Under other implementations than eager transformers leaves them out, without an error."""
    if not attentions or not attentions[0] or attentions[0][0] is None:
        raise ValueError("the model returned no attention weights")


def forward_hooks(lab: Session) -> Look:
    def look(asked: Asked) -> Looked:
        steps: list[list[Tensor]] = []
        modules = attention_modules(lab.model)

        def keep(layer: int, module: Any, inputs: Any, output: tuple[Tensor, Tensor | None]) -> None:
            check_came([[output[1]]])
            if layer == 0:
                steps.append([])
            steps[-1].append(output[1][0, :, -1].clone())

        with ExitStack() as hooks:
            for layer, module in enumerate(modules):
                hooks.enter_context(module.register_forward_hook(partial(keep, layer)))
            ids = generated(lab.model, asked)
        return Looked(answer_of(ids, asked), of_last_rows(steps, asked), nbytes(steps))

    return look


def lvlm_interpret(lab: Session) -> Look:
    """As its chat does: a graph, hooks that keep every weight with its gradient, all weights in a file, read again to be drawn.

    Its relevancy maps, made of those gradients for every answer, are another quantity and left out. What it draws is always one
    picture of 576 positions.
    """

    def look(asked: Asked) -> Looked:
        held: list[Tensor] = []

        def keep(module: Any, inputs: Any, output: tuple[Tensor, Tensor | None]) -> None:
            check_came([[output[1]]])
            output[1].requires_grad_(True)
            output[1].retain_grad()
            held.append(output[1])

        with ExitStack() as stack:
            for module in attention_modules(lab.model):
                stack.enter_context(module.register_forward_hook(keep))
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            setattr(lab.model, SAMPLE, torch.enable_grad()(getattr(lab.model, SAMPLE)))
            stack.callback(delattr, lab.model, SAMPLE)
            out = generated(lab.model, asked, output_attentions=True, output_scores=True, return_dict_in_generate=True)
            path = Path(folder) / "attn.pt"
            torch.save(tuple(tuple(layer.to("cpu").detach() for layer in step) for step in out.attentions), path)
            attentions = torch.load(path)
            first = int((asked.pictures >= 0).nonzero()[0])
            rows = [[layer[0, :, -1, first : first + LLAVA_TOKENS] for layer in step] for step in attentions]
            shares = torch.stack([torch.stack([row.sum(-1).mean() for row in step]).mean() for step in rows])[:, None]
            return Looked(answer_of(out.sequences, asked), shares, nbytes([held]) + path.stat().st_size)

    return look


# ---- others ----------------------------------------------------------------------------------------------------------


def nnsight(lab: Session) -> Look:
    from nnsight import NNsight

    wrapped = NNsight(lab.model)
    attentions = [layer.self_attn for layer in wrapped.language_model.model.layers]

    def look(asked: Asked) -> Looked:
        steps: list[list[Tensor]] = []
        options = {"max_new_tokens": asked.tokens, "min_new_tokens": asked.tokens, "do_sample": False}
        with wrapped.trace(fn=lab.model.generate, **asked.inputs, **options) as tracer:
            for _step in tracer.iter[: asked.tokens]:
                rows = []
                for attention in attentions:
                    rows.append(attention.source.attention_interface_1.output[1][0, :, -1].clone())
                steps.append(rows)
            ids = tracer.result.save()
        return Looked(answer_of(ids, asked), of_last_rows(steps, asked), nbytes(steps))

    return look


def bridge(model: Any) -> Any:
    """TransformerLens's, around a model that is there; it changes the model in place."""
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    return build_bridge_from_module(model, type(model).__name__, hf_config=model.config)


def transformer_lens(part: str, lab: Session) -> Look:
    """Patterns of a part of the model; what the pictures look like to the decoder is computed outside."""
    decoder = lab.model.language_model
    wrapped = bridge(lab.model.get_submodule(part))
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(decoder.config.num_hidden_layers)]

    def look(asked: Asked) -> Looked:
        steps: list[list[Tensor]] = []

        def keep(pattern: Tensor, hook: Any) -> None:
            if hook.name == names[0]:
                steps.append([])
            steps[-1].append(pattern[0, :, -1].clone())

        given = {
            name: asked.inputs[name] for name in ("input_ids", "pixel_values", "block_sizes") if name in asked.inputs
        }
        with torch.no_grad(), wrapped.hooks(fwd_hooks=[(name, keep) for name in names]):
            ids = wrapped.generate(
                lab.model.embed(**given), max_new_tokens=asked.tokens, do_sample=False, stop_at_eos=False,
                return_type="tokens", verbose=False,
            )  # fmt: skip
        return Looked(answer_of(ids, asked), of_last_rows(steps, asked), nbytes(steps))

    return look


def inseq_scores(method: str, lab: Session) -> Callable[[Asked, list[int]], Tensor]:
    """inseq's scores of a prompt's positions for an answer; it is given both as texts, there is no other way.

    Returns a function to (T, tokens, ...) scores.
    """
    from inseq import load_model

    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):  # which it reads there
        setattr(lab.model.config, name, getattr(lab.tokenizer, name))
    loaded = load_model(lab.model, method, tokenizer=lab.tokenizer)

    def scores(asked: Asked, ids: list[int]) -> Tensor:
        prompt = asked.inputs["input_ids"][0].tolist()
        texts = [lab.tokenizer.decode(each) for each in (prompt, prompt + ids)]
        found = loaded.attribute(*texts, show_progress=False).sequence_attributions[0].target_attributions
        return found[: len(prompt)]

    return scores


def inseq(lab: Session) -> Look:
    scores = inseq_scores("attention", lab)

    def look(asked: Asked) -> Looked:
        ids = answer_of(generated(lab.model, asked), asked)
        weights = scores(asked, ids).permute(1, 2, 3, 0)  # (T, tokens, layers, heads) -> (tokens, layers, heads, T)
        return Looked(ids, on_pictures(weights, asked).mean(1), weights.nbytes)

    return look


REFERENCE = "transformers, output_attentions"  # what all numbers are held against
PLAIN = "transformers, plain generate"  # what all costs are held against
WAYS = {
    PLAIN: Way("the answer alone", "transformers", plain),
    "vila_lab, tape": Way("every row of the answer, weights when asked", "vila-lab", partial(recorder, "tape")),
    "vila_lab, live": Way("every row of the answer, weights at once", "vila-lab", partial(recorder, "live")),
    REFERENCE: Way("every weight of every step", "transformers", output_attentions),
    "transformers, forward hooks": Way("what the hook keeps: the last rows", "transformers", forward_hooks),
    "nnsight": Way("what the trace keeps: the last rows", "nnsight", nnsight),
    "TransformerLens": Way("what the hook keeps: the last rows", "transformer-lens", partial(transformer_lens, "")),
    "TransformerLens, decoder alone": Way(
        "what the hook keeps: the last rows", "transformer-lens", partial(transformer_lens, "language_model")
    ),
    "lvlm-interpret's way": Way("every weight of every step, in a file", "transformers", lvlm_interpret),
    "inseq": Way("every weight on positions of a text", "inseq", inseq),
}
