# `make` lists the targets. The first use builds an environment in .venv; nothing else is needed but a Python.
#
#   make test AIRFLOW=3.1.8              another Airflow, in .venv-airflow-3.1.8
#   make test PYTHON=python3.13 VENV=.venv-python-3.13

SHELL := bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Without stored bytecode each of some thousand processes of Airflow would compile this package again.
export PYTHONDONTWRITEBYTECODE :=

GATE_AIRFLOW := 3.3.2
AIRFLOW ?= $(GATE_AIRFLOW)
VENV ?= $(if $(filter $(GATE_AIRFLOW),$(AIRFLOW)),.venv,.venv-airflow-$(AIRFLOW))
PYTHON ?=
# What pytest runs, and further options for it: make test TESTS=tests/unit PYTEST_OPTIONS='-k retry'
TESTS ?= tests
PYTEST_OPTIONS ?=
# Tests that run side by side: most wait for something. Those with a real Airflow share one, see tests/system/shared.py.
TESTS_AT_ONCE ?= 4
SYSTEM_TESTS_AT_ONCE ?= 4
DEMO_OPTIONS ?=
BENCH_OPTIONS ?=
UI_OPTIONS ?=
DOCS_OPTIONS ?=
COMPAT_OPTIONS ?=

# Scripts of an environment name its path in their first line; `python -m` also works below a path with spaces.
RUN := $(VENV)/bin/python -P -m
READY := $(VENV)/.ready-airflow-$(AIRFLOW)
REQUIREMENTS ?= .ci/requirements/airflow-$(AIRFLOW).txt
# The clients of all stores are 1.7 GB, so they have an environment of their own.
STORES_VENV ?= .venv-stores$(if $(filter $(GATE_AIRFLOW),$(AIRFLOW)),,-airflow-$(AIRFLOW))
IN_STORES := $(MAKE) TESTS_AT_ONCE=0 SYSTEM_TESTS_AT_ONCE=0 AIRFLOW=$(AIRFLOW) VENV=$(STORES_VENV) REQUIREMENTS=.ci/requirements/airflow-$(AIRFLOW)-stores.txt BYTECODE=
BYTECODE ?= --compile-bytecode
# A browser's driver and FAB's auth manager, for the pages in the Airflow UI.
UI_VENV ?= .venv-ui$(if $(filter $(GATE_AIRFLOW),$(AIRFLOW)),,-airflow-$(AIRFLOW))
IN_UI := $(MAKE) --no-print-directory venv AIRFLOW=$(AIRFLOW) VENV=$(UI_VENV) REQUIREMENTS=.ci/requirements/airflow-$(AIRFLOW)-ui.txt BYTECODE=
AZURITE := .azurite/.ready
UV_PIN := .ci/requirements/uv.txt
# A pyenv shim may stand in the path and yet run nothing: a Python counts when it runs this.
SUPPORTED := 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))'

.PHONY: help demo ui docs test test-demo test-stores test-ui screenshots test-faults test-thorough test-compat test-coverage test-mutation bench bench-saving bench-late bench-reuse bench-renditions bench-scaling bench-hostile bench-soak bench-ui lint format types wheel check clean venv

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' Makefile

demo: $(READY) ## a real Airflow, a simulated EvoLink, real image files; needs no account
	@$(VENV)/bin/python -m tools.local_airflow.demo $(DEMO_OPTIONS)

ui: $(READY) ## an Airflow to click in, with the example DAGs and a simulated EvoLink; Enter stops it
	@$(VENV)/bin/python -m tools.local_airflow.ui $(UI_OPTIONS)

docs: ## the pages of docs/ as a site in build/docs; a warning or a broken link is an error; needs no internet
	@$(MAKE) --no-print-directory venv VENV=.venv-docs REQUIREMENTS=.ci/requirements/docs.txt BYTECODE=
	.venv-docs/bin/python -P -m sphinx --builder html --fail-on-warning --keep-going --quiet $(DOCS_OPTIONS) docs build/docs
	@echo "build/docs/index.html"

test: $(READY) ## all tests, those with a real Airflow among them (AIRFLOW=3.1.8 takes another Airflow)
	@# Tests with a real Airflow mostly wait, so they run beside the others, and come first where both want the processor:
	@# Airflow fails tasks whose processes hear nothing for long. Their output follows at the end.
	@# The worker that started the shared Airflow waits at the end until no other uses it, within its last test's time.
	@# pytest ends with 5 where a selection is empty: one of the two may be, not both.
	@system=$$(mktemp); trap 'rm -f "$$system"' EXIT; \
	  $(RUN) pytest $(TESTS) --ignore tests/ui -m system --ignore tests/unit --ignore tests/integration -n $(SYSTEM_TESTS_AT_ONCE) \
	    --dist loadgroup --timeout 1200 $(PYTEST_OPTIONS) >"$$system" 2>&1 & beside=$$!; \
	  nice -n 10 $(RUN) pytest $(TESTS) --ignore tests/ui -m "not system" -n $(TESTS_AT_ONCE) --dist worksteal $(PYTEST_OPTIONS); first=$$?; \
	  wait $$beside; second=$$?; cat "$$system"; \
	  for each in $$first $$second; do [ $$each = 0 ] || [ $$each = 5 ] || exit $$each; done; \
	  [ $$first = 0 ] || [ $$second = 0 ]

