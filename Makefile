PYTHON ?= python3
BIN := .venv/bin
OUT ?= demo-run
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile

.PHONY: setup demo test test-fast lint format

setup:
	@PYTHON="$(PYTHON)" bash scripts/setup.sh

demo: setup
	$(BIN)/fastlabel demo --out $(OUT)

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
