# make paper [SCALE=smoke|laptop|workstation|paper [PHOTOS=folder]]    rebuild the paper
# make lab                                                              open the notebooks in JupyterLab
# make test                                                             run the tests
# make test-long                                                        run the long tests, before a release
# Each sets up .venv first. Without SCALE, params.yaml is used as it stands.
# The first Python from 3.11.4 to 3.13 found is used; or make PYTHON=/path/to/python
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3 python; do "$$python" -c 'import sys; sys.exit(not (3, 11, 4) <= sys.version_info[:3] < (3, 14))' 2>/dev/null && { echo "$$python"; break; }; done)
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export PYTHONUNBUFFERED := 1
export JUPYTER_PREFER_ENV_PATH := 1
.ONESHELL:
.SHELLFLAGS := -ec
SHELL := /bin/bash

.PHONY: paper lab test test-long setup

paper: setup
	@if [ -n "$(PHOTOS)" ] && [ -z "$(SCALE)" ]; then echo "n2n: PHOTOS needs SCALE, such as SCALE=laptop" >&2; exit 1; fi
	@if [ -n "$(SCALE)" ]; then python -m n2nlib scale "$(SCALE)" $(if $(PHOTOS),--photos "$(PHOTOS)"); fi
	python -m n2nlib check
	dvc repro

lab: setup
	jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) --ServerApp.root_dir="$(CURDIR)" --LabApp.default_url=/lab/tree/notebooks/explore.ipynb

test: setup
	python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
	ruff check .
	ruff format --check .

test-long: setup
	python -m pytest -m long

setup: $(VENV)/.ready

$(VENV)/.ready: requirements.txt pyproject.toml
	@if [ -z "$(PYTHON)" ]; then echo "n2n: no Python from 3.11.4 to 3.13 found; make PYTHON=/path/to/python" >&2; exit 1; fi
	"$(PYTHON)" -m venv $(VENV)
	python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@
