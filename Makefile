# The commands of the project; `make help` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.PHONY: help book pdf test run record records gpu gpu-queue prune notebooks course grade links branch archive release propose serve lint bench
.PHONY: clean clean-cache reliability environment

PYTHON ?= python3
PROFILE ?= quick
CHAPTER ?= hierarchy
P ?=
PORT ?= 8000
ONLY ?=
MINUTES ?= 25
AGAIN ?=
CORES ?= all
MEMORY ?= 0
THREADS ?=
PIECE ?=
TORCH ?=
CHAPTERS ?=
FOLDER ?=
CONTAINER ?=
SEED ?=
TAG ?=
REPOSITORY ?=

# The active environment, or .venv made here.  A conda base environment is left alone.
CONDA_ENV := $(if $(filter-out base,$(CONDA_DEFAULT_ENV)),$(CONDA_PREFIX))
ENV := $(or $(VIRTUAL_ENV),$(CONDA_ENV),.venv)
PY := "$(ENV)/bin/python"
COMPANION = $(PY) -m companion
BOOK_AND_TEST := book,test
NEW_ENOUGH := import sys; sys.exit(None if sys.version_info >= (3, 11) else "python is %s (%s); it must be 3.11 or newer (PYTHON=... chooses another, outside of an active environment)" % (sys.version.split()[0], sys.executable))

# What a user passes reaches the shell as it was typed.
export CHAPTER PIECE PROFILE ONLY MINUTES CHAPTERS FOLDER SEED TAG REPOSITORY CORES MEMORY PORT THREADS
export PARAMETERS := $(value P)
export RECORDED := $(if $(filter file,$(origin PROFILE)),paper,$(value PROFILE))

# Settings of the user for Python, such as PYTHONOPTIMIZE and PYTHONPATH, and for where pip installs, do not count here.
$(foreach name,$(filter PYTHON% PIP_TARGET PIP_PREFIX PIP_ROOT,$(.VARIABLES)),$(eval unexport $(name)))
export PIP_USER := 0

