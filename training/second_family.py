"""Teaches the embedded model the dialect of a second family: an Idefics3 checkpoint. Knows nothing of how scenes are drawn.

So that truth (which picture, which place) can be measured in a family that transformers has classes for, not only in NVILA's.
Tower and decoder start as the embedded model's. An Idefics3 tower ends with one layer and a norm more than NVILA reads, and its
connector is linear where NVILA's projector is not; so two things are learnt, from drawn scenes as ever:

1. connector: the last layer, the norm and the connector learn to give what the embedded projector gives;
2. dialect: they and the decoder learn to answer in Idefics3's own prompt. No dense target, no rewarded head.

    python -m training.pool --size 24000 --seed 2 --out pool.npz
    python -m training.second_family --pool pool.npz --work run/second --out tests/goldens/second

A stopped run goes on where it was. Last, its heads are ranked and its band of redirections is found
as the embedded model's are, into ``heads.json`` and ``band.json`` beside the weights.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm
from transformers import Idefics3Config, Idefics3ForConditionalGeneration, LlamaForCausalLM

from vila_lab.evidence.heads import KINDS, TOP
from vila_lab.families.loading import load_family
from vila_lab.nvila.modeling_nvila import NVILAForConditionalGeneration
from vila_lab.resident import load
from vila_lab.tiny import weights_folder
from vila_lab.tiny.names import THINGS
from vila_lab.tiny.probes import probes

from .dialect import BEGIN, CHAT_TEMPLATE, END, FRAME, PAD, PICTURE, WHOLE, Idefics3Sets, build_tokenizer
from .pool import SIDE, Pool
from .rank_heads import CALIBRATED, SEED, TOPS, digest, sample_of, save_band
from .resuming import log, resume, save
from .sets import FULL, TOKENS
from .tokenizer import build_tokenizer as embedded_tokenizer
from .train_language import HELD_OUT, Student, cache_features, evaluate, exact, gather

# Rows of the embedding that new special tokens start from, by what they do.
STARTS = {BEGIN: "<|im_start|>", END: "<|im_end|>", FRAME: "\n", WHOLE: "\n", PAD: "[PAD]"}
FITTED = 1000  # pictures of the least-squares fit
SAVED_EVERY = 100
RANKED = 200  # scenes on which heads are ranked


class Reader(nn.Module):
    """What stands between the features that the embedded model's projector reads and an Idefics3 decoder.

    It shares its parts with a model, so training it trains the model.
    """

    def __init__(self, model: Idefics3ForConditionalGeneration) -> None:
        super().__init__()
        self.layer = model.model.vision_model.encoder.layers[-1]
        self.norm = model.model.vision_model.post_layernorm
        self.connector = model.model.connector

    def normed(self, cells: Tensor) -> Tensor:
        """What the tower gives.  # (N, 144, 128)"""
        return torch.as_tensor(self.norm(self.layer(cells, None)))

    def forward(self, cells: Tensor) -> Tensor:  # (N, 144, 128) -> (N, 36, 192)
        return torch.as_tensor(self.connector(self.normed(cells)))


def config_of(embedded: NVILAForConditionalGeneration) -> Idefics3Config:
    """The shape of the embedded model in Idefics3's words."""
    tokenizer = build_tokenizer()
    text, vision = embedded.config.text_config, embedded.config.vision_config
    stop = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    shape = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    decoder = {name: getattr(text, name) for name in (*shape, "num_key_value_heads", "rms_norm_eps", "hidden_act")} | {
        "model_type": "llama",
        "vocab_size": len(tokenizer),
        "max_position_embeddings": text.max_position_embeddings,
        "rope_parameters": {"rope_type": "default", "rope_theta": text.rope_parameters["rope_theta"]},
        "attention_bias": True,  # as Qwen2's queries, keys and values; that of its output is zero
        "tie_word_embeddings": True,
        "pad_token_id": tokenizer.pad_token_id,
        **stop,
    }
    tower = {
        name: getattr(vision, name) for name in (*shape, "image_size", "patch_size", "hidden_act", "layer_norm_eps")
    }
    return Idefics3Config(
        text_config=decoder,
        vision_config={"model_type": "idefics3_vision", **tower},
        image_token_id=tokenizer.get_vocab()[PICTURE],
        scale_factor=2,
        tie_word_embeddings=True,
        **stop,
    )


