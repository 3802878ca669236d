# Two commands do everything on a fresh machine: `make quickstart` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= runs/quickstart

.PHONY: install quickstart test lint clean

# A fresh environment, or the one that is there, brought up to date with setup.py.
install: $(VENV)/.installed

$(VENV)/.installed: setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[synthetic,test]'
	touch $@

# Makes a small speech corpus, pre-trains on domain A, fine-tunes on domain B without and with the old loss, and
# prints the word error rates on both. Every line is an ordinary front door.
quickstart: install
	$(BIN)/python -m speech_jax.prepare synthetic --out $(OUT)/data
	$(BIN)/python -m speech_jax.train --config configs/quickstart/pretrain.py
	$(BIN)/python -m speech_jax.train --config configs/quickstart/finetune.py --out-dir $(OUT)/alpha0 --alpha.value 0.0
	$(BIN)/python -m speech_jax.train --config configs/quickstart/finetune.py --out-dir $(OUT)/alpha --alpha.value 0.5

test: install
	$(BIN)/python -m pytest -n auto

lint: install
	$(BIN)/ruff check .
	@command -v shellcheck >/dev/null || { apt-get update -qq && apt-get install -y -qq shellcheck; }
	git ls-files -z '*.sh' .ci/run | xargs -0 shellcheck

clean:
	rm -rf $(VENV) $(OUT)
