PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test quick lint bench fuzz docs ui lock
.DEFAULT_GOAL := run

# Tests and benchmarks start Python so often that its compiled modules are kept, even for those who
# have none kept: compiling them is no part of what users wait for, but once.
export PYTHONDONTWRITEBYTECODE :=

run: .venv/installed
	$(BIN)/python -m flows.run

# Two processes, to each a file at a time: much of the time is waiting for what tests start.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: .venv/installed
	$(PYTEST)

# What a change of the engine is tried with: no server, no browser, nothing that takes its time.
quick: .venv/installed
	$(PYTEST) -m "not server and not browser and not slow"

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/installed
	$(BIN)/python -m benchmarks.run

fuzz: .venv/installed
	FUZZ_CASES=100000 $(BIN)/python -m pytest tests/test_fuzz.py

# The names of `import goodnet`, and what repairs, detectors and triggers are written against.
docs: .venv/installed
	TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/python -m pdoc --docformat google --output-directory docs/api \
		goodnet goodnet.defenses.seam goodnet.attacks.triggers

ui: .venv/installed
	$(BIN)/python -m flows.ui

# The lock is complete, so nothing is left for pip to resolve. Python compiles the modules that it
# imports; to compile all others too would take half of the installation.
.venv/installed: requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else f"goodnet needs Python 3.11 to 3.13, this is {sys.version.split()[0]}; try make PYTHON=python3.12")'
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

lock:
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-header --extra flows --group dev pyproject.toml -o requirements.lock
