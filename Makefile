# Everything lives in .venv; nothing else on the machine is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# TORCH=cpu takes PyTorch's CPU build (a fraction of the size) where the package index would bring CUDA's.
TORCH ?= default
ifeq ($(TORCH),cpu)
INDEX := --extra-index-url https://download.pytorch.org/whl/cpu
endif

export OMP_WAIT_POLICY ?= passive

.PHONY: quickstart test test-fast lint format lock dist clean docs

quickstart: $(VENV)/.installed
	$(BIN)/platform run experiments/quickstart.yaml

# A process a core, whole files each: what a file's tests share is made once.
PARALLEL := --numprocesses=logical --maxprocesses=4 --dist=loadfile

test: $(VENV)/.installed-dev lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL) --durations=15

test-fast: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL) -m "not slow"

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed-dev
	$(BIN)/python -m mkdocs build --strict

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# What is installed here, and so what the tests ran with. A build of PyTorch that PyPI hasn't (2.13.0+cpu) is on
# PyTorch's own index.
lock: $(VENV)/.installed-dev
	@$(BIN)/python -m pip freeze --all --exclude-editable --exclude pip > requirements.lock.part
	@{ echo '# What the tests ran with, written by `make lock`: pip install --requirement requirements.lock'; \
		sed -n 's|^torch==[^+]*+\(.*\)$$|--extra-index-url https://download.pytorch.org/whl/\1|p' requirements.lock.part; \
		cat requirements.lock.part; } > requirements.lock
	@rm requirements.lock.part

dist: $(VENV)/.installed-dev
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m twine check --strict dist/*

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "python3 -m venv failed; on Debian and Ubuntu: apt install python3-venv"; exit 1; }

$(VENV)/.installed: pyproject.toml setup.py constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet $(INDEX) --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml setup.py constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet $(INDEX) --constraint constraints.txt --editable '.[dev]'
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
