# Each target sets up what it needs first; a second call finds it done.
#   make run      open the app          make test    everything, browser journeys included
#   make check    lint, types, fast tests
#   make bench    measure the bars and write the table in README.md
#   make spaces   check and list what each Space would receive
# PYTHON=... picks the interpreter (3.11 or newer), PORT=... the port of the app.

VENV ?= .venv
PORT ?= 7860
PYTHON ?= $(shell for p in python3.11 python3.12 python3 python; do \
    $$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
    && { echo $$p; break; }; done)
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# One thread a process: two test workers share two cores.
QUIET := GRADIO_ANALYTICS_ENABLED=False HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
# The kernels of the plainest processor, whose round-off is another one.
PLAIN := ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE

# `make test` watches the shape of every array in the fast tests; it costs half as much again.
UNWATCHED := --jaxtyping-packages=

.PHONY: run test check lint bench spaces browser clean

run: $(VENV)/.run
	GRADIO_SERVER_PORT=$(PORT) $(BIN)/python app.py

test: lint browser
	$(QUIET) $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not browser"
	$(QUIET) $(BIN)/python -m pytest -n 2 --dist loadfile $(UNWATCHED) -m "slow and not browser"
	$(QUIET) $(PLAIN) $(BIN)/python -m pytest -n 2 --dist loadfile $(UNWATCHED) --ignore=tests/ui \
	    -m "golden or hypothesis"
	@if command -v chromium >/dev/null; then \
	    $(QUIET) $(BIN)/python -m pytest -m browser; \
	else \
	    echo "SKIPPED: the browser journeys, because no chromium is installed"; \
	fi

check: lint
	$(QUIET) $(BIN)/python -m pytest -n 2 --dist loadfile $(UNWATCHED) -m "not slow and not browser"

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.dev browser
	$(BIN)/python -m benchmarks.bars --write
	$(BIN)/python -m benchmarks.memory --write
	$(BIN)/python -m benchmarks.gpu --write

spaces: $(VENV)/.dev
	$(BIN)/python scripts/push_space.py --all --dry-run

browser:
	@sh scripts/install_browser.sh

clean:
	rm -rf $(VENV) build

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer with venv is needed; set PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.txt requirements-speech.txt | $(VENV)/bin/python
	@echo "Installing what the app needs into $(VENV); this takes some minutes once."
	$(PIP) install --quiet -r requirements.txt
	@$(PIP) install --quiet -r requirements-speech.txt || echo "SKIPPED: PESQ, which needs a C compiler"
	@touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.run
	@echo "Installing the development packages into $(VENV)."
	$(PIP) install --quiet -r requirements-dev.txt
	@touch $@
