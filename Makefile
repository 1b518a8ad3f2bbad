# Two commands matter: `make song` sings examples/lyrics.txt, `make test` checks everything. Both set up .venv first.

PYTHON ?= python3
LYRICS ?= examples/lyrics.txt
SONGS ?= songs
SEED ?= 1
JOBS ?= 2

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -q -c requirements/constraints.txt
PROJECTS := pyproject.toml $(wildcard plugins/*/pyproject.toml)
# Published codecs bring large packages under terms of their own, and no song of ours needs them: only tests install them.
CODECS := plugins/songkit-encodec/pyproject.toml plugins/songkit-dac/pyproject.toml
PLUGINS := $(patsubst %/pyproject.toml,-e ./%,$(filter-out $(CODECS),$(wildcard plugins/*/pyproject.toml)))
# A song's folder is named by the id in its lyrics, or by their file.
NAME := $(or $(shell sed -n 's/^id: *//p' $(LYRICS) | head -n 1),$(basename $(notdir $(LYRICS))))
SONG := $(SONGS)/$(NAME)

# Tests and checks share the cores between processes instead of threads.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: help setup song test test-slow lint docs clean

help:
	@echo 'make song       set up, then sing $(LYRICS) into $(SONG)'
	@echo 'make test       set up, then lint, type-check and test'
	@echo 'make test-slow  the tests that take more than ten seconds each'
	@echo 'make lint       ruff, mypy, import-linter'
	@echo 'make docs       build the documentation into site/'
	@echo 'make setup      only install: the core and its plugins, editable, into .venv (published codecs come with make test)'
	@echo 'make clean      remove what the other targets made, except songs'

setup: .venv/setup.stamp

.venv/setup.stamp: $(PROJECTS) requirements/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "songkit needs Python 3.11 or newer, and this is %s: make PYTHON=python3.11 ..." % sys.version.split()[0])'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo 'Installing songkit and its plugins into .venv (a few minutes the first time) ...'
	@$(PIP) -e '.[english]' $(PLUGINS)
	@touch $@

# songkit-dac needs a package whose requirements cannot be met beside the others': see requirements/dac.txt.
.venv/dev.stamp: .venv/setup.stamp requirements/dac.txt requirements/judges.txt
	@$(PIP) -e '.[dev,docs]' -e ./plugins/songkit-encodec -e './plugins/songkit-judges[voice-quality]'
	@$(PIP) --no-deps -r requirements/judges.txt
	@$(PIP) --no-deps -r requirements/dac.txt -e ./plugins/songkit-dac
	@touch $@

song: .venv/setup.stamp
	@if test -e $(SONG)/song.json; then \
		echo 'The song is already there: $(SONG)/mix.flac (another one: make song SONGS=more SEED=2)'; \
	else \
		$(BIN)/songkit generate $(LYRICS) --out $(SONGS) --seed $(SEED); \
	fi

test: lint
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(JOBS) --durations=10

test-slow: .venv/dev.stamp
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(JOBS) --durations=10 -m 'slow and not gpu'

lint: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/dev.stamp
	$(BIN)/python docs/generate.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf .venv site dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
