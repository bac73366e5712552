# Each target works alone on a fresh clone: it makes .venv first where it is missing.

PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/pip --disable-pip-version-check
RUN := $(VENV)/bin/python

.PHONY: quickstart test test-fast check format bench constraints clean

quickstart: $(VENV)/.installed
	JAX_PLATFORMS=cpu $(RUN) -m distill.quickstart --workdir runs/quickstart

test: $(VENV)/.parity
	$(RUN) -m pytest -n 2 --dist loadfile -m "not oracle and not aot and not gpu and not tpu"
	$(RUN) -m pytest -m oracle
	$(RUN) -m pytest -m "aot and not slow"
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(RUN) -m pytest -m "optimised or not oracle" \
	    tests/golden tests/oracle  # As users run them.

check: $(VENV)/.dev
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ty check
	$(VENV)/bin/lint-imports

format: $(VENV)/.dev
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

bench: $(VENV)/.parity
	for file in tests/bench/bench_*.py; do $(RUN) -m tests.bench.$$(basename $$file .py) || exit 1; done

# Pinned versions for every supported Python; no address of any index is written.
constraints: $(VENV)/.dev
	$(VENV)/bin/uv pip compile pyproject.toml --quiet --universal --no-header --no-annotate \
	    --no-emit-index-url --python-version 3.11 --no-emit-package torch \
	    --extra tpu --extra serve --extra eval --extra dev --extra parity \
	    --output-file $@.new
	grep -Ev '^(torch|torchvision|triton|nvidia-|cuda-)' $@.new > $@.txt
	printf 'torch==2.13.0\ntorchvision==0.28.0\n' >> $@.txt
	rm $@.new

$(VENV)/.made:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.installed: $(VENV)/.made pyproject.toml constraints.txt
	$(PIP) install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(PIP) install --quiet --constraint constraints.txt --editable '.[tpu,dev]'
	touch $@

# torch is named with its version, so that a local CPU build of it is taken where there is one.
$(VENV)/.parity: $(VENV)/.dev
	$(PIP) install --quiet --constraint constraints.txt torch==2.13.0
	$(PIP) install --quiet --constraint constraints.txt --editable '.[parity]'
	$(PIP) install --quiet --no-deps moshi==0.2.13  # Its pins of torch and numpy are not needed.
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .import_linter_cache
