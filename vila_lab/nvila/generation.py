"""The generation settings of the reference: greedy, its stop tokens, nothing leaking in from other files."""

from __future__ import annotations

from typing import Any

from transformers import GenerationConfig

from vila_lab.nvila.prompting import MEDIA_TOKENS

LARGEST_REAL_LENGTH = 10**8  # tokenizers without a limit carry 10^30


def undecodable_ids(tokenizer: Any, vocab_size: int) -> list[int]:
    """Ids below `vocab_size` that must never be generated: padded rows the tokenizer has no text for, and media tokens.

    The reference cuts padded rows off; suppressing them gives the same answers without touching the weights.
    """
    vocabulary = tokenizer.get_vocab()
    known = set(vocabulary.values()) - {vocabulary[token] for token in MEDIA_TOKENS if token in vocabulary}
    return [token for token in range(vocab_size) if token not in known]


def default_generation_config(processor: Any, text_config: Any, conv_mode: str = "auto") -> GenerationConfig:
    """Greedy decoding as the reference does it.

    Parameters
    ----------
    processor : NVILAProcessor
    text_config : PreTrainedConfig
        Of the language model.
    conv_mode : str
        Whose stop tokens to use.

    Returns
    -------
    GenerationConfig
        Every field that an ``llm/generation_config.json`` usually sets is set here, so that none of it comes back.
    """
    tokenizer = processor.tokenizer
    stops = processor.stop_token_ids(conv_mode)
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else (stops or [None])[0]
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end
    bos = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else end
    limit = tokenizer.model_max_length
    if not limit or limit > LARGEST_REAL_LENGTH:
        limit = int(text_config.max_position_embeddings)
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        temperature=1.0,
        top_p=1.0,
        top_k=50,
        repetition_penalty=1.0,
        max_length=limit,
        eos_token_id=stops,
        pad_token_id=pad,
        bos_token_id=bos,
        suppress_tokens=undecodable_ids(tokenizer, int(text_config.vocab_size)) or None,
    )
