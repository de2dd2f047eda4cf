# One door. `make` alone teaches; every target sets up what it needs first, and CI calls the same words.
.DEFAULT_GOAL := help
.PHONY: help setup fmt lint types check format-check imports tidy hygiene test test-unit test-full demo bench lock clean

BIN := .venv/bin
CODE := $(wildcard headwater tests tools benchmarks examples)
# Arguments for pytest, `make test ARGS="-k horizon -x"`.
ARGS ?=
export PYTHON
# The locked pyright is the one we want: it need not ask whether there is a newer.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

help: ## this list
	@echo "make WORD, where WORD is:"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' Makefile | awk -F'|' '{ printf "%-12s %s\n", $$1, $$2 }'
	@echo
	@echo "First time here: make demo. Before a commit: make check test. Needs Python 3.11+ (or make PYTHON=/path/to/one)."

setup: ## make .venv what uv.lock says (every other word does this first)
	@tools/python.sh tools/environment.py

fmt: setup ## format the code and fix what ruff can fix
	$(BIN)/ruff check --fix --exit-zero --quiet $(CODE)
	$(BIN)/ruff format $(CODE)

check: format-check lint types imports tidy hygiene ## all that can be said without running the code

format-check: setup
	$(BIN)/ruff format --check $(CODE)

lint: setup ## ruff
	$(BIN)/ruff check $(CODE)

types: setup ## mypy and pyright, both strict
	$(BIN)/mypy
	$(BIN)/pyright

imports: setup ## the floors of the house (import-linter)
	$(BIN)/lint-imports --no-logo

tidy: setup ## time and randomness at one place, SQL in its files, doors, sizes
	$(BIN)/python tools/tidy.py code

hygiene: setup ## no registry hosts and no machine paths in files
	$(BIN)/python tools/tidy.py hygiene

test: setup ## unit, integration, acceptance and the seeded faults (ARGS="-k name -x")
	@$(BIN)/pytest $(ARGS)

test-unit: setup ## the tests that need no server
	@$(BIN)/pytest tests/unit $(ARGS)

# Servers that Headwater does not bring along: at full count a missing one fails, here and not elsewhere.
FOREIGN := tests/integration/postgres/test_versions.py tests/integration/postgres/test_pgbouncer.py tests/integration/postgres/test_tls.py

test-full: setup ## the fault tests at full count, and PostgreSQL 15 and PgBouncer; resumable, summaries in docs/evidence/
	@HEADWATER_TEST_FULL=1 $(BIN)/pytest tests/fault $(FOREIGN) $(ARGS)

demo: setup ## real orders through the log, Kafka, handlers, projections and a replay
	@$(BIN)/headwater demo

bench: setup ## Headwater beside raw drivers and other libraries (ARGS="--check", "append --plot plots")
	@$(BIN)/headwater bench $(ARGS)

lock: ## resolve pyproject.toml into uv.lock again (ARGS=--upgrade for newer versions)
	@tools/python.sh tools/environment.py --uv
	@$(BIN)/python tools/lock.py update $(ARGS)

clean: ## remove .venv and the tools' caches
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
