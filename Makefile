# Every command of a developer and of continuous integration. `make help` lists them.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The long tests have a target of their own.
SHORT := -m "not full"
# loadgroup: tests that share a Ray or a built wheel name one xdist_group and stay in one process, one after the other.
# Most tests with a Ray are in the group "ray", so that they do not slow each other down; "second_ray" may run beside it.
PARALLEL := -n 2 --dist loadgroup
SOURCES := platform agents generative supervised tests
SYSTEM_PACKAGES := dataset-fashion-mnist chromium postgresql iproute2 gnugo

# Two test processes on two cores: more threads in each would only fight. Nothing here may phone home.
export OMP_NUM_THREADS ?= 1
export RAY_USAGE_STATS_ENABLED ?= 0
export MLFLOW_DISABLE_TELEMETRY ?= true

.DEFAULT_GOAL := help
.PHONY: help install run quick test test-full lint check format bench system clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

install: $(VENV)/.installed-dev  ## make .venv with rayloom, its tests and linters

run: install  ## train PPO on CartPole with rollouts in Ray actors, until the mean return is 475
	$(BIN)/rayloom run ppo_cartpole_ray

quick: install  ## the tests of pure functions and of runs in one process, but for slow ones: under two minutes
	$(BIN)/python -m pytest -q $(PARALLEL) -m "not full and not slow" tests/unit tests/local

test: install  ## the test suite without its long tests
	$(BIN)/python -m pytest $(PARALLEL) $(SHORT)

test-full: install  ## the whole suite, with soak, fault and five-seed tests, and every property test at length
	RAYLOOM_TESTS=full $(BIN)/python -m pytest $(PARALLEL)

lint: install  ## formatter, linter, types, layering
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/unit/test_layering.py

check: lint test  ## lint and test

format: install  ## rewrite the sources in house style
	$(BIN)/ruff check --fix-only $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

bench: $(VENV)/.installed-bench  ## speed ratios against peers; nothing else should run on the machine
	$(BIN)/python tests/benchmarks/bench.py

system:  ## Debian packages: Fashion-MNIST, and for tests a browser and a PostgreSQL server
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update && apt-get install -y --no-install-recommends $(SYSTEM_PACKAGES); \
	else \
		echo "make system needs root and apt-get; install by hand: $(SYSTEM_PACKAGES)"; \
	fi

clean:  ## remove the environment, caches and builds; runs stay
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else "make PYTHON=python3.11 install: rayloom needs Python 3.11 to 3.13, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)

# One stamp for each set of extras: installed once, and again when the dependencies change.
$(VENV)/.installed-dev: EXTRAS := dev
$(VENV)/.installed-bench: EXTRAS := dev,bench
$(VENV)/.installed-dev $(VENV)/.installed-bench: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[$(EXTRAS)]"
	touch $@
