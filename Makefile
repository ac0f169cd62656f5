# `make demo` and `make test` are all a fresh machine needs: each creates .venv when it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The stamp is newer than pyproject.toml once everything it names is installed.
STAMP := $(VENV)/.installed
# A process holds torch and transformers, so more of them than this are slower than they are fast.
PARALLEL := -n auto --maxprocesses 8
# The same with the oldest version of each dependency that pyproject.toml allows.
OLDEST := .venv-oldest
# What leans on the dependencies' own behaviour: files, pictures, frames, tokenizers, weights.
LEANING := tests/analysis/test_companions.py tests/analysis/test_paired.py tests/analysis/test_rerun.py \
	tests/reporting/test_write.py tests/adapters/test_llava.py tests/adapters/test_openelm.py \
	tests/adapters/test_minigpt_v2.py $(patsubst %,tests/test_%.py,batches images metadata parts records run_files runs \
	soundness spectrum tokenizer)

.PHONY: demo test test-long test-oldest lint format docs clean

demo: $(STAMP)
	$(BIN)/mmerank demo

test: $(STAMP)
	$(BIN)/python -m pytest -q $(PARALLEL)

# What takes long, and what needs a cluster where there is one.
test-long: $(STAMP)
	$(BIN)/python -m pytest -q -m "long or cluster"

test-oldest: $(OLDEST)/.installed
	$(OLDEST)/bin/python -m pytest -q $(PARALLEL) -m "not slow" $(LEANING)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev,docs]"
	touch $@

$(OLDEST)/.installed: pyproject.toml scripts/oldest_versions.py $(STAMP)
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	$(BIN)/python scripts/oldest_versions.py > $(OLDEST)/oldest.txt
	$(OLDEST)/bin/python -m pip install --quiet --upgrade pip
	$(OLDEST)/bin/python -m pip install --quiet --constraint $(OLDEST)/oldest.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) $(OLDEST) .pytest_cache .mypy_cache .ruff_cache .hypothesis dist site
