# Everything runs from .venv, which any target makes first. A fresh machine needs Python 3.11, make and git.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
export RAY_ENABLE_UV_RUN_RUNTIME_ENV := 0
export UV_PYTHON_DOWNLOADS := automatic

.PHONY: help demo test test-slow check bench bench-routing bench-peers bench-features bench-serving verify-routing verify-rollout verify-hung fuzz setup clean

help: ## What can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

demo: .venv/.synced ## Do the whole job once in front of you, leaving nothing behind
	@$(BIN)/tocsin demo

test: .venv/.synced ## Unit, contract, integration and chaos tests
	$(BIN)/pytest -q -n 2 --dist loadfile tests/unit
	$(BIN)/pytest -q tests/contract
	$(BIN)/pytest -q tests/training tests/notebooks
	$(BIN)/pytest -q -m 'not slow' tests/integration tests/chaos

test-slow: .venv/.synced ## The tests that restart a whole platform again and again
	$(BIN)/pytest -q -m slow tests/chaos

check: .venv/.synced ## Format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/.synced ## All benchmarks that need nothing else installed, one JSON line each
	$(BIN)/python -m benchmarks

bench-routing: .venv/.synced ## Notifications end to end, and the floor below them: one JSON line
	@$(BIN)/python -m benchmarks.routing --seconds 30

bench-peers: .venv/.synced ## The same job on Celery, Dramatiq, taskiq, BullMQ and ours: one JSON line
	@$(BIN)/python -m benchmarks.peers

bench-features: .venv/.synced ## The feature store beside Feast (installed on first use): one JSON line
	@$(BIN)/python -m benchmarks.features --seconds 20

verify-routing: .venv/.synced ## Break everything under load and account for every receipt: one JSON line
	@$(BIN)/python -m verification

verify-rollout: .venv/.synced ## Plant faults in new models and see them rolled back, and good ones not: one JSON line
	@$(BIN)/python -m verification.rollouts

fuzz: .venv/.synced ## Every operation of the API against its description, with all checks of Schemathesis: one JSON line
	@$(BIN)/python -m verification.fuzz $(if $(URL),--url $(URL))

verify-hung: .venv/.synced ## Stop and kill processes of a whole platform under load, with a bound for each: one JSON line
	@$(BIN)/python -m verification.hung

bench-serving: .venv/.synced ## Churn over HTTP beside stock Serve and FastAPI with the same model: one JSON line
	@$(BIN)/python -m benchmarks.serving

setup: .venv/.synced ## Only make the environment

# uv from the machine, else its own small environment: nothing outside this folder is touched.
.venv/.synced: pyproject.toml uv.lock
	@set -e; \
	if command -v uv >/dev/null 2>&1; then uv=uv; \
	else \
	  test -x .uv/bin/uv || { echo "installing uv into .uv" >&2; $(PYTHON) -m venv .uv && .uv/bin/pip install -q 'uv>=0.9'; }; \
	  uv=.uv/bin/uv; \
	fi; \
	echo "installing what the lock file names into .venv" >&2; \
	$$uv sync --frozen --quiet; \
	touch .venv/.synced

clean: ## Remove the environments and caches
	rm -rf .venv .uv .peers .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist
