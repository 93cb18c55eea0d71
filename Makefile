# Each target sets up what it needs; `make` alone lists them.
.DEFAULT_GOAL := help
.PHONY: help demo up test unit conformance races soak check setup bench-coldstart bench-gateway bench-gpu simulate

# Without bytecode every process that a test starts compiles what it imports.
unexport PYTHONDONTWRITEBYTECODE

# What may run two at a time: nothing here measures, or looks at what others have on the machine. The kills wait most of
# their time, and come first because they take longest.
TOGETHER := tests/e2e/test_stack_kills.py tests/unit tests/conformance/test_management_openapi.py \
  $(addprefix tests/integration/,admin_ui books cli engine engine_weights gateway registry tasks)

help:           ## this list
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

demo: setup     ## the whole path on a real model: SDK, cold start as a pipeline, answer, consolidation, bill
	@.venv/bin/hydrant demo

up: setup       ## start everything and stay; prints an API key, the admin UI's address, a user and a one-time password
	@.venv/bin/hydrant up

setup:          ## the two virtual environments and the small model that demo and up need
	@deploy/setup.sh control
	@deploy/setup.sh engine

test:           ## all tests: unit, integration, end to end on real SGLang, browser
	@deploy/setup.sh dev
	@deploy/setup.sh engine
	@deploy/setup.sh clients
	@deploy/install-browser.sh
	@deploy/install-iproute2.sh
	@deploy/install-wrk.sh
	.venv/bin/pytest -n 2 --dist loadfile --no-loadscope-reorder $(TOGETHER)
	.venv/bin/pytest $(addprefix --ignore=,$(TOGETHER))

unit:           ## the tests that need neither services nor SGLang
	@deploy/setup.sh dev
	.venv/bin/pytest tests/unit

conformance:    ## SDKs and client libraries on a real SGLang, and many requests made from the OpenAPI documents (6 min)
	@deploy/setup.sh dev
	@deploy/setup.sh engine
	@deploy/setup.sh clients
	HYDRANT_CONFORMANCE_EXAMPLES=200 .venv/bin/pytest tests/conformance

races:          ## the race tests of admission, a hundred times each instead of three times (12 min)
	@deploy/setup.sh dev
	HYDRANT_RACES=100 .venv/bin/python -m pytest -q tests/integration/tasks/test_tasks_races.py \
	  tests/integration/tasks/test_tasks_admission_model.py

bench-coldstart: ## cold starts on real SGLang over links of 400 Mbit/s, Hydrant beside the naive way (50 min, root)
	@deploy/setup.sh dev
	@deploy/setup.sh engine
	@deploy/install-iproute2.sh
	.venv/bin/python -m bench.coldstart

bench-gateway:  ## the gateway beside LiteLLM's proxy and sglang-router, in front of the same mock worker (6 min)
	@deploy/setup.sh dev
	@deploy/install-wrk.sh
	@bench/gateway/install.sh
	.venv/bin/python -m bench.gateway

bench-gpu:      ## shared memory to a GPU, a stage's load, forks that use CUDA; says so where there is no GPU (5 min)
	@deploy/setup.sh engine
	.venv-engine/bin/python -m bench.gpu

simulate:       ## the paper's end-to-end test, simulated with the controller's own decisions (9 min)
	@deploy/setup.sh dev
	.venv/bin/python -m bench.simulate

soak:           ## ten thousand requests while gateway, Redis, ledger and database are killed, and then the books (4 min)
	@deploy/setup.sh dev
	HYDRANT_KILL_REQUESTS=10000 .venv/bin/pytest -s tests/integration/books

check:          ## ruff, mypy --strict, the arrows between the parts, and that the docs name what exists
	@deploy/setup.sh dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/python docs/check.py