test-demo: $(READY) ## `make demo` from beginning to end, and stopped in between
	$(RUN) pytest -q tests/demo/check_demo.py $(PYTEST_OPTIONS)

test-stores: $(AZURITE) ## saving to real servers of S3, Google Cloud, Azure Blob and SFTP on this machine
	@$(IN_STORES) test TESTS="$(if $(filter file,$(origin TESTS)),tests/integration/stores,$(TESTS))"

test-ui: ## the pages in the Airflow UI in a real browser, 4 to 8 minutes; needs Chromium (AIRFLOW=3.1.8 as above)
	@$(IN_UI)
	$(UI_VENV)/bin/python -P -m pytest tests/ui $(PYTEST_OPTIONS)

screenshots: ## pictures of the pages from a real run, into docs/pictures; needs Chromium
	@$(IN_UI)
	$(UI_VENV)/bin/python -P -m tools.local_airflow.screenshots $(SCREENSHOT_OPTIONS)

bench-saving: ## memory and speed of saving, beside a bare download loop and boto3; 3 minutes
	@$(IN_STORES) venv
	$(STORES_VENV)/bin/python -P benchmarks/saving.py $(BENCH_OPTIONS)

bench-late: ## saving to S3 and a batch of 2,000 where everything answers 100 ms late; 4 minutes
	@$(IN_STORES) venv
	$(STORES_VENV)/bin/python -P benchmarks/saving.py --only loop s3 --images 100 --megabytes 3 --late 0.1 --parallel 8 --rounds 2
	$(STORES_VENV)/bin/python -m benchmarks.late_batch

bench-reuse: ## how long a batch takes to find saved images, on local files and S3; writes nothing
	@$(IN_STORES) venv
	$(STORES_VENV)/bin/python -P benchmarks/reuse.py $(BENCH_OPTIONS)

test-faults: $(READY) ## every fault in a real Airflow, signals while one starts; half an hour; writes docs/reliability.md
	$(RUN) pytest tests/faults/check_signals.py tests/faults/check_matrix.py -v -s --report docs/reliability.md $(PYTEST_OPTIONS)

test-thorough: $(READY) ## property tests with 2,000 new examples each instead of 100, deaths at every line, the largest batch; an hour or more
	HYPOTHESIS_PROFILE=thorough $(RUN) pytest tests/unit tests/integration -m "hypothesis or any_line or long" -n $(TESTS_AT_ONCE) --timeout 3600 $(PYTEST_OPTIONS)

test-compat: $(READY) ## all tests and example DAGs on each Airflow x Python; hours (COMPAT_OPTIONS=--first-examples takes less); writes docs
	$(VENV)/bin/python -P .ci/compatibility.py --report $(COMPAT_OPTIONS)

test-coverage: ## unit and integration tests in random order; fails below 95 % of the package's branches; 10 to 20 minutes
	@$(MAKE) --no-print-directory venv VENV=.venv-coverage REQUIREMENTS=.ci/requirements/coverage.txt
	@# Tests that kill a worker at any line trace lines themselves: coverage.py sees nothing of them.
	rm -rf build/coverage
	.venv-coverage/bin/python -P -m pytest tests/unit tests/integration -m "not any_line" -n $(TESTS_AT_ONCE) --dist worksteal --cov --cov-report= $(PYTEST_OPTIONS)
	.venv-coverage/bin/python -P .ci/branch_coverage.py

test-mutation: ## change each decision, and see whether a test notices; hours (MUTATION_OPTIONS=command: one part)
	@$(MAKE) --no-print-directory venv VENV=.venv-mutation REQUIREMENTS=.ci/requirements/mutation.txt
	.venv-mutation/bin/python .ci/mutation.py $(MUTATION_OPTIONS)

bench: ## what waiting costs, beside other providers' triggers, about 25 minutes; writes docs/benchmarks.md
	@$(MAKE) --no-print-directory venv VENV=.venv-bench REQUIREMENTS=.ci/requirements/bench.txt
	.venv-bench/bin/python -m benchmarks --report docs/benchmarks.md

