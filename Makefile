# Each target sets the environment up by itself when the locks or pyproject.toml have changed.
PYTHON ?= python3
UV ?= uv
BIN := .venv/bin
LOCK := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate pyproject.toml
.PHONY: setup demo test check bench faults soak lock clean

setup: $(BIN)/.ready
$(BIN)/.ready: requirements-dev.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --require-hashes -r requirements-dev.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@
demo: setup
	$(BIN)/keeper demo
test: setup
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder
check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder tests/architecture tests/unit tests/properties
bench faults soak: setup
	$(BIN)/python -m tests.$@
lock:
	$(LOCK) -o requirements.lock && $(LOCK) --extra dev -o requirements-dev.lock
clean:
	rm -rf .venv .coverage* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache bench-results fault-report build dist htmlcov
