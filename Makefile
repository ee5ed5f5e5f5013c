# make env | digits | test | slow | lint | types          another interpreter: make env PYTHON=python3.13
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: env digits test slow lint types

env: $(STAMP)

$(STAMP): setup.py pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -e '.[test]'
	touch $(STAMP)

digits: env
	$(BIN)/sdejax train --config configs/digits.py --workdir runs/digits

test: env
	$(BIN)/pytest

slow: env
	$(BIN)/pytest -m slow

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: env
	$(BIN)/mypy
