# The commands of charlab. `make help` lists them.
.DEFAULT_GOAL := help
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11; do \
	$$name -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$name && break; done)
BIN := .venv/bin
ARGS ?=

.PHONY: help install quickstart train study results test test-slow test-clusters test-rendering test-all test-corpus lint format types docs-test clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: .venv/installed ## create .venv and install the pinned dependencies

.venv/installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "charlab needs Python 3.11, 3.12 or 3.13: install one, or name it with make PYTHON=..." >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

quickstart: install ## train a small transformer on the embedded corpus: two minutes, no network, no GPU
	@$(BIN)/python scripts/train.py experiment=quickstart force=true $(ARGS)

train: install ## train: make train ARGS="experiment=part1/bigram"
	@$(BIN)/python scripts/train.py $(ARGS)

study: install ## run a small study on the embedded corpus and write its report
	@$(BIN)/python scripts/train.py -m study=demo launcher.at_once=null $(ARGS)

results: install ## write docs/results.md from the records: make results ARGS=--check
	@$(BIN)/python -m tools.results $(ARGS)

test: install ## run the fast tests
	$(BIN)/python -m pytest -n auto --dist worksteal -q $(ARGS)

test-corpus: install ## run the tests that need the real text, under $$CHARLAB_DATA
	$(BIN)/python -m pytest -q -m corpus $(ARGS)

test-slow: install ## kill and continue runs of every model, and studies
	$(BIN)/python -m pytest -n auto --dist worksteal -q -m 'slow and not rendering' tests/runs tests/studies tests/training tests/test_cli.py $(ARGS)

test-clusters: install ## run studies on the clusters that are there: CHARLAB_CLUSTERS=slurm,ray make test-clusters
	$(BIN)/python -m pytest -q -m slow tests/studies/test_slurm.py tests/studies/test_launchers.py -k 'slurm or ray' $(ARGS)

test-rendering: install ## look at reports in Chromium and through pdflatex, where they are installed
	$(BIN)/python -m pytest -q -m rendering tests/studies/report $(ARGS)

test-all: install ## run every test that needs neither the real text nor a browser, the slow ones too
	$(BIN)/python -m pytest -n auto --dist worksteal -q -m 'not corpus and not rendering' $(ARGS)

lint: install ## check style and that imports point one way
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

format: install ## mend style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: install ## check types
	$(BIN)/mypy

docs-test: install ## do what the documentation says, and check that it works
	$(BIN)/python -m pytest -q tests/docs -m 'not corpus' $(ARGS)

clean: ## remove .venv and caches; runs stay
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache
