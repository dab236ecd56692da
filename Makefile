.DEFAULT_GOAL := help
.PHONY: help setup demo verify-provider check fix test fault observe mutants bench-budget bench-seed bench-quick bench-core image \
	chart clients lock matrix

BIN := .venv/bin
export PYTHONUTF8 := 1

help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Install missing packages (once; the other targets run it themselves)
	@scripts/setup

demo: setup ## Scan a real photo, live; needs no key and no broker (DEMO_ARGS=--once: then stop)
	@$(BIN)/eco2 demo $(DEMO_ARGS)

verify-provider: setup ## Run one scan with your provider's key, for less than $0.10, and say what it cost
	@$(BIN)/eco2 verify-provider

check: setup ## Format, lint, types, the import map, generated documentation
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy eco2 tests examples $(wildcard bench)
	$(BIN)/lint-imports
	@$(SETTINGS_TABLE) | diff docs/settings.md - || { echo 'docs/settings.md is out of date: run `make fix`'; exit 1; }
	@$(METRICS_TABLE) | diff docs/metrics.md - || { echo 'docs/metrics.md is out of date: run `make fix`'; exit 1; }

fix: setup ## Repair what `make check` can repair
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(SETTINGS_TABLE) > docs/settings.md
	$(METRICS_TABLE) > docs/metrics.md
	$(BIN)/python -m bench.observe.dashboard

test: setup ## All tests, on a real RabbitMQ (its own, or ECO2_TEST_AMQP_URL)
	@scripts/setup-clients
	@$(BIN)/python -m tests.photos
	$(BIN)/pytest -n 2 --dist worksteal -m "not alone" $(TEST_ARGS) || [ $$? -eq 5 ]
	$(BIN)/pytest -m alone $(TEST_ARGS) || [ $$? -eq 5 ] # 5: there are none in that part

bench-budget: setup ## Show that all replicas share one budget and use all of it (38 minutes; BENCH_ARGS)
	@$(BIN)/python -m bench.budget $(BENCH_ARGS)

bench-seed: setup ## The seed's load test, on Celery and on eco2, in real time (under an hour; BENCH_ARGS)
	@scripts/setup-bench seed
	@$(BIN)/python -m bench.seed $(BENCH_ARGS)

bench-core: setup ## Empty jobs, on eco2 and on other queues (under 20 minutes; BENCH_ARGS)
	@scripts/setup-bench bench
	@$(BIN)/python -m bench.core $(BENCH_ARGS)

bench-quick: setup ## Short forms of bench-seed and bench-core against the last committed figures (under 5 minutes)
	@scripts/setup-bench seed bench
	@$(BIN)/python -m bench.quick
	@$(if $(wildcard bench/core),$(BIN)/python -m bench.core --quick)

fault: setup ## Real faults on real processes, about 45 min; writes docs/reliability.md (FAULTS="NAME …": those, no page)
	$(BIN)/python -m tests.fault $(or $(FAULTS),--markdown docs/reliability.md)

clients: setup ## Popular event-stream clients through cut connections; writes docs/clients.md (2 minutes)
	@scripts/setup-clients --python
	@$(BIN)/python -m tests.clients.cuts --write

observe: setup ## Check with a real Prometheus that every panel and alert gets data under load (4 minutes)
	@scripts/setup-observe
	@$(BIN)/python -m bench.observe --page

mutants: setup ## Break one promise at a time; the tests must detect each (about a minute)
	@$(BIN)/python -m tests.mutants

image: setup ## Build the container image, and run it read-only and without rights on a real RabbitMQ (2 minutes)
	@scripts/setup-chart
	build/chart-venv/bin/hadolint Dockerfile
	@scripts/check-compose
	@$(BIN)/python -m tests.image

chart: setup ## Check the Helm chart: lint, schemas, checkov (KEDA_CRD= names KEDA's own definition)
	@scripts/setup-chart
	@$(BIN)/python -m tests.chart

# Resolves again for every Python from 3.11 on. Needs uv (https://docs.astral.sh/uv) on the PATH, and names no
# package index, so that the locks work with whichever one is configured.
COMPILE := uv pip compile --no-config --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --system-certs --custom-compile-command 'make lock' $(LOCK_ARGS)
LOCK := $(COMPILE) pyproject.toml

matrix: ## The tests on every promised pair of Python and RabbitMQ (root; MATRIX_ROOTS, MATRIX_TARGET, see script)
	@scripts/matrix

lock: ## Write requirements/*.txt again from pyproject.toml, bench.in, seed.in, chart.in (LOCK_ARGS=--upgrade)
	$(LOCK) --extra local --extra fake --group dev -o requirements/dev.txt
	$(LOCK) -c requirements/dev.txt --extra local -o requirements/local.txt
	$(LOCK) -c requirements/dev.txt -o requirements/base.txt
	$(COMPILE) -c requirements/dev.txt --group pyproject.toml:build -o requirements/build.txt
	$(LOCK) requirements/bench.in -c requirements/base.txt -o requirements/bench.txt
	$(LOCK) requirements/seed.in -c requirements/bench.txt -o requirements/seed.txt
	$(COMPILE) requirements/chart.in -o requirements/chart.txt
	$(COMPILE) requirements/clients.in -c requirements/dev.txt -o requirements/clients.txt

SETTINGS_TABLE = $(BIN)/python -c 'from eco2.environment import markdown; print(markdown(), end="")'
METRICS_TABLE = $(BIN)/python -c 'from eco2.metrics.page import markdown; print(markdown(), end="")'
