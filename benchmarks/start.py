"""How long a reader waits: import, loading the embedded model, the four-picture question, its display.

    python benchmarks/start.py --repeats 5

Wall-clock seconds, every repeat in a fresh interpreter, medians; the aims are printed beside them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "start.json"
AIMS = {"import beyond torch and transformers": 0.3, "load": 2.0, "ask, first": None, "ask and display, warm": 2.0}
STEPS = """
import json, time
import torch, transformers
from transformers import GenerationMixin, PreTrainedModel, ProcessorMixin

found, start = {}, time.perf_counter()

def note(name):
    global start
    found[name] = time.perf_counter() - start
    start = time.perf_counter()

import vila_lab
note("import beyond torch and transformers")
lab = vila_lab.load()
note("load")
from vila_lab.tiny import DEMO_MEDIA, DEMO_TEXT
media = [vila_lab.demo_images() / name for name in DEMO_MEDIA]
start = time.perf_counter()
lab.ask(DEMO_TEXT, images=media)._repr_mimebundle_()
note("ask, first")
lab.ask(DEMO_TEXT, images=media)._repr_mimebundle_()
note("ask and display, warm")
print(json.dumps(found))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    runs = []
    for _ in range(options.repeats):
        done = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    report = {}
    print("| step | median s | worst s | aim s |\n| --- | --- | --- | --- |")
    for name, aim in AIMS.items():
        seconds = [run[name] for run in runs]
        report[name] = {"median": statistics.median(seconds), "worst": max(seconds), "aim": aim}
        print(f"| {name} | {statistics.median(seconds):.2f} | {max(seconds):.2f} | {aim or ''} |")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
