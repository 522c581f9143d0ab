"""Ranks the embedded model's heads on drawn scenes and writes them beside its weights. Knows probes, not how to rank.

    python -m training.rank_heads --count 200

Run it again whenever the weights change: the file holds a digest of the weights that it was made for.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
from itertools import islice
from pathlib import Path

from vila_lab.evidence import Sample
from vila_lab.resident import load
from vila_lab.tiny import heads_file, weights_folder
from vila_lab.tiny.probes import Probe, probes

SEED = 1  # not the benchmark's


def sample_of(probe: Probe) -> Sample:
    images = tuple(scene.image for scene in probe.scenes)
    return Sample(images, probe.question, probe.picture, (probe.box,), probe.word)


def digest(folder: Path) -> str:
    """Of all weights of a checkpoint."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--out", type=Path, default=heads_file())
    options = parser.parse_args()
    session = load()
    dataset = [sample_of(probe) for probe in islice(probes(SEED), options.count)]
    for kind in ("routing", "localization"):
        ranking = session.rank_heads(dataset, kind)
        ranking = dataclasses.replace(ranking, extra={"weights": digest(weights_folder())})
        ranking.save(options.out)
        print(ranking)
        for name, value in ranking.scores.items():
            print(f"  {name}: {value}")


if __name__ == "__main__":
    main()