# Install extras into the environment unless this checkout, with these lock files, was the last to do so.
# A file .installing is there while pip works: an environment in which it was killed is half-made.
define install
	@set -eu; state="$$PWD $$(cat pyproject.toml constraints.txt | cksum)"; stamp="$(ENV)/.narrowlib-$(1)"; \
	if [ "$$(cat "$$stamp" 2>/dev/null)" != "$$state" ]; then \
	    $(PY) -c 'from pip._internal.cli.main import main' 2>/dev/null \
	        || { echo "$(ENV) has no working pip; $(ENV)/bin/python -m ensurepip installs one" >&2; exit 1; }; \
	    echo "installing narrowlib[$(1)] into $(ENV)"; \
	    touch "$(ENV)/.installing" || exit 1; \
	    { [ -z "$(TORCH)" ] || { $(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv && \
	        $(PY) -m uv pip install --quiet --python $(PY) --torch-backend "$(TORCH)" --constraint constraints.txt torch torchvision; }; } && \
	    $(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(1)]' \
	        || { rm -f "$(ENV)/.installing"; echo "the packages could not be installed; see the output of pip above" >&2; exit 1; }; \
	    for other in "$(ENV)"/.narrowlib-*; do \
	        [ "$$(cat "$$other" 2>/dev/null)" = "$$state" ] || rm -f "$$other"; \
	    done; \
	    echo "$$state" > "$$stamp" && rm -f "$(ENV)/.installing"; \
	fi
endef

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  make book PROFILE=smoke          runs every cell in seconds (quick: the default; paper: the paper's scale, one GPU)"
	@echo "  make run CHAPTER=hierarchy PROFILE=quick P=\"n_seeds=4 n_steps=500\""

book: environment  ## install, execute stale chapters, render (CHAPTERS="methods hierarchy" for a selection; CORES=, MEMORY= in GB)
	$(call install,book)
	@$(COMPANION) book --profile "$$PROFILE" --cores "$$CORES" --memory "$$MEMORY"

pdf: book  ## build the book and print it to _build/html/narrow-ai.pdf (needs Chromium)
	$(call install,pdf)
	@$(COMPANION) pdf

test: environment  ## install the test dependencies and run the tests (TORCH=cpu in a new environment: torch without CUDA)
	$(call install,$(BOOK_AND_TEST))
	@$(PY) -m pytest -n auto --maxprocesses 8 --dist worksteal

run: environment  ## execute one chapter: CHAPTER=, PROFILE=, P="name=value ...", AGAIN=1, THREADS=all
	$(call install,book)
	@$(COMPANION) run "$$CHAPTER" --profile "$$PROFILE" --set="$$PARAMETERS" $(if $(AGAIN),--again) $(if $(THREADS),--threads "$$THREADS")

record: environment  ## run a chapter's experiment at the paper's scale and record it for the book: CHAPTER=, P=, PIECE= for one part of it, PROFILE=overnight without a GPU
	$(call install,book)
	@$(COMPANION) record "$$CHAPTER" --profile "$$RECORDED" --set="$$PARAMETERS" $(if $(PIECE),--piece "$$PIECE") $(if $(THREADS),--threads "$$THREADS")

records: environment  ## record all chapters that have a record, one after another (PROFILE=overnight without a GPU)
	$(call install,book)
	@$(COMPANION) records --profile "$$RECORDED" --set="$$PARAMETERS" $(if $(THREADS),--threads "$$THREADS")

gpu: environment  ## name the GPU and its driver and compile for it; stop if there is none
	$(call install,book)
	@$(COMPANION) gpu

gpu-queue: environment  ## run the GPU tasks for MINUTES=25, the most valuable first; resumable (ONLY="tests smoke" for a selection)
	$(call install,$(BOOK_AND_TEST))
	@$(COMPANION) gpu-queue --minutes "$$MINUTES" $(if $(ONLY),--only $$ONLY)

prune: environment  ## remove results of other code versions from _build/checkpoints
	$(call install,book)
	@$(COMPANION) prune

notebooks: environment  ## write plain notebooks to _build/notebooks, as on the notebooks branch
	$(call install,book)
	@$(COMPANION) notebooks

course: environment  ## write student and teacher notebooks to _build/course (CHAPTERS="methods hierarchy" for a selection; SEED=7 for other numbers)
	$(call install,course)
	@$(COMPANION) course $(if $(value SEED),--seed="$$SEED") $$CHAPTERS

grade: environment  ## grade the students' notebooks in FOLDER (CONTAINER=1: in docker or podman, no network); without FOLDER add the marks from marks.csv
	$(call install,course)
	@$(COMPANION) grade "$$FOLDER" $(if $(CONTAINER),--container)

links: book  ## check all links of the book to other sites
	@$(PY) -c 'from jupyter_book.cli.main import main; main()' build _build/stage --path-output _build/links --builder linkcheck

branch: environment  ## push _build/notebooks to the notebooks branch
	@$(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt ghp-import
	@PYTHONPATH=workflow $(COMPANION) branch

archive:  ## pack site, notebooks and student notebooks into _build/release, with checksums
	@PYTHONPATH=workflow $(PYTHON) -m companion archive

release:  ## publish the release TAG with the archives from make archive
	@PYTHONPATH=workflow $(PYTHON) -m companion release --tag "$$TAG"

serve: environment  ## build the book and serve it on PORT (8000)
	$(call install,book)
	@$(COMPANION) serve --port "$$PORT" --profile "$$PROFILE" --cores "$$CORES"

lint: environment  ## check style and spelling
	$(call install,lint)
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m codespell_lib

bench: environment  ## run the benchmarks (ONLY=name for one) and write _build/bench.json
	$(call install,bench)
	@$(PY) -m benchmarks $$ONLY

reliability: environment  ## kill runs, compare bytes, build repeatedly (ONLY=name for one); makes the tables of RELIABILITY.md
	$(call install,$(BOOK_AND_TEST))
	@$(PY) -m reliability $$ONLY

propose:  ## open a pull request with the records that have changed
	@PYTHONPATH=workflow $(PYTHON) -m companion propose

clean-cache: environment  ## remove downloads and files made from them, and report the space freed
	$(call install,book)
	@$(COMPANION) clean-cache

clean:  ## remove everything built, executed notebooks included; the environment stays
	rm -rf _build .snakemake .pytest_cache .ruff_cache .hypothesis

environment:
	@set -eu; \
	if [ "$(ENV)" = .venv ] && { [ -e .venv/.installing ] || ! $(PY) -c 'from pip._internal.cli.main import main'; } 2>/dev/null; then \
	    $(PYTHON) -c '$(NEW_ENOUGH)'; \
	    [ ! -e .venv ] || echo ".venv is incomplete; it is created anew" >&2; \
	    rm -rf .venv; \
	    $(PYTHON) -m venv .venv || { echo ".venv could not be created; see the output of $(PYTHON) above (Debian: apt install python3-venv)" >&2; exit 1; }; \
	fi; \
	$(PY) -c '' 2>/dev/null || { echo "the active environment $(ENV) has no working Python; deactivate it or create it anew" >&2; exit 1; }; \
	$(PY) -c '$(NEW_ENOUGH)'
