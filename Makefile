# One set-up serves every target; it is made anew when the sources or the metadata change.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
SOURCES := setup.py pyproject.toml $(wildcard csrc/*/*.h csrc/*/*.cpp csrc/*/*.cu)
CPP := $(wildcard $(foreach end,h cpp cu,csrc/*/*.$(end) tests/*/*.$(end)))

.PHONY: setup demo test lint format bench gpu-check clean

setup: $(READY)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch comes first: the extension builds against the one that it will run with.
$(READY): $(SOURCES) | $(BIN)/python
	$(BIN)/python -m pip install --quiet "setuptools>=77" wheel ninja "numpy<2" "torch>=2.10"
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[compressai,test,lint]"
	touch $(READY)

# The main job on the bundled photograph with the bundled codec.
demo: $(READY)
	$(BIN)/bitrate-ext map bitrate_ext/data/chelsea.png -o out

test: $(READY)
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CPP)

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

# Times go to benchmarks/results/latest.json; ratios within the run are printed at the end.
bench: $(READY)
	mkdir -p benchmarks/results
	$(BIN)/python -m pytest benchmarks --benchmark-json=benchmarks/results/latest.json

# On a machine with an NVIDIA GPU, with a Python of its own that has torch: see tools/gpu_check.py.
GPU_PYTHON ?= $(PYTHON)
gpu-check:
	$(GPU_PYTHON) tools/gpu_check.py

clean:
	rm -rf $(VENV) build out *.egg-info bitrate_ext/*.so
