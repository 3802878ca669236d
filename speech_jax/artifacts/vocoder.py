"""Read and write a vocoder's checkpoint folder: config, parameters, speakers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax

from speech_jax.artifacts.folder import task_in, write_run
from speech_jax.core.types import PyTree
from speech_jax.models.wavenet import init_params
from speech_jax.tasks.wavenet import WaveNetTaskConfig, network_config
from speech_jax.training.checkpoint import Which, find_checkpoint, read_assets, read_params


class VocoderParts(NamedTuple):
    """What a vocoder's checkpoint folder holds; the parameters' moving average, where the run kept one. speakers: their
    names, where it has several."""

    task: WaveNetTaskConfig
    params: PyTree
    speakers: tuple[str, ...] = ()


def load_vocoder_parts(path: str | Path, which: Which = "best") -> VocoderParts:
    """The vocoder in a run's folder. Raises UserError where there is no whole checkpoint, or not a vocoder's."""
    folder = find_checkpoint(path, which)
    assets = read_assets(folder)
    task = task_in(assets, WaveNetTaskConfig, path, "a vocoder's", reads=False)
    return VocoderParts(task, read_params(folder)[0], tuple(assets.get("speakers", ())))


def save_vocoder(out: str | Path, parts: VocoderParts, **more_assets: Any) -> None:
    """Writes a run's folder with one checkpoint, step 0. Raises UserError, and writes nothing, if the parameters do not
    fit the network, or if there is a run already."""
    more_assets |= {"speakers": list(parts.speakers)} if parts.speakers else {}
    shapes = jax.eval_shape(lambda key: init_params(network_config(parts.task), key), jax.random.key(0))
    write_run(out, parts.task, None, parts.params, {}, expected=(shapes, {}), **more_assets)
