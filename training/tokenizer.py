"""The embedded model's tokenizer: byte-level, so any text can be typed, with one token per word of the drawn world. Knows no model.

NVILA's special tokens and chat template are in it; as in NVILA's own files the three media tokens are not, they are
added when a checkpoint is loaded.

>>> tokenizer = build_tokenizer()
>>> tokenizer.tokenize("a cat")
['a', 'Ġcat']
>>> tokenizer.decode(tokenizer("任何 text \U0001f600").input_ids)
'任何 text 😀'
"""

from __future__ import annotations

import re

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from vila_lab.tiny.names import THINGS

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "[BOS]", "[PAD]")

CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou are a helpful assistant<|im_end|>\\n' }}{% endif %}"
    "{% for message in messages if message['content'] is not none %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

# Words that the questions and answers use beside the names; a space before an English word belongs to its token.
ENGLISH = """
system user assistant You are a helpful What is in image the show does Which shows contains Is there Does Are and same or
different How many images show contain odd one out on left right at top bottom of above below In Image known for company
difference between each an some None Yes No Same Different Left Right Top Bottom Above Below A An Some shows : its Its picture
pictures Picture Describe Where it this This that these
"""
CHINESE = "图像 里 有 什么 是 哪张 没有 吗 和 一样 不一样 几张 张 与众不同 在 左边 右边 还是 上面 下面 的 以其 以 闻名 哪家 公司 不同 每张 第 个 请 描述 图片"


def words() -> list[str]:
    """Every word that gets a token of its own."""
    english = {word for word in ENGLISH.split() if word.isalpha()}
    chinese = set(CHINESE.split())
    for thing in THINGS:
        english.add(thing.name)
        (chinese if re.search(r"[\u4e00-\u9fff]", thing.chinese) else english).add(thing.chinese)
        if thing.fame is not None:
            english.update(re.findall(r"[A-Za-z]+", thing.fame[0] + " " + thing.fame[1]))
            chinese.update(re.findall(r"[\u4e00-\u9fff]+", thing.fame[1]))
    return sorted(english | {f" {word}" for word in english} | chinese)


def _pattern() -> str:
    """Words that hold a space, an apostrophe or several Han characters first, then what every byte-level tokenizer splits on."""
    whole = [word for word in words() if re.search(r"[\u4e00-\u9fff]", word) or re.search(r"\w[ ']\w", word)]
    known = "|".join(re.escape(word).replace("\\ ", " ") for word in sorted(whole, key=len, reverse=True))
    return rf"{known}|\p{{Han}}|\p{{N}}| ?\p{{L}}+|\n| ?[^\s\p{{L}}\p{{N}}]| +|\s"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build it from the word list alone: the same list gives the same tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(_pattern()), "isolated"), byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=20_000, min_frequency=1, initial_alphabet=alphabet, show_progress=False)
    punctuation = [f" {mark}" for mark in ",.:?!()"] + list(",。?:、!")
    tokenizer.train_from_iterator(words() + punctuation, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="[BOS]",
        eos_token="<|im_end|>",
        pad_token="[PAD]",
        model_max_length=4096,
        padding_side="right",
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
