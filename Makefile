# Needs Python 3.11 or newer; choose another with `make check PYTHON=python3.12`.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
DOCS_INSTALLED := .venv/docs-installed
TESTS := OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

.PHONY: check lint slow lowest format train docs docs-quick clean

check: lint
	$(TESTS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# what takes long by its nature: PyTorch's own compiler, exports of every family, launchers and kills
slow: $(INSTALLED)
	$(TESTS) -m slow

# the tests with the lowest versions that pyproject.toml promises
lowest:
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install -e ".[dev]" -c constraints-lowest.txt
	OMP_NUM_THREADS=1 .venv-lowest/bin/pytest -n 2

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# for example: make train ARGS="--epochs 3"
train: $(INSTALLED)
	$(BIN)/pursuitnet train $(ARGS)

# docs/_build/html/index.html; runs the scripts of the gallery that have changed, and takes a warning as an error
docs: $(DOCS_INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

# the same without running the gallery
docs-quick: $(DOCS_INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -W --keep-going -b html -D plot_gallery=0 docs docs/_build/quick

# runs/ and data/ stay
clean:
	rm -rf .venv .venv-lowest .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist docs/_build docs/auto_examples
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -e ".[dev]" -c constraints.txt
	touch $@

$(DOCS_INSTALLED): $(INSTALLED)
	$(BIN)/python -m pip install -e ".[docs]" -c constraints.txt
	touch $@
