# Everything a developer or a pipeline runs. `make` alone prints what there is.
# Needs make and a Python from 3.11 on; all else is installed into .venv by `make setup`.

.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
SITE = $(shell $(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

PACKAGES := clients/longshore store/longshore_store server/longshore_server scheduler/longshore_scheduler \
	cpu_workers/longshore_cpu_workers gpu_workers/longshore_gpu_workers embedded/longshore_embedded
# What ruff and mypy read; the folders that a checkout does not have are left out.
SOURCES = $(PACKAGES) $(wildcard tests benchmarks examples)

PROTOS := $(sort $(wildcard protos/longshore/v1/*.proto))
SERVICES := $(filter %_service.proto,$(PROTOS))
# Where `make proto` writes; the test of the stubs points it at a scratch folder.
PROTO_OUT ?= clients
# The google/rpc/*.proto files come out of the googleapis-common-protos wheel.
PROTOC = $(PY) -m grpc_tools.protoc -I protos -I $(SITE)

NODE_MODULES := tests/foreign/node_modules/.package-lock.json

# The contract of the last release, as a descriptor set.
RELEASED := protos/released.binpb

# `make lock UPGRADE=1` takes the newest versions; without it, pins move only where they must.
UPGRADE ?=
UV_COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--custom-compile-command "make lock" pyproject.toml

# Independent checks run side by side and all of them report; output stays in blocks where this make can do that.
CHECKS := check-lint check-format check-types check-imports check-protos check-breaking check-layout
TOGETHER := --no-print-directory --keep-going $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)

# Side by side, three on two cores: fault tests mostly wait for what they broke to heal.
TESTS := test-faults test-services test-parts
QUICK_TESTS := test-quick-store test-quick-rest

.PHONY: help setup setup-node demo test quick check proto release-contract bench soak lock clean $(CHECKS) $(TESTS) $(QUICK_TESTS) \
	$(VENV)/descriptors.binpb

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(VENV)/.installed ## Create .venv with the pinned dependencies and this project in it

demo: setup ## Run the demo: a server, CPU and GPU jobs, all on this machine
	@$(PY) -m examples.demo

test: setup setup-node ## Everything that a change must pass: the checks, then all tests
	@$(MAKE) --no-print-directory check
	@$(MAKE) $(TOGETHER) -j 3 $(TESTS)

quick: setup ## For the inner loop: lint, types, and the tests that start no service, Ray, cluster or Postgres
	@$(MAKE) $(TOGETHER) -j 3 check-lint check-types $(QUICK_TESTS)

# The JavaScript client of tests/foreign. Without npm, or offline, its test is skipped and says so.
setup-node: $(NODE_MODULES)

$(NODE_MODULES): tests/foreign/package-lock.json
	@if command -v npm >/dev/null; then \
		npm ci --prefix tests/foreign --ignore-scripts --no-audit --no-fund --loglevel=error --fetch-retries=1 \
			|| echo "setup-node: npm could not install tests/foreign: the test of the JavaScript client is skipped"; \
	fi

check: setup ## Lint, formatting, types, import directions, protos, layout; no other tests
	@$(MAKE) $(TOGETHER) -j 2 $(CHECKS)

proto: $(VENV)/.installed ## Generate the Python stubs from protos/
	@$(PROTOC) --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --python_out=$(PROTO_OUT) --mypy_out=quiet:$(PROTO_OUT) \
		$(PROTOS)
	@$(PROTOC) --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc --grpc_python_out=$(PROTO_OUT) \
		--mypy_grpc_out=quiet:$(PROTO_OUT) $(SERVICES)

release-contract: $(VENV)/.installed ## Keep the contract as that of a release: later changes may not break it
	@$(PROTOC) --include_imports --descriptor_set_out=$(RELEASED) $(PROTOS)

bench: setup ## Measure; see benchmarks/
	@$(PY) -m benchmarks

soak: setup ## Break a whole deployment under load: MINUTES=10 SEED=1
	@$(PY) -m tests.soak --minutes $(or $(MINUTES),10) $(if $(SEED),--seed $(SEED))

lock: $(VENV)/.created ## Pin the dependencies of pyproject.toml in requirements/ (UPGRADE=1: to the newest)
	@test -x $(BIN)/uv || $(PY) -m pip install --quiet uv
	@$(UV_COMPILE) $(if $(UPGRADE),--upgrade) --all-extras --group dev --output-file requirements/dev.txt
	@$(UV_COMPILE) --constraint requirements/dev.txt --all-extras --output-file requirements/all.txt
	@$(UV_COMPILE) --constraint requirements/dev.txt --output-file requirements/client.txt

clean: ## Remove .venv, caches, built distributions and the demo's data
	rm -rf $(VENV) tests/foreign/node_modules build dist demo-data .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- setup in steps; each leaves a stamp in .venv and runs again only when what it read has changed ---

$(VENV)/.created:
	@if ! $(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
		found=; \
		for candidate in $(or $(PYTHON),python3.11 python3.12 python3.13 python3.14 python3); do \
			if $$candidate -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
				found=$$candidate; break; \
			fi; \
		done; \
		if [ -z "$$found" ]; then \
			echo "No Python from 3.11 on with its venv module among: $(or $(PYTHON),python3.11 to python3.14, python3)." \
				"Install one (Debian, Ubuntu: python3 and python3-venv) or name it: make setup PYTHON=..." >&2; \
			exit 1; \
		fi; \
		$$found -m venv --clear $(VENV); \
	fi
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip >/dev/null
	@touch $@

$(VENV)/.dependencies: requirements/dev.txt $(VENV)/.created
	@echo "Installing the pinned dependencies into $(VENV) (a few minutes the first time) ..."
	@$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@touch $@

$(VENV)/.installed: pyproject.toml $(VENV)/.dependencies
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@$(PY) -m compileall -q $(PACKAGES) # where PYTHONDONTWRITEBYTECODE is set, each start would compile it all
	@touch $@

# --- the tests, and the checks, one by one ---

test-faults:
	@$(PY) -m pytest tests/faults

SERVICES_TESTS := tests/e2e tests/embedded tests/foreign tests/workers

test-services:
	@$(PY) -m pytest $(wildcard $(SERVICES_TESTS))

test-parts:
	@$(PY) -m pytest $(addprefix --ignore=,tests/layout tests/faults $(SERVICES_TESTS))

test-quick-store:
	@$(PY) -m pytest -q -m 'not slow' tests/store tests/server

test-quick-rest:
	@$(PY) -m pytest -q -m 'not slow' tests/client tests/scheduler tests/tasks

check-lint:
	@$(BIN)/ruff check $(SOURCES)

check-format:
	@$(BIN)/ruff format --check $(SOURCES)

check-types:
	@$(BIN)/mypy $(SOURCES)

check-imports:
	@$(BIN)/lint-imports --no-logo

check-protos: $(VENV)/descriptors.binpb
	@$(BIN)/buf format --diff --exit-code protos
	@$(BIN)/buf lint $< --config protos/buf.yaml --path longshore

# Against the last release, whose contract lies in the tree: tags may not travel with it.
check-breaking: $(VENV)/descriptors.binpb
	@$(BIN)/buf breaking $< --against $(RELEASED) --config protos/buf.yaml --path longshore

check-layout:
	@$(PY) -m pytest -q tests/layout

# The contract as one file: buf has no include path, so protoc resolves the imports for it, offline.
$(VENV)/descriptors.binpb:
	@$(PROTOC) --include_imports --include_source_info --descriptor_set_out=$@ $(PROTOS)
