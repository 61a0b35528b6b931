PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: setup demo test test-fast lint format gpu-check

setup:
	@PYTHON="$(PYTHON)" bash scripts/setup.sh

demo: setup
	$(BIN)/fastlabel demo --out $(or $(OUT),demo-run)

test: lint
	$(PYTEST) --durations=25

test-fast: setup
	$(PYTEST) -m "not slow"

lint: setup
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy fastlabel

format: setup
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

# On a machine with a GPU, also without network and without setup: see docs/gpu.md.
gpu-check:
	bash scripts/gpu_check.sh --out $(or $(OUT),benchmarks/results)
