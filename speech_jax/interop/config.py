"""Settings that the imported files themselves do not contain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Mel = Literal["nvidia", "griffinlim", "wavernn"]


@dataclass(frozen=True)
class TorchaudioConfig:
    """Settings of a state dict with torchaudio's Conformer (.pt, .pth, .safetensors) that the file does not contain."""

    heads: int = 0
    """Number of attention heads."""
    head: str = ""
    """Name of the linear layer after the Conformer that outputs the classes, for example output_linear."""
    projection: str = ""
    """Name of the linear layer before the Conformer; empty if the features are its input."""
    tokens: str = ""
    """Vocabulary: a text file with one character per line ("|" or "<space>" for a space), with or without a line for
    the blank; or a sentencepiece model."""
    blank: int = 0
    """Class of the blank; -1 for the last class."""
    features: str = ""
    """Input features: nemo, kaldi, librosa, torch or whisper (`audio.presets`, with as many bands as the network has
    inputs), or a JSON file with fields of AudioConfig."""
    convolution_first: bool = False
    """Set if the model was built with convolution_first=True."""


@dataclass(frozen=True)
class Tacotron2Import:
    """Settings of a state dict with a Tacotron 2 that the file does not contain."""

    symbols: str = ""
    """For a Tacotron 2 with other symbols than NVIDIA's 148 or torchaudio's 38: a text file with one symbol per line in
    the order of their ids, the padding first: a character ("<space>" for the space), or a phoneme such as @AA1."""
    language: str = ""
    """With --symbols: language of the voice's texts. en reads numbers and abbreviations; others are spelled as they
    are. Empty takes en if the symbols contain the letters a to z."""


@dataclass(frozen=True)
class WaveNetImport:
    """Settings of a state dict with a WaveNet that the file does not contain."""

    cycles: int = 0
    """Number of cycles of the dilations 1, 2, 4, … ("stacks" of r9y9's hparams.json; nv-wavenet's n_layers /
    (log2(max_dilation) + 1)). r9y9's public recipes have 24 layers in 4, or 30 in 3."""
    statistics: str = ""
    """For r9y9's last version: a text file with two lines, mean and standard deviation per mel band (mean_ and scale_
    of its meanvar.joblib, which is a pickle and is not read)."""
    processed: bool = True
    """For r9y9's last version: the model was trained on waveforms with gain 0.55 and pre-emphasis 0.85, as in its full
    recipes; the demonstration recipes have neither."""
    output: Literal["logistics", "gaussians"] | None = None
    """For r9y9's last version with a multiple of 3 outputs: output_distribution Logistic or Normal. A mixture of
    Gaussians is not supported."""
    upsample: Literal["nearest", "linear", "bilinear", "bicubic", "area"] | None = None
    """For r9y9's last version: mode of upsample_params, nearest unless hparams.json names another. The others are not
    supported."""
    settings: str = ""
    """The settings that the model was trained with: r9y9's hparams.json or nv-wavenet's config.json. Whatever is in it
    need not be given by flags."""
