# Everything runs in a virtual environment of the checkout's own, made on first use and refreshed when pyproject.toml changes.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# Tests use both cores; make test WORKERS=1 runs them in one process.
WORKERS ?= 2
CONFIG ?= routes.toml
FAIL_UNDER := 98

.DEFAULT_GOAL := help
.PHONY: help install run test soak check format lint types imports coverage docs bench bench-tail bench-memory bench-start profile clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "gateway needs Python >= 3.11; set PYTHON=python3.x" >&2; exit 1; }
	@test -x $(BIN)/python || { echo "creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing the gateway and its tools into $(VENV)"
	@$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --editable '.[all]' --group dev
	@touch $@

install: $(STAMP)  ## create or refresh the virtual environment

run: $(STAMP)  ## start the demo services and the gateway on routes.toml
	@exec $(BIN)/python -m examples.demo $(CONFIG)

test: $(STAMP)  ## run the test suite
	@$(BIN)/python -m pytest -q -n $(WORKERS) -m "not soak"

soak: $(STAMP)  ## run the proofs that take long: load, leaks, fuzzing
	@$(BIN)/python -m pytest -q -m soak --timeout 600

check: format-check lint types imports coverage  ## format, lint, types, import layers, tests and coverage

format: $(STAMP)  ## rewrite the code in the project's format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

.PHONY: format-check
format-check: $(STAMP)
	@$(BIN)/ruff format --check .

lint: $(STAMP)
	@$(BIN)/ruff check .

types: $(STAMP)
	@$(BIN)/mypy

imports: $(STAMP)
	@$(BIN)/lint-imports

coverage: $(STAMP)
	@$(BIN)/python -m pytest -q -n $(WORKERS) -m "not soak" --cov --cov-report=term:skip-covered --cov-fail-under=$(FAIL_UNDER)

docs: $(STAMP)  ## write docs/configuration.md anew from the schema
	@$(BIN)/python docs/generate.py

bench: $(STAMP)  ## requests per CPU-second beside its peers; BENCH="small hit --rounds 5", "--all", "--help"
	@$(BIN)/python -m benchmarks $(BENCH)

bench-tail: $(STAMP)  ## the slowest requests at 70 % load, while other things happen
	@$(BIN)/python -m benchmarks.tail $(BENCH)

bench-memory: $(STAMP)  ## resident memory; BENCH="--requests 1000000" for the long run
	@$(BIN)/python -m benchmarks.memory $(BENCH)

bench-start: $(STAMP)  ## how long gateway run and gateway check take to start
	@$(BIN)/python -m benchmarks.start $(BENCH)

profile: $(STAMP)  ## what each layer of one request costs
	@$(BIN)/python -m benchmarks.profile

clean:  ## remove the virtual environment and every cache
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
