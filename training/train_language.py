"""Stage 2: teaches projector and decoder to answer, with the vision tower frozen and its features cached. Draws nothing.

Three circuits must form: naming a patch, binding "image k" to the k-th picture, finding a named thing. Each is sped up
by a dense target that the drawn world gives for free (all of them fade out before the end, none is part of the model):

- alignment: the projector's output for a patch must point at the name of what it shows, in both languages;
- ordinal and where: a visual token must tell, after layer 2, the number of its picture and its own place in it;
- held: a name in the text must tell, after layer 4, which pictures hold the thing and where; a number, what its
  picture holds and how many; a visual token, which earlier pictures hold what it shows;
- two heads of layer 3 are rewarded for looking from a name to the patches that show it (head 0) and from a number to
  the picture that it counts (head 1). All other heads are free.

``python -m training.train_language --pool pool.npz --tower run/vision/tower --out run/language``
"""

from __future__ import annotations

import argparse
import math
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm
from transformers import Qwen2Config, Qwen2ForCausalLM, SiglipVisionModel
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, apply_rotary_pos_emb

from vila_lab.nvila.projector import build_projector
from vila_lab.tiny.names import THINGS

from .pool import CELLS, MOST, Pool
from .resuming import log, resume, save
from .sets import EASY, FULL, GRID, HARD, MOST_PICTURES, PRACTICE, TASK_WEIGHTS, TOKENS, Batch, Mixture, SetSampler
from .tokenizer import build_tokenizer
from .train_vision import features, normalise

HELD_OUT = 2000  # last rows of the pool: never trained on here
GUIDED_LAYER, PROBED_LAYER = (
    2,
    4,
)  # 0-based: the third layer's heads are rewarded, its input and the fourth's output probed
FIND_HEAD, BIND_HEAD = 0, 1
PRACTICE_RATE = 0.15  # of the highest rate
SIX = replace(FULL, pictures=(0, 0, 0, 0, 0, 1))  # the hardest sets, measured by themselves


def decoder_config(vocab_size: int) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=vocab_size,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 1_000_000.0,
        },  # slow pairs: content must match across 200 positions
        tie_word_embeddings=True,
        attention_dropout=0.0,
    )


def cache_features(tower: SiglipVisionModel, pool: Pool, path: Path) -> np.ndarray:
    """Tower features of the whole pool in half precision, computed once.  # (N, 144, 128)"""
    if not path.exists():
        partial = path.with_suffix(".partial.npy")
        out = np.lib.format.open_memmap(
            partial, mode="w+", dtype=np.float16, shape=(len(pool), CELLS * CELLS, tower.config.hidden_size)
        )
        with torch.no_grad():
            for start in tqdm(range(0, len(pool), 250), desc="encoding", unit="x250"):
                out[start : start + 250] = features(tower, normalise(pool.pixels[start : start + 250])).half().numpy()
        out.flush()
        partial.rename(path)
    cached: np.ndarray = np.load(path, mmap_mode="r")
    return cached


