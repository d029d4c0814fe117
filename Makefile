# The commands of daily work; `make` alone lists them. Needs Python 3.11 or newer, make and git: the rest is fetched.
# Everything is installed into .venv, by hash, once; a second run fetches nothing.

.DEFAULT_GOAL := help
.NOTPARALLEL:

VENV := .venv
BIN := $(VENV)/bin
TESTS ?= tests
WORKERS ?= logical
KILLS ?= 200
SEED ?= 1
SEEDS ?= 1000
SIZE ?= small
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install
LOCK := $(BIN)/uv pip compile --system-certs --quiet $(UPGRADE) pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate --no-emit-index-url --no-emit-find-links

.PHONY: help
help: ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS='	' read -r name text; do \
		printf '  make %-8s %s\n' "$$name" "$$text"; done

.PHONY: demo
demo: $(VENV)/libraries $(VENV)/project ## start everything on this machine, run a job on 203 hosts, show it
	@$(BIN)/chargehand demo

.PHONY: test
test: $(VENV)/test-libraries $(VENV)/project prepare lint ## run every check and every test (TESTS=tests/unit: only those; WORKERS=0: one by one)
	@$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder $(TESTS)

.PHONY: chaos
chaos: $(VENV)/test-libraries $(VENV)/project prepare ## kill -9 on everything, again and again (KILLS=200 SEED=1), and the broker away for 2 minutes
	@CHARGEHAND_TEST_BROKER_AWAY_S=120 $(BIN)/python -m pytest -q tests/end_to_end/test_resume.py -k broker
	@PYTHONPATH=tests $(BIN)/python -m chaos.campaign --kills $(KILLS) --seed $(SEED)

.PHONY: mutants
mutants: $(VENV)/test-libraries $(VENV)/project ## take out each rule and plant bugs: the simulation must notice (SEEDS=1000)
	@PYTHONPATH=tests $(BIN)/python -m mutants --seeds $(SEEDS)

.PHONY: bench
bench: $(VENV)/test-libraries $(VENV)/project prepare ## measure how fast it is (ONLY=latency SIZE=full), as docs/benchmarks.md tells
	@PYTHONPATH=tests $(BIN)/python -m benchmarks $(if $(ONLY),--only $(ONLY)) --size $(SIZE)

.PHONY: lint
lint: $(VENV)/test-libraries $(VENV)/project ## style, types and import rules
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

.PHONY: lock
lock: $(VENV)/test-libraries ## pin what pyproject.toml asks for (UPGRADE=--upgrade: the newest of all)
	@$(LOCK) --group build --output-file requirements.lock >/dev/null
	@$(LOCK) --group test --constraint requirements.lock --output-file requirements-test.lock >/dev/null

.PHONY: docs
docs: $(VENV)/test-libraries $(VENV)/project ## write the pages and documents that follow from code
	@$(BIN)/python -m chargehand_schemas schemas/generated
	@$(BIN)/python docs/generate.py

.PHONY: clean
clean: ## remove .venv and what tools cached here
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist

# What tests need from the system: installed when root, else named.
.PHONY: prepare
prepare: $(VENV)/test-libraries $(VENV)/project
	@PYTHONPATH=tests $(BIN)/python -m support.prepare

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer was found. Install one, or say where it is: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "$(PYTHON) cannot make environments. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }

$(VENV)/libraries: requirements.lock | $(BIN)/python
	@echo "Installing the libraries into $(VENV), checked by hash (the first time about 68 MB are fetched)."
	@$(PIP) --require-hashes --requirement $<
	@touch $@

$(VENV)/test-libraries: requirements-test.lock | $(BIN)/python
	@echo "Installing the libraries and the test tools into $(VENV), checked by hash (the first time about 145 MB are fetched)."
	@$(PIP) --require-hashes --requirement $<
	@touch $(VENV)/libraries $@

$(VENV)/project: pyproject.toml | $(VENV)/libraries
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@
