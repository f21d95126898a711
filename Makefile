PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The oldest open_clip that is supported; anomalib's own extra admits it, too, but not the newest.
OLD_OPEN_CLIP := $(VENV)/open_clip-2.24.0
# An environment of its own, with the lowest versions that pyproject.toml admits.
LOWEST := .venv-lowest
# Each process has one thread and takes up to 4 GB.
IN_PARALLEL := --numprocesses 2 --dist loadfile
DEMO := datasets/solar_cells

.PHONY: install test test-lowest lint demo train benchmark clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[benchmarks,demo,dev,export,ray,serve,training,ui]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(OLD_OPEN_CLIP) open_clip_torch==2.24.0
	touch $@

test: install
	OMP_NUM_THREADS=1 $(BIN)/pytest $(IN_PARALLEL)
	OMP_NUM_THREADS=1 PYTHONPATH=$(OLD_OPEN_CLIP) $(BIN)/pytest $(IN_PARALLEL) -m open_clip

$(LOWEST)/installed: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/pip install --quiet --disable-pip-version-check --constraint constraints-lowest.txt --editable '.[dev]'
	touch $@

# Benchmarks, training and export files need extras that are not held at their lowest.
test-lowest: $(LOWEST)/installed
	OMP_NUM_THREADS=1 $(LOWEST)/bin/pytest $(IN_PARALLEL) -m open_clip --ignore tests/benchmarks --ignore tests/training --ignore tests/integration/test_export.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

demo: install
	$(BIN)/python examples/procedural.py
	$(BIN)/python examples/contact_sheet.py results/DualImageCLIP/Procedural/*/latest/images --output results/procedural.png
	$(BIN)/python examples/solar_cells.py $(DEMO)
	$(BIN)/anomalib test --config configs/solar_cells.yaml
	$(BIN)/python examples/contact_sheet.py results/DualImageCLIP/solar_cells/latest/images --pictures 12 --output results/solar_cells.png

train: install
	$(BIN)/python -m training

benchmark: install
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python -m benchmarks.checkpoint --seeds 0 1 2

clean:
	rm -rf $(VENV) $(LOWEST) results $(DEMO)
