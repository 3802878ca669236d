"""Import of public WaveNet vocoders: r9y9/wavenet_vocoder (last version, released LJSpeech model) and nv-wavenet.

A file holds tensors only. Widths and outputs follow from their shapes; mel settings and the processing of the waveform
are those of the release. r9y9's last version has the statistics of its mel frames in a second file.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from speech_jax.artifacts.vocoder import VocoderParts
from speech_jax.audio.config import AudioConfig
from speech_jax.audio.presets import nvidia_tacotron2, r9y9_master, r9y9_released
from speech_jax.core.documents import read_document, read_json
from speech_jax.core.errors import UserError
from speech_jax.interop.config import WaveNetImport
from speech_jax.interop.imported import Imported
from speech_jax.interop.tensors import Tensors, network_tensors, read_state_dict
from speech_jax.interop.wavenet_names import (
    MARKS,
    R9Y9,
    Layout,
    detect_layout,
    fold_weight_norm,
    wavenet_config,
    wavenet_params_from_torch,
)
from speech_jax.tasks.wavenet import WaveNetTaskConfig

_TITLES = {
    "master": "r9y9's last version",
    "released": "r9y9's released LJSpeech model",
    "nvidia": "nv-wavenet's PyTorch model",
}


def is_wavenet(tensors: Tensors) -> bool:
    """Return True if the tensors are those of a WaveNet in one of the layouts."""
    marks = (*MARKS.values(), R9Y9)
    return any(name in marks or name.endswith(tuple(f".{mark}" for mark in marks)) for name in tensors)


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
    tensors, ignored = network_tensors(state_dict, MARKS.values(), str(path))
    layout = detect_layout(tensors)
    if layout is None:
        kind = "by UpsampleNetwork" if any(".up_layers." in name for name in tensors) else "of another kind, or none"
        raise UserError(
            f"{path}: found a WaveNet of r9y9 with upsampling {kind}, expected "
            "ConvInUpsampleNetwork, as in its public recipes, or the transposed convolutions of its released model"
        )
    tensors = fold_weight_norm(tensors, str(path))
    given = read_settings(settings, layout, path)
    audio, notes = _audio(layout, settings, path)
    _check_audio(given, audio, Path(settings.settings))
    if given.high_pass is not None:
        audio = dataclasses.replace(audio, high_pass=given.high_pass)
    _ask(given, layout, tensors, path)
    config = wavenet_config(tensors, layout, str(path), audio.hop, given.cycles, given.min_log_scale)
    if given.layers not in (None, config.layers):
        raise UserError(f"{settings.settings}: found {given.layers} layers, expected {config.layers}, as in {path}")
    if config.num_mels != audio.num_mels:
        raise UserError(f"{path}: found {config.num_mels} mel bands, expected {audio.num_mels}")
    params, unused = wavenet_params_from_torch(tensors, config, layout, str(path))
    if unused:
        shape = tuple(tensors[unused[0]].shape)
        raise UserError(f"{path}: found tensor {unused[0]!r} with shape {shape}, which the network does not have")
    processed = layout == "master" and (settings.processed if given.processed is None else given.processed)
    speakers = tuple(map(str, range(config.speakers)))
    task = WaveNetTaskConfig(
        model=config,
        audio=audio,
        speakers="data" if speakers else "one",
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
    if speakers:
        notes.append(f"{len(speakers)} speakers, named by their numbers in the file: 0 to {len(speakers) - 1}")
    if layout == "master" and config.output != "mulaw" and given.min_log_scale is None:
        notes.append(f"log_scale_min {config.min_log_scale:g}, the public code's default; --wavenet.settings reads it")
    return Imported(VocoderParts(task, params, speakers), ignored, notes)


class Given(NamedTuple):
    """Settings that no tensor tells, from flags and a file of settings; None or 0 where neither has them.

    Attributes:
        cycles: number of dilation cycles.
        output: mixture of "logistics" or "gaussians".
        upsample: interpolation of the upsampling network.
        layers: number of layers, to be compared with the tensors.
        min_log_scale: lower bound of log scales.
        processed: the waveform had gain and pre-emphasis.
        high_pass: cut-off of the high-pass before the features, in hertz.
        audio: audio settings, to be compared with those of the release.
    """

    cycles: int = 0
    output: str | None = None
    upsample: str | None = None
    layers: int | None = None
    min_log_scale: float | None = None
    processed: bool | None = None
    high_pass: float | None = None
    audio: dict[str, Any] = {}


def read_settings(settings: WaveNetImport, layout: Layout, path: Path) -> Given:
    """Return what the flags and the file `settings.settings` say. Raises UserError where they disagree."""
    if settings.cycles < 0:
        raise UserError(f"--wavenet.cycles: found {settings.cycles}, expected a number above 0")
    given = Given(settings.cycles, settings.output, settings.upsample)
    if not settings.settings:
        return given
    file = Path(settings.settings)
    values = read_json(file)
    read = _nvidia_settings(values, file) if layout == "nvidia" else _r9y9_settings(values, file, layout)
    for name in ("cycles", "output", "upsample"):
        flag, value = getattr(given, name), getattr(read, name)
        if flag and value and flag != value:
            raise UserError(f"--wavenet.{name}: found {flag}, expected {value}, as in {file}, or no such flag")
        read = read._replace(**{name: value or flag})
    return read


def _number(values: dict[str, Any], name: str, file: Path, default: Any = None) -> int:
    value = values.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 31:
        raise UserError(f"{file}: found {name} = {value!r}, expected a whole number above 0")
    return value


def _nvidia_settings(values: dict[str, Any], file: Path) -> Given:
    network, data = values.get("wavenet_config"), values.get("data_config")
    if not isinstance(network, dict) or not isinstance(data, dict):
        raise UserError(f"{file}: found no wavenet_config and data_config, expected nv-wavenet's config.json")
    layers = _number(network, "n_layers", file)
    cycle = _number(network, "max_dilation", file).bit_length()
    if layers % cycle:
        raise UserError(f"{file}: found {layers} layers in dilation cycles of {cycle}, expected whole cycles")
    names = {"sampling_rate": "sample_rate", "hop_length": "hop", "filter_length": "n_fft", "win_length": "window"}
    return Given(layers // cycle, layers=layers, audio={ours: data.get(theirs) for theirs, ours in names.items()})


def _r9y9_settings(values: dict[str, Any], file: Path, layout: Layout) -> Given:
    layers, stacks = _number(values, "layers", file), _number(values, "stacks", file)
    params = values.get("upsample_params", {})
    scale_min, kind = values.get("log_scale_min"), values.get("input_type", "raw")
    supported = {"upsample_net": "ConvInUpsampleNetwork", "upsample_activation": "none"}
    found = {**values, **(params if isinstance(params, dict) else {"upsample_params": params})}
    for name, value in supported.items():
        if found.get(name, value) != value:
            raise UserError(f"{file}: found {name} = {found[name]!r}, expected {value!r}")
    if kind not in ("raw", "mulaw-quantize"):
        raise UserError(f"{file}: found input_type = {kind!r}, expected 'raw' or 'mulaw-quantize'")
    if scale_min is not None and not (isinstance(scale_min, int | float) and -100 < scale_min < 0):
        raise UserError(f"{file}: found log_scale_min = {scale_min!r}, expected a number below 0")
    processing = (values.get("preprocess", ""), values.get("global_gain_scale", 1.0))
    if processing not in (("", 1.0), ("preemphasis", 0.55)):
        raise UserError(
            f"{file}: found preprocess and global_gain_scale {processing}, expected 'preemphasis' and 0.55, or neither"
        )
    distributions = {"Logistic": "logistics", "Normal": "gaussians"}
    distribution = values.get("output_distribution", "Logistic")
    if distribution not in distributions:
        raise UserError(f"{file}: found output_distribution = {distribution!r}, expected Logistic or Normal")
    names = {"sample_rate": "sample_rate", "hop_size": "hop", "fft_size": "n_fft", "num_mels": "num_mels",
             "fmin": "fmin", "fmax": "fmax", "win_length": "window"}  # fmt: skip
    cutoff = values.get("highpass_cutoff", 0)  # versions of the public code without it have no high-pass
    if not isinstance(cutoff, int | float):
        raise UserError(f"{file}: found highpass_cutoff = {cutoff!r}, expected a number")
    return Given(
        stacks, distributions[distribution], found.get("mode", "nearest"), layers, scale_min,
        processing == ("preemphasis", 0.55), None if layout == "released" else float(cutoff),
        {ours: values.get(theirs) for theirs, ours in names.items()},
    )  # fmt: skip


def _check_audio(given: Given, audio: AudioConfig, file: Path) -> None:
    for name, value in given.audio.items():
        if value is not None and value != getattr(audio, name):
            raise UserError(
                f"{file}: found {name} = {value!r}, expected {getattr(audio, name):g}: the features of the release are "
                "the only ones that are supported"
            )


def _ask(given: Given, layout: Layout, tensors: Tensors, path: Path) -> None:
    """Raise one error for all settings that neither a tensor nor the user tells, or for one that is not supported."""
    missing = [] if given.cycles else ["--wavenet.cycles"]
    last = tensors.get("last_conv_layers.3.weight")
    outputs = 2 if last is None or last.ndim == 0 else len(last)  # without it, the next check complains
    inputs = tensors.get("first_conv.weight")
    scalar = inputs is not None and inputs.ndim == 3 and inputs.shape[1] == 1
    if layout == "master":
        if scalar and outputs != 2:
            missing += [] if given.output else ["--wavenet.output logistics"]
            if given.output == "gaussians":
                raise UserError(
                    f"{path}: found a mixture of {outputs // 3} Gaussians (output_distribution Normal), expected one, "
                    "logistics or µ-law classes"
                )
        if scalar and outputs == 2 and given.output == "logistics":
            raise UserError(f"{path}: found 2 outputs, which are a Gaussian's, expected no logistics")
        missing += [] if given.upsample else ["--wavenet.upsample nearest"]
        if given.upsample not in (None, "nearest"):
            raise UserError(f"{path}: found upsampling by {given.upsample!r}, expected nearest, the only one supported")
    if missing:
        raise UserError(
            f"{path}: found {_TITLES[layout]}, expected {' and '.join(missing)} too, if it was trained so, or "
            f"--wavenet.settings FILE (its {'config.json' if layout == 'nvidia' else 'hparams.json'}): its tensors do "
            "not tell"
        )


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
        text = read_document(Path(settings.statistics), "two lines of numbers", 1 << 20).decode()
        rows = np.loadtxt(text.splitlines(), ndmin=2)
        if not np.isfinite(rows).all():
            raise ValueError("found NaN or infinity")
    except ValueError as error:
        raise UserError(f"{settings.statistics}: {error}, expected two lines of numbers") from error
    if rows.shape != (2, 80):
        raise UserError(
            f"{settings.statistics}: found {rows.shape[0]} lines of {rows.shape[1]} numbers, expected 2 of 80"
        )
    return r9y9_master(tuple(map(float, rows[0])), tuple(map(float, rows[1]))), []
