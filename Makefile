# charlab's commands: `make help` lists them.
.DEFAULT_GOAL := help
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11; do \
	$$name -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$name && break; done)
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest -q
PARALLEL := -n auto --dist worksteal
HYDRA_TESTS := tests/configuration tests/test_cli.py \
	tests/studies/test_sweep.py::test_a_program_of_ones_own_hands_its_sweep_over
ARGS ?=
unexport PYTHONDONTWRITEBYTECODE  # hundreds of processes import the same modules

.PHONY: help install quickstart study test test-slow test-corpus test-clusters test-hydra lint results docs

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

install: .venv/installed ## create .venv with charlab and everything that its tests need

.venv/installed: pyproject.toml constraints.txt
	@tools/install.sh "$(PYTHON)" .venv constraints.txt -e '.[dev]'
	@touch .venv/runtime $@

.venv/runtime: pyproject.toml constraints.txt
	@tools/install.sh "$(PYTHON)" .venv constraints.txt --compile-bytecode -e .  # so that the first import is quick
	@touch $@

quickstart: .venv/runtime ## train a network that beats counting in a minute: no GPU, no download of a text
	@$(BIN)/python scripts/train.py experiment=quickstart force=true $(ARGS)

study: install ## run a small study on the embedded corpus and write its report
	@$(BIN)/python scripts/train.py -m study=demo launcher.at_once=null $(ARGS)

test: install ## run the fast tests
	$(PYTEST) $(PARALLEL) $(ARGS)

test-slow: install ## kill and resume runs of every model, run studies, do what the documentation says
	$(PYTEST) $(PARALLEL) -m 'slow and not corpus and not rendering' $(ARGS)

test-corpus: install ## run the tests that need the real text, in the folder that CHARLAB_DATA names
	$(PYTEST) $(PARALLEL) -m corpus $(ARGS)

test-clusters: install ## run studies on real clusters: CHARLAB_CLUSTERS=slurm,ray make test-clusters
	$(PYTEST) -m slow tests/studies/test_slurm.py tests/studies/test_launchers.py -k 'slurm or ray' $(ARGS)

test-hydra: .venv-hydra-1.4/installed ## run all tests of the configuration with Hydra's release candidate
	.venv-hydra-1.4/bin/python -m pytest -q $(PARALLEL) -m 'not corpus and not rendering' $(HYDRA_TESTS) $(ARGS)

.venv-hydra-1.4/installed: pyproject.toml constraints.txt constraints-hydra-1.4.txt
	@mkdir -p .venv-hydra-1.4
	@awk -F == 'NR == FNR { own[$$1]; print; next } !($$1 in own)' constraints-hydra-1.4.txt constraints.txt \
		> .venv-hydra-1.4/constraints.txt
	@tools/install.sh "$(PYTHON)" .venv-hydra-1.4 .venv-hydra-1.4/constraints.txt -e '.[dev]'
	@touch $@

lint: install ## check style, types, and that imports point one way
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

results: install ## make what the documents show and records/ lacks; ARGS=--list says what, ARGS=--check compares
	@$(BIN)/python -m tools.results $(ARGS)

docs: install ## build the documentation in docs/_build/html and run its notebooks; any warning is an error
	$(BIN)/python -m sphinx -q -W -n --keep-going -b html docs docs/_build/html $(ARGS)
