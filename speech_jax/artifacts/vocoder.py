"""Read and write a vocoder's checkpoint folder: config, parameters, speakers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, cast

import jax

from speech_jax.artifacts.folder import read_model_of, write_run
from speech_jax.core.types import Checkpointed, PyTree
from speech_jax.models.wavenet import init_params
from speech_jax.tasks.wavenet import WaveNetTaskConfig
from speech_jax.tasks.wavenet_task import network_config
from speech_jax.training.checkpoint import Which, open_checkpoint


class VocoderParts(NamedTuple):
    """Contents of a vocoder's checkpoint folder.

    Attributes:
        task: Its task config.
        params: Parameters; the moving average where the run kept one.
        speakers: Names of its speakers, where it has several.
    """

    task: WaveNetTaskConfig
    params: PyTree
    speakers: tuple[str, ...] = ()


def load_vocoder_parts(path: str | Path, which: Which = "best") -> VocoderParts:
    """Read the vocoder in a run's folder. Raises UserError where there is no whole checkpoint, or not a vocoder's."""
    checkpoint = open_checkpoint(path, which)
    task, _, speakers = read_model_of(checkpoint, "vocoder", reads=False)
    return VocoderParts(cast(WaveNetTaskConfig, task), checkpoint.params()[0], speakers)


def save_vocoder(out: str | Path, parts: VocoderParts, **more_assets: Any) -> None:
    """Write a run's folder with one checkpoint, step 0.

    Raises UserError, and writes nothing, if the parameters do not fit the network, or if there is a run already.
    """
    shapes = jax.eval_shape(lambda key: init_params(network_config(parts.task), key), jax.random.key(0))
    model = Checkpointed(parts.task, None, parts.speakers)
    write_run(out, model, parts.params, {}, expected=(shapes, {}), **more_assets)
