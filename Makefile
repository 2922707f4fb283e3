# All targets use the .venv of this checkout. `make` without a target lists the targets.
PYTHON ?= python3
# The ONNX Runtime to install, cpu or gpu. The two wheels install the same module, so that only one may be installed.
RUNTIME ?= cpu
EXTRAS := $(RUNTIME),train,export,report,openvino,parquet,stream,viewer,video,3dhp,docs,dev
# TensorRT for RTX has wheels only for these machines. It builds engines without a GPU, so the tests use it.
ifeq ($(shell uname -sm),Linux x86_64)
EXTRAS := $(EXTRAS),tensorrt-rtx
endif

# How many processes run the tests. Each test file stays in one of them, and each process computes on one thread.
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
QUICK := bench-output/quick
CREATED := $(VENV)/.created
INSTALLED := $(VENV)/.installed-$(RUNTIME)
SOURCES := $(shell find csrc -type f 2>/dev/null)
TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile
CXX_FILES := $(filter %.cpp %.h %.cu %.cuh,$(SOURCES)) $(wildcard tests/native/kernels/*)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv demo test test-full lint format docs bench bench-quick clean

help:
	@echo 'make venv       .venv with the package, its extras and the compiled kernels'
	@echo 'make demo       refine built-in motion, and a real clip where it can be downloaded; pictures in demo-output/'
	@echo 'make test       the tests that take seconds'
	@echo 'make test-full  all tests, plain installations, Ray, the kernels under sanitizers, the reports;'
	@echo '                REFINER_DATA names the motion archive that some tests need'
	@echo 'make lint       ruff, mypy, the import boundaries, clang-format'
	@echo 'make format     let ruff and clang-format rewrite the sources'
	@echo 'make docs       the documentation as a site in docs-site/'
	@echo 'make bench      FLOPs, training-step, kernel, engine and depth reports in bench-output/, and one page of them'
	@echo 'make bench-quick  a small report in bench-output/quick/'
	@echo 'make clean      remove .venv and everything that was built'
	@echo 'Options: PYTHON=python3.12, RUNTIME=cpu|gpu, WORKERS=2 (processes of the tests)'

venv: $(INSTALLED)

$(CREATED):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "refiner needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Name a newer one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 3; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@touch $@

# The installation uses the Python sources of the checkout directly. It must be repeated only if one of these changes.
$(INSTALLED): $(CREATED) pyproject.toml constraints.txt CMakeLists.txt $(SOURCES)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

demo: venv
	$(BIN)/refiner-demo --output demo-output
	@PIP_RETRIES=1 PIP_DEFAULT_TIMEOUT=10 $(BIN)/python -m refiner_bench.real.clip demo-output

test: venv
	$(TESTS) -m 'not slow'

test-full: venv
	$(TESTS)
	.ci/check-core-install
	.ci/check-ray
	.ci/check-sanitizers
	$(MAKE) --no-print-directory bench

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=. $(BIN)/lint-imports
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)

format: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

# The build fails if a page names a link, an anchor or a docstring that does not exist.
docs: venv
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo 'open docs-site/index.html'

bench: venv
	$(BIN)/refiner-bench flops --json bench-output/flops.json --markdown bench-output/flops.md
	$(BIN)/refiner-bench train-step --json bench-output/train-step.json --markdown bench-output/train-step.md
	$(BIN)/refiner-bench native --json bench-output/native.json --markdown bench-output/native.md
	$(BIN)/refiner-bench engines --json bench-output/engines.json --markdown bench-output/engines.md
	$(BIN)/refiner-bench sweep --json bench-output/sweep.json --markdown bench-output/sweep.md
	REFINER_DATA= $(BIN)/refiner-bench streaming --frames 2000 --json bench-output/streaming.json --markdown bench-output/streaming.md
	$(BIN)/python -m pytest -q bench/suites --benchmark-enable --benchmark-json bench-output/suites.json
	$(BIN)/refiner-bench page bench-output --output bench-output/report.html

# Takes less than three minutes: the figures that do not depend on the machine, and rough ratios.
bench-quick: venv
	$(BIN)/refiner-bench flops --json $(QUICK)/flops.json
	$(BIN)/refiner-bench native --items 20000 --rounds 7 --json $(QUICK)/native.json
	$(BIN)/refiner-bench sweep --depths 4 --rounds 10 --json $(QUICK)/sweep.json
	REFINER_DATA= $(BIN)/refiner-evaluate --synthetic 7 --limit-clips 8 --quiet --json $(QUICK)/accuracy-synthetic.json > /dev/null
	$(BIN)/refiner-bench page $(QUICK) --output $(QUICK)/report.html

clean:
	rm -rf $(VENV) build dist demo-output bench-output docs-site .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	rm -f refiner/_native*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
