# The one door. Needs python3 (3.11 or newer); everything else is installed into .venv.
#   make demo    train on real pictures without and with the memory, print what it gains
#   make test    every test
#   make lint    format, lint, types, floors, spelling
#   make docs    the documentation, strict
#   make bench   the memory loss beside its peers
#   make experiments   what the defaults and the advice rest on; hours

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test lint format docs bench experiments clean

$(VENV)/base: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(PIP) -e ".[train,study,hub,export,search,web]"
	@touch $@

$(VENV)/%: $(VENV)/base
	$(PIP) --group $*
	@touch $@

demo: $(VENV)/demo
	$(BIN)/python -m demo

test: $(VENV)/test $(VENV)/web-test
	$(BIN)/python -m pytest -n 2 -rs

lint: $(VENV)/lint $(VENV)/test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/pyright
	$(BIN)/codespell

format: $(VENV)/lint
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/docs
	$(BIN)/mkdocs build --strict

bench: $(VENV)/bench
	$(BIN)/python -m benchmarks.memory_loss
	$(BIN)/python -m benchmarks.weightings
	$(BIN)/python -m benchmarks.memory_storage
	$(BIN)/python -m benchmarks.evaluator
	$(BIN)/python -m benchmarks.ranker compare
	$(BIN)/python -m benchmarks.search

experiments: $(VENV)/experiments
	for data in glyphs emoji head tuned; do $(BIN)/python -m experiments.memory kinds $$data; done
	for table in small ratio batch losses storage time; do \
	  $(BIN)/python -m experiments.memory $$table glyphs; done
	$(BIN)/python -m experiments.memory small emoji
	$(BIN)/python -m experiments.memory --show
	for data in symmetric asymmetric similar icons overtrained; do \
	  $(BIN)/python -m experiments.curriculum models $$data; done
	for table in controls share cuts cutoff weights; do for data in symmetric asymmetric; do \
	  $(BIN)/python -m experiments.curriculum $$table $$data; done; done
	$(BIN)/python -m experiments.curriculum --show

clean:
	rm -rf $(VENV) runs site