bench-scaling: ## batch beside mapped tasks, growth, and a Celery cluster; about 20 minutes; needs PostgreSQL and Redis
	@$(MAKE) --no-print-directory venv VENV=.venv-scaling REQUIREMENTS=.ci/requirements/scaling.txt BYTECODE=
	.venv-scaling/bin/python -m benchmarks.scaling --report docs/scaling.md $(BENCH_OPTIONS)

bench-hostile: $(READY) ## how late the triggerer's event loop is under hostile answers; 2 minutes
	$(RUN) benchmarks.hostile_answers $(BENCH_OPTIONS)

bench-soak: $(READY) ## 100,000 waits on a service that drips, bombs and refuses: to see what grows; about 12 minutes
	$(RUN) benchmarks.soak $(BENCH_OPTIONS)

bench-renditions: $(READY) ## time and memory of renditions, beside the loop that a user would write; about 5 minutes
	$(RUN) benchmarks.renditions $(BENCH_OPTIONS)

bench-ui: ## pages in the Airflow UI with 100,000 task instances, about 2 minutes; needs PostgreSQL
	@$(MAKE) --no-print-directory venv VENV=.venv-scaling REQUIREMENTS=.ci/requirements/scaling.txt BYTECODE=
	.venv-scaling/bin/python -P -m benchmarks.pages $(BENCH_OPTIONS)

lint: $(READY) ## style, likely mistakes, formatting
	$(RUN) ruff check .
	$(RUN) ruff format --check .

format: $(READY) ## format the code and mend what can be mended by itself
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

types: $(READY) ## strict type check of the package; users' DAG files with mypy and Pyright (tests/typing)
	$(RUN) mypy
	@$(MAKE) --no-print-directory venv VENV=.venv-types REQUIREMENTS=.ci/requirements/types.txt BYTECODE=
	$(RUN) pytest -q tests/typing/check_types.py

wheel: $(READY) ## build sdist and wheel into dist/, and check the installed wheel in a fresh environment
	$(RUN) pytest -q tests/wheel/check_wheel.py

check: lint types test test-demo wheel ## lint, types, test, test-demo and wheel

venv: $(READY) ## only build the environment

clean: ## remove the environments, caches and everything built (not your images in out/)
	rm -rf .venv .venv-* .azurite build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml $(REQUIREMENTS) $(UV_PIN)
	@set -euo pipefail; \
	if ! $(VENV)/bin/python -c $(SUPPORTED) 2>/dev/null; then \
	  for each in $(or $(PYTHON),python3 python3.13 python3.12 python3.11); do \
	    if "$$each" -c $(SUPPORTED) 2>/dev/null; then found=$$each; break; fi; \
	  done; \
	  if [ -z "$${found:-}" ]; then \
	    echo "No Python 3.11, 3.12 or 3.13 found; name one with: make PYTHON=/path/to/python3" >&2; exit 1; \
	  fi; \
	  if ! "$$found" -c 'import ensurepip, venv' 2>/dev/null; then \
	    echo "$$found cannot make environments; install its venv package (Debian, Ubuntu: apt-get install python3-venv)" >&2; exit 1; \
	  fi; \
	  echo "$(VENV): a new environment of $$("$$found" --version)"; \
	  rm -rf $(VENV); \
	  "$$found" -m venv $(VENV); \
	fi; \
	if [ "$$($(VENV)/bin/python -m uv --version 2>/dev/null | cut -d ' ' -f 2)" != "$$(sed -n 's/^uv==\([^ ]*\).*/\1/p' $(UV_PIN))" ]; then \
	  $(VENV)/bin/python -m pip --version >/dev/null 2>&1 || $(VENV)/bin/python -m ensurepip >/dev/null; \
	  $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(UV_PIN); \
	fi; \
	echo "$(VENV): Airflow $(AIRFLOW) and its pinned packages"; \
	export UV_PYTHON_DOWNLOADS=never; \
	$(VENV)/bin/python -m uv pip install --quiet -p $(VENV)/bin/python $(BYTECODE) --require-hashes -r $(REQUIREMENTS); \
	$(VENV)/bin/python -m uv pip install --quiet -p $(VENV)/bin/python --no-deps -e .; \
	touch $@

# Microsoft's emulator of Azure Blob is on npm alone. Without npm the tests of that store are skipped, and say so.
$(AZURITE): .ci/azurite/package-lock.json
	@mkdir -p $(@D) && cp .ci/azurite/*.json $(@D); \
	if command -v npm >/dev/null; then \
	  echo "$(@D): Azurite, as locked with its hashes"; \
	  npm ci --silent --no-audit --no-fund --prefix $(@D) && touch $@; \
	else echo "npm is not installed: the tests of Azure Blob will be skipped." >&2; fi
