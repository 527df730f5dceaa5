# TDRL Edge: every command a user or CI needs. `make help` lists them.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check -q
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt

# Recipe, data and name of `make train`, `make eval` and `make bundle`.
RECIPE ?= demo
DATA ?= artifacts/data/arrow_of_time
NAME ?= $(notdir $(basename $(RECIPE)))
CAMERA ?= 0
ARGS ?=

# torch from the default index brings several GB of CUDA libraries on Linux. Without an NVIDIA GPU
# the CPU build is enough:
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
# RTX=1 installs NVIDIA's proprietary TensorRT-RTX (x86-64), whose builder checks our graphs
# without a GPU; see docs/decisions.md.
RTX ?= 0

help: ## Show this help
	@echo "TDRL Edge: live action recognition on small NVIDIA computers"
	@echo
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-17s %s\n", $$1, $$2}'
	@echo
	@echo "  variables: RECIPE=$(RECIPE) DATA=$(DATA) NAME=$(NAME) CAMERA=$(CAMERA) RTX=$(RTX) TORCH_INDEX=… ARGS='…'"

# ---------------------------------------------------------------- installation

# A bare Debian or Ubuntu has no venv module; it is installed through apt, as root or by sudo.
$(PY):
	@command -v $(PYTHON) >/dev/null && $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || .ci/apt python3 python3-venv
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.base: pyproject.toml constraints.txt | $(PY)
	@echo "installing torch 2.13 and what training, export and tests need: about 2 GB with a CPU build"
	@echo "of torch (TORCH_INDEX=https://download.pytorch.org/whl/cpu), several GB more with CUDA"
	@$(PIP) install torch==2.13.0 $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	@$(PIP) install -e '.[train,export,cpu,web,dev]'
	@# typing only: its requirement is TensorRT itself, which is not for this machine
	@$(PIP) install --no-deps 'tensorrt-stubs==10.13.0.35.1'
	@$(PY) -c 'import cv2' 2>/dev/null || .ci/apt libgl1 libglib2.0-0
	@touch $@

$(VENV)/.rtx: | $(VENV)/.base
	@echo "installing NVIDIA TensorRT-RTX (proprietary, about 230 MB)"
	@$(PIP) install --no-deps tensorrt-rtx-cu13==1.7.1.116 tensorrt-rtx-cu13-libs==1.7.1.116 \
	  tensorrt-rtx-cu13-bindings==1.7.1.116
	@touch $@

# NVIDIA's Python bindings of four TensorRT and two CUDA releases, 21 MB in all: tests hold every name
# that we use against them. Nothing of them is installed, and nothing runs.
BINDINGS := tensorrt-cu12-bindings==10.3.0 tensorrt-cu12-bindings==10.13.3.9 \
  tensorrt-cu12-bindings==10.16.1.11 tensorrt-cu13-bindings==11.4.0.106 \
  cuda-bindings==12.9.10 cuda-bindings==13.5.0 cuda-pathfinder==1.9.0
$(VENV)/.bindings: | $(VENV)/.base
	@echo "downloading NVIDIA's TensorRT and CUDA bindings (proprietary, 21 MB, not installed)"
	@for each in $(BINDINGS); do $(PIP) download --no-deps -d $(VENV)/nvidia-bindings $$each || exit 1; done
	@touch $@

