"""What makes a page's commands quick: after their words are parsed, networks, runs and corpora become tiny."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import jax
import pytest

import speech_jax.config
import speech_jax.runs.train
from speech_jax.config import TrainConfig
from speech_jax.data.config import DataConfig
from speech_jax.data.recipes import synthetic
from speech_jax.evaluation import alignment
from speech_jax.models.config import ConformerConfig, Tacotron2Config, WaveNetConfig

replace = dataclasses.replace
STEPS = 2


def small_model(model):
    """Return the network's settings with every width and depth made small, and all else as it was."""
    match model:
        case ConformerConfig():
            return replace(model, width=16, layers=min(model.layers, 2), heads=2, subsampling_channels=8)
        case Tacotron2Config():
            attention = replace(model.attention, width=16, filters=4, filter_length=5)
            return replace(
                model, embedding=16, encoder_layers=1, encoder_width=16, prenet=16, attention_rnn=24, decoder_rnn=24,
                attention=attention, postnet_layers=2, postnet=16, speaker_width=8,
            )  # fmt: skip
        case WaveNetConfig():
            condition = replace(model.condition, width=16)
            return replace(
                model, layers=2 * model.cycles, residual=16, gate=32, skip=16, head=16, condition=condition
            )  # fmt: skip
    return model


def small_run(config: TrainConfig) -> TrainConfig:
    """Return the run with two steps, a small network and batches of one shape. What it reads and writes stays."""
    task = config.task
    if task is not None and hasattr(task, "model"):
        task = replace(task, model=small_model(task.model))
    if getattr(task, "reduction", ()):
        task = replace(task, reduction=((0, task.reduction[0][1]), (1, task.reduction[-1][1])))
    if getattr(task, "speak", 0):
        task = replace(task, speak=1)
    hold = tuple((name, 1) for name, _ in config.optimizer.hold)
    optimizer = replace(config.optimizer, warmup_steps=1, hold_steps=0, decay_steps=0, hold=hold)
    checkpoint = replace(config.trainer.checkpoint, every=0)
    trainer = replace(config.trainer, steps=STEPS, eval_every=0, log_every=1, tensorboard=False, checkpoint=checkpoint)
    sets = {name: one_shape(getattr(config, name)) for name in ("data", "pre") if getattr(config, name) is not None}
    sets["evaluate"] = tuple(replace(each, data=one_shape(each.data)) for each in config.evaluate)
    return replace(config, task=task, optimizer=optimizer, trainer=trainer, **sets)


def one_shape(data: DataConfig) -> DataConfig:
    """Return the recordings in batches of one shape: it is compiling that takes the time."""
    return replace(data, plan=replace(data.plan, num_buckets=1))


def make_small(patch: pytest.MonkeyPatch) -> None:
    """Make every training and the synthetic corpus small, for commands that run in this process."""
    parse_config, prepare = speech_jax.config.parse_config, synthetic.prepare

    def prepare_small(out_dir, options):
        prepare(out_dir, replace(options, train_a=128, train_b=16, dev=4, test=4, workers=2))

    patch.setattr(alignment.AlignmentScore, "failure", "")  # those of a voice of two steps, which are an exit code
    one = jax.devices()[:1]
    patch.setattr(jax, "devices", lambda *backend: one)  # of the suite's eight: a batch need not have eight rows
    train, results = speech_jax.runs.train.train, []

    def train_first_seeds(config):
        first = Path(config.out_dir).with_name("seed_0")
        if config.seed and first.is_dir():  # a sweep: the further seeds are copies of the first
            shutil.copytree(first, config.out_dir)
        else:
            results.append(train(config))
        return results[-1]

    patch.setattr(speech_jax.runs.train, "train", train_first_seeds)
    patch.setattr(speech_jax.config, "parse_config", lambda argv: small_run(parse_config(argv)))
    patch.setattr(synthetic, "prepare", prepare_small)