def translated(embedded: NVILAForConditionalGeneration) -> Idefics3ForConditionalGeneration:
    """An Idefics3 model that starts from the embedded one's weights; its last tower layer does nothing yet."""
    model = Idefics3ForConditionalGeneration(config_of(embedded))
    given = getattr(embedded.vision_tower, "vision_model", embedded.vision_tower)
    tower = model.model.vision_model
    tower.embeddings.load_state_dict(_shared(given.embeddings, tower.embeddings))
    for mine, other in zip(tower.encoder.layers[:-1], given.encoder.layers[:-1], strict=True):
        mine.load_state_dict(other.state_dict())
    with torch.no_grad():
        for last in (tower.encoder.layers[-1].self_attn.out_proj, tower.encoder.layers[-1].mlp.fc2):
            last.weight.zero_()
            last.bias.zero_()
    decoder, qwen = model.model.text_model, embedded.language_model.model
    decoder.norm.load_state_dict(qwen.norm.state_dict())
    for mine, other in zip(decoder.layers, qwen.layers, strict=True):
        bias = {"self_attn.o_proj.bias": torch.zeros(decoder.norm.weight.shape)}
        mine.load_state_dict(other.state_dict() | bias)
    _translate_words(decoder.embed_tokens.weight, qwen.embed_tokens.weight)
    model.tie_weights()
    return model


def _shared(given: nn.Module, wanted: nn.Module) -> dict[str, Tensor]:
    names = wanted.state_dict()
    return {name: value for name, value in given.state_dict().items() if name in names}


@torch.no_grad()
def _translate_words(mine: Tensor, given: Tensor) -> None:
    """Words keep their rows; a special token starts from the one that does its work, or from the mean of all."""
    new, old = build_tokenizer(), embedded_tokenizer()
    mine.copy_(given.mean(0).expand_as(mine))
    for token, index in new.get_vocab().items():
        source = old.get_vocab().get(token)
        if token in STARTS:
            (source,) = old(STARTS[token]).input_ids
        if source is not None:
            mine[index] = given[source]
    for word in ("A", "An", "Some"):  # an answer starts with a space here, and never did there
        mine[new.get_vocab()[f"Ġ{word}"]] = given[old.get_vocab()[word]]


@torch.no_grad()
def fit(reader: Reader, projector: nn.Module, cells: np.ndarray) -> None:
    """Least squares: the linear connector that is nearest to the embedded projector."""
    some = torch.from_numpy(cells[:FITTED].astype(np.float32))
    merged = reader.connector.pixel_shuffle(reader.normed(some), 2).flatten(0, 1)  # (n*36, 512)
    wanted = projector(some).flatten(0, 1)  # (n*36, 192)
    solution = torch.linalg.lstsq(merged, wanted).solution
    reader.connector.modality_projection.proj.weight.copy_(solution.T)


def unlike(given: Tensor, wanted: Tensor) -> Tensor:
    """Squared error as a share of the variance."""
    return F.mse_loss(given, wanted) / wanted.var()


def train_connector(
    reader: Reader,
    projector: nn.Module,
    cells: np.ndarray,
    *,
    steps: int,
    batch: int,
    rate: float,
    seed: int,
    held_out: int = HELD_OUT,
) -> float:
    """Stage 1. Returns the share of variance that is not explained, on held-out pictures."""
    rng = np.random.default_rng(seed)
    optimiser = torch.optim.AdamW(reader.parameters(), rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.1)
    split = len(cells) - held_out
    for _ in (bar := tqdm(range(steps), desc="connector")):
        some = torch.from_numpy(cells[np.sort(rng.integers(0, split, batch))].astype(np.float32))
        with torch.no_grad():
            wanted = projector(some)
        loss = unlike(reader(some), wanted)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        bar.set_postfix(unlike=round(loss.item(), 4))
    with torch.no_grad():
        held = torch.from_numpy(cells[split : split + 500].astype(np.float32))
        return float(unlike(reader(held), projector(held)))


def student_of(model: Idefics3ForConditionalGeneration, reader: Reader) -> Student:
    """The model as the trainer of the embedded one runs it: the tower's last layer, norm and connector are its projector."""
    text: Any = model.config.text_config
    student = Student(text.vocab_size, len(reader.norm.weight), torch.zeros(len(THINGS), 2).long())
    decoder = LlamaForCausalLM(text)
    decoder.model, decoder.lm_head = model.model.text_model, model.lm_head
    student.decoder, student.projector = decoder, reader  # type: ignore[assignment]
    return student


