"""Train the letter-to-sound fallback of text/phonemes.py on cmudict, and measure it on held-out words.

    python experiments/g2p/train.py --out-dir runs/g2p                  # trains, or goes on; then reports
    python experiments/g2p/train.py --out-dir runs/g2p --write FILE     # also writes the network for the package

The network's settings and the optimizer's are flags (see --help); the defaults made the file in the package.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import tyro

from speech_jax.core.config_dict import to_dict, to_text
from speech_jax.core.errors import run_front_door
from speech_jax.core.files import write_file
from speech_jax.models.g2p import G2PConfig
from speech_jax.tasks.g2p import entries, g2p_task, network_bytes, word_batches, word_plan
from speech_jax.text.dictionary import cmudict
from speech_jax.training.config import CheckpointConfig, MeshConfig, OptimizerConfig, StepConfig, TrainerConfig
from speech_jax.training.feed import ResumableBatches
from speech_jax.training.loop import fit


@dataclasses.dataclass(frozen=True)
class Config:
    """A run."""

    out_dir: str
    """The run's folder; a run that is there goes on."""
    write: str = ""
    """Write the network to this file after the run: safetensors, float16."""
    rows: int = 64
    """Words a batch."""
    seed: int = 0
    """Seed of initial values, order and dropout."""
    model: G2PConfig = G2PConfig()
    """The network."""
    optimizer: OptimizerConfig = OptimizerConfig(
        schedule="wsd", peak_lr=3e-3, end_lr=1e-5, warmup_steps=400, decay_steps=3500, weight_decay=1e-4
    )
    """Optimizer and learning rate."""
    trainer: TrainerConfig = TrainerConfig(
        steps=10_000,
        eval_every=2000,
        log_every=200,
        tensorboard=False,
        step=StepConfig(ema=0.999),
        checkpoint=CheckpointConfig(every=500),
    )
    """Steps, evaluation and checkpoints."""


def main(argv) -> None:
    config = tyro.cli(Config, args=list(argv), description=__doc__)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    dictionary = cmudict()
    words = {part: entries(dictionary, part) for part in ("train", "dev", "test")}
    logging.info(", ".join(f"{part}: {len(rows)} entries" for part, rows in words.items()))
    plan = word_plan(words["train"], rows=config.rows, seed=config.seed)
    logging.info("train: %s", plan.describe())
    feed = ResumableBatches(lambda start: word_batches(words["train"], plan, start), plan.buckets)
    dev_plan = word_plan(words["dev"], rows=256, shuffle=False)
    result = fit(
        g2p_task(config.model, words["dev"], dictionary),
        feed,
        config=config.trainer,
        optimizer=config.optimizer,
        mesh=MeshConfig(),
        out_dir=config.out_dir,
        assets={"config": to_dict(config)},
        texts={"config.json": to_text(config)},
        pipeline={"task": plan.fingerprint()},
        eval_sets={"dev": lambda: word_batches(words["dev"], dev_plan)},
        units=lambda batch: (float(batch["letter_lengths"].sum()), float(batch["letters"].size)),
        unit_name="letters",
        seed=config.seed,
    )
    if result.stopped:
        return
    params = result.state.params if result.state.ema is None else result.state.ema
    if config.write:
        Path(config.write).write_bytes(network_bytes(params))
    test_plan = word_plan(words["test"], rows=256, shuffle=False)
    test = g2p_task(config.model, words["test"], dictionary)
    report = test.evaluate(params, result.state.model_state, word_batches(words["test"], test_plan))
    line = {"words": len(words["test"]), **{name: round(float(value), 5) for name, value in report.metrics.items()}}
    print(json.dumps(line))
    write_file(Path(config.out_dir) / "test.json", json.dumps(line) + "\n")


if __name__ == "__main__":
    run_front_door(main)
