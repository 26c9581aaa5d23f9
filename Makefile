# make demo and make test set everything up themselves: .venv, packages, Java.
# PYTHON=/path/to/python3 selects the Python of .venv; ARGS="-k join" is passed to pytest.

SHELL := /bin/bash
, := ,
.DEFAULT_GOAL := help

VENV := .venv
OLDEST := .venv-oldest
SPARK := 3.5
OTHER := .venv-spark-$(SPARK)
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check --use-pep517
REQUIREMENTS := setup.py requirements.txt
STAGES := tests/stages tests/contract
# Only tests that neither count the searches of a replicated index nor set a placement themselves.
SHARDED := $(addprefix tests/stages/test_,search.py classification.py regression.py ids.py invalid.py join.py)
SPARSE := tests/contract $(addprefix tests/stages/test_,search.py classification.py regression.py ids.py invalid.py join.py agreement.py rows_searched.py persistence.py tuning.py streaming.py)
ARGS :=

# Settings of another Spark or Python in the environment must not affect ours.
unexport SPARK_HOME PYTHONPATH PYSPARK_DRIVER_PYTHON PYSPARK_PYTHON
# Part of a recipe, so that Java is searched for (and installed) only where it is used.
WITH_JAVA = JAVA_HOME="$$(.ci/java_home)" && export JAVA_HOME &&

.PHONY: help demo test test-connect test-sharded test-sparse test-oldest test-spark test-matrix check format bench docs docs-quick build check-release release clean

help:  ## list the targets
	@echo "usage: make TARGET"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.test  ## run the quickstart on real data (sets everything up the first time)
	@$(WITH_JAVA) $(PY) examples/quickstart.py

test: $(VENV)/.test  ## run all tests, or a part: make test ARGS="-k join"
	@$(WITH_JAVA) .ci/test $(PY) $(ARGS)

test-connect: $(VENV)/.test  ## run the tests of the stages on a Spark Connect server
	@$(WITH_JAVA) .ci/test $(PY) $(STAGES) --spark=connect $(ARGS)

test-sharded: $(VENV)/.test  ## run the tests of search, classification and regression with every index sharded
	@$(WITH_JAVA) .ci/test $(PY) $(SHARDED) --sharded $(ARGS)

test-sparse: $(VENV)/.test  ## run the tests of the stages with every index sparse whose metric permits it
	@$(WITH_JAVA) .ci/test $(PY) $(SPARSE) --sparse $(ARGS)

test-oldest: $(OLDEST)/.test  ## run the tests with the oldest supported packages (requires Python 3.10 or 3.11)
	@export JAVA_MAXIMUM=17; $(WITH_JAVA) .ci/test $(OLDEST)/bin/python $(ARGS)

test-spark: $(OTHER)/.test  ## run the tests of the stages on another Spark: make test-spark SPARK=4.1
	@export JAVA_MAXIMUM=17; $(WITH_JAVA) .ci/test $(OTHER)/bin/python $(STAGES) $(ARGS)

test-matrix: $(VENV)/.test  ## run the tests of the stages on the oldest and newest Spark, classic and Connect
	@$(MAKE) --no-print-directory test-oldest ARGS="$(STAGES) $(ARGS)"
	@$(WITH_JAVA) .ci/test $(PY) $(STAGES) $(ARGS)
	@$(MAKE) --no-print-directory test-connect

check: $(VENV)/.dev  ## check lint, format and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(VENV)/.dev  ## format, and fix what ruff can fix
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench: $(VENV)/.bench  ## run all benchmarks and print the results
	@$(WITH_JAVA) for each in $(filter-out benchmarks/_%,$(wildcard benchmarks/*.py)); do $(PY) "$$each" $(ARGS) || exit; done

docs: $(VENV)/.dev  ## build the documentation site in build/docs, and check its links and reference
	@rm -rf docs/api
	@$(WITH_JAVA) $(PY) -m sphinx --fail-on-warning --keep-going --quiet docs build/docs $(ARGS)
	@$(PY) docs/_ext/check_site.py build/docs

docs-quick: $(VENV)/.dev  ## build the documentation site in build/docs-quick without running the gallery
	@rm -rf docs/api build/docs-quick
	@$(PY) -m sphinx --fail-on-warning --keep-going --quiet -D plot_gallery=0 docs build/docs-quick
	@$(PY) docs/_ext/check_site.py build/docs-quick

build: $(VENV)/.dev  ## build and check the sdist and the wheel in dist/
	rm -rf dist
	$(PY) -m build --quiet
	$(PY) -m twine check --strict dist/*

check-release:  ## build dist/ and check it as a package index and its users would
	@.ci/make_venv $(VENV)
	@.ci/check_release $(PY)

release:  ## check the release of the version in setup.py and tag it: see CONTRIBUTING.md
	@.ci/make_venv $(VENV)
	@.ci/release $(PY)

clean:  ## remove everything that make created, including .venv
	rm -rf $(VENV) $(OLDEST) .venv-spark-* build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -rf docs/api docs/gallery docs/sg_execution_times.rst
	rm -rf spark-warehouse metastore_db derby.log artifacts
	find . -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/.test: $(REQUIREMENTS) | $(VENV)/bin/python
	@echo "Installing the packages (once)."
	@$(PIP) --editable '.[connect,mlflow,test]'
	@touch $@

# Includes FAISS, joblibspark and real data for comparison.
$(VENV)/.bench: $(REQUIREMENTS) | $(VENV)/bin/python
	@echo "Installing the benchmark packages (once)."
	@$(PIP) --editable '.[bench,connect,test]'
	@touch $@

$(OLDEST)/.test: $(REQUIREMENTS) .ci/oldest.txt
	@.ci/make_venv $(OLDEST)
	@echo "Installing the oldest packages (once)."
	@$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check --use-pep517 \
		--constraint .ci/oldest.txt --editable '.[spark,test]'
	@touch $@

# MLlib supports Spark Connect from 4.0 on; the packages that Spark 3.5 requires for it conflict with ours.
$(OTHER)/.test: $(REQUIREMENTS)
	@.ci/make_venv $(OTHER)
	@echo "Installing Spark $(SPARK) (once)."
	@$(OTHER)/bin/python -m pip install --quiet --disable-pip-version-check --use-pep517 \
		'pyspark==$(SPARK).*' --editable '.[$(if $(filter 3.%,$(SPARK)),,connect$(,))test]'
	@touch $@

$(VENV)/.dev: $(REQUIREMENTS) | $(VENV)/bin/python
	@echo "Installing the development packages (once)."
	@$(PIP) --editable '.[spark,dev]'
	@touch $@

$(VENV)/bin/python:
	@.ci/make_venv $(VENV)
