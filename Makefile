# Everything the book needs, from one Python 3.11 or later. `make help` lists what there is to make.
#
#   make PYTHON=/path/to/python3.12 test     another Python than the one named python3
#   make PORT=9000 serve                     another port than 8000
#   make ONLY="ruff pytest" test             some of the test groups

PYTHON ?= $(shell command -v python3 || command -v python || echo python3)
PORT ?= 8000
ONLY ?=
PY := .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help ready serve book test lab notebooks bench pins clean clean-all

help: ## List these targets
	@echo "make serve      build the book if it is stale and show it on http://127.0.0.1:$(PORT) (PORT=...)"
	@echo "make book       build the book into _build/html if it is stale"
	@echo "make test       run everything: ruff, mypy, the book build, pytest, nbval, browser (ONLY=\"ruff pytest\")"
	@echo "make lab        open the chapters in JupyterLab"
	@echo "make notebooks  execute and normalize the chapters whose code changed (ALL=1: all of them)"
	@echo "make bench      run the benchmarks (takes long)"
	@echo "make pins       write the versions installed in .venv into requirements.txt"
	@echo "make clean      remove what was built; make clean-all removes .venv and node_modules too"
	@echo
	@echo "Whichever comes first makes .venv and installs requirements.txt. PYTHON=... names another Python than python3."

ready:
	@command -v "$(PYTHON)" >/dev/null 2>&1 || { \
	  echo "No Python found under the name '$(PYTHON)'. Install Python 3.11 or later, or say: make PYTHON=/path/to/it" >&2; \
	  exit 1; }
	@"$(PYTHON)" tools/setup_env.py

book: ready
	@$(PY) tools/book.py
	@echo "The book is in _build/html. Look at it with: make serve (opened as a file its widgets do not move)"

serve: ready
	@$(PY) tools/book.py
	@$(PY) tools/serve.py $(PORT)

test: ready
	@$(PY) tools/run_tests.py $(ONLY)

lab: ready
	@$(PY) -m jupyterlab chapters

notebooks: ready
	@$(PY) tools/notebooks.py $(if $(ALL),--all)

bench: ready
	@$(PY) benchmarks/run.py

pins: ready
	@$(PY) tools/pins.py
	@git --no-pager diff --stat requirements.txt

clean:
	rm -rf _build .pytest_cache .mypy_cache .ruff_cache .hypothesis .jupyter_cache .coverage .coverage.*
	find . -name __pycache__ -type d -not -path './.venv/*' -not -path './node_modules/*' -prune -exec rm -rf {} +

clean-all: clean
	rm -rf .venv node_modules nnbook.egg-info
