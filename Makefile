# One door to everything. Nothing here needs root, Docker or a running service.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
BIN := .venv/bin
OURS := $(patsubst %/pyproject.toml,%,$(wildcard packages/*/pyproject.toml services/*/pyproject.toml))
PYTEST_ARGS ?=

.PHONY: help setup check test demo up bench docs format lock clean

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv .venv

# The farm itself, enough for `make demo` and `make up`. Installed once; again when a list changes.
.venv/.runtime: requirements/build.txt requirements/runtime.txt $(addsuffix /pyproject.toml,$(OURS)) | $(BIN)/python
	requirements/install $(BIN)/python runtime --editable $(OURS)
	@touch $@

.venv/.dev: requirements/dev.txt .venv/.runtime
	requirements/install $(BIN)/python dev
	@touch $@

setup: .venv/.dev ## create .venv with everything: the farm, its tests, its checks

check: .venv/.dev ## style, types, import contracts, house rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy packages services migrations docs tests bench examples
	PYTHONPATH= $(BIN)/lint-imports --no-cache
	$(BIN)/python tests/architecture/house_rules.py

test: .venv/.dev ## the whole suite, against real Postgres, Valkey, Celery, uvicorn and engines
	$(BIN)/python -m pytest $(PYTEST_ARGS)

demo: .venv/.runtime ## start the farm, measure two models and 60 kernels, adapt a platform, stop (KEEP=1 keeps it up)
	@KEEP=$(KEEP) $(BIN)/python examples/demo.py

up: .venv/.runtime ## start the farm on this machine and stay
	$(BIN)/benchfarm up

# Each program in bench/ runs by itself too (python -m bench.chaos --help); its defaults are the full measurement.
# A missed goal fails the whole, after the others have run.
bench: .venv/.dev ## the long measurements: a million results, chaos with 50 seeds, load on one API process
	rc=0; for program in $$(grep -l '__main__' bench/*.py | sort); do \
		echo "== $$program"; $(BIN)/python -m "bench.$$(basename "$$program" .py)" || rc=1; \
	done; exit $$rc

docs: .venv/.dev ## write the generated documents anew
	$(BIN)/python docs/generate.py
	$(BIN)/python -m benchfarm_api.openapi docs/openapi.json

format: .venv/.dev ## lay the code out
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: .venv/.dev ## resolve requirements/*.in to exact versions with hashes (UPGRADE=1 takes the newest)
	requirements/compile $(if $(UPGRADE),--upgrade)

clean: ## remove what the commands above made
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchfarm
	find packages services -name '*.egg-info' -prune -exec rm -rf {} +
	find packages services -name build -prune -exec rm -rf {} +
