# `make run` and `make test` set up what they need; both work offline but for the package index.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: run test docs docs-test mutation smoke avx2 setup lint types compiled like-vertex fuzz acceptance lock images base-images clean

run: $(READY)
	$(BIN)/gauntlet run manifests/emotion_sample.yaml

test: lint types compiled docs
	$(BIN)/gauntlet check
	# Two at a time, file by file, since fixtures are made once per file, the longest files first; OpenMP threads
	# sleep while they wait, as they share the CPUs.
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -m "not acceptance and not live and not images" \
	  -n 2 --dist loadfile --no-loadscope-reorder --durations=25

# Changes the gate's code in one place at a time and expects its tests to notice: docs/how-to/add_a_gate.md.
mutation: $(READY)
	$(BIN)/python -m tests.mutation

# Every system through its whole DAG, with tiny settings: docs/how-to/smoke_test.md.
smoke: $(READY)
	GAUNTLET_HOME=$(VENV)/smoke $(BIN)/gauntlet smoke

# The tests of what is converted and served, as on a CPU without int8 instructions: docs/explanation/conversion.md.
avx2: $(READY)
	$(BIN)/python tests/cpu_class/run.py avx2 -- \
	  $(BIN)/python -m pytest tests/components/convert_to_onnx tests/serving tests/test_cpu_class.py

setup: $(READY)

# The folders that pyproject.toml maps to gauntlet.<folder>. Python follows the mapping; mypy, import-linter and editors
# read folders, so `gauntlet/` gets a link to each.
ROOMS := $(shell sed -n 's/^"gauntlet\.\([a-z]*\)" = .*/\1/p' pyproject.toml | sort -u)

TORCH := torch==$(shell sed -n 's/.*"torch==\([^"]*\)".*/\1/p' pyproject.toml)
LOCKED = $(BIN)/python -m pip install --quiet --require-hashes --no-deps

# torch's CPU build where pip finds it (PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS), else the package index's own build with its
# CUDA libraries. What there is no wheel of is built by the locked setuptools.
$(READY): $(wildcard requirements*.lock) pyproject.toml
	@echo "setting up $(VENV): some minutes, most of it downloads"
	$(PYTHON) -m venv $(VENV)
	@case "$$($(BIN)/python -m pip index versions torch 2>/dev/null)" in \
	  *"$(patsubst torch==%,%,$(TORCH))+cpu"*) build=cpu ;; *) build=cuda ;; esac; \
	echo "installing the $$build build of $(TORCH)"; $(LOCKED) --requirement requirements-torch-$$build.lock
	sed -n '/^setuptools==/,/[^\\]$$/p' requirements.lock > $(VENV)/setuptools.lock
	$(LOCKED) --requirement $(VENV)/setuptools.lock
	$(LOCKED) --no-build-isolation --requirement requirements.lock --requirement requirements-dev.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	for room in $(ROOMS); do ln -sfn ../$$room gauntlet/$$room; done
	touch $@

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(READY)
	$(BIN)/mypy