class Probes(nn.Module):
    """The linear readers of the dense targets; thrown away after training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ordinal = nn.Linear(width, MOST_PICTURES)
        self.held = nn.Linear(width, MOST_PICTURES)
        self.earlier = nn.Linear(width, MOST_PICTURES)
        self.place = nn.Linear(width, 2)
        self.where = nn.Linear(width, 2)
        self.holds = nn.Linear(width, len(THINGS))
        self.amount = nn.Linear(width, MOST)


class Student(nn.Module):
    """Projector, decoder and probes, run layer by layer so that the dense targets can look inside."""

    def __init__(self, vocab_size: int, vision_width: int, names: Tensor) -> None:
        super().__init__()
        config = decoder_config(vocab_size)
        self.decoder = Qwen2ForCausalLM(config)
        self.projector = build_projector("mlp_downsample", vision_width, config.hidden_size)
        self.probes = Probes(config.hidden_size)
        self.names: Tensor
        self.register_buffer("names", names, persistent=False)  # (things, 2): ids of the English and the Chinese name

    def forward(
        self, batch: Batch, cells: Tensor, *, aid: float, guide: float
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Loss, its parts, and the logits at the answer positions.

        Parameters
        ----------
        cells
            Tower features (B, n, 144, 128).
        aid, guide
            Weights of the dense targets and of the two rewarded heads; 0 skips them.
        """
        model = self.decoder.model
        size, count = cells.shape[:2]
        seen = self.projector(cells.flatten(0, 1)).view(size, count * TOKENS, -1)  # (B, n*36, H)
        hidden = model.embed_tokens(batch.ids.clamp(min=0))
        hidden[:, batch.visual] = seen
        rotary = model.rotary_emb(hidden, batch.positions)
        bias = torch.zeros(batch.mask.shape).masked_fill_(~batch.mask, torch.finfo(hidden.dtype).min)
        parts: dict[str, Tensor] = {}
        if aid:
            parts["align"] = 0.5 * self._alignment(seen, batch.shown)
        for index, layer in enumerate(model.layers):
            if index == GUIDED_LAYER:
                if aid:
                    parts["ordinal"] = 0.2 * self._ordinal(hidden, batch, count)
                    parts["where"] = self._where(hidden, batch, count)
                if guide:
                    parts["guide"] = self._guide(layer, hidden, rotary, batch, count)
            hidden = layer(hidden, attention_mask=bias, position_ids=batch.positions, position_embeddings=rotary)
            if index + 1 == PROBED_LAYER and aid:
                parts |= self._held(hidden, batch, count)
        answers = batch.targets >= 0
        logits = self.decoder.lm_head(model.norm(hidden[answers]))  # (answer tokens, V)
        parts["answer"] = F.cross_entropy(logits, batch.targets[answers])
        dense = sum(value for name, value in parts.items() if name not in ("answer", "guide"))
        return parts["answer"] + aid * dense + guide * parts.get("guide", 0.0), parts, logits

    def _alignment(self, seen: Tensor, shown: Tensor) -> Tensor:
        front = shown >= 0
        logp = F.log_softmax(seen[front] @ self.decoder.model.embed_tokens.weight.T, -1)
        return -logp.gather(1, self.names[shown[front]]).mean()

    def _ordinal(self, hidden: Tensor, batch: Batch, count: int) -> Tensor:
        logits = self.probes.ordinal(hidden[:, batch.visual])
        target = torch.arange(count).repeat_interleave(TOKENS).expand(len(hidden), -1)
        return F.cross_entropy(logits.flatten(0, 1), target.flatten())

    def _where(self, hidden: Tensor, batch: Batch, count: int) -> Tensor:
        ramp = torch.linspace(-1, 1, GRID)
        grid = torch.stack(torch.meshgrid(ramp, ramp, indexing="xy"), -1).flatten(0, 1)  # (36, 2): x, y
        place = grid.repeat(count, 1)  # (n*36, 2)
        return F.mse_loss(self.probes.where(hidden[:, batch.visual]), place.expand(len(hidden), -1, -1))

    def _held(self, hidden: Tensor, batch: Batch, count: int) -> dict[str, Tensor]:
        rows, columns = torch.nonzero(batch.named >= 0, as_tuple=True)
        words = hidden[rows, columns]
        held = batch.held[rows, :, batch.named[rows, columns]].float()  # (words, n)
        losses = {"held": 0.3 * F.binary_cross_entropy_with_logits(self.probes.held(words)[:, :count], held)}
        place = batch.place[rows, columns]
        known = ~place[:, 0].isnan()
        if known.any():
            losses["place"] = 2 * F.mse_loss(self.probes.place(words[known]), 2 * place[known] - 1)
        rows, columns = torch.nonzero((batch.bound >= 0) & (batch.bound < count), as_tuple=True)
        if len(rows):
            numbers = hidden[rows, columns]
            contents = batch.held[rows, batch.bound[rows, columns]].float()  # (numbers, things)
            amount = contents.sum(1, keepdim=True)
            losses["holds"] = 0.2 * F.cross_entropy(self.probes.holds(numbers), contents / amount)
            losses["amount"] = 0.2 * F.cross_entropy(self.probes.amount(numbers), amount[:, 0].long() - 1)
        if count > 1:
            rows, columns = torch.nonzero(batch.shown >= 0, as_tuple=True)
            held = batch.held[rows, :, batch.shown[rows, columns]].float()
            earlier = torch.arange(count) < (columns // TOKENS)[:, None]
            logits = self.probes.earlier(hidden[:, batch.visual][rows, columns])[:, :count]
            losses["earlier"] = 0.2 * F.binary_cross_entropy_with_logits(logits[earlier], held[earlier])
        return losses

    def _guide(
        self, layer: Qwen2DecoderLayer, hidden: Tensor, rotary: tuple[Tensor, Tensor], batch: Batch, count: int
    ) -> Tensor:
        """Minus the log of the mass on the right visual tokens: head 0 from names, head 1 from numbers."""
        attention = layer.self_attn
        normed = layer.input_layernorm(hidden)
        shape = (*hidden.shape[:2], -1, attention.head_dim)
        query = attention.q_proj(normed).view(shape).transpose(1, 2)
        key = attention.k_proj(normed).view(shape).transpose(1, 2)
        query, key = apply_rotary_pos_emb(query, key, *rotary)
        key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
        ordinal = torch.arange(count).repeat_interleave(TOKENS)
        total = torch.zeros(())
        for head, wanted in ((FIND_HEAD, batch.named), (BIND_HEAD, batch.bound)):
            rows, columns = torch.nonzero((wanted >= 0) & (batch.targets < 0), as_tuple=True)
            what = wanted[rows, columns]
            place = batch.shown[rows] if head == FIND_HEAD else ordinal
            right = place == what[:, None]  # (words, n*36)
            keep = right.any(1)
            if not keep.any():
                continue
            rows, columns, right = rows[keep], columns[keep], right[keep]
            scores = torch.einsum("wd,wtd->wt", query[rows, head, columns], key[:, head][rows]) * attention.scaling
            scores = scores.masked_fill(~batch.mask[rows, 0, columns], float("-inf"))
            inside = scores[:, batch.visual].masked_fill(~right, float("-inf")).logsumexp(1)
            total = total + (scores.logsumexp(1) - inside).mean()
        return total


def exact(batch: Batch, logits: Tensor) -> dict[str, list[bool]]:
    """Per task: whether each answer is right as a whole, which under greedy decoding is the same as token by token."""
    answers = batch.targets >= 0
    right = torch.ones_like(answers)
    right[answers] = logits.argmax(-1) == batch.targets[answers]
    found: dict[str, list[bool]] = defaultdict(list)
    for row, turns in enumerate(batch.turns):
        for turn, first, last in turns:
            found[turn.task].append(bool(right[row, first:last].all()))
    return dict(found)


def evaluate(
    student: Student, sampler: SetSampler, cells: np.ndarray, mixture: Mixture, batches: int = 8
) -> dict[str, float]:
    found: dict[str, list[bool]] = defaultdict(list)
    with torch.no_grad():
        for _ in range(batches):
            batch = sampler.batch(16, mixture)
            _, _, logits = student(batch, gather(cells, batch), aid=0.0, guide=0.0)
            for task, right in exact(batch, logits).items():
                found[task] += right
    return {task: round(float(np.mean(right)), 3) for task, right in sorted(found.items())}


def gather(cells: np.ndarray, batch: Batch) -> Tensor:
    rows = batch.rows.numpy()
    return torch.from_numpy(cells[rows.ravel()].astype(np.float32)).view(*rows.shape, *cells.shape[1:])


@dataclass(frozen=True)
class Plan:
    """What happens when, in steps.

    The beginning is the same for every length that is long enough, so a run can be made longer before its rate falls.

    Attributes
    ----------
    warm
        The rate rises until here.
    guided
        Two heads are rewarded until here; then the world grows from one thing in each of four pictures to the full one.
    full
        The world is full from here on.
    settled
        The rate falls as one over the steps from here on.
    cool
        The rate falls to nothing from here to ``practice``; the dense targets fade out in the first half of that.
    practice
        What is still weak is asked more often from here on, at a rate that rises once more, to a little, and falls to nothing.
    """

    warm: int
    guided: int
    full: int
    settled: int
    cool: int
    practice: int
    steps: int

    @classmethod
    def of(cls, steps: int) -> Plan:
        practice = round(steps * 9 / 11)
        return cls(
            min(300, steps // 12),
            min(1400, steps // 4),
            min(2100, steps // 3),
            min(2500, steps // 2),
            round(0.65 * practice),
            practice,
            steps,
        )

    def rate(self, step: int) -> float:
        """The learning rate as a share of the highest."""
        if step >= self.practice:
            done = (step - self.practice) / (self.steps - self.practice)
            return PRACTICE_RATE * min(done / 0.05, (1 - done) / 0.95)
        rate = min(1.0, (step + 1) / max(1, self.warm), self.settled / max(1, step))
        if step < self.cool:
            return rate
        return rate * (1 - math.sqrt((step - self.cool) / (self.practice - self.cool)))

    def aid(self, step: int) -> float:
        """Weight of the dense targets."""
        return float(np.clip(1 - 2 * (step - self.cool) / (self.practice - self.cool), 0, 1))

    def mixture(self, step: int) -> Mixture:
        ramp = float(np.clip((step - self.guided) / (self.full - self.guided), 0, 1))
        easy = [*EASY.pictures, *([0.0] * (MOST_PICTURES - len(EASY.pictures)))]
        pictures = np.array(easy) * (1 - ramp) + np.array(HARD.pictures) * ramp
        single = EASY.single * (1 - ramp) + HARD.single * ramp
        tasks = PRACTICE if step >= self.practice else TASK_WEIGHTS
        return Mixture(single, tuple(pictures / pictures.sum()), HARD.singles * ramp, tasks)


def train(
    pool: Pool,
    tower: SiglipVisionModel,
    out: Path,
    *,
    steps: int,
    batch: int,
    rate: float,
    seed: int,
    save_every: int = 500,
    on_step: Callable[[int], None] | None = None,
) -> None:
    """Train, logging to ``out/log.jsonl`` and resuming from ``out/state.pt`` if that is there."""
    torch.manual_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    cells = cache_features(tower.eval(), pool, out / "features.npy")
    tokenizer = build_tokenizer()
    names = torch.tensor(
        [
            [tokenizer(form).input_ids[0] for form in (t.name if t.is_company else f" {t.name}", t.chinese)]
            for t in THINGS
        ]
    )
    student = Student(len(tokenizer), tower.config.hidden_size, names)
    optimiser = torch.optim.AdamW(student.parameters(), rate, weight_decay=0.05, betas=(0.9, 0.98))
    plan = Plan.of(steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, plan.rate)
    parts: dict[str, Any] = {"student": student, "optimiser": optimiser, "schedule": schedule}
    first = resume(out, parts)
    split = len(pool) - HELD_OUT
    sampler = SetSampler(pool, tokenizer, np.random.default_rng(seed + first), range(split))
    held_rows = range(split, len(pool)) if HELD_OUT else range(len(pool))
    held_out = SetSampler(pool, tokenizer, np.random.default_rng(10_000), held_rows)
    started = time.perf_counter()
    for step in (bar := tqdm(range(first, steps), initial=first, total=steps, desc="language")):
        found = sampler.batch(batch, plan.mixture(step))
        if on_step is not None:
            on_step(step)
        loss, losses, logits = student(
            found, gather(cells, found), aid=plan.aid(step), guide=0.3 if step < plan.guided else 0.0
        )
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 20 == 19:
            right = {task: round(float(np.mean(r)), 2) for task, r in exact(found, logits).items()}
            record = {"step": step + 1, "seconds": round(time.perf_counter() - started, 1)}
            record |= {name: round(value.item(), 3) for name, value in losses.items()} | {"right": right}
            log(out, record)
            bar.set_postfix(answer=record["answer"])
        if step % save_every == save_every - 1 or step == steps - 1:
            record = {"step": step + 1, "held_out": evaluate(student, held_out, cells, plan.mixture(step))}
            record["held_out_six"] = evaluate(student, held_out, cells, SIX)
            log(out, record)
            save(out, step + 1, parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--tower", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=11_000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tower = SiglipVisionModel.from_pretrained(options.tower)
    train(
        Pool.load(options.pool),
        tower,
        options.out,
        steps=options.steps,
        batch=options.batch,
        rate=options.rate,
        seed=options.seed,
    )


if __name__ == "__main__":
    main()
