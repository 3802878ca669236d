"""Public WaveNet vocoders, in: r9y9/wavenet_vocoder's last version, its released LJSpeech model, and nv-wavenet's
PyTorch model.

A file holds tensors alone. Widths and outputs are seen from their shapes; mel settings and what the waveform went
through are those of the release, and of r9y9's last version the statistics of its mel frames are in a second file.
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
from speech_jax.interop.wavenet_names import Layout, config_of, folded, layout_of, to_ours
from speech_jax.tasks.wavenet import WaveNetTaskConfig

_NO_MODEL = ("optimizer", "global_step", "global_epoch", "global_test_step", "iteration", "learning_rate")
_TITLES = {
    "master": "r9y9's last version",
    "released": "r9y9's released LJSpeech model",
    "nvidia": "nv-wavenet's PyTorch model",
}


def is_wavenet(tensors: Tensors) -> bool:
    """Whether the tensors of a file are a WaveNet's of one of the layouts."""
    return layout_of({_plain(name): a for name, a in tensors.items()}) is not None


def read_wavenet(path: str | Path, said: WaveNetImport | None = None, found: Tensors | None = None) -> Imported:
    """A vocoder out of a state dict, bare or under "state_dict". Nothing in the file is run.

    said: what the file does not say. found: its tensors, if they were read already.
    Raises UserError for what is damaged, missing or left over.
    """
    path, said = Path(path), said or WaveNetImport()
    tensors, ignored = {}, {}
    for name, tensor in (read_state_dict(path) if found is None else found).items():
        if name.split(".")[0] in _NO_MODEL:
            ignored[name] = "the training program's, not the network's"
        else:
            tensors[_plain(name)] = tensor
    layout = layout_of(tensors)
    if layout is None:
        raise UserError(f"{path}: found no WaveNet, expected one of {', '.join(_TITLES.values())}")
    tensors = folded(tensors, str(path))
    audio, notes = _audio(layout, said, path)
    config = config_of(tensors, layout, str(path), audio.hop, said.cycles)
    if config.num_mels != audio.num_mels:
        raise UserError(f"{path}: found {config.num_mels} mel bands, expected {audio.num_mels}")
    params, left = to_ours(tensors, config, layout, str(path))
    if left:
        shape = tuple(tensors[left[0]].shape)
        raise UserError(f"{path}: found tensor {left[0]!r} with shape {shape}, which no part of the model takes")
    processed = layout == "master" and said.processed
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
        notes.append("its training cut samples down to the class below, where classes here are the nearest: samples "
                     "are drawn as in the public code, likelihoods and fine-tuning are half a class off")  # fmt: skip
    return Imported(VocoderParts(task, params), ignored, notes)


def _plain(name: str) -> str:
    return name.removeprefix("state_dict.").removeprefix("module.")


def _audio(layout: Layout, said: WaveNetImport, path: Path) -> tuple[AudioConfig, list[str]]:
    if said.statistics and layout != "master":
        raise UserError(
            f"{path}: found statistics beside {_TITLES[layout]}, expected none: it has no such normalization"
        )
    if layout == "released":
        return r9y9_released(), ["recordings were scaled to a peak of 0.999 before training"]
    if layout == "nvidia":
        frames = {"sample_rate": 16000, "window": 800, "hop": 200, "n_fft": 800}
        return dataclasses.replace(nvidia_tacotron2(), **frames), []
    if not said.statistics:
        return r9y9_master(), [
            "no --wavenet.statistics: mel frames come as they are, but those of its training were normalized by its "
            "meanvar.joblib"
        ]
    try:
        rows = np.loadtxt(said.statistics, ndmin=2)
    except (OSError, ValueError) as error:
        raise UserError(f"{said.statistics}: {error}, expected two lines of numbers") from error
    if rows.shape != (2, 80):
        raise UserError(f"{said.statistics}: found {rows.shape[0]} lines of {rows.shape[1]} numbers, expected 2 of 80")
    return r9y9_master(tuple(map(float, rows[0])), tuple(map(float, rows[1]))), []
