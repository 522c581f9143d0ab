"""How Idefics3 checkpoints write a prompt: tokenizer, chat template and training batches. Knows no network and no pixel.

Words, names and digits are the embedded model's own tokens; special tokens, turns and the frame around a picture are those of
the published Idefics3 checkpoints. An answer starts with a space there, because it stands behind ``Assistant:``.

>>> build_tokenizer().tokenize("Assistant: A cat.<end_of_utterance>")[-4:]
['ĠA', 'Ġcat', '.', '<end_of_utterance>']
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from .pool import Pool
from .questions import Held, Turn
from .sets import TOKENS, SetSampler, Weights
from .tokenizer import build_tokenizer as embedded_tokenizer

BEGIN, FRAME, WHOLE, PICTURE, END = (
    "<|begin_of_text|>",
    "<fake_token_around_image>",
    "<global-img>",
    "<image>",
    "<end_of_utterance>",
)
PAD = "<|finetune_right_pad_id|>"
TILES = tuple(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))
SPECIAL = (BEGIN, "<|end_of_text|>", PAD, "<|eot_id|>", FRAME, PICTURE, END, WHOLE, *TILES)

CHAT_TEMPLATE = (
    "<|begin_of_text|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
LABELS = {"plain": "", "en": "Image {}: ", "zh": "图像{}:"}

# What the sampler writes between turns, in the embedded model's form and in this one.
NEXT_USER, USER = "\n<|im_start|>user\n", "\nUser:"
NEXT_ASSISTANT, ASSISTANT = "<|im_end|>\n<|im_start|>assistant\n", f"{END}\nAssistant:"
EMBEDDED_END = "<|im_end|>"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The embedded model's words with the same ids, and the special tokens of an Idefics3 checkpoint behind them."""
    content = json.loads(embedded_tokenizer().backend_tokenizer.to_str())
    content["added_tokens"] = []
    tokenizer = Tokenizer.from_str(json.dumps(content))
    before_chinese = pre_tokenizers.Split(Regex(r" (?=\p{Han})"), "isolated")  # words of several characters stay whole
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([before_chinese, tokenizer.pre_tokenizer])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token="<|end_of_text|>",
        pad_token=PAD,
        model_max_length=4096,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


class Spelling:
    """Encodes what the sampler writes between turns as this dialect writes it, everything else as it is.

    Behind ``User:`` the next text has a space in front, which belongs to its first word.
    """

    def __init__(self, encode: Callable[[str], tuple[int, ...]]) -> None:
        self._encode = encode
        self._is_behind_user = False

    def __call__(self, text: str) -> tuple[int, ...]:
        known = {NEXT_USER: USER, NEXT_ASSISTANT: ASSISTANT, EMBEDDED_END: END}
        spelt = known.get(text, f" {text}" if self._is_behind_user else text)
        self._is_behind_user = text == NEXT_USER
        return self._encode(spelt)


class Idefics3Sets(SetSampler):
    """Sets of pictures and their questions, in the form of an Idefics3 prompt.

    Parameters
    ----------
    tokenizer
        Of `build_tokenizer`.
    """

    def __init__(self, pool: Pool, tokenizer: PreTrainedTokenizerBase, rng: np.random.Generator, rows: range) -> None:
        super().__init__(pool, tokenizer, rng, rows)
        self.encode = Spelling(self.encode)  # type: ignore[assignment]
        self.end = self.encode(EMBEDDED_END)

    def turn(self, weights: Weights, contents: list[list[Held]]) -> Turn:
        found = super().turn(weights, contents)
        return replace(found, answer=f" {found.answer}")

    def prefix(self, n: int, style: str) -> list[int]:
        labels = [LABELS[style].format(k + 1) for k in range(n)]
        labels[0] = f"{BEGIN}User:" + (f" {labels[0]}" if labels[0] else "")
        frame, picture = self.encode(FRAME), [*self.encode(WHOLE), *([-1] * TOKENS)]
        return [token for label in labels for token in (*self.encode(label), *frame, *picture, *frame)]
