"""Files of mel frames that belong to recordings: an acoustic model's output, from which a vocoder is trained.

One safetensors file per recording: "mel" float32 [frames, bands], and in its header the AudioConfig of its features, so
that features of another kind are an error.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Float

from speech_jax.audio.config import AudioConfig, check_same_audio
from speech_jax.audio.mel import check_mel
from speech_jax.core.config_dict import from_dict, to_dict
from speech_jax.core.documents import check_file
from speech_jax.core.errors import UserError
from speech_jax.core.files import open_atomic


def write_mel(path: str | Path, mel: Float[np.ndarray, "frames mels"], config: AudioConfig) -> None:
    """Write one file, whole or not at all.

    Args:
        path: the file.
        mel: float [frames, bands].
        config: settings of the features.
    """
    data = safetensors.numpy.save(
        {"mel": np.ascontiguousarray(mel, np.float32)}, {"audio": json.dumps(to_dict(config), sort_keys=True)}
    )
    with open_atomic(Path(path), "wb") as file:
        file.write(data)


def read_mel(path: str | Path, config: AudioConfig | None = None) -> Float[np.ndarray, "frames mels"]:
    """Read the frames of one file.

    Args:
        path: the file.
        config: settings that its features must have; None accepts any.

    Returns:
        float32 [frames, bands].

    Raises:
        UserError: the file cannot be read, holds numbers that are not finite, or features with other settings.
    """
    check_file(path, "a file that --teacher-forced wrote")
    try:
        with safetensors.safe_open(str(path), framework="numpy") as file:
            mel, header = file.get_tensor("mel"), (file.metadata() or {}).get("audio")
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(
            f"{path}: found no mel frames ({error}), expected a file that --teacher-forced wrote"
        ) from error
    if header is None:
        raise UserError(f"{path}: found no audio settings in its header, expected those of its features")
    try:
        own_config = from_dict(AudioConfig, json.loads(header), "audio")
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: found no audio settings in its header ({error}), expected those of its features"
        ) from error
    if config is not None:
        check_same_audio(own_config, config, str(path), "the vocoder")
    return check_mel(mel, own_config.width, str(path))
