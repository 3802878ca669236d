"""`python -m speech_jax.train --config configs/X.py`: trains a model, or goes on with a run that is already there.

The story of a run: config → recordings → task → state and loop (training/loop.py). All that the checkpoint folder
has to know goes with it as assets.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import jax

from speech_jax.config import TrainConfig, parse_config
from speech_jax.core.config_dict import to_text
from speech_jax.core.errors import run_front_door
from speech_jax.core.log import log, setup_logging
from speech_jax.core.placement import fetch
from speech_jax.finetuning.adapters import save_adapter
from speech_jax.runs.prepare import prepare
from speech_jax.runs.streams import (
    audio_seconds,
)
from speech_jax.training.hosts import HostsConfig, assert_equal_across_hosts, run_on_all_or_fail, start_hosts
from speech_jax.training.loop import FitResult, fit


def main(argv: Sequence[str]) -> int:
    """The front door; returns the exit code."""
    config = parse_config(argv)
    start_hosts(config.hosts)
    setup_logging(quiet=jax.process_index() > 0)
    train(dataclasses.replace(config, hosts=HostsConfig()))  # no part of what is trained
    return 0


def train(config: TrainConfig) -> FitResult:
    """Runs `config` to its last step, or until a signal; goes on with what is in `config.out_dir`.

    On several processes each prepares the whole by itself; what one finds wrong ends all.
    """
    run = run_on_all_or_fail(lambda: prepare(config))
    recordings = {f"recordings of {name}": stream.facts for name, stream in run.streams.items()}
    assert_equal_across_hosts({"config": lambda: to_text(config)} | recordings)
    config = run.config
    result = fit(
        run.task,
        run.feed,
        config=config.trainer,
        optimizer=run.optimizer,
        mesh=config.mesh,
        out_dir=config.out_dir,
        assets=run.assets,
        texts={"config.json": to_text(config)},
        pipeline={name: stream.plan.fingerprint() for name, stream in run.streams.items()}
        | ({} if run.accountant is None else {"privacy": run.accountant.config.settings()}),
        eval_sets={name: stream.one_pass() for name, stream in run.eval_streams.items()},
        init=run.init,
        fisher=run.fisher,
        units=lambda batch: audio_seconds(batch, config.task.audio.sample_rate),
        seed=config.seed,
        epsilon=None if run.accountant is None else run.accountant.epsilon,
    )
    if config.adapter.kind != "none" and not result.stopped:
        params = fetch(result.state.params if result.state.ema is None else result.state.ema)
        if jax.process_index() == 0:
            file = Path(config.out_dir) / "adapter.safetensors"
            save_adapter(file, params, run.before(), config.adapter, json.dumps(run.assets["tokenizer"]))
            log.info("%s: %.1f MB", file, file.stat().st_size / 1e6)
    return result


# ---- What is trained


if __name__ == "__main__":
    run_front_door(main)
