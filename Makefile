# The first command after a clone: `make demo`, `make test` or `make studio`. Each sets up .venv when it is missing.
# A small CPU build of torch, where the package index has a CUDA one: make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
TORCH_INDEX ?=
PIP_FLAGS ?=
CODE = training studio tests benchmarks sample_data docs notebooks
EXTRA = .
WORKERS ?= logical
PARALLEL = -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# A test run starts some hundred processes: what is compiled is kept, whatever the environment says
export PYTHONDONTWRITEBYTECODE =
DEMO_PROMPTS = "red apple" "rocket" "castle" "penguin" "hamburger"

.PHONY: demo demo-many test test-long studio check format docs base samples example benchmark audit

# Two thirds of the sample style's updates: enough to see it, and minutes count here
demo: $(VENV)/.ready
	$(BIN)/python -m training.train_style sample_data/linocut/style.toml --optim.steps 600 --save.folder demo
	$(BIN)/python -m studio.compare --base mini --style demo/linocut/linocut.safetensors --prompt $(DEMO_PROMPTS) --guidance 2 --out demo/base-beside-linocut.png

# Three styles of different kinds in one pass, and all of them beside the base
demo-many: $(VENV)/.ready
	$(BIN)/python -m training.train_style sample_data/many.toml --sweep --save.folder demo/many

# Formatting and lint in seconds, types for Linux, Windows and macOS in about a minute
check: $(VENV)/.ready-to-test
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/python -m tests.types

# Every kind of test, one worker a core; files stay whole, the longest first (tests/conftest.py)
test: check
	$(BIN)/python -m tests.chromium
	$(BIN)/python -m tests.proxies
	$(BIN)/python -m pytest $(PARALLEL)

# The same with every chain and matrix at its full length
test-long: check
	$(BIN)/python -m tests.chromium
	$(BIN)/python -m tests.proxies
	$(BIN)/python -m pytest $(PARALLEL) -m ""

studio: $(VENV)/.ready
	$(BIN)/python -m studio

format: $(VENV)/.ready-to-test
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

# The documentation as a site, in site/; a warning (a link that leads nowhere) is an error
docs: $(VENV)/.ready-to-test
	$(BIN)/zensical build --strict --clean

# What has become known about the pinned versions; needs the network and installs pip-audit into an environment of its own
audit: $(VENV)/.ready-to-audit
	@$(VENV)/audit/bin/pip-audit --no-deps --disable-pip -r constraints.txt --timeout 15 >$(VENV)/audit.log 2>&1; code=$$?; \
	if grep -q "found in\|No known" $(VENV)/audit.log && [ "$$(grep -c 'could not be audited' $(VENV)/audit.log)" -lt "$$(grep -c == constraints.txt)" ]; \
	then cat $(VENV)/audit.log; exit $$code; \
	else echo "The advisories could not be reached, so nothing was audited; $(VENV)/audit.log says more."; fi

$(VENV)/.ready-to-audit: $(VENV)/.ready
	$(PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/pip install --quiet pip-audit
	touch $@

# Train the built-in base again from the npm packages: hours on a CPU, resumable
base: $(VENV)/.ready-for-recipe
	PYTHONPATH=. $(BIN)/python sample_data/mini-sd/recipe/build.py

samples: $(VENV)/.ready-for-recipe
	PYTHONPATH=. $(BIN)/python sample_data/mini-sd/recipe/samples.py

# Train the sample style and keep what a new workspace shows of it
example: $(VENV)/.ready
	PYTHONPATH=. $(BIN)/python sample_data/linocut/example.py

benchmark: $(VENV)/.ready
	$(BIN)/python -m benchmarks.train_step
	$(BIN)/python -m benchmarks.side_by_side
	$(BIN)/python -m benchmarks.style_files
	$(BIN)/python -m benchmarks.together

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed, this is ' + sys.version)"
	$(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),$(BIN)/pip install --quiet $(PIP_FLAGS) --index-url $(TORCH_INDEX) torch -c constraints.txt)
	$(BIN)/pip install --quiet $(PIP_FLAGS) -c constraints.txt -e "$(EXTRA)"
	echo "$(EXTRA)" >$@

# One installation rather than two: a fresh environment is made with what the tests need
$(VENV)/.ready-to-test: EXTRA = .[test,docs]
$(VENV)/.ready-to-test: $(VENV)/.ready
	grep -qF "$(EXTRA)" $(VENV)/.ready || $(BIN)/pip install --quiet $(PIP_FLAGS) -c constraints.txt -e "$(EXTRA)"
	touch $@

$(VENV)/.ready-for-recipe: $(VENV)/.ready
	$(BIN)/pip install --quiet $(PIP_FLAGS) -c constraints.txt -e ".[recipe]"
	touch $@
