# Two commands do everything on a fresh machine: `make quickstart` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN := runs/quickstart

.PHONY: install tpu-compiler quickstart test test-types test-scripts tools lint wheel check-wheel notebook-pairs notebooks docs \
  check-pages clean

# A fresh environment, or the one that is there, brought up to date with setup.py.
install: $(VENV)/.installed

$(VENV)/.installed: setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[synthetic,test,docs,release]'
	touch $@

# Makes a small speech corpus, pre-trains on domain A, fine-tunes on domain B without and with the old loss, and
# prints the word error rates on both. Every line is an ordinary front door.
quickstart: install
	$(BIN)/python -m speech_jax.prepare synthetic --out $(RUN)/data
	$(BIN)/python -m speech_jax.train --config configs/quickstart/pretrain.py
	$(BIN)/python -m speech_jax.train --config configs/quickstart/finetune.py --alpha.start 0 --out-dir $(RUN)/alpha_0
	$(BIN)/python -m speech_jax.train --config configs/quickstart/finetune.py --alpha.start 0.3 --out-dir $(RUN)/alpha_0.3
	for model in pretrained alpha_0 alpha_0.3; do \
	  $(BIN)/python -m speech_jax.evaluate --checkpoint $(RUN)/$$model --name $$model \
	    --manifest $(RUN)/data/A/test.jsonl $(RUN)/data/B/test.jsonl --out $(RUN)/reports/$$model >/dev/null || exit; \
	done
	$(BIN)/python -m speech_jax.evaluate --out $(RUN)/reports \
	  --compare $(RUN)/reports/pretrained/report.json $(RUN)/reports/alpha_0/report.json $(RUN)/reports/alpha_0.3/report.json

# The compiler of the TPU, which needs none: for `python -m speech_jax.compile` and its test. Only for Linux on x86-64.
tpu-compiler: $(VENV)/.tpu-compiler

$(VENV)/.tpu-compiler: $(VENV)/.installed
	if [ "$$(uname -sm)" = "Linux x86_64" ]; then $(BIN)/pip install --quiet --editable '.[tpu]'; fi
	touch $@

# Programs that do not come with pip. For the tests of tpu_scripts/: bats, and promtool for the alert rules. For
# `make check-pages`: a browser.
tools:
	@command -v bats >/dev/null && command -v promtool >/dev/null && command -v chromium >/dev/null || \
	  { apt-get update -qq && apt-get install -y -qq --no-install-recommends bats prometheus chromium; }

test-scripts: install tools
	$(BIN)/python -m pytest tests/tpu_scripts tests/monitoring/test_watchdog.py

test: install tpu-compiler
	$(BIN)/python -m pytest -n auto --dist loadfile --max-worker-restart 2

# The rooms that compute once more, with every call held to its annotations, shapes included (beartype, jaxtyping).
test-types: install
	SPEECH_JAX_TYPECHECK=1 $(BIN)/python -m pytest -n auto --dist loadfile --max-worker-restart 2 \
	  $(addprefix tests/,audio decoding evaluation kernels models objectives)

lint: install
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/basedpyright --project pyproject.toml --pythonpath $(BIN)/python
	@command -v shellcheck >/dev/null || { apt-get update -qq && apt-get install -y -qq shellcheck; }
	git ls-files -z '*.sh' '*.bats' '*.bash' tests/tpu_scripts/fake .ci | xargs -0 shellcheck

# dist/: the source distribution, and the wheel that is built from it. On Linux its tag names the oldest glibc that it runs on.
wheel: install
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	if [ "$$(uname -s)" = Linux ]; then \
	  PATH="$(abspath $(BIN)):$$PATH" auditwheel repair --wheel-dir dist dist/*-linux_*.whl && rm dist/*-linux_*.whl; \
	fi
	$(BIN)/twine check --strict dist/*

check-wheel: wheel
	.ci/check_wheel $(BIN)/python dist/*.whl

# A notebook is a pair: the .md is edited, the .ipynb is for Colab, without outputs. The newer one of the two is copied into the other.
notebook-pairs: install
	$(BIN)/jupytext --sync notebooks/*.md

# Executed copies in docs/notebooks/, in an environment that has nothing but a kernel and the wheel.
notebooks: wheel
	$(BIN)/python notebooks/execute.py --package dist/*.whl --out docs/notebooks notebooks/*.ipynb

docs: install
	$(BIN)/sphinx-build -W --keep-going -q -b html docs build/docs

# The pages in a headless browser, at the width of a screen and of a phone.
check-pages: docs
	$(BIN)/python docs/check_pages.py build/docs

clean:
	rm -rf $(VENV) $(RUN) build dist docs/notebooks