# A real Triton server out of the wheel of nvidia-pytriton (Apache-2.0; x86-64; 55 MB, 144 MB unpacked).
# Nothing is installed: pytriton wants an older numpy, and only the server's binary is used.
$(VENV)/.triton: | $(VENV)/.base
	@echo "downloading a Triton server for the tests (55 MB, not installed)"
	@rm -rf $(VENV)/triton
	@$(PIP) download --no-deps -d $(VENV)/triton nvidia-pytriton==0.7.0
	@$(PY) -m zipfile -e $(VENV)/triton/*.whl $(VENV)/triton
	@rm $(VENV)/triton/*.whl
	@chmod +x $(VENV)/triton/pytriton/tritonserver/bin/tritonserver
	@touch $@

# TensorRT's types for mypy
$(VENV)/.typings: .ci/tensorrt_types.py | $(VENV)/.base
	@$(PY) .ci/tensorrt_types.py $(VENV)/typings
	@touch $@

INSTALLED := $(VENV)/.base $(if $(filter 1,$(RTX)),$(VENV)/.rtx)

install: $(INSTALLED) ## Make .venv with everything a workstation needs
	@echo "installed into $(VENV)"

# ---------------------------------------------------------------- the pipeline

demo: $(INSTALLED) ## The whole pipeline on made data: train, INT8, live tape, one table
	$(PY) -m export.demo $(ARGS)

data: $(INSTALLED) ## Make the demo's data set
	$(PY) -m train.data.arrow_of_time --out artifacts/data/arrow_of_time $(ARGS)

train: $(INSTALLED) ## Train: RECIPE=name DATA=dir NAME=run
	@if [ "$(DATA)" = artifacts/data/arrow_of_time ] && [ ! -d "$(DATA)" ]; then $(MAKE) --no-print-directory data; fi
	$(PY) -m train.fit --recipe $(RECIPE) --data $(DATA) --name $(NAME) $(ARGS)

eval: $(INSTALLED) ## Clip and live accuracy of the newest checkpoint, confusion picture
	$(PY) -m train.evaluate --data $(DATA) $(ARGS)

collect: $(INSTALLED) ## Record your own classes: CAMERA=0 DATA=my_data ARGS='--labels labels.txt'
	$(PY) -m train.collect --camera $(CAMERA) --out $(DATA) $(ARGS)

prepare: $(INSTALLED) ## Check a data set and show what is in it: DATA=dir
	$(PY) -m train.prepare --data $(DATA) $(ARGS)

ablation: $(INSTALLED) ## What each part of TDRL is worth: docs/ablation.md (half an hour on 2 cores)
	$(PY) -m train.ablation --jobs 2 $(ARGS)

ablation-gpu: $(INSTALLED) ## The same with every row of the paper's tables, on a GPU
	$(PY) -m train.ablation --rows all $(ARGS)

bundle: $(INSTALLED) ## Export, calibrate and gate the newest checkpoint into a bundle
	$(PY) -m export.bundle --data $(DATA) $(ARGS)

# On a device only what the bundle needs is used: no torch, and TensorRT from JetPack.
ENGINE_PY := $(if $(wildcard $(PY)),$(PY),$(PYTHON))
engine: ## Build (or check) the newest bundle's engine for this device
	@if [ ! -e artifacts/latest/bundle ] && [ -e artifacts/latest/checkpoint ] && [ -d "$(DATA)" ]; then $(MAKE) --no-print-directory bundle ARGS=; fi
	$(ENGINE_PY) -m export.to_engine $(ARGS)

verify: ## Prove this device with the newest bundle: golden frames, latency, facts as JSON
	$(ENGINE_PY) -m export.verify $(ARGS)

stream: ## Classify live frames: CAMERA=0, or ARGS='--source video.mp4'
	$(ENGINE_PY) runtime/stream.py $(if $(findstring --source,$(ARGS)),,--camera $(CAMERA)) $(ARGS)

# Run by sudo. SERVICE_BUNDLE=dir, SERVICE_USER=name and SERVICE_PYTHON=path choose another bundle, user
# and Python; DESTDIR=dir writes the files below dir and changes nothing else.
install-service: ## systemd service of this checkout (sudo; DESTDIR=dir: only write the files)
	@runtime/service/service.sh install

uninstall-service: ## Remove it; PURGE=1 removes its settings, engines and events too
	@runtime/service/service.sh uninstall

# ---------------------------------------------------------------- proof

# A process for each core; files stay whole, because their tests share what is slow to make.
TEST_JOBS ?= -n auto --dist loadfile

check: $(VENV)/.base $(VENV)/.typings ## Format, lint and types
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

test: $(VENV)/.base ## Tests without GPU, browser or system packages (minutes)
	$(PY) -m pytest -q $(TEST_JOBS) -m 'not slow and not rtsp and not browser and not soak and not shared' $(ARGS)

test-all: ## What CI runs: checks, all tests with the real parts, and the demo
	.ci/apt chromium ffmpeg g++ systemd python3-dev python3-gi gir1.2-gst-rtsp-server-1.0 \
	  gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad \
	  gstreamer1.0-libav
	$(MAKE) --no-print-directory install RTX=1
	$(MAKE) --no-print-directory $(VENV)/.bindings $(VENV)/.triton
	$(MAKE) --no-print-directory check
	TDRL_ALL_PARTS=1 $(PY) -m pytest -q $(TEST_JOBS) -m 'not soak and not shared' $(ARGS)
	$(PY) -m export.demo

# TDRL_SOAK_MINUTES=5 shortens the half hour of RTSP. The results kept are docs/measurements/soak.md.
soak: $(VENV)/.base ## Long tests, by hand: memory, latency, reconnects, start (an hour)
	$(PY) -m pytest -q -n0 -m soak -o faulthandler_timeout=0 $(ARGS)

# BENCH=full measures every backbone. ARGS='--only decision parts' some tables, which are printed and
# not stored; ARGS='--compare OLD.json' holds a run against an earlier one.
BENCH ?= standard
bench: $(INSTALLED) ## What a decision costs on this CPU: docs/measurements/bench.md (10 min)
	OMP_NUM_THREADS=1 $(PY) -m export.bench --effort $(BENCH) $(ARGS)

# The repository and torch are enough. ARGS='--device cpu' tries it out without a GPU.
gpu-check: ## Prove and measure training and live steps on a CUDA machine (8 min)
	$(ENGINE_PY) -m export.gpu_check $(ARGS)

# ---------------------------------------------------------------- housekeeping

clean: ## Remove caches and made data; ALL=1 removes checkpoints and bundles too
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info artifacts/data
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
	$(if $(filter 1,$(ALL)),rm -rf artifacts,@echo "checkpoints and bundles kept (ALL=1 removes them)")

.PHONY: help install demo data train eval collect prepare ablation ablation-gpu bundle engine verify stream install-service uninstall-service check test test-all soak bench gpu-check clean
