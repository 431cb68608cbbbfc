# One command runs the demo, one runs the tests; both make the environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test check fix bench docs container cluster-test lock clean

help:  ## Show the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed; this is " + sys.version.split()[0] + ". Name another one: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(READY)

demo: $(READY)  ## Reconstruct a real scan (Siemens star) on two ranks: network, stitching, refinement, report
	$(BIN)/ptycho run jobs/demo.toml

test: $(READY)  ## Run the tests (also those that need mpirun or Chromium, where they are installed)
	$(BIN)/python -m pytest -m "not gpu"

container:  ## Build ptycho.sif, an image for CPUs (where Apptainer is missing: on Debian, as root)
	PYTHON=$(PYTHON) containers/build.sh

cluster-test: $(READY)  ## Run the tests that need Slurm, on a two-node test cluster on this machine (Debian, as root)
	containers/test-cluster/cluster install
	PTYCHO_TESTS_REQUIRE="sbatch mpirun" $(BIN)/python -m pytest -m slurm

check: $(READY)  ## Everything that CI runs: format, lint, types, documents, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m ptycho.cli.document --check
	$(MAKE) test

fix: $(READY)  ## Repair what can be repaired: format, lint, generated documents
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python -m ptycho.cli.document

docs: $(READY)  ## Write the generated documents (job-spec, cli)
	$(BIN)/python -m ptycho.cli.document

bench: $(READY)  ## Measure the claims of docs/performance.md
	$(BIN)/python benchmarks/engines.py
	$(BIN)/python benchmarks/network_from_scratch.py
	$(BIN)/python benchmarks/scaling.py

lock: $(READY)  ## Pin the newest versions that pyproject.toml allows
	$(BIN)/python -m pip install --quiet pip-tools
	sh .ci/lock

clean:  ## Remove the environment and the caches
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache
