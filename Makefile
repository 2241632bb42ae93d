# Needs Python 3.11 or newer; choose another with `make check PYTHON=python3.12`.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
TESTS := OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

.PHONY: check lint slow lowest format train clean

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

# runs/ and data/ stay
clean:
	rm -rf .venv .venv-lowest .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist docs/_build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -e ".[dev]" -c constraints.txt
	touch $@
