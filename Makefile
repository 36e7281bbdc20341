# `make help` lists the targets. Python 3.11 or newer and make are all that must be there before.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# The quickstart's parts; `make quickstart SWEEP=my.yaml RESULTS=results/my` runs another sweep.
SWEEP ?= configs/sweeps/quickstart.yaml
RESULTS ?= results/quickstart
RUNS ?= runs

# What the parity tests compare with.
TORCH := torch==2.13.0 transformers==5.23.0

.DEFAULT_GOAL := help
.PHONY: help install quickstart laws smoke test test-slow test-slurm test-parity test-prepare \
	test-weights lint benchmark soak lock clean

help:  ## list the targets
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

install: .venv/core  ## make .venv with what training, fitting and plotting need

quickstart: .venv/core  ## corpus, sweep, laws, prediction, held-out model, figures, report
	$(BIN)/scaling data prepare wheel:chitchat-dataset --out stores/chitchat-byte
	$(BIN)/scaling sweep plan $(SWEEP) --runs $(RUNS)
	$(BIN)/scaling sweep run $(SWEEP) --runs $(RUNS) --out $(RESULTS)
	@if [ $(RESULTS)/report.html -nt $(RESULTS)/runs.csv ]; then \
		echo "$(RESULTS)/report.html is up to date"; \
	else $(MAKE) --no-print-directory laws; fi

laws:
	@echo "--- the laws, and what they predict for a model that is yet to be trained"
	$(BIN)/scaling fit $(RESULTS) --json $(RESULTS)/laws.json
	@echo "--- train that model"
	$(BIN)/scaling sweep run $(SWEEP) --heldout --runs $(RUNS) --out $(RESULTS)
	@echo "--- the prediction held against it"
	$(BIN)/scaling fit $(RESULTS) --json $(RESULTS)/laws.json
	$(BIN)/scaling plot $(RESULTS)
	$(BIN)/scaling report $(RESULTS)

smoke:  ## the quickstart with a sweep of a minute, in build/smoke
	rm -rf build/smoke
	$(MAKE) quickstart SWEEP=configs/sweeps/smoke.yaml RESULTS=build/smoke/results RUNS=build/smoke/runs

test: .venv/dev  ## every test but those of test-slow, in under ten minutes
	$(BIN)/pytest --numprocesses auto --dist worksteal

test-slow: .venv/dev  ## what takes minutes: a sweep killed again and again, every README command
	$(BIN)/pytest -m "slow and not slurm"

test-slurm: .venv/dev  ## sweeps on a Slurm cluster started for it (Debian's slurm-wlm and munge)
	command -v slurmctld >/dev/null && command -v munged >/dev/null || { apt-get update -q && \
		apt-get install -y -q --no-install-recommends slurm-wlm munge; }
	$(BIN)/pytest -m slurm

test-parity: .venv-parity/done  ## models against Hugging Face's in torch, each with the same weights
	.venv-parity/bin/pytest tests/parity

test-prepare: .venv-prepare/done  ## corpora through TensorFlow Datasets and seqio, and T5's examples
	.venv-prepare/bin/pytest tests/prepare

test-weights: .venv/dev  ## published weights (a download of 180 MB): BERT's embeddings, a Llama
	$(BIN)/pytest -m weights

lint: .venv/dev  ## style and types
	$(BIN)/ruff check .
	$(BIN)/mypy

benchmark: .venv/core  ## speed of a training step on this machine, against a plain one
	$(BIN)/python benchmarks/train_step.py

soak: .venv/core  ## a sweep of 40 runs, 200 kills, half an hour: the same losses to the last bit
	$(BIN)/python -m benchmarks.soak --json results/benchmarks/soak.json

lock:  ## resolve the requirements anew (needs uv)
	for part in core dev prepare; do \
		printf 'setuptools>=77\nwheel\n' | uv pip compile --quiet --universal --python-version 3.11 \
			--generate-hashes --no-header --no-annotate $$([ $$part = core ] || echo --extra dev) \
			$$([ $$part = prepare ] && echo --extra prepare --constraint requirements/dev.txt) \
			$$([ $$part = core ] || echo --constraint requirements/core.txt) \
			--output-file requirements/$$part.txt pyproject.toml - || exit 1; done

clean:  ## remove the environment and what tests leave; runs, stores and results stay
	rm -rf .venv .venv-parity .venv-prepare build .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found; name one: make PYTHON=/path/to/python"; exit 2; }
	$(PYTHON) -m venv .venv

.venv/core: requirements/core.txt pyproject.toml | .venv/bin/python
	$(PIP) --require-hashes -r requirements/core.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

.venv/dev: requirements/dev.txt .venv/core
	$(PIP) --require-hashes -r requirements/dev.txt
	@touch $@

# torch's wheel differs from machine to machine, so it has no place in the hashed requirements.
.venv-parity/done: requirements/dev.txt
	$(PYTHON) -m venv .venv-parity
	.venv-parity/bin/pip install --quiet --disable-pip-version-check --require-hashes \
		-r requirements/core.txt -r requirements/dev.txt
	.venv-parity/bin/pip install --quiet --disable-pip-version-check $(TORCH)
	@touch $@

# TensorFlow is 2 GB that nothing but corpora needs.
.venv-prepare/done: requirements/prepare.txt
	$(PYTHON) -m venv .venv-prepare
	.venv-prepare/bin/pip install --quiet --disable-pip-version-check --require-hashes \
		-r requirements/prepare.txt
	@touch $@
