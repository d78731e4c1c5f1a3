# Every target sets up what it needs: `make test` on a fresh machine with Python 3.11 just works.
PYTHON ?= python3.11
VENV ?= .venv
PYTEST_FLAGS ?= -n 2 --dist worksteal

INSTALLED := $(VENV)/.installed
TYPING := build/typing/cmdcm

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

.PHONY: help venv lint types test demo demo-year bazel-test build-files model-map check-airflow clean FORCE

help: ## this list
	@echo "cmdcm: make TARGET [PYTHON=python3.11] [VENV=.venv]"
	@sed -n 's/^\([a-zA-Z%-]*\):[^#]*## /\1	/p' $(firstword $(MAKEFILE_LIST)) \
		| while IFS='	' read -r target text; do printf '  %-12s %s\n' "$$target" "$$text"; done

venv: $(INSTALLED) ## the virtual environment with cmdcm (editable) and the development tools
	@:

$(INSTALLED): setup.py pyproject.toml
	@command -v $(PYTHON) >/dev/null || { \
		echo "$(PYTHON) not found. Install Python 3.11 with venv, or name a 3.11 or 3.12 you" \
			"have: make PYTHON=/path/to/python ..." >&2; exit 1; }
	@echo "Installing cmdcm and TensorFlow into $(VENV) (some minutes the first time)"
	@test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install -qq --disable-pip-version-check --editable ".[dev]"
	@touch $@

lint: venv ## ruff: rules and format
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .

types: venv ## mypy
	@mkdir -p $(dir $(TYPING)) && ln -sfn ../.. $(TYPING)
	@$(VENV)/bin/mypy | sed 's#^$(TYPING)/##'

test: venv ## all tests
	@$(VENV)/bin/python -m pytest $(PYTEST_FLAGS)

demo: venv ## raw events to a scored request, in out/demo
	@$(VENV)/bin/cmdcm demo --output out/demo --overwrite

demo-year: venv ## two years of promotions, the retraining job and faults, in out/year
	@$(VENV)/bin/cmdcm year --output out/year --overwrite

bench-%: venv FORCE ## one benchmark: bench-NAME runs benchmarks/bench_NAME.py
	@$(VENV)/bin/python -m cmdcm.benchmarks.bench_$(subst -,_,$*)

build-files: venv ## write the BUILD files anew
	@$(VENV)/bin/python -m cmdcm.tools.bazel.update_build

model-map: venv ## write the map of the models in docs/models.md anew
	@$(VENV)/bin/python -m cmdcm.tools.model_map

bazel-test: venv ## the tests through their BUILD targets
	@tools/bazel/test.sh $(VENV)

check-airflow: venv ## the DAG of docs/schedulers with a real Airflow, in build/airflow
	@$(VENV)/bin/python -m cmdcm.tools.check_airflow

clean: ## remove what was built; .venv and out stay
	@rm -rf build dist cmdcm.egg-info .mypy_cache .ruff_cache .hypothesis
