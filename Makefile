# `make report` trains, measures and writes the report; `make test` runs the tests. Both set up
# .venv first, once: nothing is installed again until setup.cfg changes. `make map` writes the tree
# of WORKSPACE.md. `make report
# STUDIES='ladder state_tracking'` asks other studies than those two.

RUNS ?= runs/quick
PRESET ?= quick
STUDIES ?= retention parallelism
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin

# Large pages for what XLA allocates anew at every call: fewer page faults in a CPU step.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: report test slow lint map clean
.DEFAULT_GOAL := report

report: .venv/report
	@set -e; for study in $(STUDIES); do \
	  $(BIN)/python -m experiments.$$study --preset=$(PRESET) --runs=$(RUNS); \
	done
	$(BIN)/python -m experiments.report --runs=$(RUNS)

test: .venv/test
	$(BIN)/python -m pytest -m 'not slow' $(TESTS)

slow: .venv/test
	$(BIN)/python -m pytest -m slow $(TESTS)

lint: .venv/test
	$(BIN)/ruff check .

map: .venv/test
	$(BIN)/python .ci/map

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .hypothesis

.venv/python:
	@test -n "$(PYTHON)" || { echo 'Python 3.11 or newer is needed: make PYTHON=/path/to/python3' >&2; exit 2; }
	@echo 'setting up .venv (about a minute, once)'
	@$(PYTHON) -m venv .venv
	@touch $@

.venv/report: .venv/python setup.cfg
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[report,translation]'
	@touch $@

.venv/test: .venv/report
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
