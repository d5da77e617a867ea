# Everything runs in .venv, which `make setup` fills. Needs: GNU make, Python 3.11 or newer.

SHELL := bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test lint format bench quality serving clean redis
.NOTPARALLEL:

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.installed
CODE := $(wildcard service training deploy benchmarks tests)

help:  ## this list
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 18

setup: $(STAMP)  ## a .venv with what training and development need

# The stamp is written last: a broken install is begun anew, a finished one costs nothing.
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'rankserve needs Python 3.11 or newer; name it with: make PYTHON=/path/to/python3.11'; exit 1; }
	@echo "Setting up .venv with $$($(PYTHON) --version): a minute or a few, once"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@set -o pipefail; printf '  packages '; $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off \
	    --constraint constraints.txt --editable '.[train,dev]' 2>&1 | tee .venv/setup.log \
	  | while read -r line; do case $$line in Collecting*) printf .;; \
	      'Installing collected'*) printf ' installing ';; 'Successfully installed'*) printf 'done\n';; esac; done \
	  || { printf '\nInstallation failed; the end of .venv/setup.log:\n'; tail -n 20 .venv/setup.log; exit 1; }
	@touch $@

demo: setup  ## train, serve, rank, swap; ONCE=1 ends after that, DATA=dir trains on KuaiRand in its stead
	@$(BIN)/python -m deploy.demo $(if $(ONCE),--once) $(if $(DATA),--data '$(DATA)')

test: setup redis  ## all tests, with the branch coverage of service/; ARGS goes to pytest in its place
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(or $(ARGS),--cov --numprocesses 2 --dist loadfile)

# The tests of Redis start a server of their own, and are skipped where there is none.
redis:
	@command -v redis-server >/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
	  && echo 'Installing redis-server for the tests' && export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
	  && apt-get update -qq && apt-get install -qq --no-install-recommends redis-server >/dev/null; } \
	  || echo 'No redis-server, and no way to install one: its tests are skipped'

lint: setup  ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy $(CODE)

format: setup  ## what ruff can put right
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: quality serving  ## every measurement there is: quality, then serving; outputs lie in benchmarks/results

# Three bundles of the synthetic world, then what they are worth.
BENCH := .bench
MEASURE = echo "== $(1)"; OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.$(1) $(2) | tee benchmarks/results/$(or $(3),$(1)).txt
SHARED_BOTTOM := model={name="shared_bottom",embedding_dropout=0.2,bottom_hidden=[192,96],tower_hidden=[32]}
FIT = test -d $(BENCH)/$(1) || $(BIN)/ranktrain fit configs/synthetic.toml --models $(BENCH) --version $(1) $(2)

quality: setup redis  ## slate quality, parity, swaps, faults and Redis, some twelve minutes; DATA=dir adds the feature contract on KuaiRand
	@mkdir -p benchmarks/results
	@$(call FIT,mmoe-1,--seed 1)
	@$(call FIT,mmoe-2,--seed 2)
	@$(call FIT,shared-bottom-1,--seed 1 --set '$(SHARED_BOTTOM)')
	@set -o pipefail; $(call MEASURE,slates,--models $(BENCH) --version mmoe-1 --config configs/synthetic.toml,slates-mmoe)
	@set -o pipefail; $(call MEASURE,slates,--models $(BENCH) --version shared-bottom-1 --config configs/synthetic.toml,slates-shared-bottom)
	@set -o pipefail; $(call MEASURE,parity,--models $(BENCH) --version mmoe-1 --config configs/synthetic.toml)
	@set -o pipefail; $(call MEASURE,faults,--models $(BENCH) --version mmoe-1)
	@set -o pipefail; $(call MEASURE,swaps,--models $(BENCH) --versions mmoe-1 mmoe-2)
	@set -o pipefail; $(call MEASURE,features,--models $(BENCH) --version mmoe-1)
	@set -o pipefail; $(call MEASURE,redis_faults,--models $(BENCH) --version mmoe-1)
	@$(if $(DATA),set -o pipefail; $(call MEASURE,contract,--data '$(DATA)'))

# Peers get environments away from this folder, which they fill from a package index once.
PEERS := $(or $(TMPDIR),/tmp)/rankserve-peers
WORLDS := $(BENCH)/serving
# What is written last says that a workload is whole.
WORLD = test -f $(WORLDS)/$(1)/wrk/rank-500.lua || { rm -rf $(WORLDS)/$(1); echo "Writing workload $(1)"; \
  OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.serving.workload $(WORLDS)/$(1) $(2); }
LARGE := items-1m
KUAIRAND = test -d $(BENCH)/kuairand \
  || $(BIN)/ranktrain fit configs/kuairand.toml --data '$(DATA)' --models $(BENCH) --version kuairand

serving: setup redis  ## speed, beside bare onnxruntime and other servers, some hours and 12 GB of memory; DATA=dir adds KuaiRand's stages
	@mkdir -p benchmarks/results
	@$(call WORLD,mmoe-int8,--int8)
	@$(call WORLD,ple,--arch ple)
	@$(call WORLD,items-10k,--items 10000 --state float16)
	@$(call WORLD,$(LARGE),--items 1000000 --state float16)
	@set -o pipefail; $(call MEASURE,serving.run,$(WORLDS)/mmoe-int8 --envs $(PEERS) --poisson --also 'mosec split',serving-mmoe)
	@set -o pipefail; $(call MEASURE,serving.run,$(WORLDS)/ple --envs $(PEERS) --peers,serving-ple)
	@set -o pipefail; $(call MEASURE,serving.growth,$(WORLDS)/mmoe-int8,serving-growth)
	@set -o pipefail; $(call MEASURE,serving.growth,$(WORLDS)/items-10k $(WORLDS)/$(LARGE) --candidates 500,serving-growth-items)
	@set -o pipefail; $(call MEASURE,serving.memory,$(WORLDS)/$(LARGE),serving-memory)
	@set -o pipefail; $(call MEASURE,serving.updates,$(WORLDS)/mmoe-int8,serving-updates)
	@set -o pipefail; $(call MEASURE,serving.swap,$(WORLDS)/$(LARGE),serving-swap)
	@set -o pipefail; $(call MEASURE,sharing,$(WORLDS)/mmoe-int8)
	@set -o pipefail; $(call MEASURE,graphs)
	@$(if $(DATA),$(KUAIRAND); set -o pipefail; $(call MEASURE,serving.stages,--models $(BENCH) --version kuairand,serving-stages))

clean:  ## remove what make made, the .venv too; models stay
	@rm -rf .venv build dist *.egg-info .coverage .coverage.* htmlcov .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find $(CODE) -name __pycache__ -prune -exec rm -rf {} +
