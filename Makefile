# `make demo` and `make test` set up everything they need in .venv; nothing else has to be installed first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO_DIR ?= demo

.PHONY: demo test test-slow coverage lint types docs wheel clean

$(BIN)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(BIN)/.installed
	$(BIN)/fsar-prep run configs/demo.toml --out $(DEMO_DIR)

test: lint types docs
	$(BIN)/python -m pytest
	$(BIN)/python -m pytest -m docs

test-slow: $(BIN)/.installed
	$(BIN)/python -m pytest -m slow --timeout 3600

# Apart from `test`: when threads start at the same moment, the tracer may fail in one of them, which then never begins.
coverage: $(BIN)/.installed
	$(BIN)/python -m pytest --cov --cov-report=term -W "ignore:Exception ignored in thread started by:pytest.PytestUnraisableExceptionWarning"

lint: $(BIN)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell

types: $(BIN)/.installed
	$(BIN)/mypy

docs: $(BIN)/.installed
	$(BIN)/python docs/generate.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

# The wheel as a user gets it: built, installed without the dev extra in an environment of its own, run outside the checkout.
wheel:
	PYTHON=$(PYTHON) bash tests/wheel.sh

clean:
	rm -rf $(VENV) $(DEMO_DIR) build dist
