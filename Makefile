# One command per purpose. Everything installs what it needs into .venv and into a cache outside the repository.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help install check test test-unit test-harness test-cluster test-gpu demo demo-gpu demo-cluster generate lock clean

help: ## what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-14s %s\n", $$1, $$2}'

install: .venv/installed ## the Python environment, from the pinned versions

.venv/installed: pyproject.toml requirements.txt
	@command -v g++ >/dev/null || { echo "g++ is missing: install it (Debian: apt-get install g++), native kernels are compiled with it" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

check: install ## lint, types, import rules, generated files up to date
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m kernelsearch.api.crds --check

test: test-unit test-harness test-cluster ## all tests; the cluster ones bring up a real Kubernetes

test-unit: install ## no torch, no cluster
	$(BIN)/pytest tests/unit

test-harness: install ## real compilers, real candidates, this machine's CPU
	$(BIN)/pytest tests/harness

test-cluster: install ## a real control plane and kubelet (dev/cluster, or KERNELSEARCH_KUBECONFIG)
	$(BIN)/pytest tests/cluster

test-gpu: install ## on a machine with an H100: the judge of CUDA, Triton and CuTe DSL, and a whole search
	$(BIN)/pytest tests/gpu

demo: install ## a whole search on this machine against a scripted LLM
	dev/demo

demo-gpu: install ## the same with CUDA kernels, on a machine with an H100
	dev/demo --gpu

demo-cluster: install ## the same in a real Kubernetes, from helm install to a serving pod
	dev/demo-cluster

generate: install ## CRDs from the typed models
	$(BIN)/python -m kernelsearch.api.crds

lock: ## pin what pyproject.toml asks for
	$(BIN)/uv pip compile --quiet --upgrade --all-extras --python-version 3.11 --no-emit-index-url --output-file requirements.txt pyproject.toml

clean: ## what a run or a build left in the repository
	rm -rf out dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
