# r2keras: `make help` lists what there is. Needs Python 3.10 to 3.13 and make; everything else is installed into .venv.

VENV ?= .venv
PYTHON ?=
BACKENDS ?= tensorflow jax
TORCH ?= torch
PILOT_FLAGS ?=
MATRIX_FLAGS ?= --jobs=2
NOTEBOOKS ?=
PYTEST_FLAGS ?= -n 2 --dist worksteal
SLOW ?=

BIN := $(VENV)/bin
# Only a part of what is installed is ever imported; Python compiles that part then.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
CANDIDATES := $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python3.10 python)
MARKS := $(if $(SLOW),,-m "not slow")
# Compiling is most of what the tests do on JAX; without bytecode files every process compiles TensorFlow's 9 s anew.
TEST_ENV := CUDA_VISIBLE_DEVICES= TF_CPP_MIN_LOG_LEVEL=3 JAX_DISABLE_MOST_OPTIMIZATIONS=1 PYTHONDONTWRITEBYTECODE=
# What `make check` runs: no TensorFlow conversion, no training of whole programs.
UNIT_TESTS := tests/_util tests/specs tests/record tests/ops tests/report \
  $(addprefix tests/test_,words.py levels.py package.py pairwise.py selection.py)
STAMPS := $(VENV)/stamps
TEST_STAMPS := $(STAMPS)/dev $(patsubst %,$(STAMPS)/%,$(filter-out tensorflow,$(BACKENDS)))

.DEFAULT_GOAL := help
.PHONY: help pilot check test installed docs matrix notebooks lint format types names clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' Makefile
	@echo 'Variables: PYTHON=python3.12, VENV=.venv, PILOT_FLAGS="--smoke", MATRIX_FLAGS="--cells=2000",'
	@echo '           BACKENDS="tensorflow jax torch",'
	@echo '           TORCH=torch==2.13.0 (which build of torch), PYTEST_FLAGS="-n 2 -k record",'
	@echo '           SLOW=1 (make test: also benchmarks and whole programs, ten seconds to a minute each,'
	@echo '           and on other backends than TensorFlow every case of a test, not one in sixteen).'

pilot: $(STAMPS)/base ## run the pilot on the embedded digits; its report and files go to out/pilot
	$(BIN)/python examples/pilot.py --out=out/pilot $(PILOT_FLAGS)

check: lint types ## lint, types and the unit tests, in two minutes
	KERAS_BACKEND=tensorflow $(TEST_ENV) $(BIN)/python -m pytest -m "not slow" $(PYTEST_FLAGS) $(UNIT_TESTS)

# mypy uses one processor for half a minute, beside the first tests.
test: $(TEST_STAMPS) lint ## lint, types, the tests with TensorFlow, then the backend tests with every other one of BACKENDS
	@$(BIN)/mypy > $(VENV)/types.log 2>&1 & types=$$!; set -e; for backend in $(BACKENDS); do \
	  echo "Tests with KERAS_BACKEND=$$backend"; \
	  KERAS_BACKEND=$$backend $(TEST_ENV) $(BIN)/python -m pytest $(MARKS) $(PYTEST_FLAGS); \
	done; wait $$types || found=1; cat $(VENV)/types.log; exit $${found:-0}

installed: $(TEST_STAMPS) ## what the tests need, in .venv

matrix: $(STAMPS)/dev ## every layer kind under random recipes in every form of file, against Keras; continues where it stopped
	KERAS_BACKEND=tensorflow $(TEST_ENV) $(BIN)/python benchmarks/matrix.py $(MATRIX_FLAGS)

docs: $(STAMPS)/docs ## build the documentation site into out/site; fails on a broken link or reference
	PYTHONPATH=. NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo 'The site is in out/site. To look at it while writing: $(BIN)/mkdocs serve'

notebooks: $(STAMPS)/notebooks ## execute the tutorials and store their outputs; NOTEBOOKS="lstm r2" for some of them
	$(BIN)/python docs/tutorials/execute.py $(NOTEBOOKS)

lint: $(STAMPS)/dev ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .

format: $(STAMPS)/dev ## let ruff mend and format the tree
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMPS)/dev ## mypy
	$(BIN)/mypy

names: $(STAMPS)/dev ## write the public names that the tests compare with (after a deliberate change)
	$(TEST_ENV) $(BIN)/python tests/public_names.py

clean: ## remove .venv, caches and build output (out/ stays)
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .cache/jax
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMPS)/venv:
	@found=; why="no Python 3.10 to 3.13 was found (tried: $(CANDIDATES))"; \
	for p in $(CANDIDATES); do \
	  "$$p" -c 'import sys; v = sys.version_info[:2]; sys.exit(not (3, 10) <= v <= (3, 13))' 2>/dev/null || continue; \
	  "$$p" -c 'import ensurepip, venv' 2>/dev/null && found=$$p && break; \
	  why="$$p lacks the modules venv and ensurepip (on Debian and Ubuntu: apt install python3-venv)"; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "Cannot make $(VENV): $$why. Install one, or say which with PYTHON=/path/to/python3." >&2; exit 1; \
	fi; \
	echo "Making $(VENV) with $$("$$found" --version)"; \
	"$$found" -m venv $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/base: $(STAMPS)/venv setup.cfg pyproject.toml
	@echo 'Installing r2keras and what it needs (about 2.5 GB, one to three minutes)'
	@$(PIP) --editable '.[examples]'
	@touch $@

$(STAMPS)/dev: $(STAMPS)/base
	@echo 'Installing pytest, ruff and mypy'
	@$(PIP) --editable '.[dev]'
	@touch $@

$(STAMPS)/notebooks: $(STAMPS)/base
	@echo 'Installing nbclient and ipykernel'
	@$(PIP) --editable '.[notebooks]'
	@touch $@

# torch by its own name first: TORCH chooses the build, and the extra is then satisfied.
$(STAMPS)/torch: $(STAMPS)/base
	@echo 'Installing $(TORCH)'
	@$(PIP) '$(TORCH)' && $(PIP) --editable '.[torch]'
	@touch $@

$(STAMPS)/jax: $(STAMPS)/base
	@echo 'Installing jax'
	@$(PIP) --editable '.[jax]'
	@touch $@

$(STAMPS)/docs: $(STAMPS)/base
	@echo 'Installing MkDocs'
	@$(PIP) --editable '.[docs]'
	@touch $@
