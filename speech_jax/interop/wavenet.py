"""Import of public WaveNet vocoders: r9y9/wavenet_vocoder (last version, released LJSpeech model) and nv-wavenet.

A file holds tensors only. Widths and outputs follow from their shapes; mel settings and the processing of the waveform
are those of the release. r9y9's last version has the statistics of its mel frames in a second file.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from speech_jax.artifacts.vocoder import VocoderParts
from speech_jax.audio.config import AudioConfig
from speech_jax.audio.presets import nvidia_tacotron2, r9y9_master, r9y9_released
from speech_jax.core.errors import UserError
from speech_jax.interop.config import WaveNetImport
from speech_jax.interop.imported import Imported
from speech_jax.interop.tensors import Tensors, read_state_dict
from speech_jax.interop.wavenet_names import (
    Layout,
    detect_layout,
    fold_weight_norm,
    wavenet_config,
    wavenet_params_from_torch,
)
from speech_jax.tasks.wavenet import WaveNetTaskConfig

_TRAINING_STATE = ("optimizer", "global_step", "global_epoch", "global_test_step", "iteration", "learning_rate")
_TITLES = {
    "master": "r9y9's last version",
    "released": "r9y9's released LJSpeech model",
    "nvidia": "nv-wavenet's PyTorch model",
}


def is_wavenet(tensors: Tensors) -> bool:
    """Return True if the tensors are those of a WaveNet in one of the layouts."""
    return detect_layout({_strip_prefixes(name): a for name, a in tensors.items()}) is not None


def read_wavenet(path: str | Path, settings: WaveNetImport | None = None, tensors: Tensors | None = None) -> Imported:
    """Read a vocoder from a state dict, bare or under "state_dict", without executing anything in the file.

    Args:
        path: the file.
        settings: settings that the file does not contain.
        tensors: of the file, if they were read already.

    Raises:
        UserError: the file is damaged, or tensors are missing or left over.
    """
    path, settings = Path(path), settings or WaveNetImport()
    state_dict = read_state_dict(path) if tensors is None else tensors
    tensors, ignored = {}, {}
    for name, tensor in state_dict.items():
        if name.split(".")[0] in _TRAINING_STATE:
            ignored[name] = "training state, not part of the network"
        else:
            tensors[_strip_prefixes(name)] = tensor
    layout = detect_layout(tensors)
    if layout is None:
        raise UserError(f"{path}: found no WaveNet, expected one of {', '.join(_TITLES.values())}")
    tensors = fold_weight_norm(tensors, str(path))
    audio, notes = _audio(layout, settings, path)
    config = wavenet_config(tensors, layout, str(path), audio.hop, settings.cycles)
    if config.num_mels != audio.num_mels:
        raise UserError(f"{path}: found {config.num_mels} mel bands, expected {audio.num_mels}")
    params, unused = wavenet_params_from_torch(tensors, config, layout, str(path))
    if unused:
        shape = tuple(tensors[unused[0]].shape)
        raise UserError(f"{path}: found tensor {unused[0]!r} with shape {shape}, which the network does not have")
    processed = layout == "master" and settings.processed
    task = WaveNetTaskConfig(
        model=config,
        audio=audio,
        gain=0.55 if processed else 1.0,
        pre_emphasis=0.85 if processed else 0.0,
        crop_frames=max(32, 2 * -(-config.receptive_field // audio.hop)),
    )
    notes = [
        f"{_TITLES[layout]}: {config.layers} layers in {config.cycles} cycles, {config.output}; "
        f"{audio.sample_rate} Hz, hop {audio.hop}",
        *notes,
    ]
    if layout == "master" and config.output == "mulaw":
        notes.append("its training rounded samples down to a class, this package rounds to the nearest: samples are "
                     "drawn as in the public code, likelihoods and fine-tuning differ by half a class")  # fmt: skip
    return Imported(VocoderParts(task, params), ignored, notes)


def _strip_prefixes(name: str) -> str:
    return name.removeprefix("state_dict.").removeprefix("module.")


def _audio(layout: Layout, settings: WaveNetImport, path: Path) -> tuple[AudioConfig, list[str]]:
    if settings.statistics and layout != "master":
        raise UserError(
            f"{path}: found --wavenet.statistics for {_TITLES[layout]}, expected none: it has no such normalization"
        )
    if layout == "released":
        return r9y9_released(), ["training recordings were scaled to a peak of 0.999"]
    if layout == "nvidia":
        frames = {"sample_rate": 16000, "window": 800, "hop": 200, "n_fft": 800}
        return dataclasses.replace(nvidia_tacotron2(), **frames), []
    if not settings.statistics:
        return r9y9_master(), [
            "no --wavenet.statistics: mel frames are not normalized, but those of its training were, by its "
            "meanvar.joblib"
        ]
    try:
        rows = np.loadtxt(settings.statistics, ndmin=2)
    except (OSError, ValueError) as error:
        raise UserError(f"{settings.statistics}: {error}, expected two lines of numbers") from error
    if rows.shape != (2, 80):
        raise UserError(
            f"{settings.statistics}: found {rows.shape[0]} lines of {rows.shape[1]} numbers, expected 2 of 80"
        )
    return r9y9_master(tuple(map(float, rows[0])), tuple(map(float, rows[1]))), []
