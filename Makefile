# Two commands: `make demo` and `make test`. Both install what they need into .venv, once.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test slow install bundle-tools lint format clean

demo: install
	$(BIN)/edgekit demo

test: install lint
	$(BIN)/python -m pytest -q --numprocesses auto --maxprocesses 4 --dist worksteal

slow: install bundle-tools  # the real model, devices, ARM; the network is needed the first time
	$(BIN)/python -m pytest -q -m arm tests/edgekit/bundle/test_llama_wheel.py  # niced; the board waits
	$(BIN)/python -m pytest -q -m "slow or model or arm" --durations 15 --numprocesses 2 --dist loadgroup
	$(BIN)/python -m pytest -q -m device --durations 5  # figures of speed: nothing runs beside them

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "edgekit needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade --constraint constraints.txt pip
	@echo "Installing. llama-cpp-python is compiled here the first time: about six minutes on two cores."
	$(PIP) install --constraint constraints.txt --editable '.[train,chat]' --group dev
	touch $@

bundle-tools: install $(VENV)/.bundle-tools

# A cross-compiler, 100 MB: only what makes bundles needs it.
$(VENV)/.bundle-tools: $(STAMP)
	$(PIP) install --constraint constraints.txt --editable '.[bundle]'
	touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