def train_dialect(
    model: Idefics3ForConditionalGeneration,
    reader: Reader,
    pool: Pool,
    cells: np.ndarray,
    work: Path,
    *,
    steps: int,
    batch: int,
    rate: float,
    seed: int,
    on_step: Callable[[int], object] | None = None,
) -> None:
    """Stage 2, logging to ``work/log.jsonl`` and going on from ``work/state.pt`` if that is there."""
    student = student_of(model, reader)
    taught = [*student.decoder.parameters(), *reader.parameters()]
    optimiser = torch.optim.AdamW(taught, rate, weight_decay=0.05, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.1)
    parts: dict[str, Any] = {"model": model, "optimiser": optimiser, "schedule": schedule}
    first = resume(work, parts)
    tokenizer, split = build_tokenizer(), len(pool) - HELD_OUT
    sampler = Idefics3Sets(pool, tokenizer, np.random.default_rng(seed + first), range(split))
    held_out = Idefics3Sets(pool, tokenizer, np.random.default_rng(10_000), range(split, len(pool)))
    started = time.perf_counter()
    for step in (bar := tqdm(range(first, steps), initial=first, total=steps, desc="dialect")):
        if on_step is not None:
            on_step(step)
        found = sampler.batch(batch, FULL)
        loss, _, logits = student(found, gather(cells, found), aid=0.0, guide=0.0)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(taught, 1.0)
        optimiser.step()
        _without_output_bias(model)
        schedule.step()
        record: dict[str, Any] = {"step": step + 1, "seconds": round(time.perf_counter() - started, 1)}
        if step % 20 == 19:
            right = {task: round(float(np.mean(r)), 2) for task, r in exact(found, logits).items()}
            log(work, record | {"answer": round(loss.item(), 3), "right": right})
            bar.set_postfix(answer=round(loss.item(), 3))
        if step % SAVED_EVERY == SAVED_EVERY - 1 or step == steps - 1:
            log(work, record | {"held_out": evaluate(student, held_out, cells, FULL, batches=4)})
            save(work, step + 1, parts)


@torch.no_grad()
def _without_output_bias(model: Idefics3ForConditionalGeneration) -> None:
    """Qwen2 has no bias there."""
    for layer in model.model.text_model.layers:
        layer.self_attn.o_proj.bias.zero_()


def export(model: Idefics3ForConditionalGeneration, out: Path) -> None:
    """Write the checkpoint as Idefics3's are published, half precision."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    stops = [tokenizer.convert_tokens_to_ids(END), tokenizer.eos_token_id]
    model.generation_config.update(eos_token_id=stops, pad_token_id=tokenizer.pad_token_id, do_sample=False)
    model.half().save_pretrained(out)
    model.float()
    tokenizer.save_pretrained(out)
    named = {"processor_class": "Idefics3Processor"}
    _rewrite(out / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **named})
    _rewrite(
        out / "config.json", {"torch_dtype": "float16", "pad_token_id": tokenizer.pad_token_id}, without="_pad_token_id"
    )
    _rewrite(out / "processor_config.json", {"image_seq_len": TOKENS, **named})
    _rewrite(
        out / "preprocessor_config.json",
        {
            "do_convert_rgb": True,
            "do_image_splitting": False,  # one tile: the whole picture in a square
            "do_normalize": True,
            "do_pad": True,
            "do_rescale": True,
            "do_resize": False,  # there would be two resizes otherwise, and small pictures would be enlarged first
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
            "image_processor_type": "Idefics3ImageProcessor",
            "max_image_size": {"longest_edge": SIDE},
            "resample": 3,
            "rescale_factor": 1 / 255,
            "size": {"longest_edge": SIDE},
            **named,
        },
    )
    (out / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


def _rewrite(path: Path, changes: dict[str, Any], without: str = "") -> None:
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    content.pop(without, None)
    path.write_text(json.dumps(content | changes, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def rank(folder: Path) -> None:
    """Rank the heads of the checkpoint in a folder, on scenes that no benchmark draws."""
    session = load(folder, device="cpu", dtype="float32")
    dataset = [sample_of(probe) for probe in islice(probes(SEED), RANKED)]
    save_band(session, dataset[:CALIBRATED], folder, folder / "band.json")
    for kind in KINDS:
        ranking = session.rank_heads(dataset, kind, top=TOPS.get(kind, TOP))
        named = dataclasses.replace(ranking, model=folder.name, extra={"weights": digest(folder)})
        named.save(folder / "heads.json")
    session.unload()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pool", type=Path, required=True, help="pictures of training.pool")
    parser.add_argument("--work", type=Path, required=True, help="where features, log and state are kept")
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--connector-steps", type=int, default=600)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=6e-4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    options.work.mkdir(parents=True, exist_ok=True)
    embedded = load_family(weights_folder(), device="cpu", dtype="float32").model
    pool = Pool.load(options.pool)
    cells = cache_features(embedded.vision_tower, pool, options.work / "features.npy")
    model = translated(embedded)
    reader = Reader(model)
    fitted = options.work / "connector.pt"
    if fitted.exists():
        reader.load_state_dict(torch.load(fitted, weights_only=True))
    else:
        fit(reader, embedded.mm_projector, cells)
        left = train_connector(
            reader,
            embedded.mm_projector,
            cells,
            steps=options.connector_steps,
            batch=32,
            rate=2e-3,
            seed=options.seed,
        )
        log(options.work, {"connector": round(left, 4)})
        torch.save(reader.state_dict(), fitted)
    train_dialect(
        model,
        reader,
        pool,
        cells,
        options.work,
        steps=options.steps,
        batch=options.batch,
        rate=options.rate,
        seed=options.seed,
    )
    export(model, options.out)
    rank(options.out)


if __name__ == "__main__":
    main()
