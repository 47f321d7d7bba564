# make demo · make test · make test-real · make test-faults · make bench · make lint        (VENV=/path uses an environment that is already there)
VENV ?= .venv
# The first Python that runs and fits pyproject.toml; asking for a version by name alone can find a stub.
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(shell for p in python3 python3.12 python3.11; do $$p -c '$(FITS)' 2>/dev/null && echo $$p && break; done)
DEMO ?= demo
BENCH ?= bench-out
BIN := $(VENV)/bin

.PHONY: demo test test-real test-faults bench lint clean
.DELETE_ON_ERROR:

demo: $(VENV)/.wsss-installed
	$(BIN)/wsss run sample_data/images --labels sample_data/labels.csv --list sample_data/train.txt \
	  --val-list sample_data/val.txt --truth sample_data/masks --method cam --backbone tiny --seg-epochs 12 -o $(DEMO)

# A file at a time to each process, in their order: PyTorch cannot fork for the faults once it has trained.
test: $(VENV)/.wsss-installed-dev
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder -m "not real and not faults"

test-real: $(VENV)/.wsss-installed-dev
	$(BIN)/python -m pytest -m real

test-faults: $(VENV)/.wsss-installed-dev
	$(BIN)/python -m pytest -m faults

bench: $(VENV)/.wsss-installed
	$(BIN)/python -m pip install --disable-pip-version-check -q -e '.[bench]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest benchmarks/kernels.py -q -p no:cacheprovider \
	  --benchmark-timer=time.process_time --benchmark-columns=min,median,rounds
	$(BIN)/python -m benchmarks.startup
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.growth $(BENCH) --images 100 --images 1000
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.cams $(BENCH)/networks/cls/ckpt.pt sample_data/images --labels sample_data/labels.csv
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.crf $(BENCH)/100/cams $(BENCH)/crf
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.eval $(BENCH)/1000/predict $(BENCH)/1000/masks $(BENCH)/eval --limit 1000
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.training $(BENCH)/training train-cls sample_data/images \
	  --labels sample_data/labels.csv --method cam --backbone tiny --epochs 3 --limit 64

lint: $(VENV)/.wsss-installed-dev
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m mypy
	$(BIN)/python -m codespell_lib --skip $(DEMO)

clean:
	rm -rf $(DEMO) $(BENCH) .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "wsss needs Python 3.11 or 3.12 on the PATH"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The stamps are older than pyproject.toml exactly when there is something to install.
$(VENV)/.wsss-installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check -q -e .
	touch $@

$(VENV)/.wsss-installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check -q -e '.[dev]'
	touch $@ $(VENV)/.wsss-installed
