# Three jobs: `make mnist` trains a generator of digits, `make compare` trains its Gaussian twin too and makes a page of
# both, `make test` proves the project.
#
#   PYTHON=python3.12   the interpreter that makes a new environment (3.11 or newer)
#   VENV=.venv          where the environment is
#   RUN=runs/mnist      where `make mnist` leaves its run
#   FRESH=1             train again, where a finished run would only draw new samples
#   DDPM_RUN=runs/mnist_ddpm, COMPARISON=comparison   where `make compare` leaves the second run and the page
#   COMPARE='--calls=8,32,64 --num_samples=500'       flags of `ctdiff compare`: more takes longer

PYTHON ?= python3
VENV ?= .venv
RUN ?= runs/mnist
DDPM_RUN ?= runs/mnist_ddpm
COMPARISON ?= comparison
COMPARE ?= --calls=4,8,16,32 --num_samples=200
FRESH ?=

BIN := $(VENV)/bin

ANEW = $(if $(filter-out 0 no false,$(FRESH)),--fresh)

.PHONY: mnist compare test clean

mnist: $(VENV)/.installed
	$(BIN)/ctdiff train --config=mnist --workdir=$(RUN) $(ANEW)

compare: mnist
	$(BIN)/ctdiff train --config=mnist_ddpm --workdir=$(DDPM_RUN) $(ANEW)
	$(BIN)/ctdiff compare $(RUN) $(DDPM_RUN) --out=$(COMPARISON) $(COMPARE)

test: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist loadfile

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
