"""Ranks the embedded model's heads on drawn scenes, finds where its answers are redirected, and writes both beside its weights.
Knows probes, not how to rank.

    python -m training.rank_heads --count 200

Run it again whenever the weights change: the files hold a digest of the weights that it was made for.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from vila_lab.evidence import Sample
from vila_lab.evidence.heads import KINDS, TOP
from vila_lab.resident import load
from vila_lab.session import Session
from vila_lab.tiny import band_file, heads_file, weights_folder
from vila_lab.tiny.probes import Probe, probes

SEED = 1  # not the benchmarks'
LONGEST = 32  # tokens of an answer
TOPS = {"causal": 6}  # fewer do not beat their controls when they are ablated: benchmarks/heads.py
CALIBRATED = 24  # questions on which the band of redirections is chosen


def sample_of(probe: Probe) -> Sample:
    images = tuple(scene.image for scene in probe.scenes)
    return Sample(images, probe.question, probe.picture, (probe.box,), probe.word)


def digest(folder: Path) -> str:
    """Of all weights of a checkpoint."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def save_band(session: Session, dataset: Sequence[Sample], folder: Path, path: Path) -> None:
    """Find the band of a session on questions that it answers with the sample's word, and write it with a digest of the weights."""
    asked = (session.ask([*sample.images, sample.question], max_new_tokens=LONGEST) for sample in dataset)
    said = [answer for answer, sample in zip(asked, dataset, strict=True) if answer.rows_of(sample.word)]
    found = session.find_band(said)
    path.write_text(json.dumps(found.to_json() | {"weights": digest(folder)}, indent=1) + "\n", encoding="utf-8")
    print(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument(
        "--calibration", type=int, default=CALIBRATED, help="questions on which the band of redirections is chosen"
    )
    parser.add_argument(
        "--kinds", nargs="+", choices=KINDS, default=KINDS, help="the file keeps what it has of the others"
    )
    parser.add_argument("--out", type=Path, default=heads_file())
    parser.add_argument("--band", type=Path, default=band_file())
    options = parser.parse_args()
    session = load()
    dataset = [sample_of(probe) for probe in islice(probes(SEED), options.count)]
    save_band(session, dataset[: options.calibration], weights_folder(), options.band)
    for kind in options.kinds:
        ranking = session.rank_heads(dataset, kind, top=TOPS.get(kind, TOP))
        ranking = dataclasses.replace(ranking, extra={"weights": digest(weights_folder())})
        ranking.save(options.out)
        print(ranking)
        for name, value in ranking.scores.items():
            print(f"  {name}: {value}")


if __name__ == "__main__":
    main()
