# make env   .venv with kdviz and everything needed to develop it
# make demo  the main job on the built-in images: train, measure, report
# make test  every test, the notebooks included
# make docs  the documentation, in docs/_build/html
PYTHON ?= python3
BIN := .venv/bin

.PHONY: env demo test lint docs
env: .venv/.stamp

.venv/.stamp: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .[dev]
	touch $@

demo: env
	$(BIN)/kdviz demo

test: env lint
	$(BIN)/python -m pytest --numprocesses=2 --durations=15
	KDVIZ_STRICT=1 $(BIN)/python -m pytest --nbval --nbval-current-env --nbval-cell-timeout=600 \
		--nbval-sanitize-with tests/nbval_sanitize.cfg notebooks

docs: env
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "open docs/_build/html/index.html"

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
