# make demo and make test do all the set-up themselves: .venv, packages, Java.
# PYTHON=/path/to/python3 picks the Python of .venv; ARGS="-k join" goes to pytest.

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
# What does not count searches of a replicated index, or say for itself where it goes.
SHARDED := $(addprefix tests/stages/test_,search.py classification.py regression.py ids.py invalid.py join.py)
ARGS :=

# Another Spark or another Python in the environment must not get between ours.
unexport SPARK_HOME PYTHONPATH PYSPARK_DRIVER_PYTHON PYSPARK_PYTHON
# In a recipe, so that Java is looked for (and installed) only where it is used.
WITH_JAVA = JAVA_HOME="$$(.ci/java_home)" && export JAVA_HOME &&

.PHONY: help demo test test-connect test-sharded test-oldest test-spark test-matrix check format bench docs build clean

help:  ## say what there is
	@echo "usage: make TARGET"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.test  ## run the example on real data (sets everything up the first time)
	@$(WITH_JAVA) $(PY) examples/quickstart.py

test: $(VENV)/.test  ## run all tests, or some: make test ARGS="-k join"
	@$(WITH_JAVA) .ci/test $(PY) $(ARGS)

test-connect: $(VENV)/.test  ## what every stage must do, on a Spark Connect server
	@$(WITH_JAVA) .ci/test $(PY) $(STAGES) --spark=connect $(ARGS)

test-sharded: $(VENV)/.test  ## search, classification and regression, with every index in shards
	@$(WITH_JAVA) .ci/test $(PY) $(SHARDED) --sharded $(ARGS)

test-oldest: $(OLDEST)/.test  ## the tests with the oldest packages that are supported (Python 3.10 or 3.11)
	@export JAVA_MAXIMUM=17; $(WITH_JAVA) .ci/test $(OLDEST)/bin/python $(ARGS)

test-spark: $(OTHER)/.test  ## what every stage must do, on another Spark: make test-spark SPARK=4.1
	@export JAVA_MAXIMUM=17; $(WITH_JAVA) .ci/test $(OTHER)/bin/python $(STAGES) $(ARGS)

test-matrix: $(VENV)/.test  ## what every stage must do, on the oldest and the newest Spark, classic and Connect
	@$(MAKE) --no-print-directory test-oldest ARGS="$(STAGES) $(ARGS)"
	@$(WITH_JAVA) .ci/test $(PY) $(STAGES) $(ARGS)
	@$(MAKE) --no-print-directory test-connect

check: $(VENV)/.dev  ## lint, format and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(VENV)/.dev  ## mend what ruff can mend
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench: $(VENV)/.bench  ## measure, and print the figures
	@$(WITH_JAVA) for each in $(filter-out benchmarks/_%,$(wildcard benchmarks/*.py)); do $(PY) "$$each" $(ARGS) || exit; done

docs: $(VENV)/.dev  ## write the API pages to build/docs
	$(PY) -m pdoc --docformat numpy --output-directory build/docs pyspark_knn

build: $(VENV)/.dev  ## build the sdist and the wheel in dist/, and check them
	rm -rf dist
	$(PY) -m build --quiet
	$(PY) -m twine check --strict dist/*

clean:  ## remove what make made, .venv too
	rm -rf $(VENV) $(OLDEST) .venv-spark-* build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -rf spark-warehouse metastore_db derby.log artifacts
	find . -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/.test: $(REQUIREMENTS) | $(VENV)/bin/python
	@echo "Installing the packages (once)."
	@$(PIP) --editable '.[connect,test]'
	@touch $@

# FAISS, joblibspark and real data to compare with.
$(VENV)/.bench: $(REQUIREMENTS) | $(VENV)/bin/python
	@echo "Installing the packages of the benchmarks (once)."
	@$(PIP) --editable '.[bench,connect,test]'
	@touch $@

$(OLDEST)/.test: $(REQUIREMENTS) .ci/oldest.txt
	@.ci/make_venv $(OLDEST)
	@echo "Installing the oldest packages (once)."
	@$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check --use-pep517 \
		--constraint .ci/oldest.txt --editable '.[spark,test]'
	@touch $@

# MLlib came to Spark Connect with 4.0; what Spark 3.5 asks for there does not go with our packages.
$(OTHER)/.test: $(REQUIREMENTS)
	@.ci/make_venv $(OTHER)
	@echo "Installing Spark $(SPARK) (once)."
	@$(OTHER)/bin/python -m pip install --quiet --disable-pip-version-check --use-pep517 \
		'pyspark==$(SPARK).*' --editable '.[$(if $(filter 3.%,$(SPARK)),,connect$(,))test]'
	@touch $@

$(VENV)/.dev: $(REQUIREMENTS) | $(VENV)/bin/python
	@echo "Installing the developers' packages (once)."
	@$(PIP) --editable '.[spark,dev]'
	@touch $@

$(VENV)/bin/python:
	@.ci/make_venv $(VENV)
