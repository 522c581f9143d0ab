"""Stage 1: teaches the vision tower to say, for every patch, which thing it shows. Knows nothing of language.

The dense target is the trick: every patch is a labelled example. A second linear probe predicts where the patch lies,
so that positions stay readable after the tower. Both probes are thrown away.

``python -m training.train_vision --pool pool.npz --out run/vision``
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm
from transformers import SiglipVisionConfig, SiglipVisionModel

from vila_lab.tiny.names import THINGS

from .pool import CELLS, SIDE, Pool
from .resuming import log, resume, save

HELD_OUT = 500  # last rows of the pool: never trained on here

# NVILA reads the output of the last layer but one, so the fifth layer is there for the format and never trained.
TOWER = SiglipVisionConfig(
    hidden_size=128,
    intermediate_size=512,
    num_hidden_layers=5,
    num_attention_heads=4,
    image_size=SIDE,
    patch_size=SIDE // CELLS,
    vision_use_head=False,
)


def normalise(pixels: np.ndarray) -> Tensor:
    """uint8 (N, H, W, 3) to float (N, 3, H, W) in [-1, 1], as the image processor does."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(127.5).sub(1.0)


def features(tower: SiglipVisionModel, pixels: Tensor) -> Tensor:
    """Output of the last encoder layer but one.  # (N, 144, 128)"""
    inner = getattr(tower, "vision_model", tower)
    hidden = inner.embeddings(pixels)
    for layer in inner.encoder.layers[:-1]:
        hidden = layer(hidden, None)
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
    return torch.as_tensor(hidden)


class Probes(nn.Module):
    """What a patch shows and where it lies, read linearly."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.thing = nn.Linear(width, len(THINGS) + 1)
        self.place = nn.Linear(width, 2)

    def loss(self, hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy plus squared error of the place, and the accuracy on foreground patches."""
        logits = self.thing(hidden).flatten(0, 1)  # (N*144, things+1)
        target = torch.where(labels < 0, len(THINGS), labels.long()).flatten()
        ramp = torch.linspace(-1, 1, CELLS)
        place = torch.stack(torch.meshgrid(ramp, ramp, indexing="ij"), -1).flatten(0, 1)
        loss = F.cross_entropy(logits, target) + 0.1 * F.mse_loss(self.place(hidden), place.expand(len(hidden), -1, -1))
        front = target < len(THINGS)
        return loss, (logits.argmax(-1) == target)[front].float().mean()


def train(pool: Pool, out: Path, *, steps: int, batch: int, rate: float, seed: int, save_every: int = 250) -> None:
    """Train, logging to ``out/log.jsonl`` and resuming from ``out/state.pt`` if that is there."""
    torch.manual_seed(seed)
    tower = SiglipVisionModel(TOWER)
    probes = Probes(TOWER.hidden_size)
    parameters = [*tower.parameters(), *probes.parameters()]
    optimiser = torch.optim.AdamW(parameters, rate, weight_decay=0.05, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.1)
    out.mkdir(parents=True, exist_ok=True)
    parts: dict[str, Any] = {"tower": tower, "probes": probes, "optimiser": optimiser, "schedule": schedule}
    first = resume(out, parts)
    rng = np.random.default_rng(seed + first)
    held = np.arange(len(pool) - HELD_OUT, len(pool))
    for step in (bar := tqdm(range(first, steps), initial=first, total=steps, desc="vision")):
        rows = rng.integers(0, len(pool) - HELD_OUT, batch)
        started = time.perf_counter()
        loss, accuracy = probes.loss(
            features(tower, normalise(pool.pixels[rows])), torch.from_numpy(pool.labels[rows]).flatten(1)
        )
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        if step % 50 == 49:
            record = {
                "step": step + 1,
                "loss": loss.item(),
                "accuracy": accuracy.item(),
                "seconds": time.perf_counter() - started,
            }
            if step % 250 == 249:
                with torch.no_grad():
                    hidden = features(tower, normalise(pool.pixels[held]))
                    record["held_out"] = probes.loss(hidden, torch.from_numpy(pool.labels[held]).flatten(1))[1].item()
            bar.set_postfix(record)
            log(out, record)
        if step % save_every == save_every - 1 or step == steps - 1:
            save(out, step + 1, parts)
    tower.save_pretrained(out / "tower")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    train(
        Pool.load(options.pool),
        options.out,
        steps=options.steps,
        batch=options.batch,
        rate=options.rate,
        seed=options.seed,
    )


if __name__ == "__main__":
    main()
