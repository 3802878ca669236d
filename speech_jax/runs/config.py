"""Settings of compiling a run for chips that are not at hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class CompileConfig:
    """Compile the programs of a config for TPU chips, without such chips.

    Flags that are not named here go to the config, for example `--mesh.fsdp 16`: `python -m speech_jax.train --help`
    lists them.
    """

    config: str
    """Config of the run: a file, or a name such as pods/conformer_large."""
    topology: str = "v5e:4x4"
    """Chip and shape of a slice: v5e:4x4, v5e:16x16, v4:4x4x4, v5p:4x4x4, v6e:16x16."""
    step: Literal["train", "use"] = "train"
    """train: the training step. use: inference, with the rows spread over the chips and the parameters on each:
    recognition by the best path, synthesis of texts of LABELS symbols, or a chunk of a waveform in ROWS folds."""
    slices: int = 1
    """Slices that train together over the data center's network."""
    bucket: tuple[str, ...] = ()
    """Shapes of the global batch, each as ROWSxSECONDSxLABELS (256x16x200). Empty takes those of the config's data,
    which must then be readable."""
    vocab_size: int = 128
    """Vocabulary size of a recognizer, used with `--bucket`: no text is read then."""
    longest: bool = False
    """Compile only the largest shape of the batch instead of every bucket."""
    out: str = ""
    """JSON file for all figures; empty writes none."""
