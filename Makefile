# make demo        train, score and analyse a tiny suite of models: minutes, two cores
# make published   the 768 published accuracies of Michaelov & Bergen (2023): Table 1, Figure 1
# make status      checkpoints and tasks: done, running, queued, failed, waiting (STUDY=folder)
# make cost        GPU hours, download and disk of a study before anything starts (STUDY=folder)
# make bench       the engine beside lm-evaluation-harness, on this machine: up to 20 minutes
# make test        every test that needs no cluster: up to 20 minutes
# make test-slurm  the tests on a SLURM cluster of their own (as root, with Debian's packages)
# make check       style, types, and the workflow's own linter
#
# Each target sets up .venv from pinned requirements first. DOWNSLOPE_MIRROR (a folder or an
# address) is searched for data sets before their publishers are asked.

PYTHON ?= python3
CORES ?= all
STUDY ?= .
VENV := .venv
BIN := $(abspath $(VENV))/bin

ifdef DOWNSLOPE_MIRROR
# A relative folder means one beside the Makefile, wherever a study runs.
export DOWNSLOPE_MIRROR := $(if $(findstring ://,$(DOWNSLOPE_MIRROR)),$(DOWNSLOPE_MIRROR),$(abspath $(DOWNSLOPE_MIRROR)))
endif

# Checkers and scripts are found in the environment without activating it.
export PATH := $(BIN):$(PATH)

SNAKEMAKE := $(BIN)/snakemake --cores $(CORES) --quiet rules host
TESTS := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help demo published status cost bench test test-slurm check format clean
help:
	@sed -n '/^# make/s/^# //p' Makefile

$(VENV)/installed: requirements.txt constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Downslope needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "Installing requirements.txt into $(VENV); this takes a few minutes, once."
	$(PIP) -r requirements.txt
	@touch $@

$(VENV)/installed-test: $(VENV)/installed requirements-test.txt
	$(PIP) -r requirements-test.txt
	@touch $@

# A study is a folder: its outputs lie beside a link to its config, never among the configs.
runs/%/config: config/%
	@mkdir -p runs/$*
	@ln -sfn ../../config/$* $@

demo published: %: $(VENV)/installed runs/%/config
	$(SNAKEMAKE) --directory runs/$@
	@echo
	@cat runs/$@/results/stats/table1.md
	@echo
	@sed '/^|/,$$d' runs/$@/results/stats/verdicts.md
	@echo "Verdicts  runs/$@/results/stats/verdicts.md: read this first"
	@echo "Figures   runs/$@/results/figures/*.pdf (also .svg, .png)"
	@echo "Table 1   runs/$@/results/stats/table1.md (also .tsv, .tex)"
	@echo "Effects   runs/$@/results/stats/effects.tsv, by six methods"
	@echo "Cells     runs/$@/results/cells.tsv"

status: $(VENV)/installed
	@$(BIN)/python scripts/show_status.py "$(STUDY)" $(STATUS)

cost: $(VENV)/installed
	@$(SNAKEMAKE) --directory "$(STUDY)" -- cost

bench: $(VENV)/installed-test
	$(BIN)/python scripts/bench_engine.py $(BENCH)

test: $(VENV)/installed-test
	$(TESTS) -m "not slurm" $(PYTEST)

test-slurm: export DOWNSLOPE_DEMAND_SLURM = 1
test-slurm: $(VENV)/installed-test
	$(TESTS) -m slurm tests/workflow $(PYTEST)

check: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check --compact-diff Snakefile rules
	$(BIN)/mypy
	$(BIN)/snakemake --lint

format: $(VENV)/installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile rules

clean:
	rm -rf runs
