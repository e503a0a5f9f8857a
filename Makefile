# `make` alone lists the targets. Everything is installed into .venv, in the versions of constraints.txt.

PYTHON ?= python3
UV ?= uv
JOBS ?= 2
NBS ?= $(wildcard nbs/*.ipynb)
LAB_ARGS ?=
STUDIO_ARGS ?=
PYTEST_ARGS ?=

BIN := .venv/bin
FACTS := settings.ini setup.py pyproject.toml constraints.txt
# a browser needs a screen, and Jupyter refuses to run as root unless it is told to
HEADLESS = $(shell [ "$$(uname)" = Linux ] && [ -z "$$DISPLAY$$WAYLAND_DISPLAY" ] && echo --no-browser)
AS_ROOT = $(shell [ "$$(id -u)" = 0 ] && echo --allow-root)

.PHONY: help setup peers lab studio test browser export notebooks constraints clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */|/' | awk -F'|' '{ printf "make %-12s %s\n", $$1, $$2 }'

define install
	@py=$(BIN)/python; test -x $$py || py="$(PYTHON)"; \
	$$py -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "backprop_nb needs Python 3.11 or newer, but $$py is $$($$py --version 2>&1). Say which to use: make PYTHON=python3.12 ..." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip
	@echo 'installing backprop_nb[$(1)] into .venv, once: this takes a minute or two'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(1)]' --constraint constraints.txt
	@touch $@
endef
comma := ,

.venv/.installed: $(FACTS)
	$(call install,dev)

# Graphviz is no package of Python: it comes along where apt may install it, and its tests are left out where it is missing
.venv/.installed-peers: .venv/.installed
	$(call install,dev$(comma)peers)
	@if ! command -v dot >/dev/null && command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends graphviz >/dev/null || echo 'no Graphviz' >&2; fi

.venv/.installed-browser: .venv/.installed
	$(call install,dev$(comma)browser)
	@for c in chromium chromium-browser google-chrome; do command -v $$c >/dev/null && exit 0; done; \
	echo 'installing Chromium'; \
	if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null; \
	else $(BIN)/playwright install chromium; fi || { rm -f $@; echo 'No Chromium: install it, and run this again.' >&2; exit 1; }

setup: .venv/.installed  ## create .venv and install what the course and its checks need

peers: .venv/.installed-peers  ## the same with PyTorch, scikit-learn, SciPy and Graphviz, for the tests that ask them

lab: .venv/.installed  ## open the course in JupyterLab, at its first page
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/nbs/00_start.ipynb --LabApp.news_url=None $(HEADLESS) $(AS_ROOT) $(LAB_ARGS)

studio: .venv/.installed  ## open the tuning studio alone, in a browser
	JUPYTER_PATH=tools/jupyter $(BIN)/voila backprop_nb/static/studio.ipynb --template=studio --Voila.ip=127.0.0.1 $(HEADLESS) $(STUDIO_ARGS)

test: .venv/.installed  ## run every check: repository, tests and notebooks
	$(BIN)/python -m pytest -q $(PYTEST_ARGS)

browser: .venv/.installed-browser  ## try every widget in a real browser: JupyterLab, Voila and pages without a server
	$(BIN)/python -m pytest -q -p no:playwright tests/browser $(PYTEST_ARGS)

export: .venv/.installed  ## after an edit: clean the notebooks and write the package from them
	$(BIN)/nbdev_clean
	$(BIN)/python tools/norm_widgets.py $(wildcard nbs/*.ipynb)
	$(BIN)/nbdev_export

notebooks: export  ## run all pages and keep their outputs (one page: make notebooks NBS=nbs/02_loss.ipynb)
	printf '%s\n' $(NBS) | TQDM_DISABLE=1 OPENBLAS_NUM_THREADS=1 xargs -n 1 -P $(JOBS) $(BIN)/jupyter nbconvert --log-level=WARN --to notebook --execute --inplace
	$(BIN)/nbdev_clean
	$(BIN)/python tools/norm_widgets.py $(NBS)

# the CUDA packages that PyTorch asks for on Linux are left to PyTorch: its CPU build needs none
constraints:  ## write constraints.txt anew (needs uv)
	mkdir -p build
	$(UV) pip compile pyproject.toml --universal --python-version 3.11 --all-extras --upgrade --quiet --no-header --no-annotate \
	  | grep -vE '^(nvidia|cuda|triton)' > build/constraints.txt
	mv build/constraints.txt constraints.txt

clean:  ## remove what builds and tests leave behind (not .venv)
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .ipynb_checkpoints nbs/.ipynb_checkpoints
	find . -path ./.venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
