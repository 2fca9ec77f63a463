# Two commands: `make demo` and `make test`. Both set themselves up.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP_FLAGS ?= --disable-pip-version-check --quiet

.PHONY: help setup demo test test-plain test-long test-slow docs clean
.DEFAULT_GOAL := help

help:  ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.ready-%: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info[:2] <= (3, 13), "Python 3.11 to 3.13 needed, found " + sys.version.split()[0]'
	$(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (a few minutes the first time)"
	$(BIN)/pip install $(PIP_FLAGS) -c constraints.txt -e '.[$*]'
	@touch $@

setup: $(VENV)/.ready-dev  ## create .venv with everything in it

demo: $(VENV)/.ready-test  ## train a model, measure it, talk with it (about 10 minutes on two cores)
	@MEMGPT_HOME=$(CURDIR)/runs/demo-home sh docs/demo/demo.sh $(BIN)/memgpt

test: setup  ## the fast tests, with lint and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n 2 --dist loadfile

test-plain: $(VENV)/.ready-test  ## the fast tests without the optional libraries
	$(BIN)/pytest -n 2 --dist loadfile

test-long: setup  ## what is slow by nature, without the long series of kills and of damaged files
	$(BIN)/pytest -m slow -n 2 --dist loadfile --ignore=tests/test_fuzz.py -k 'not many'

test-slow: setup  ## all the slow tests, and those of the full data sets
	$(BIN)/pytest -m 'slow or data'

docs: setup  ## write docs/cli.md and docs/settings.md from the code
	$(BIN)/python -m memgpt_cli.cli.reference docs

clean:  ## remove what can be made again (not runs/ and data/)
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
