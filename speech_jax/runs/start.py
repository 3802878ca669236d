"""Where a run starts: the checkpoint in `init_from`, and adapters."""

from __future__ import annotations

import dataclasses
import functools

import jax

from speech_jax.config import TrainConfig, config_from_assets
from speech_jax.core.types import PyTree, Task
from speech_jax.finetuning.adapters import ADAPTER, BASE, adapter_groups, init_adapters, with_adapters
from speech_jax.finetuning.restore import SPEAKERS, Start, start_from
from speech_jax.models.tacotron2 import with_speaker_inputs
from speech_jax.runs.objective import make_task
from speech_jax.runs.resolve import Reader, has_pretext, tokenizer_in, tokens_of
from speech_jax.tasks.ctc import own_state
from speech_jax.tasks.tacotron2 import network_config
from speech_jax.text.tokenizer import Tokenizer
from speech_jax.training.checkpoint import load_assets
from speech_jax.training.optimizer import OptimizerConfig
from speech_jax.training.state import init_shapes, init_values


def read_start(config: TrainConfig, spec: PyTree, tokenizer: Reader | None, speakers: tuple[str, ...] = ()) -> Start:
    """What the run starts from: the checkpoint in `init_from`, as `start` says. spec: the shapes of a batch."""
    task = make_task(config, tokenizer)
    shapes = init_shapes(task.model, spec, config.seed)
    assets = load_assets(config.init_from, config.start.which)
    old = tokenizer_in(assets)
    fresh, drop = config.start.fresh, config.start.drop
    # From pre-training to recognition, or back: the head, or the pretext, is new, and the other one stays behind.
    had = {"head": isinstance(old, Tokenizer), "pretext": has_pretext(config_from_assets(assets))}
    for part in ("head", "pretext"):
        if part in shapes[0] and not had[part]:
            fresh = (*fresh, f"^{part}/")
        if part not in shapes[0] and had[part]:
            drop = (*drop, f"^{part}/")
    grow = {}
    if speakers and not assets.get("speakers"):  # a voice of one becomes one of several
        fresh = (*fresh, f"^{SPEAKERS}$")
        grow = {"grow": functools.partial(with_speaker_inputs, network_config(config.task))}
    return start_from(
        config.init_from,
        *shapes,
        which=config.start.which,
        fresh=fresh,
        drop=drop,
        init=lambda: init_values(task.model, spec, config.seed),
        tokens=None if old is None or tokenizer is None else (tokens_of(old), tokens_of(tokenizer)),
        speakers=(tuple(assets["speakers"]), speakers) if speakers and "speakers" in assets else None,
        own_state=own_state,
        **grow,
    )


def adapt(config: TrainConfig, task: Task, init: tuple | None) -> tuple[Task, OptimizerConfig, tuple | None]:
    """(the task, the optimizer's settings, what to start from) with adapters in place of the whole network."""
    if init is not None:
        params, model_state = init
        key = jax.random.fold_in(jax.random.key(config.seed), 1)
        init = {BASE: params, ADAPTER: init_adapters(key, params, config.adapter)}, model_state
    optimizer = dataclasses.replace(config.optimizer, groups=adapter_groups(config.adapter))
    return with_adapters(task, config.adapter), optimizer, init
