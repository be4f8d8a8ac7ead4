# Everything a newcomer or CI runs. `make help` lists the targets.
#
# The first use of a target makes a virtual environment in $(VENV) with the versions of
# requirements/constraints.txt; a changed pyproject.toml or constraints file renews it.

VENV ?= .venv
PYTHON ?=
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --no-input
PINS := requirements/constraints.txt
PEER := $(VENV)-chat-huggingface
CANDIDATES := $(or $(PYTHON),python3.11 python3.12 python3.13 python3)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: demo test chaos check lint bench bench-gpu docs clean help

demo: $(VENV)/.ready-langchain ## read a document, answer, follow up, compare the modes
	$(PY) -m langchain_sfi.demo

test: $(VENV)/.ready-test ## run the tests, two files at a time
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart=0 --durations 20

chaos: $(VENV)/.ready-test ## break sessions on disk in every way, for longer than the tests do
	$(PY) -m pytest -q -s -m chaos --chaos --timeout 0 -o faulthandler_timeout=0

check: lint ## lint, and test wheel contents and pages
	$(PY) -m pytest -q tests/packaging tests/docs/test_pages.py

lint: $(VENV)/.ready-dev ## lint, types, import rules, generated pages, experiments
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy
	$(VENV)/bin/lint-imports --no-cache
	$(PY) docs/generate.py --check
	$(VENV)/bin/sfi-agent experiment run --check docs/experiments/*.md

bench: $(VENV)/.ready-test $(PEER)/.ready ## measure speed, sessions, agents and the bus on this machine
	$(PY) benchmarks/cpu.py
	$(PY) benchmarks/sessions.py
	$(PY) benchmarks/agents.py --peer $(PEER)/bin/python
	$(PY) benchmarks/bus.py

bench-gpu: $(VENV)/.ready-test ## check and time kernels, steps, turns, prompts and real text on this machine's GPU
	$(PY) benchmarks/gpu_gate.py
	$(PY) benchmarks/gpu.py
	$(PY) benchmarks/gpu_kernels.py
	$(PY) benchmarks/gpu_steps.py
	$(PY) benchmarks/gpu_decode.py
	$(PY) benchmarks/gpu_prefill.py
	$(PY) benchmarks/gpu_text.py

docs: $(VENV)/.ready-test ## regenerate the reference pages and plots, then run every example
	$(PY) docs/generate.py
	$(VENV)/bin/sfi-agent experiment render docs/experiments/*.md
	$(PY) -m pytest -q tests/docs

clean: ## remove the virtual environment, builds and caches (not the models)
	rm -rf $(VENV) $(PEER) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 8

# One stamp for each extra of pyproject.toml, so that the demo installs no linter.
$(VENV)/.ready-%: $(PY) pyproject.toml $(PINS)
	@echo "Installing sfi-agent[$*] into $(VENV): some minutes the first time"
	$(PIP) install --quiet --constraint $(PINS) setuptools
	$(PIP) install --constraint $(PINS) --no-build-isolation --editable '.[$*]'
	@touch $@

# LangChain's ChatHuggingFace asks for an older huggingface-hub than the one pinned here.
$(PEER)/.ready: benchmarks/chat_huggingface/requirements.txt $(PY)
	$(PY) -m venv --clear $(PEER)
	$(PEER)/bin/python -m pip --disable-pip-version-check --no-input install --quiet --requirement $<
	@touch $@

define NO_PYTHON
sfi-agent needs Python 3.11 or newer with venv and pip; none of these is one: $(CANDIDATES).
Install it (Debian, Ubuntu: apt install python3 python3-venv), or name it: make PYTHON=/path/to/python3
endef
export NO_PYTHON

$(PY):
	@for python in $(CANDIDATES); do \
	  if $$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "Making $(VENV) with $$python"; exec $$python -m venv --clear $(VENV); \
	  fi; \
	done; \
	echo "$$NO_PYTHON" >&2; exit 1
