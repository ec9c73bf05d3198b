# Two commands for a newcomer: `make demo` and `make test`. Everything else is for people who work on the project.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Debian's packages of the real peers that some tests talk to; without them those tests skip and name what is missing.
PEERS := prometheus prometheus-alertmanager victoria-metrics prometheus-node-exporter ipmitool openipmi

.PHONY: deps peers demo test test-unit test-integration test-e2e lint benchmark benchmark-control dev clean

deps: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $(STAMP)

# Debian starts a daemon on installation: a policy of 101 forbids it. Needs root; does nothing when all are here.
peers:
	@dpkg -s $(PEERS) >/dev/null 2>&1 || { \
	  [ -e /usr/sbin/policy-rc.d ] || { printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d; }; \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends $(PEERS); }

demo: deps
	$(BIN)/eo demo

test: deps
	$(BIN)/python -m tests.run

test-unit: deps
	$(BIN)/python -m pytest tests/unit tests/properties tests/contracts

test-integration: deps
	$(BIN)/python -m pytest tests/integration tests/faults

test-e2e: deps
	$(BIN)/python -m pytest tests/e2e

lint: deps
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

benchmark: deps
	$(BIN)/eo bench loop --write docs/benchmarks/loop.md
	$(BIN)/eo bench stream --write docs/benchmarks/stream.md
	$(BIN)/python -m tests.bench.bench_archive --write docs/benchmarks/archive.md
	$(BIN)/python -m tests.bench.bench_sources --write docs/benchmarks/sources.md
	$(BIN)/python -m tests.bench.bench_sensors --write docs/benchmarks/sensors.md

# The full protocol: hours on one core. A run that was cut off goes on; remove build/benchmark-control to begin again.
benchmark-control: deps
	$(BIN)/python -m tests.bench.bench_control --write docs/benchmarks/control.md

dev: deps
	$(BIN)/pre-commit install

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache .eo .eo-demo compose/broker/target
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
