# Two commands do all set-up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= out
DATA ?= data
# The torch that everything is developed and measured with; pip finds the torchvision that fits it.
TORCH ?= 2.13.0
# Small networks train fastest on one thread, and one thread gives the same result every time.
export OMP_NUM_THREADS ?= 1
# Tests start hundreds of processes, each of which would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test test-thorough test-slow test-torch test-oldest check lint types models readme docs docs-site golden code-size bench bench-compute bench-memory bench-budgets bench-mutations bench-runtimes bench-studies bench-weight-bits bench-quant bench-bands bench-at-init bench-portfolio bench-gpu bench-data bench-sweep device-test clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

$(BIN)/.prune: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e '.[prune]' torch==$(TORCH)
	touch $@

$(BIN)/.dev: pyproject.toml $(BIN)/.prune
	$(BIN)/python -m pip install --quiet -e '.[dev]' torch==$(TORCH)
	touch $@

$(BIN)/.bench: pyproject.toml $(BIN)/.dev
	$(BIN)/python -m pip install --quiet -e '.[bench]' torch==$(TORCH)
	touch $@

DEMO := prune models/resnet8_digits.onnx --sram 46% --flash 25% --macs 24% --data digits

demo: $(BIN)/.prune ## make an environment, install, prune the demo network on the embedded data
	$(BIN)/mcuprune $(DEMO) -o $(OUT)/resnet8_int8.onnx --report $(OUT)/resnet8

test: $(BIN)/.dev ## install what tests need and run them
	$(BIN)/python -m pytest -n 2 -m 'not slow and not thorough'

test-thorough: $(BIN)/.dev ## whole runs, which CI has too
	$(BIN)/python -m pytest -n 2 -m 'thorough and not slow'

test-slow: $(BIN)/.dev ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

TRAINS := $(addprefix tests/test_,$(addsuffix .py,trainable batching conv_gradients training quantize device pruning same_bytes))

test-torch: ## the tests of all that trains, in an environment of their own with another torch: TORCH=2.9.1
	$(MAKE) VENV=$(VENV)-torch-$(TORCH) $(VENV)-torch-$(TORCH)/bin/.dev
	$(VENV)-torch-$(TORCH)/bin/python -m pytest -m 'not slow' $(TRAINS)

OLDEST := $(VENV)-oldest
test-oldest: ## the quick tests, with the oldest release of every library that pyproject.toml allows
	$(PYTHON) tests/oldest.py prune verify arrow ray > $(OLDEST).txt
	PIP_CONSTRAINT=$(OLDEST).txt $(MAKE) VENV=$(OLDEST) TORCH=$$(sed -n 's/^torch==//p' $(OLDEST).txt) $(OLDEST)/bin/.dev
	$(OLDEST)/bin/python -m pytest -n 2 -m 'not slow and not thorough'

lint: $(BIN)/.dev ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(BIN)/.dev ## mypy, strict
	$(BIN)/mypy

check: ## all that CI runs
	bash .ci/run

models: $(BIN)/.dev ## build, train and export the networks in models/
	$(BIN)/python models/make.py

docs: $(BIN)/.dev ## write what is generated in docs/ and the pages of benchmarks from what stands behind it
	$(BIN)/python tests/readme.py --docs

docs-site: $(BIN)/.dev ## build the site from docs/ into out/site; a warning or a dead link is an error
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --conf-dir docs . $(OUT)/site

golden: $(BIN)/.dev ## rewrite the golden text of the tests; look at the difference
	MCUPRUNE_GOLDEN=1 $(BIN)/python -m pytest -q tests/test_report.py

readme: $(BIN)/.dev ## run the commands that README.md shows and write their output into it
	$(BIN)/python tests/readme.py

bench-memory: $(BIN)/.dev ## time the schedule search; writes tests/benchmarks/memory.*
	$(BIN)/python tests/benchmarks/bench_memory.py --keep-baseline

bench: $(BIN)/.bench ## accuracy at equal budgets (hours; goes on where it stopped); DATA=folder of cifar10-*.npz, kws12-mfcc.npz
	$(BIN)/python tests/benchmarks/bench_accuracy.py --data $(DATA)

COMPUTE := $(BIN)/python tests/benchmarks/bench_compute.py --data $(DATA)
NARROW := differentiable uniform at-init

