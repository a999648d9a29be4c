# make demo and make test do all set-up on a fresh machine: a virtual environment in .venv, then the work itself.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
PY := .venv/bin/python
INSTALLED := .venv/.installed
# pip's options for torch, for instance TORCH_PIP="--index-url https://download.pytorch.org/whl/cpu"
TORCH_PIP ?=

# One thread a process: two torch threads on busy cores run several times slower than one.
export OMP_NUM_THREADS ?= 1
export NO_ALBUMENTATIONS_UPDATE := 1

.PHONY: help install demo test slow quant deepspeed liger emulated lint format bench clean

help:
	@echo "make install   .venv with everything that training on a CPU and the tests need"
	@echo "make demo      train the embedded model on the demo photos, evaluate it, draw its answers"
	@echo "make test      the tests but for the slow ones        make slow   only those"
	@echo "make quant     bitsandbytes into .venv, and the tests of 4-bit bases and 8-bit optimizers"
	@echo "make deepspeed DeepSpeed into .venv, and the tests of strategy=deepspeed_* (two processes on the CPU)"
	@echo "make liger     Liger's kernels and Triton into .venv, and their tests by Triton's interpreter"
	@echo "make emulated  GPUs in software (needs g++), and the tests of runs on them"
	@echo "make lint      format, style, spelling, layers, types, notebooks"
	@echo "make bench     the benchmarks, one JSON line each"

install: $(INSTALLED)

# torch first and in one exact version: a range may pull gigabytes of CUDA.
$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --constraint constraints.txt $(TORCH_PIP) torch==2.13.0
	$(PY) -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(INSTALLED)

demo: install
	$(PY) -m qcvl.train

# Side by side over the cores; what a file's tests share is made once.
test: install
	$(PY) -m pytest -m "not slow" --numprocesses auto --maxprocesses 8 --dist loadfile

# Two at a time where there are two cores: most of them are one process each, some two.
slow: install
	$(PY) -m pytest -m slow --numprocesses auto --maxprocesses 4 --dist loadfile

# Apart from the others: where bitsandbytes is installed, peft imports it, and each start takes 3 s longer.
quant: install
	$(PY) -m pip install --quiet --constraint constraints.txt --editable ".[quant]"
	$(PY) -m pytest -m quant

# Apart as well: where DeepSpeed is installed, transformers and peft import it. With Liger's kernels, if make liger ran.
deepspeed: install
	DS_BUILD_OPS=0 $(PY) -m pip install --quiet --constraint constraints.txt --editable ".[deepspeed]"
	DS_ACCELERATOR=cpu TRITON_INTERPRET=1 $(PY) -m pytest -m deepspeed

# Apart as well: Triton is 600 MiB, and torch looks for it. Its interpreter runs kernels on a CPU.
liger: install
	$(PY) -m pip install --quiet --constraint constraints.txt --editable ".[liger]"
	TRITON_INTERPRET=1 $(PY) -m pytest -m liger

# Whole runs on a device apart from the host's memory, where a tensor left behind is an error as on a GPU.
EMULATED := $(CURDIR)/.venv/emulated_gpu.so

$(EMULATED): tests/emulated/device.cpp $(INSTALLED)
	torch=$$($(PY) -c "import pathlib, torch; print(pathlib.Path(torch.__file__).parent)") && \
	g++ -std=c++20 -O1 -fPIC -shared $< -o $@ -I$$torch/include -I$$torch/include/torch/csrc/api/include \
		-L$$torch/lib -lc10 -ltorch_cpu -ltorch

emulated: $(EMULATED)
	EMULATED_GPU=$(EMULATED) $(PY) -m pytest -m emulated --numprocesses auto --maxprocesses 4

lint: install
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/codespell
	.venv/bin/lint-imports
	.venv/bin/mypy
	find notebooks -name '*.ipynb' -exec .venv/bin/nbstripout --verify {} +

format: install
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

# measure.py is what the others share.
BENCHMARKS := $(filter-out benchmarks/measure.py,$(wildcard benchmarks/*.py))

bench: install
	set -e; for script in $(BENCHMARKS); do $(PY) $$script; done

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage
