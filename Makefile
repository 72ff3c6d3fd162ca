# make demo   set up, then the main job: a policy comparison on the embedded trace and profile (out/demo)
# make test   set up, then everything that must hold
# make validate   run a tiny model for real and compare the simulation with it (python real/validate.py)
# make bench  speed, as ratios to a bare SimPy run; how time and memory grow with replicas and requests
# make lint   ruff, mypy, import-linter
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q

.PHONY: demo test lint validate bench clean

demo: $(VENV)/installed
	$(BIN)/seqsched compare --num-prompts 1024 --predictor tuned --out out/demo

test: lint
	$(BIN)/python -m pytest

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

validate: $(VENV)/installed-dev
	$(BIN)/python real/validate.py --out out/validate

bench: $(VENV)/installed-dev
	$(BIN)/python -m tests.benchmarks.throughput
	$(BIN)/python -m tests.benchmarks.million
	$(BIN)/python -m tests.benchmarks.scale

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install -c constraints.txt -e .
	touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install -c constraints.txt -e ".[dev,parquet,real,cluster]"
	touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV) out build dist *.egg-info
