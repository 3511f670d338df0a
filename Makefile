# Every target sets up by itself; `make help` lists them. Needs Python 3.11 to 3.13 with pip and venv, and make.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
PEERS := build/peers/.venv/ready

.DEFAULT_GOAL := help
.PHONY: help setup lock demo test check bench bench-peers prove clean

help:  ## List the targets.
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

setup: $(READY)  ## Create .venv with the locked packages and the project, editable.

# The lock names uv too, so that even the installer is installed by hash. Compiling takes seconds here and
# saves them in every start: the imports of prefect and mlflow take a third of the time.
$(READY): pyproject.toml requirements.lock
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@sed -n '/^uv==/,/# via/p' requirements.lock > .venv/uv.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r .venv/uv.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --require-hashes \
		-r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

lock: $(READY)  ## Resolve the dependencies of pyproject.toml anew into requirements.lock.
	@$(BIN)/uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --upgrade --custom-compile-command "make lock" --quiet --output-file requirements.lock

demo: setup  ## Run the whole line on simulated wafers, or on your files with LANDING=path; KEEP=1 keeps the home.
	@$(BIN)/featurefab demo --home build/demo $(if $(filter 1,$(KEEP)),--keep) $(if $(LANDING),--landing "$(LANDING)")

# Three at a time keep two cores busy while some tests wait for servers of their own.
test: setup  ## Run the tests and doctests.
	@$(BIN)/python -m pytest -n 3 --dist worksteal

check: setup  ## Run the linter, the formatter's check, the type checker and the import contracts.
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/mypy --no-error-summary
	@contracts=$$($(BIN)/lint-imports --no-logo) || { echo "$$contracts"; exit 1; }

bench: setup  ## Run the benchmarks, or one with ONLY=name; results go to build/bench/results.json.
	@PYTHONPATH=tests $(BIN)/python -m benchmarks.run $(ONLY)

bench-peers: $(PEERS)  ## Run the benchmarks against Feast's server, which gets an environment of its own.
	@PYTHONPATH=tests $(BIN)/python -m benchmarks.run feast_1 feast_1_p99 feast_100 feast_100_p99

$(PEERS): $(READY) tests/benchmarks/peers/requirements.txt
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python build/peers/.venv
	@$(BIN)/uv pip install --quiet --python build/peers/.venv/bin/python \
		-r tests/benchmarks/peers/requirements.txt
	@touch $@

prove: setup  ## Run the long proofs.
	@$(BIN)/python -m pytest -m prove || [ $$? -eq 5 ]  # 5: there are none

clean:  ## Remove everything that was built, .venv included.
	@rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
