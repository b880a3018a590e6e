# Every target makes .venv in this folder if it is missing. PYTHON picks another interpreter (3.11 or newer), CUDA the extra for a GPU.
PYTHON ?= python3
CUDA ?= cuda12
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help install demo test test-slow test-all tutorials lint docs bench gpu tabletop wheel clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 12

.venv/base: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) -e .
	@touch $@

# kinetix-env asks for a jax of before ours, which its levels do not need
.venv/test .venv/lint .venv/docs: .venv/%: .venv/base
	$(PIP) -e '.[$*]'
	$(if $(filter test,$*),$(PIP) --no-deps kinetix-env jax2d jaxgl)
	@touch $@

.venv/gpu: .venv/test
	$(PIP) -e '.[test,$(CUDA)]'
	@touch $@

install: .venv/base  ## make .venv and install qchunk in it

demo: .venv/base  ## the default comparison with 1 seed: data, prior, eight arms, one page (10 minutes on 2 cores, once installed)
	$(BIN)/qchunk compare --env tabletop/cube-single-task1 --seeds 1 --out runs/demo

test: .venv/test  ## the tests but for the slow ones, on 2 processes
	$(BIN)/python -m pytest -n 2 -m 'not slow'

test-slow: .venv/test  ## the slow tests alone, in processes of their own, which compile fewer programs each
	XLA_FLAGS=--xla_backend_optimization_level=1 $(BIN)/python -m pytest -n 2 -m 'slow and learns' $(PYTEST_ARGS)
	$(BIN)/python -m pytest -n 2 -m 'slow and not learns' $(PYTEST_ARGS)

test-all: test test-slow  ## all tests, on 2 processes

tutorials: .venv/base  ## docs/tutorials as a reader would run them
	$(BIN)/python docs/tutorials/run.py

lint: .venv/lint  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/docs  ## the site, into site/; a broken link fails, and a page that mkdocs.yml forgets
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: .venv/base  ## the figures of benchmarks/
	$(BIN)/qchunk bench

gpu: $(if $(wildcard /dev/nvidiactl),.venv/gpu,.venv/test)  ## on a GPU (CUDA=cuda13 for its driver): its tests, its figures against the stored ones, one picture; 8 minutes, the same command goes on
	$(BIN)/python experiments/gpu/measure.py

tabletop: .venv/base  ## the tabletop page, its facts and pictures
	$(BIN)/python experiments/tabletop_facts.py

wheel: .venv/base  ## build the wheel and try it in an empty environment
	rm -rf dist build
	$(BIN)/python -m pip wheel --quiet --no-deps -w dist .
	rm -rf .venv/empty && $(PYTHON) -m venv .venv/empty
	.venv/empty/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt dist/*.whl
	cd / && $(CURDIR)/.venv/empty/bin/qchunk --help && $(CURDIR)/.venv/empty/bin/qchunk list
	rm -rf .venv/empty

clean:  ## remove .venv and what was built
	rm -rf .venv build dist site *.egg-info
