# One local environment (.venv), installed from locks with hashes. `make help` lists the targets.

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
NPM := $(shell command -v npm 2>/dev/null)
UV ?= uv
AUDIT := build/audit

.DEFAULT_GOAL := help
.PHONY: help install install-dev demo audit licences sbom vulnerabilities test check format proto configuration lock bench bench-decode bench-connections bench-copy bench-memory bench-secured bench-queries bench-streaming curves loadtest chaos image clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed and none was found; set PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.lock pyproject.toml | $(BIN)/python
	@echo "installing scada-trio into $(VENV) ..."
	@$(PIP) install --require-hashes -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.installed-dev: requirements-dev.lock pyproject.toml | $(BIN)/python
	@echo "installing scada-trio and its tests into $(VENV) ..."
	@$(PIP) install --require-hashes -r requirements-dev.lock
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/.installed

NODE_STAMPS := tests/node/node_modules/.installed examples/nestjs/node_modules/.installed
$(NODE_STAMPS): %/node_modules/.installed: %/package-lock.json
	@if [ -n "$(NPM)" ]; then echo "installing the Node.js packages of $* ..."; \
	  cd $* && npm ci --silent --no-audit --no-fund; else mkdir -p $*/node_modules; \
	  echo "npm is not installed: tests that need $* will be skipped" >&2; fi
	@touch $@

install: $(VENV)/.installed ## install the service into .venv
install-dev: $(VENV)/.installed-dev $(NODE_STAMPS) ## and what its tests need

demo: install ## wells, database and service in one command; Ctrl-C ends it
	@$(BIN)/scada-trio demo

test: install-dev ## all tests, a file at a time on each core; less without the short chaos suite (ARGS="-m 'not chaos'")
	@$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile $(ARGS)

check: install-dev ## lint, formatting, types, generated code and tables
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python scripts/generate_proto.py --check
	@$(BIN)/python scripts/generate_configuration.py --check

format: install-dev ## put the code into its format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

proto: install-dev ## make the gRPC code from proto/scada.proto
	@$(BIN)/python scripts/generate_proto.py

configuration: install-dev ## make the tables of docs/configuration.md, and .env.example
	@$(BIN)/python scripts/generate_configuration.py

image: ## build the container image scada-trio (podman, else docker)
	@engine=$$(command -v podman || command -v docker) || { echo "podman or docker is needed" >&2; exit 1; }; \
	case $$engine in *podman) format="--format docker";; *) format="";; esac; \
	$$engine build $$format --tag scada-trio:latest --file Containerfile \
	  --build-arg VERSION=$$(sed -n 's/^__version__ = "\(.*\)"/\1/p' scada_trio/__init__.py) \
	  --build-arg REVISION=$$(git rev-parse --short HEAD 2>/dev/null || echo unknown) $(ARGS) .

chaos: install-dev ## break everything under load and account for every value (ARGS="--minutes 60 --seed 7")
	@$(BIN)/python -m tests.chaos $(ARGS)

loadtest: install-dev ## wells, database and service; figures against targets (ARGS="--mode stress --duration 60")
	@$(BIN)/scada-trio loadtest $(ARGS)

bench: install-dev ## the service beside what one would write instead, and docs/performance.md of it (ARGS="--quick")
	@$(BIN)/python -m benchmarks.peers $(ARGS)

bench-decode: install-dev ## values decoded and encoded per CPU second
	@$(BIN)/python benchmarks/decode.py

bench-connections: install-dev ## a thousand connections in one process: CPU, memory, threads
	@$(BIN)/python benchmarks/connections.py

bench-memory: install-dev ## what each library costs a process that serves
	@$(BIN)/python benchmarks/memory.py

bench-secured: install-dev ## what Sign and SignAndEncrypt cost a message
	@$(BIN)/python -W ignore benchmarks/secured.py

bench-copy: install-dev ## rows written per second by COPY, UNNEST and staging
	@$(BIN)/python -m benchmarks.copy_paths

bench-queries: install-dev ## pages and streams over gRPC against a bare fetch of the same rows
	@$(BIN)/python -m benchmarks.queries $(ARGS)

bench-streaming: install-dev ## large streams beside ingestion: event loop lag, memory, rows a second (ARGS="--millions 10")
	@$(BIN)/python -m benchmarks.streaming $(ARGS)

curves: install-dev ## how cost grows with tags, connections, tenants ...; writes docs/ (ARGS="--sweep tags")
	@$(BIN)/python -W ignore -m benchmarks.curves $(ARGS)
	@$(BIN)/python -W ignore -m benchmarks.curves --documents

$(AUDIT)/.installed: requirements-audit.lock
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed and none was found; set PYTHON=/path/to/python" >&2; exit 1; }
	@echo "installing what audits into $(AUDIT) ..."
	@$(PYTHON) -m venv --clear $(AUDIT)
	@$(AUDIT)/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r requirements-audit.lock
	@touch $@

audit: licences sbom vulnerabilities ## licences, known vulnerabilities and an SBOM of all that is locked

licences: install $(AUDIT)/.installed ## hold the licences of requirements.lock to scripts/licences.toml
	@$(AUDIT)/bin/python scripts/licences.py requirements.lock $(VENV)

sbom: $(AUDIT)/.installed ## write what requirements.lock has into build/sbom.cdx.json (CycloneDX)
	@sed "s/^dynamic = .*/version = \"$$(sed -n 's/^__version__ = "\(.*\)"/\1/p' scada_trio/__init__.py)\"/" \
	  pyproject.toml > build/pyproject.toml
	@$(AUDIT)/bin/cyclonedx-py requirements --pyproject build/pyproject.toml --output-reproducible \
	  --spec-version 1.6 --output-format JSON --output-file build/sbom.cdx.json requirements.lock
	@echo "build/sbom.cdx.json"

vulnerabilities: $(AUDIT)/.installed ## ask for known vulnerabilities (needs the internet)
	@$(AUDIT)/bin/pip-audit --strict --require-hashes --disable-pip --progress-spinner off -r requirements.lock
	@cd examples/nestjs && npm audit

lock: ## resolve the locks anew (needs uv)
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --all-extras \
	  --no-emit-index-url --no-emit-find-links pyproject.toml -o requirements-dev.lock
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	  --extra embedded --extra build -c requirements-dev.lock \
	  --no-emit-index-url --no-emit-find-links pyproject.toml -o requirements.lock
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --group audit \
	  --no-emit-index-url --no-emit-find-links -o requirements-audit.lock
	cd benchmarks/peers && for directory in . thingsboard_gateway; do \
	  $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	    --no-emit-index-url --no-emit-find-links $$directory/requirements.in -o $$directory/requirements.lock; done

clean: ## remove the environment and caches; data stays
	rm -rf $(VENV) .bench build tests/node/node_modules examples/nestjs/node_modules examples/nestjs/dist .pytest_cache .mypy_cache .ruff_cache
