# Each target sets up what it needs; `make` alone lists them.
.DEFAULT_GOAL := help
.PHONY: help demo up test unit conformance check setup bench-coldstart simulate

help:           ## this list
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

demo: setup     ## the whole path on a real model: SDK, cold start as a pipeline, answer, consolidation, bill
	@.venv/bin/hydrant demo

up: setup       ## start everything and stay; prints the admin UI's address and a one-time password
	@.venv/bin/hydrant up

setup:
	@deploy/setup.sh control
	@deploy/setup.sh engine

test:           ## all tests: unit, integration, end to end on real SGLang, browser
	@deploy/setup.sh dev
	@deploy/setup.sh engine
	@deploy/install-browser.sh
	@deploy/install-iproute2.sh
	.venv/bin/pytest

unit:           ## the tests that need neither services nor SGLang
	@deploy/setup.sh dev
	.venv/bin/pytest tests/unit

conformance:    ## many requests made from the OpenAPI document: no 5xx, nothing that it does not tell of (10 min)
	@deploy/setup.sh dev
	HYDRANT_CONFORMANCE_EXAMPLES=200 .venv/bin/pytest tests/conformance

bench-coldstart: ## cold starts on real SGLang over links of 400 Mbit/s, Hydrant beside the naive way (50 min, root)
	@deploy/setup.sh dev
	@deploy/setup.sh engine
	@deploy/install-iproute2.sh
	.venv/bin/python -m bench.coldstart

simulate:       ## the paper's end-to-end test, simulated with the controller's own decisions (8 min)
	@deploy/setup.sh dev
	.venv/bin/python -m bench.simulate

check:          ## ruff, mypy --strict, the arrows between the parts, and that the docs name what exists
	@deploy/setup.sh dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/python docs/check.py
