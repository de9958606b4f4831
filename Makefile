# make paper [SCALE=smoke|laptop|workstation|paper] [PHOTOS=folder]    rebuild the paper
# make test                                                             run the tests
# Either sets up .venv first. Without SCALE, params.yaml is used as it stands.
PYTHON ?= python3.11
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export PYTHONUNBUFFERED := 1
.ONESHELL:
.SHELLFLAGS := -ec
SHELL := /bin/bash

.PHONY: paper test lint setup scale clean

paper: setup
	@if [ -n "$(SCALE)" ]; then python -m n2nlib scale "$(SCALE)" $(if $(PHOTOS),--photos "$(PHOTOS)"); fi
	python -m n2nlib check
	dvc repro

test: setup
	python -m pytest
	ruff check .
	ruff format --check .

setup: $(VENV)/.ready

$(VENV)/.ready: requirements.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "n2n: $(PYTHON) not found; Python 3.11 is needed (make PYTHON=/path/to/python3.11)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@