# The committed pipeline specs are what the manifests compile to today.
compiled: $(READY)
	rm -rf $(VENV)/compiled
	$(BIN)/gauntlet compile manifests/*.yaml --platform both --output $(VENV)/compiled > /dev/null
	diff -ru compiled $(VENV)/compiled || \
	  { echo "stale: run 'gauntlet compile manifests/*.yaml --platform both' and commit it"; exit 1; }

# The site of the documentation, in site/. A broken link or anchor is a failure.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	$(BIN)/python docs/run_commands.py --list

# The commands of tutorials and how-to pages, word by word in a fresh clone; PAGES are some of them.
docs-test: $(READY)
	$(BIN)/python docs/run_commands.py $(PAGES)

# Compiled pipelines as Vertex AI runs them, a part of `test` too: docs/reference/vertex.md says what they need.
like-vertex: $(READY)
	$(BIN)/python -m pytest tests/vertex_like -rs --durations=0

# Damaged manifests, data, tokenizers, bundles and events, of which `test` feeds a small share: tests/fuzz.
fuzz: $(READY)
	$(BIN)/python -m tests.fuzz.run --inputs $(or $(INPUTS),10000)

# Minutes long, or in need of data: DATA is a folder with emotion/train.txt and validation.txt, and
# fashion-mnist with the four idx files.
acceptance: $(READY) docs-test
	$(BIN)/python -m pytest -m acceptance $(if $(DATA),--data=$(DATA))

# Every version and its hashes, from pyproject.toml; `make lock UPGRADE=--upgrade` moves to newer versions. torch's CPU
# build is looked for in TORCH_INDEX_URL and PIP_FIND_LINKS, since the package index has the CUDA build alone.
LOCK := $(VENV)-lock
MODELS := $(shell sed -n 's/^models = \["\(.*\)"\]/\1/p' pyproject.toml)
COMPILE = $(LOCK)/bin/uv pip compile --quiet --no-annotate --generate-hashes --universal --python-version 3.11 \
  --custom-compile-command "make lock" $(UPGRADE)
TORCH_CPU = $(if $(TORCH_INDEX_URL),--extra-index-url $(TORCH_INDEX_URL) --index-strategy unsafe-best-match) \
  $(if $(PIP_FIND_LINKS),--find-links $(PIP_FIND_LINKS)) --override $(LOCK)/torch-cpu.in

lock:
	rm -rf $(LOCK) && $(PYTHON) -m venv $(LOCK)
	$(LOCK)/bin/python -m pip install --quiet uv==0.13.9
	echo $(TORCH)+cpu > $(LOCK)/torch-cpu.in
	$(COMPILE) $(TORCH_CPU) --no-emit-package torch pyproject.toml --output-file requirements.lock
	echo $(MODELS) | $(COMPILE) --no-deps --no-header - >> requirements.lock
	sed -n 's/^\([a-z0-9._-]*\)==.*/--no-emit-package \1/p' requirements.lock > $(LOCK)/locked
	$(COMPILE) $(TORCH_CPU) --constraint requirements.lock --no-emit-package torch $$(cat $(LOCK)/locked) \
	  --extra dev pyproject.toml --output-file requirements-dev.lock
	$(COMPILE) $(TORCH_CPU) --constraint requirements.lock $$(cat $(LOCK)/locked) \
	  $(LOCK)/torch-cpu.in --output-file requirements-torch-cpu.lock
	echo $(TORCH) | $(COMPILE) --constraint requirements.lock - --output-file requirements-torch-cuda.lock
	$(COMPILE) --constraint requirements.lock serving/pyproject.toml --output-file serving/requirements.lock
	rm -rf $(LOCK)

# The images, from this checkout, with a compiled step or a request to the server in each. PYTHON_IMAGE: another base image than the pinned one.
# TORCH_INDEX_URL: an index that has the CPU build of torch. DOCKER_BUILD: options for `docker build`.
images: $(READY)
	for name in components trainer serving; do \
	  DOCKER_BUILDKIT=1 docker build --file $$name/Dockerfile --tag gauntlet-python/$$name:0.1.0 \
	    $(if $(PYTHON_IMAGE),--build-arg PYTHON_IMAGE=$(PYTHON_IMAGE)) $(DOCKER_BUILD) \
	    $$(test $$name != components || echo --build-arg TORCH_INDEX_URL=$(TORCH_INDEX_URL)) . || exit 1; \
	done
	$(BIN)/python -m pytest -m images

# The digests that the tags of the base images name today.
base-images:
	for tag in 3.11-bookworm 3.11-slim-bookworm; do \
	  digest=$$(docker buildx imagetools inspect $(DOCKER_HUB)library/python:$$tag --format '{{.Manifest.Digest}}') \
	  && sed -i "s|\(library/python:$$tag@\)sha256:[0-9a-f]*|\1$$digest|" \
	    cloudbuild.yaml cloudbuild.pr.yaml components/Dockerfile trainer/Dockerfile serving/Dockerfile || exit 1; \
	done

clean:
	rm -rf $(VENV) .gauntlet build site *.egg-info serving/build serving/*.egg-info
