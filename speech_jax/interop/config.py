"""Settings of the imports whose files do not hold them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TorchaudioConfig:
    """What a state dict with torchaudio's Conformer does not say. Only for such a file (.pt, .pth, .safetensors)."""

    heads: int = 0
    """Attention heads."""
    head: str = ""
    """Name of the linear layer after the Conformer, whose outputs are the classes: "output_linear"."""
    projection: str = ""
    """Name of the linear layer before the Conformer; empty where the features go in as they are."""
    tokens: str = ""
    """What the classes are: a text file with a character a line ("|" or "<space>" is a space), with or without a line
    for the blank; or a sentencepiece model."""
    blank: int = 0
    """Which class is the blank; -1 is the last."""
    features: str = ""
    """What the network hears: nemo, kaldi, librosa, torch or whisper (`audio.presets`, with as many bands as the
    network has inputs), or a JSON file with fields of AudioConfig."""
    convolution_first: bool = False
    """The model was made with convolution_first=True."""


@dataclass(frozen=True)
class WaveNetImport:
    """What a state dict with a WaveNet does not say."""

    cycles: int = 0
    """How often the dilations 1, 2, 4, … begin anew; 0 takes the public settings for so many layers (24: 4, 30: 3)."""
    statistics: str = ""
    """For r9y9's last version: a text file of two lines, the means and the deviations of its mel frames (mean_ and
    scale_ of its meanvar.joblib, which is a pickle and is not read)."""
    processed: bool = True
    """For r9y9's last version: whether its waveform had the gain of 0.55 and the pre-emphasis of 0.85 of all its full
    recipes; its demonstration recipes have neither."""
