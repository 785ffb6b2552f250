# make env   .venv with kdviz and everything needed to develop it
# make demo  the main job on the built-in images: train, measure, report
# make test  every test, the notebooks included
PYTHON ?= python3
BIN := .venv/bin

.PHONY: env demo test lint
env: .venv/.stamp

.venv/.stamp: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .[dev]
	touch $@

demo: env
	$(BIN)/kdviz demo

test: env lint
	$(BIN)/python -m pytest
	$(BIN)/python -m pytest --nbval --nbval-current-env --nbval-cell-timeout=120 \
		--nbval-sanitize-with tests/nbval_sanitize.cfg notebooks

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
