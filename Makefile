# One command for each habit. Nothing is needed but python3 (3.11 or newer), make and git.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.PHONY: help install demo demo-stop test sim sim-shells sim-mutations check format bench bench-quick lock clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# The harness in tests/ serves the demo and the benchmarks too.
HARNESS := PYTHONPATH=tests:bench
PYTEST_WORKERS ?= 3
PYTEST_ARGS ?=

help:
	@echo "make demo    sixteen agents, a rogue, and the way back, in about a minute (TREE=/dir PORT=n KEEP=1)"
	@echo "make test    the whole test suite"
	@echo "make faults  kill -9 and power loss at every step that writes (PART=1/40; STRIDE=n: each n-th; SEED=n)"
	@echo "make sim     a fleet under every fault on invented time (SEEDS=100, SEEDS=7-9, MINUTES=5, SIM_ARGS='--policy quorum')"
	@echo "make fuzz    every parser of bytes from outside, guided by coverage (MINUTES=n)"
	@echo "make soak    a fleet under steady writes, rogues and restarts: does anything grow? (MINUTES=n)"
	@echo "make check   format, lint, types, layering, dependencies"
	@echo "make bench   the bounds and the figures that the README quotes (BENCH=\"NAME --dir DIR\"); bench-quick: in ten minutes"
	@echo "make lock    remake constraints/*.txt"
	@echo "make clean   remove what the others made"

# --- one environment, made once ------------------------------------------------------------------

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "closeranks needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." \
	       "Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON)' can not make virtual environments: its venv module is missing." \
	       "On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: constraints/runtime.txt constraints/build.txt pyproject.toml | $(VENV)/bin/python
	@start=$$SECONDS; echo "installing into $(VENV) ..." >&2; \
	$(PIP) install --require-hashes -r constraints/runtime.txt -r constraints/build.txt; \
	$(PIP) install --no-deps --no-build-isolation -e .; \
	$(BIN)/python -m compileall -q agent coordinator proto; \
	echo "installed in $$((SECONDS - start)) s" >&2
	@touch $@

$(VENV)/.installed-dev: constraints/dev.txt $(VENV)/.installed
	@start=$$SECONDS; echo "installing the tools for tests and checks ..." >&2; \
	$(PIP) install --require-hashes -r constraints/dev.txt; \
	echo "installed in $$((SECONDS - start)) s" >&2
	@touch $@

install: $(VENV)/.installed-dev

# --- habits --------------------------------------------------------------------------------------

demo: $(VENV)/.installed
	@$(HARNESS) $(BIN)/python -m demo

demo-stop: $(VENV)/.installed
	@$(HARNESS) $(BIN)/python -m demo --stop

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist worksteal $(PYTEST_ARGS)

.PHONY: fuzz
# Every parser of bytes from outside, guided by coverage, from a seed that is printed.
fuzz: $(VENV)/.installed-dev
	PYTHONPATH=tests $(BIN)/python -m fuzz.guided --minutes $(or $(MINUTES),10)

.PHONY: soak
# A fleet under steady writes, rogues and restarts; ends non-zero when something grows. bench/results/soak.svg.
soak: $(VENV)/.installed
	$(HARNESS) $(BIN)/python -m soak --minutes $(or $(MINUTES),30)

.PHONY: faults
# Each point, before the call, after it and in its middle: some hours; PART=3/40 is a part of it. STRIDE=20 takes ten minutes.
# FLEETS play side by side, up to eight: a round is mostly waiting.
STRIDE ?= 1
FLEETS ?= 4
PART ?= 1/1
SEED ?= 20261126
faults: $(VENV)/.installed-dev
	FAULT_STRIDE=$(STRIDE) FAULT_PART=$(PART) FAULT_FLEETS=$(FLEETS) FAULT_SEED=$(SEED) $(BIN)/python -m pytest -n $(FLEETS) --dist worksteal -rP $(PYTEST_ARGS) \
	  tests/faults/test_kill_sweep.py tests/faults/test_power_loss.py

SEEDS ?= 100
SIM_ARGS ?=
sim: $(VENV)/.installed
	@$(HARNESS) $(BIN)/python -m sim --seeds $(SEEDS) $(if $(MINUTES),--minutes $(MINUTES)) $(SIM_ARGS)

# Whole programs on invented time; SEEDS, MINUTES and SIM_ARGS (--faults, --story) as above.
sim-shells: $(VENV)/.installed
	@$(HARNESS) $(BIN)/python -m sim.shells --seeds $(SEEDS) $(if $(MINUTES),--minutes $(MINUTES)) $(SIM_ARGS)

# Subtle bugs planted in copies of the packages, one at a time: each must be caught.
sim-mutations: $(VENV)/.installed
	@$(HARNESS) $(BIN)/python -m sim.mutations $(SIM_ARGS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry agent coordinator proto
	@if grep -n '://' constraints/*.txt; then echo "constraints must name no index" >&2; exit 1; fi

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# BENCH names measurements and options: make bench BENCH="named wire --dir /data". Peers: bench/install_peers.sh
BENCH ?=
bench: $(VENV)/.installed
	@$(HARNESS) $(BIN)/python -m frame $(BENCH)

bench-quick: $(VENV)/.installed
	@$(HARNESS) $(BIN)/python -m frame --quick $(BENCH)

# Versions stay as they are where pyproject.toml allows; LOCK_ARGS=--upgrade moves them.
LOCK := $(VENV)/lock/bin/uv pip compile --quiet --universal --generate-hashes --no-annotate \
        --python-version 3.11 --custom-compile-command "make lock"
lock: $(VENV)/bin/python
	@test -x $(VENV)/lock/bin/uv || { $(PYTHON) -m venv $(VENV)/lock && \
	  $(VENV)/lock/bin/pip --disable-pip-version-check --quiet install 'uv>=0.9,<1'; }
	$(LOCK) $(LOCK_ARGS) pyproject.toml --extra dev -o constraints/dev.txt
	$(LOCK) $(LOCK_ARGS) pyproject.toml -c constraints/dev.txt -o constraints/runtime.txt
	printf 'hatchling>=1.27\neditables\n' | $(LOCK) $(LOCK_ARGS) - -c constraints/dev.txt -o constraints/build.txt

clean:
	rm -rf $(VENV) .demo bench/results build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
