# One environment for every target: .venv, exactly as requirements.lock says, hashes checked.
PYTHON ?= python3
BASE ?= main
# Any shell but the default: the make of macOS looks for commands in the exported PATH only then.
SHELL := /bin/bash
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: help setup repro restore card review test check format lock clean

help: ## list the targets
	@echo "make setup, then make repro: from a clone to metrics. The targets:"
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "%-9s %s\n", $$1, $$2}' Makefile
	@echo "Environment: source .venv/bin/activate. Experiments: docs/experiments-howto.md. A change: CONTRIBUTING.md."

setup: .venv/.ready ## make .venv from requirements.lock, the package editable

.venv/.ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one: make PYTHON=python3.12")'
	@if [ -L .venv ]; then echo ".venv is a link: installing here would change another checkout; remove it" >&2; exit 1; fi
	test -d .venv || $(PYTHON) -m venv .venv
	sed -n '/^uv==/,/# via/p' requirements.lock > .venv/uv.txt
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r .venv/uv.txt
	.venv/bin/uv pip sync --quiet --python .venv/bin/python requirements.lock
	.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
	touch $@

repro: setup ## rebuild whatever is stale, from data to metrics
	dvc repro

# Touched, because git takes for unchanged what DVC wrote in the second, and of the size, that the index has; from HEAD
# and in the index, too, because DVC stages what it writes. Results that HEAD lacks go, and can be made again.
MADE := params.yaml '*dvc.lock' metrics
restore: ## go back to the committed parameters, figures and models; code stays as it is
	@git ls-files -z -- $(MADE) | xargs -0 touch -c
	@git restore --source HEAD --staged --worktree -- $(MADE)
	@git clean --quiet --force -d -- '*dvc.lock' 'metrics/*.json' metrics/plots
	@dvc checkout || { echo "not in this clone's cache: dvc pull fetches what was pushed, dvc repro makes it anew" >&2; exit 1; }

card: setup ## write the figures of metrics/ into docs/model-card.md and README.md
	@python -m isic_siamese.model_card

review: setup ## tell what this branch changes, as a pull request's comment does; against another: BASE=origin/main
	@python -m isic_siamese.review $(if $(URL),--url $(URL)) $(BASE)

test: setup ## run the tests
	OMP_NUM_THREADS=1 pytest # in two processes; more threads would only be in each other's way

check: setup ## lint, format check, types
	ruff check .
	ruff format --check .
	mypy

format: setup ## format the code and mend what the linter can
	ruff format .
	ruff check --fix .

lock: setup ## fit requirements.lock to a changed pyproject.toml; to newer versions: UPGRADE=--upgrade
	uv pip compile --quiet $(UPGRADE) --universal --generate-hashes --python-version 3.11 --group dev --custom-compile-command 'make lock' pyproject.toml -o requirements.lock

clean: ## remove what can be made again; keep downloads and DVC's cache
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis
