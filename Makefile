# Two jobs: `make mnist` trains a generator of digits, `make test` proves the project.
#
#   PYTHON=python3.12   the interpreter that makes a new environment (3.11 or newer)
#   VENV=.venv          where the environment is
#   RUN=runs/mnist      where `make mnist` leaves its run
#   FRESH=1             train again, where a finished run would only draw new samples

PYTHON ?= python3
VENV ?= .venv
RUN ?= runs/mnist
FRESH ?=

BIN := $(VENV)/bin

.PHONY: mnist test clean

mnist: $(VENV)/.installed
	$(BIN)/ctdiff train --config=mnist --workdir=$(RUN) $(if $(filter-out 0 no false,$(FRESH)),--fresh)

test: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

clean:
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("ctdiff needs Python 3.11 or newer, $(PYTHON) is " + sys.version.split()[0] + ": give PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

# Stamps: nothing is installed again until setup.py changes. The second waits for the first, so that `make -j` never runs two pips.
$(VENV)/.installed: setup.py | $(BIN)/python
	$(BIN)/python -m pip install --editable .
	@touch $@

$(VENV)/.installed-test: setup.py $(VENV)/.installed
	$(BIN)/python -m pip install --editable '.[test]'
	@touch $@
