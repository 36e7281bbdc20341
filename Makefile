# `make help` lists the targets. The only requirements are Python 3.11 or newer and make.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# `make quickstart SWEEP=my.yaml RESULTS=results/my` runs another sweep.
SWEEP ?= configs/sweeps/quickstart.yaml
RESULTS ?= results/quickstart
RUNS ?= runs

# `make test-fuzz SEED=1` generates other files.
SEED ?= 0

# Reference implementations of the parity tests.
TORCH := torch==2.13.0 transformers==5.23.0

.DEFAULT_GOAL := help
.PHONY: help install quickstart laws smoke test test-slow test-fuzz test-slurm test-parity \
	test-prepare test-weights lint benchmark soak lock clean

help:  ## list the targets
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

install: .venv/core  ## create .venv for training, fitting and plotting

quickstart: .venv/core  ## corpus, sweep, laws, prediction, held-out model, report
	@echo "--- $(SWEEP): prepare, train, fit, report (the quickstart takes 10 minutes on two cores)"
	$(BIN)/scaling data prepare wheel:chitchat-dataset --out stores/chitchat-byte
	@mkdir -p $(RUNS)
	$(BIN)/scaling sweep plan $(SWEEP) --runs $(RUNS)
	$(BIN)/scaling sweep run $(SWEEP) --runs $(RUNS) --out $(RESULTS)
	@if [ $(RESULTS)/report.html -nt $(RESULTS)/runs.csv ]; then \
		echo "$(RESULTS)/report.html is up to date"; \
	else $(MAKE) --no-print-directory laws; fi

laws:
	@echo "--- fit the laws, and predict the loss of the held-out model"
	$(BIN)/scaling fit $(RESULTS) --save $(RESULTS)/laws.json
	$(BIN)/scaling forecast seal $(RESULTS) --heldout-of $(SWEEP) --runs $(RUNS) --ledger $(RESULTS)/forecasts.jsonl
	@echo "--- train the held-out model"
	$(BIN)/scaling sweep run $(SWEEP) --heldout --runs $(RUNS) --out $(RESULTS)
	@echo "--- compare the prediction with its loss"
	@# A clone whose held-out run is finished has sealed nothing.
	@if [ -e $(RESULTS)/forecasts.jsonl ]; then \
		$(BIN)/scaling forecast check $(RESULTS)/forecasts.jsonl $(RESULTS) --runs $(RUNS); fi
	$(BIN)/scaling fit $(RESULTS) --save $(RESULTS)/laws.json
	$(BIN)/scaling plot $(RESULTS)
	$(BIN)/scaling report $(RESULTS)

smoke:  ## the quickstart with a sweep of a minute, in build/smoke
	@echo "--- the quickstart with a tiny sweep: about a minute"
	rm -rf build/smoke
	$(MAKE) quickstart SWEEP=configs/sweeps/smoke.yaml RESULTS=build/smoke/results RUNS=build/smoke/runs

test: .venv/dev  ## all tests except those of test-slow, in 10 to 20 minutes
	@echo "--- all tests except the slow ones: 10 to 20 minutes on two cores"
	$(BIN)/pytest --numprocesses auto --dist worksteal

test-quick: .venv/dev  ## the core of each folder, in under a minute
	@echo "--- the core of each folder: under a minute"
	$(BIN)/pytest -m "quick and not slow" --numprocesses 2 --dist worksteal

test-slow: .venv/dev  ## slow ones: a sweep killed again and again, README's commands
	@echo "--- the slow tests: 15 minutes or more on two cores"
	$(BIN)/pytest -m "slow and not slurm and not alone" --numprocesses 2 --dist worksteal
	$(BIN)/pytest -m "slow and not slurm and alone"

test-fuzz: .venv/dev  ## thousands of changed files for every file reader: 10 minutes
	@echo "--- thousands of changed files for every reader, seed $(SEED): about 10 minutes on two cores"
	SCALING_FUZZ_SEED=$(SEED) $(BIN)/pytest tests/fuzz -m fuzz --numprocesses 2 --dist worksteal

