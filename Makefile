# Everything starts here: `make` lists what there is. Nothing is assumed but python3 and make.

PYTHON ?= python3
TESTS ?=
ARGS ?=
WORKERS ?= 2
TRANSPORT ?= rest

VENV := .venv
RUN := $(VENV)/bin/python
GATEWAY := local/gateway
JAVASCRIPT := tests/javascript
PYTHON_STAMP := $(VENV)/.stamp
GPU_VENV := .venv-gpu
GPU_STAMP := $(GPU_VENV)/.stamp
NPM_STAMP := $(GATEWAY)/node_modules/.stamp
CLIENTS_STAMP := $(JAVASCRIPT)/node_modules/.stamp
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# An environment whose interpreter has gone (an upgrade of the system's Python) is made again.
ifneq ($(wildcard $(PYTHON_STAMP)),)
ifneq ($(shell $(RUN) -c 'print(1)' 2>/dev/null),1)
$(shell rm -f $(PYTHON_STAMP))
endif
endif

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: setup
setup: $(PYTHON_STAMP) $(NPM_STAMP) ## Install what is locked, into .venv and node_modules (the others do it when needed)

.PHONY: demo
demo: setup ## From sign-up to a paid, streamed chat, against the real stack; ends by itself
	@$(RUN) -m local.demo

.PHONY: dev
dev: setup ## Start the stack, print URLs and keys, stay up until Ctrl-C (ARGS=--help lists options)
	@exec $(RUN) -m local.dev $(ARGS)

.PHONY: test
test: setup $(CLIENTS_STAMP) ## Run the tests (TESTS=path narrows, TRANSPORT=direct skips PostgREST)
	@QUERNEL_TEST_TRANSPORT=$(TRANSPORT) $(RUN) -m pytest -n $(WORKERS) --dist worksteal $(TESTS) $(ARGS)

.PHONY: test-gpu
test-gpu: setup $(GPU_STAMP) ## Run what needs torch, on tiny models (on the CPU where there is no card)
	@$(GPU_VENV)/bin/python -m pytest -n $(WORKERS) --dist worksteal tests/gpu $(ARGS)

.PHONY: bench-gpu
bench-gpu: setup $(GPU_STAMP) ## Measure images by gpu/ beside plain diffusers (ARGS=sdxl narrows)
	@$(GPU_VENV)/bin/python -m tests.gpu.bench $(ARGS)

.PHONY: check
check: setup ## Format, lint, types, SQL style, Supabase advisors and the database's invariants
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	$(RUN) -m sqlfluff lint --disable-progress-bar supabase/migrations sql
	$(RUN) -m local.upgrades
	$(RUN) -m local.checks

.PHONY: bench
bench: setup ## Measure holds, webhook events, chat, images and retrieval (ARGS=chat narrows)
	@$(RUN) -m tests.bench $(ARGS)

.PHONY: schema
schema: setup ## Write sql/schema.sql, what the migrations build, and the chapter of invariants
	@$(RUN) -m local.check_chapter
	@$(RUN) -m local.schema

.PHONY: restore-drill
restore-drill: setup ## Dump a database, restore it into an empty one, and compare the two
	@$(RUN) -m local.restore_drill

.PHONY: lock
lock: setup ## Choose versions anew, npm's too (ARGS=--keep only adds what pyproject.toml newly asks for)
	$(RUN) -m local.lock $(ARGS)

.PHONY: clean
clean: ## Delete the local database, logs, generated secrets and everything installed
	@if [ -x $(RUN) ]; then $(RUN) -m local.clean; fi
	rm -rf .quernel $(VENV) $(GPU_VENV) $(GATEWAY)/node_modules $(JAVASCRIPT)/node_modules build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Installed again when a lock changes, and only then.

$(PYTHON_STAMP): constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "Quernel needs Python 3.11 or newer, and there is no $(PYTHON). Install it, or name another: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Quernel needs Python 3.11 or newer; $(PYTHON) is %d.%d. Name another: make PYTHON=/path/to/python3" % sys.version_info[:2])'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Installing the Python packages of constraints.txt into $(VENV) (about two minutes) ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@$(RUN) -m pip install --quiet --require-hashes -r constraints.txt
	@$(RUN) -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(GPU_STAMP): constraints.txt constraints-gpu.txt pyproject.toml $(PYTHON_STAMP)
	@echo "Installing torch and what goes with it into $(GPU_VENV) (about three minutes) ..."
	@$(PYTHON) -m venv --clear $(GPU_VENV)
	@$(GPU_VENV)/bin/python -m pip install --quiet --require-hashes -r constraints.txt
	@$(GPU_VENV)/bin/python -m pip install --quiet --constraint constraints-gpu.txt --no-build-isolation --editable '.[gpu]'
	@touch $@

$(NPM_STAMP): $(GATEWAY)/package-lock.json $(PYTHON_STAMP)
	@echo "Installing the npm packages of $(GATEWAY)/package-lock.json ..."
	@$(RUN) -m local.npm $(GATEWAY) install --no-save
	@touch $@

$(CLIENTS_STAMP): $(JAVASCRIPT)/package-lock.json $(PYTHON_STAMP)
	@$(RUN) -m local.npm $(JAVASCRIPT) install --no-save
	@touch $@
