# `make demo` shows what this is; `make test` runs every check. Both set up .venv when it is not there yet.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

# Pinned here and nowhere else, to the version the tests were run with: where pip finds a CPU build of it, the 3 GB of
# CUDA libraries stay away that an unpinned torch pulls on Linux. `make setup TORCH=torch` takes what pip prefers.
TORCH := torch==2.13.0
# Of this torch's own age; its operators are built for CUDA's torch, see tests/beside_cpu_torch.py.
TORCHVISION := torchvision==0.28.0 num2words==0.5.14 docopt==0.6.2
AXE := axe-core@4.14.1

.DEFAULT_GOAL := help
.PHONY: help setup address constraints browser axe demo lab gallery docs test lint types versions newest probe bench bench-gpu bench-peers clean

help:
	@echo "make demo    ask the embedded model about pictures and write a page that shows where the words came from"
	@echo "make lab     open the notebooks in JupyterLab"
	@echo "make gallery draw every figure from the embedded model"
	@echo "make docs    build the site of documentation into build/docs"
	@echo "make test    formatting, types, unit tests, doctests, notebooks, browser tests"
	@echo "make versions  install and test the lowest and the newest allowed versions"
	@echo "make bench   measure what the README states; make bench-gpu what a CUDA device makes of it, make bench-peers other tools"
	@echo "make clean   remove .venv, caches and builds"

setup: $(READY) browser axe

# One environment for everything: a lean one for the demo saved 29 of 131 seconds, once.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[adapters,completion,docs,lab,serve,structured,sweep,video,test]" $(TORCH) --constraint constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target .venv/torchvision $(TORCHVISION)
	@touch $@

# All of pyproject.toml but bench, whose tools want older versions: see bench-peers.
EXTRAS := adapters completion docs lab quantization serve structured sweep video test

# The newest allowed version of everything, for every Python and system at once. torch is left to TORCH above, and with it
# the CUDA libraries that only its Linux builds need; sympy and networkx are what else it needs.
constraints: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	printf 'networkx\nsympy\n' | $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 $(addprefix --extra ,$(EXTRAS)) --no-annotate \
		--custom-compile-command "make constraints" --overrides .ci/no-torch.txt --output-file constraints.txt pyproject.toml -

# A fork changes the repository's address in pyproject.toml, once; this writes it wherever else it stands.
address:
	$(PYTHON) .ci/address.py

browser:
	@.ci/browser

# The accessibility checks of the browser tests; without npm they are skipped and say so.
axe: .cache/axe/axe.min.js
.cache/axe/axe.min.js:
	@mkdir -p $(@D)
	@command -v npm >/dev/null && cd $(@D) && npm pack --silent $(AXE) | xargs tar -xzf && mv package/axe.min.js . && rm -r package *.tgz || \
		echo "axe-core could not be fetched with npm: the accessibility tests will be skipped"

demo: $(READY)
	@$(BIN)/vila-lab demo

lab: $(READY)
	$(BIN)/jupyter lab notebooks/

gallery: $(READY)
	$(BIN)/python -m vila_lab.gallery gallery
	$(BIN)/python -m vila_lab.gallery docs first_look patching frames

# Static files, for any host or none: they open from the folder too. tests/docs builds and checks a copy of its own.
docs: $(READY)
	TQDM_DISABLE=1 PYTHONPATH=. $(BIN)/python -m sphinx -W -n -E --keep-going -q docs build/docs
	@echo "build/docs/index.html"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

types: $(READY)
	$(BIN)/mypy --strict vila_lab training

# pytest comes last, so that its sum line closes the output. One thread a process: these models are so small that more of
# them only wait for each other. A file stays with one process, which keeps a notebook's kernel and a module's fixtures.
# Other families first, beside torchvision, which some of them need and none of ours: it stands apart, so that everything else
# is tried without it.
test: setup lint types
	OMP_NUM_THREADS=1 TQDM_DISABLE=1 PYTHONPATH=.:.venv/torchvision $(BIN)/python -m pytest tests/families -p tests.beside_cpu_torch \
		-n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
	OMP_NUM_THREADS=1 TQDM_DISABLE=1 $(BIN)/python -m pytest tests vila_lab training notebooks --doctest-modules -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder \
		--nbval-lax --nbval-current-env --nbval-cell-timeout=300 --nbval-sanitize-with=tests/nbval_sanitize.cfg

# Everything that is asked for in its lowest and in its newest allowed version; writes docs/verified.md.
versions: $(READY)
	$(BIN)/python .ci/versions.py lowest newest --torch $(TORCH)

newest: $(READY)
	$(BIN)/python .ci/versions.py newest --torch $(TORCH)

probe: $(READY)
	$(BIN)/python .ci/versions.py lowest --probe --torch $(TORCH)

# Pieces that several share, and those that need more than `make setup` installs.
NOT_RUN := $(addprefix benchmarks/, gpu.py families.py peers.py checkpoints.py memory.py random_nvila.py reporting.py truth.py)

bench: $(READY)
	@for file in $(filter-out $(NOT_RUN), $(wildcard benchmarks/*.py)); do echo "$$file"; $(BIN)/python "$$file" || exit 1; done
	PYTHONPATH=.:.venv/torchvision $(BIN)/python benchmarks/families.py

# Needs a CUDA device, so it is run by itself (`make setup TORCH=torch` installs a torch that can use one).
bench-gpu: $(READY)
	$(BIN)/python benchmarks/gpu.py

# Other tools beside this one, half an hour. They cannot share an environment: inseq and TransformerLens want other typeguards.
bench-peers:
	$(PYTHON) -m venv .venv/peers
	.venv/peers/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[bench]" $(TORCH)
	.venv/peers/bin/python benchmarks/peers.py
	$(PYTHON) -m venv .venv/inseq
	.venv/inseq/bin/python -m pip install --quiet --disable-pip-version-check --editable . $(TORCH) inseq==0.7.1 "transformers<5.24"
	.venv/inseq/bin/python benchmarks/peers.py --only inseq

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
