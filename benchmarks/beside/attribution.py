"""Ways to one number for each picture: how much less likely a whole answer is without it. Knows no clock.

A picture that is left out is grey, for everybody, so that all prompts have the same positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.beside.attention import inseq_scores
from benchmarks.beside.subject import Subject
from vila_lab.answer import Answer
from vila_lab.attribution.features import GREY, baseline_picture
from vila_lab.hooks import group_indicator
from vila_lab.prompt import Prompt

BASELINE = "grey"

Work = Callable[[], Tensor]  # (pictures,)


@dataclass(frozen=True)
class Way:
    """One tool's way: what it gives, whose version counts, whose numbers it is held against, and what it makes of an answer."""

    gives: str
    package: str
    reference: str
    begin: Callable[[Subject, Answer], Work]


# ---- a forward function, as each user of captum writes it ------------------------------------------------------------


def said(answer: Answer) -> Tensor:
    """The answer's tokens.  # (1, N)"""
    return torch.tensor([[token.id for token in answer.tokens]])


def inputs_of(subject: Subject, pictures: Sequence[Image.Image]) -> dict[str, Tensor]:
    """The model's inputs with these pictures in the places of the prompt's own."""
    return dict(subject.lab.family.prepare(Prompt.of([*pictures, *subject.parts[len(pictures) :]])).inputs)


def presence(subject: Subject, answer: Answer) -> Callable[[Tensor], Tensor]:
    """The answer's log-probability with the pictures whose value is 1.  # (B, pictures) -> (B,)"""
    pictures, ids = pictures_of(subject), said(answer)

    def of_one(present: list[float]) -> Tensor:
        shown = [one if here else baseline_picture(one, BASELINE) for one, here in zip(pictures, present, strict=True)]
        inputs = inputs_of(subject, shown)
        prompt = inputs["input_ids"]
        whole = torch.cat([prompt, ids], 1)
        with torch.no_grad():
            logits = subject.lab.model(
                **(inputs | {"input_ids": whole, "attention_mask": torch.ones_like(whole)}), use_cache=False
            ).logits
        scores = logits[0, prompt.shape[1] - 1 : -1].float().log_softmax(-1)
        return scores.gather(-1, ids[0][:, None]).sum()

    return lambda batch: torch.stack([of_one(present) for present in batch.tolist()])


def pictures_of(subject: Subject) -> list[Image.Image]:
    return [part for part in subject.parts if isinstance(part, Image.Image)]


# ---- ways ------------------------------------------------------------------------------------------------------------


def plain(subject: Subject, answer: Answer) -> Work:
    """One forward over prompt and answer."""
    forward, present = presence(subject, answer), torch.ones(1, len(pictures_of(subject)))
    return lambda: forward(present)


def ours(method: str, subject: Subject, answer: Answer) -> Work:
    def work() -> Tensor:
        return torch.from_numpy(answer.attribute(method, baseline=BASELINE).per_image().to_numpy().sum(0))

    return work


def loop(method: str, subject: Subject, answer: Answer) -> Work:
    """captum's own loop over a forward function."""
    import captum.attr

    found = getattr(captum.attr, method)(presence(subject, answer))
    present = torch.ones(1, len(pictures_of(subject)))
    return lambda: found.attribute(present, baselines=0.0)[0]


def collage(subject: Subject) -> tuple[Image.Image, Tensor, Callable[[Image.Image], dict[str, Tensor]]]:
    """The pictures side by side, each pixel's picture, and how the model's inputs are made of them again.

    captum's input for a model of pictures and text holds one picture.
    """
    pictures = pictures_of(subject)
    lefts = np.cumsum([0, *(one.width for one in pictures)]).tolist()
    side = Image.new("RGB", (lefts[-1], max(one.height for one in pictures)))
    owner = torch.zeros(side.height, side.width, dtype=torch.int32)
    for number, (one, left) in enumerate(zip(pictures, lefts, strict=False)):
        side.paste(one, (left, 0))
        owner[:, left : left + one.width] = number

    def apart(image: Image.Image) -> dict[str, Tensor]:
        cut = [image.crop((left, 0, left + one.width, one.height)) for one, left in zip(pictures, lefts, strict=False)]
        return inputs_of(subject, cut)

    return side, owner, apart


def language_model(options: dict[str, Any], subject: Subject, answer: Answer) -> Work:
    """captum's `LLMAttribution`, which asks the model itself."""
    from captum.attr import FeatureAblation, ImageMaskInput, LLMAttribution

    side, owner, apart = collage(subject)
    asked = ImageMaskInput(side, mask=owner, baseline=GREY, processor_fn=apart)
    found = LLMAttribution(FeatureAblation(subject.lab.model), subject.lab.tokenizer)
    return lambda: found.attribute(asked, target=said(answer)[0], **options).seq_attr.detach()


def inseq(subject: Subject, answer: Answer) -> Work:
    """Its occlusion of each position, added up over a picture's."""
    scores, asked = inseq_scores("occlusion", subject.lab), subject.asked()
    return lambda: scores(asked, said(answer)[0].tolist()).sum(1) @ group_indicator(asked.pictures)


PLAIN = "transformers, plain forward"
ABLATION, SHAPLEY = "captum FeatureAblation, own forward function", "captum ShapleyValues, own forward function"
ONE_OUT, SHARES = "leave one out", "Shapley values"
WAYS = {
    PLAIN: Way("the answer's log-probability", "transformers", PLAIN, plain),
    "vila_lab leave_one_out": Way(ONE_OUT, "vila-lab", ABLATION, partial(ours, "leave_one_out")),
    ABLATION: Way(ONE_OUT, "captum", ABLATION, partial(loop, "FeatureAblation")),
    "captum LLMAttribution, defaults": Way(ONE_OUT, "captum", ABLATION, partial(language_model, {})),
    "captum LLMAttribution, no cache": Way(
        ONE_OUT, "captum", ABLATION, partial(language_model, {"use_cached_outputs": False})
    ),
    "captum LLMAttribution, whole sequence": Way(
        ONE_OUT, "captum", ABLATION, partial(language_model, {"forward_in_tokens": False})
    ),
    "vila_lab shapley": Way(SHARES, "vila-lab", SHAPLEY, partial(ours, "shapley")),
    SHAPLEY: Way(SHARES, "captum", SHAPLEY, partial(loop, "ShapleyValues")),
    "captum ShapleyValueSampling, own forward function": Way(
        f"{SHARES}, 25 orders", "captum", SHAPLEY, partial(loop, "ShapleyValueSampling")
    ),
    "inseq": Way("positions of a text left out", "inseq", ABLATION, inseq),
}
