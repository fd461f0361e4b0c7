# The commands of the project; `make help` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.PHONY: help book test run serve lint bench clean

PYTHON ?= python3
PROFILE ?= quick
CHAPTER ?= hierarchy
P ?=
PORT ?= 8000
ONLY ?=
AGAIN ?=
CORES ?= all

# The active environment, or .venv made here.  A conda base environment is left alone.
CONDA_ENV := $(if $(filter-out base,$(CONDA_DEFAULT_ENV)),$(CONDA_PREFIX))
ACTIVE := $(or $(VIRTUAL_ENV),$(CONDA_ENV))
ENV := $(or $(ACTIVE),$(CURDIR)/.venv)
PY := $(ENV)/bin/python
define install
	@echo "installing narrowlib[$(1)] into $(ENV)"
	@$(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(1)]' \
	    || { echo "the packages could not be installed; pip says why above (is there a network?)" >&2; exit 1; }
endef
BOOK_AND_TEST := book,test
LOCK := pyproject.toml constraints.txt

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  make book PROFILE=smoke          every cell in seconds (quick: the default; paper: the paper's scale, one GPU)"
	@echo "  make run CHAPTER=hierarchy PROFILE=quick P=\"n_seeds=4 n_steps=500\""

book: $(ENV)/.installed-book  ## install, execute what is stale, render; says where the site is
	@$(PY) -m snakemake --cores $(CORES) --resources gpu=1 --rerun-triggers mtime --rerun-incomplete --quiet all \
	    --config profile=$(PROFILE)
	@$(PY) workflow/scripts/report.py

test: $(ENV)/.installed-test  ## install what the tests need and run them
	@$(PY) -m pytest

run: $(ENV)/.installed-book  ## execute one chapter: CHAPTER=, PROFILE=, P="name=value ...", AGAIN=1
	@$(PY) workflow/scripts/execute.py $(CHAPTER) --profile $(PROFILE) --set '$(P)' $(if $(AGAIN),--again)

serve: book  ## build the book and serve it on PORT (8000)
	@echo "http://localhost:$(PORT)/ (stop with Ctrl-C)"
	@$(PY) -m http.server $(PORT) --directory _build/html --bind 127.0.0.1

lint: $(ENV)/.installed-lint  ## style and spelling
	@$(ENV)/bin/ruff check .
	@$(ENV)/bin/ruff format --check .
	@$(ENV)/bin/codespell

bench: $(ENV)/.installed-bench  ## run the benchmarks (ONLY=name for one) and write _build/bench.json
	@$(PY) -m benchmarks $(ONLY)

clean:  ## remove everything built, executed notebooks included; the environment stays
	rm -rf _build .snakemake .pytest_cache .ruff_cache .hypothesis

$(ENV)/.installed-book: $(LOCK) | $(PY)
	$(call install,book)
	@touch $@

$(ENV)/.installed-test: $(LOCK) | $(PY)
	$(call install,$(BOOK_AND_TEST))
	@touch $@ $(ENV)/.installed-book

$(ENV)/.installed-lint: $(LOCK) | $(PY)
	$(call install,lint)
	@touch $@

$(ENV)/.installed-bench: $(LOCK) | $(PY)
	$(call install,bench)
	@touch $@

$(CURDIR)/.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else f"python is {sys.version.split()[0]}; it must be 3.11 or newer (PYTHON=... chooses another)")'
	$(PYTHON) -m venv $(CURDIR)/.venv