bench-compute: $(BIN)/.bench ## accuracy at equal training compute (hours; goes on where it stopped); DATA as for bench
	$(COMPUTE)
	$(COMPUTE) --tasks T2 --compute 1.0 --seeds 3 4 5
	$(COMPUTE) --tasks T2 --budgets B3 --compute 0.3 --seeds 3 4 5 --methods $(NARROW)
	$(COMPUTE) --tasks T2 --budgets B1 B2 --compute 0.3 --seeds 10 11 12 --methods $(NARROW)
	$(COMPUTE) --tasks T2 --budgets B1 --compute 0.3 --seeds 13 14 15 --methods $(NARROW)
	$(COMPUTE) --tasks T1 --budgets B1 --compute 0.55 --methods differentiable uniform
	$(COMPUTE) --tasks T1 T3 --budgets B3 --methods bands
	$(COMPUTE) --budgets full --compute 0.3 --seeds 0 --methods uniform
	$(COMPUTE) --trained --tasks T1 T2 --budgets B1 B2 --compute 0.3
	$(COMPUTE) --trained --tasks T2 --budgets B1 B2 --compute 0.3 --seeds 3 4

bench-studies: $(BIN)/.bench ## what each part of the method is worth; DATA as for bench
	$(BIN)/python tests/benchmarks/bench_studies.py --data $(DATA)
	$(BIN)/python tests/benchmarks/bench_studies.py --data $(DATA) --studies losses --seeds 3 4

bench-weight-bits: $(BIN)/.bench ## weights of 8 bits against 7 (minutes); DATA as for bench
	$(BIN)/python tests/benchmarks/bench_weight_bits.py --data $(DATA) --files $(OUT)/weight_bits

bench-quant: $(BIN)/.dev ## the learning rate of fake-quant training (goes on where it stopped); DATA as for bench
	$(BIN)/python tests/benchmarks/bench_quant_lr.py --data $(DATA)

bench-bands: $(BIN)/.dev ## what row bands are worth where SRAM binds (hours; goes on where it stopped); DATA as for bench
	$(BIN)/python tests/benchmarks/bench_bands.py --data $(DATA)

bench-at-init: $(BIN)/.bench ## pruning at initialisation and its controls (hours; goes on where it stopped); DATA as for bench
	$(BIN)/python tests/benchmarks/bench_at_init.py --data $(DATA)

device-test: $(BIN)/.dev ## generated C on emulated Cortex-M cores (needs gcc-arm-none-eabi and qemu-system-arm)
	$(BIN)/python tests/benchmarks/bench_device.py

code-size: $(BIN)/.dev ## the code of each kernel of generated C (needs gcc-arm-none-eabi); writes mcuprune/deploy/codesize.json
	$(BIN)/python tests/benchmarks/bench_code_size.py

bench-portfolio: $(BIN)/.bench ## several networks from one training (goes on where it stopped); DATA as for bench
	$(BIN)/python tests/benchmarks/bench_portfolio.py --data $(DATA)

bench-gpu: $(BIN)/.prune ## the paper's networks on CIFAR-10 (needs a GPU; goes on where it stopped); DATA=folder of cifar10-*.npz
	$(BIN)/python tests/benchmarks/bench_gpu.py --data $(DATA)

bench-data: $(BIN)/.dev ## memory that training takes, and how long it waits for data (an hour; goes on where it stopped)
	$(BIN)/python tests/benchmarks/bench_data.py

bench-sweep: $(BIN)/.dev ## a sweep on Ray against single runs, two ranks against one process (goes on where it stopped)
	$(BIN)/python tests/benchmarks/bench_sweep.py

bench-budgets: $(BIN)/.dev ## random budgets: held, used up, or refused (minutes; goes on where it stopped)
	$(BIN)/python tests/benchmarks/bench_budgets.py

bench-mutations: $(BIN)/.dev ## 25,000 damaged files through the commands (goes on where it stopped); writes tests/benchmarks/mutations.*
	$(BIN)/python tests/benchmarks/bench_mutations.py

bench-runtimes: $(BIN)/.dev ## real networks in every runtime and in the arena that is predicted (goes on where it stopped)
	$(BIN)/python tests/benchmarks/bench_runtimes.py

clean: ## remove what the other targets made
	rm -rf $(VENV) $(OUT) .pytest_cache .mypy_cache .ruff_cache .hypothesis