test-slurm: .venv/dev  ## sweeps on a Slurm cluster started for it, installed by apt-get
	@command -v slurmctld >/dev/null && command -v munged >/dev/null || { \
		echo "--- installing slurm-wlm and munge with apt-get: about a minute" && apt-get update -q && \
		apt-get install -y -q --no-install-recommends slurm-wlm munge; }
	@echo "--- sweeps on a Slurm cluster of this machine: some minutes"
	$(BIN)/pytest -m slurm

test-parity: .venv-parity/done  ## models against Hugging Face's, with the same weights
	@echo "--- every family against Hugging Face's: some minutes"
	.venv-parity/bin/pytest tests/parity

test-prepare: .venv-prepare/done  ## corpora through TensorFlow Datasets and seqio
	@echo "--- corpora through TensorFlow Datasets and seqio: some minutes"
	.venv-prepare/bin/pytest tests/prepare

test-weights: .venv/dev  ## published weights (180 MB): BERT's embeddings, a Llama
	@echo "--- published weights, which are downloaded first (180 MB): some minutes"
	$(BIN)/pytest -m weights

lint: .venv/dev  ## style and types
	@echo "--- ruff and mypy: about a minute"
	$(BIN)/ruff check .
	$(BIN)/mypy

benchmark: .venv/core  ## speed of a training step on this machine, against a plain one
	@echo "--- speed of a training step: some minutes"
	$(BIN)/python benchmarks/train_step.py

soak: .venv/core  ## 40 runs, 200 kills, 10 to 30 minutes: bitwise identical losses
	@echo "--- 40 runs that are killed 200 times: 10 to 30 minutes"
	$(BIN)/python -m benchmarks.soak --json results/benchmarks/soak.json

lock:  ## resolve the requirements again (needs uv)
	for part in core dev prepare; do \
		printf 'setuptools>=77\nwheel\n' | uv pip compile --quiet --universal --python-version 3.11 \
			--generate-hashes --no-header --no-annotate $$([ $$part = core ] || echo --extra dev) \
			$$([ $$part = prepare ] && echo --extra prepare --constraint requirements/dev.txt) \
			$$([ $$part = core ] || echo --constraint requirements/core.txt) \
			--output-file requirements/$$part.txt pyproject.toml - || exit 1; done

clean:  ## remove environments and test output; runs and results are kept
	rm -rf .venv .venv-parity .venv-prepare build .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found; name one: make PYTHON=/path/to/python"; exit 2; }
	$(PYTHON) -m venv .venv

.venv/core: requirements/core.txt pyproject.toml | .venv/bin/python
	@echo "--- installing JAX and 59 other packages (1 GB) into .venv: about a minute"
	$(PIP) --require-hashes -r requirements/core.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

.venv/dev: requirements/dev.txt .venv/core
	@echo "--- installing the test dependencies, 92 other packages (250 MB) into .venv: half a minute"
	$(PIP) --require-hashes -r requirements/dev.txt
	@touch $@

# The wheel of torch depends on the machine, so it is not in the hashed requirements.
.venv-parity/done: requirements/dev.txt
	@echo "--- installing PyTorch and Transformers (GBs with CUDA) into .venv-parity: some minutes"
	$(PYTHON) -m venv .venv-parity
	.venv-parity/bin/pip install --quiet --disable-pip-version-check --require-hashes \
		-r requirements/core.txt -r requirements/dev.txt
	.venv-parity/bin/pip install --quiet --disable-pip-version-check $(TORCH)
	@touch $@

# TensorFlow takes 2 GB and is needed only for corpora.
.venv-prepare/done: requirements/prepare.txt pyproject.toml
	@echo "--- installing TensorFlow and seqio (3 GB) into .venv-prepare: some minutes"
	$(PYTHON) -m venv .venv-prepare
	.venv-prepare/bin/pip install --quiet --disable-pip-version-check --require-hashes \
		-r requirements/prepare.txt
	.venv-prepare/bin/pip install --quiet --disable-pip-version-check --no-deps \
		--no-build-isolation --editable .
	@touch $@
