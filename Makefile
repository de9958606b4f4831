# make paper [SCALE=smoke|laptop|workstation|paper] [PHOTOS=folder]    rebuild the paper
# make test                                                             run the tests
# Either sets up .venv first. Without SCALE, params.yaml is used as it stands.
# The first Python 3.11 found (from 3.11.4, whose tarfile is safe); or make PYTHON=/path/to/python3.11
PYTHON ?= $(shell for python in python3.11 python3 python; do "$$python" -c 'import sys; sys.exit(not (3, 11, 4) <= sys.version_info[:3] < (3, 12))' 2>/dev/null && { echo "$$python"; break; }; done)
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export PYTHONUNBUFFERED := 1
.ONESHELL:
.SHELLFLAGS := -ec
SHELL := /bin/bash

.PHONY: paper test setup

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
	@if [ -z "$(PYTHON)" ]; then echo "n2n: no Python 3.11 from 3.11.4 found; make PYTHON=/path/to/python3.11" >&2; exit 1; fi
	"$(PYTHON)" -m venv $(VENV)
	python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@
