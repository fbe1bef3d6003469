# `make run` and `make test` set up what they need; both work offline but for the package index.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: run test smoke avx2 setup lint types compiled acceptance lock clean

run: $(READY)
	$(BIN)/gauntlet run manifests/emotion_sample.yaml

test: lint types compiled
	$(BIN)/gauntlet check
	# Two at a time, file by file; OpenMP threads sleep while they wait, as they share the CPUs.
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -m "not acceptance and not live" -n 2 --dist loadfile

# Every system through its whole DAG, with tiny settings: docs/smoke.md.
smoke: $(READY)
	GAUNTLET_HOME=$(VENV)/smoke $(BIN)/gauntlet smoke

# The tests of what is converted and served, as on a CPU without int8 instructions: docs/conversion.md.
avx2: $(READY)
	$(BIN)/python tests/cpu_class/run.py avx2 -- \
	  $(BIN)/python -m pytest tests/components/convert_to_onnx tests/serving tests/test_cpu_class.py

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	@echo "setting up $(VENV): some minutes, most of it downloads"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(READY)
	$(BIN)/mypy

# The committed pipeline specs are what the manifests compile to today.
compiled: $(READY)
	@for manifest in manifests/*.yaml; do for platform in vertex kubeflow; do \
	  file=$$(echo $$platform/ | sed 's,^vertex/,,')$$(basename $$manifest); \
	  $(BIN)/gauntlet compile $$manifest --platform $$platform --output $(VENV)/compiled/$$file && \
	  diff -u compiled/$$file $(VENV)/compiled/$$file || \
	  { echo "stale: run 'gauntlet compile $$manifest --platform $$platform' and commit it"; exit 1; }; \
	done; done

# Minutes long, or in need of data: DATA is a folder with emotion/train.txt and validation.txt, and
# fashion-mnist with the four idx files.
acceptance: $(READY)
	$(BIN)/python -m pytest -m acceptance $(if $(DATA),--data=$(DATA))

# Resolves pyproject.toml anew; torch is named without the local version that a CPU wheel carries.
lock:
	rm -rf $(VENV)-lock && $(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet torch==2.13.0
	$(VENV)-lock/bin/python -m pip install --quiet --editable ".[dev]"
	$(VENV)-lock/bin/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > requirements.lock
	rm -rf $(VENV)-lock

clean:
	rm -rf $(VENV) .gauntlet build *.egg-info
