# Targets:
#   make mnist     train a discrete model of MNIST digits and draw samples
#   make compare   also train a Gaussian model, and write a page that compares both
#   make test      run the linters, the type checker and the tests
#   make test-matrix   run the tests with every Python on the path, with the newest and the oldest dependencies
#   make tables    write the tables of keys in docs/configuration.md and the cards in docs/models.md again
#
# Variables:
#   PYTHON=python3.12              the interpreter for a new environment (3.11 or newer)
#   VENV=.venv                     the folder of the environment
#   RUN=runs/mnist                 the folder of the run of `make mnist`
#   FRESH=1                        train again; without it, a finished run only draws new samples
#   DDPM_RUN=runs/mnist_ddpm       the folder of the second run of `make compare`
#   COMPARISON=comparison          the folder of the page of `make compare`
#   COMPARE='--calls=8,32,64 --num_samples=500'   the flags of `ctdiff compare`; more calls and samples take longer

PYTHON ?= python3
VENV ?= .venv
RUN ?= runs/mnist
DDPM_RUN ?= runs/mnist_ddpm
COMPARISON ?= comparison
COMPARE ?= --calls=4,8,16,32 --num_samples=200
FRESH ?=

BIN := $(VENV)/bin

ANEW = $(if $(filter-out 0 no false,$(FRESH)),--fresh)

.PHONY: mnist compare test test-matrix tables clean

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

test-matrix: $(VENV)/.installed-test
	$(BIN)/python tests/matrix.py

tables: $(VENV)/.installed
	$(BIN)/python -m ctdiff.recipe.tables docs/configuration.md
	$(BIN)/python -m ctdiff.published docs/configuration.md
	$(BIN)/python -m ctdiff.models docs/models.md

clean:
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("ctdiff needs Python 3.11 or newer, $(PYTHON) is " + sys.version.split()[0] + ": give PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

# Stamp files: packages are installed again only if setup.py changes. The second stamp depends on the first, so that
# `make -j` does not run pip twice at the same time.
$(VENV)/.installed: setup.py | $(BIN)/python
	$(BIN)/python -m pip install --editable .
	@touch $@

$(VENV)/.installed-test: setup.py $(VENV)/.installed
	$(BIN)/python -m pip install --editable '.[test]'
	@touch $@
