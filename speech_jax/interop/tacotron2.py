"""Public Tacotron 2 checkpoints, read and written: NVIDIA's (own and DeepLearningExamples'), torchaudio's bundles.

A file holds tensors only. The number of symbols tells which symbol table it uses; the mel settings are those of the
release.
"""

from __future__ import annotations

from pathlib import Path

from speech_jax.artifacts.voice import VoiceParts
from speech_jax.audio.config import AudioConfig
from speech_jax.audio.presets import nvidia_tacotron2, torchaudio_tacotron2
from speech_jax.core.errors import UserError
from speech_jax.interop.config import Mel
from speech_jax.interop.imported import Imported
from speech_jax.interop.tacotron2_names import (
    nvidia_name,
    tacotron2_config,
    tacotron2_params_from_torch,
    tacotron2_params_to_torch,
    torchaudio_name,
)
from speech_jax.interop.tensors import Tensors, read_state_dict, write_torch
from speech_jax.tasks.tacotron2 import Tacotron2TaskConfig
from speech_jax.text.config import FrontEndConfig
from speech_jax.text.frontend import FrontEnd
from speech_jax.text.symbols import TACOTRON2, Symbols

MARK = "decoder.attention_rnn.weight_ih"  # a tensor that no other model has
TORCHAUDIO = Symbols(tuple("_-!'(),.:;? abcdefghijklmnopqrstuvwxyz"))  # 38 symbols of the character bundles
_TRAINING_STATE = ("optimizer", "iteration", "learning_rate", "cuda_rng_state_all", "epoch", "amp", "scheduler")


def is_tacotron2(tensors: Tensors) -> bool:
    """Return True if the tensors are those of a Tacotron 2."""
    return any(name.endswith(MARK) for name in tensors)


def read_tacotron2(path: str | Path, mel: Mel | None = None, tensors: Tensors | None = None) -> Imported:
    """Read a Tacotron 2 from a state dict, bare or under "state_dict", without executing anything in the file.

    Args:
        path: the file.
        mel: mel spectrograms of the model: NVIDIA's, or those of torchaudio's bundles for Griffin-Lim (the same) and
            WaveRNN. None takes NVIDIA's for its 148 symbols and is an error for torchaudio's, whose files do not
            contain it.
        tensors: of the file, if they were read already.

    Raises:
        UserError: the file is damaged, or tensors are missing or left over.
    """
    path = Path(path)
    state_dict = read_state_dict(path) if tensors is None else tensors
    tensors, ignored = {}, {}
    for name, tensor in state_dict.items():
        if name.split(".")[0] in _TRAINING_STATE:
            ignored[name] = "training state, not part of the network"
        else:
            tensors[torchaudio_name(name.removeprefix("state_dict."))] = tensor
    model = tacotron2_config(tensors, str(path))
    symbols, front_end = _front_end(len(tensors["embedding.weight"]), path)
    if mel is None and front_end is not TACOTRON2:
        raise UserError(f"{path}: found a voice of torchaudio without --mel, expected --mel griffinlim or wavernn")
    audio = _audio(mel or "nvidia")
    if audio.num_mels != model.num_mels:
        raise UserError(f"{path}: found {model.num_mels} mel bands, expected {audio.num_mels}")
    params, model_state, unused = tacotron2_params_from_torch(tensors, model, str(path))
    for name in unused:
        if not name.endswith("num_batches_tracked"):
            shape = tuple(tensors[name].shape)
            raise UserError(f"{path}: found tensor {name!r} with shape {shape}, which the network does not have")
        ignored[name] = "an unused counter"
    task = Tacotron2TaskConfig(model=model, audio=audio)
    notes = [
        f"{symbols} symbols; mel spectrograms of {mel or 'nvidia'}, {audio.sample_rate} Hz, hop {audio.hop}",
        "the pre-net's dropout is active in synthesis, as in the public code; it is determined by the seed",
    ]
    reader = FrontEnd(FrontEndConfig(), front_end)
    return Imported(VoiceParts(task, reader, params, model_state), ignored, notes)


def _front_end(count: int, path: Path) -> tuple[int, Symbols]:
    for table in (TACOTRON2, TORCHAUDIO):
        if count == table.vocab_size:
            return count, table
    expected = f"{TACOTRON2.vocab_size} (NVIDIA) or {TORCHAUDIO.vocab_size} (torchaudio's characters)"
    raise UserError(
        f"{path}: found {count} symbols, expected {expected}; torchaudio's phoneme bundles are not supported"
    )


def _audio(mel: Mel) -> AudioConfig:
    return nvidia_tacotron2() if mel == "nvidia" else torchaudio_tacotron2(mel)


def write_tacotron2(out: str | Path, parts: VoiceParts) -> None:
    """Write a checkpoint {"state_dict": …} that NVIDIA's code loads.

    Args:
        out: the file to write.
        parts: the voice.

    Raises:
        UserError: NVIDIA's code does not have this network or these symbols, or the file exists.
    """
    task = parts.task
    if task.model.attention.kind != "location" or task.model.speakers or task.model.style:
        raise UserError("convert: found another attention, speakers or styles, expected NVIDIA's network")
    if task.model.reduction != 1 or (task.model.held == "zoneout" and task.model.held_rate):
        raise UserError(
            f"convert: found reduction {task.model.reduction}, held {task.model.held!r}, expected 1 frame per step and "
            "'dropout': NVIDIA's network has no zoneout, which also changes synthesis"
        )
    if parts.front_end.symbols != TACOTRON2:
        raise UserError("convert: found other symbols than NVIDIA's 148, expected those")
    if Path(out).exists():
        raise UserError(f"{out}: found a file, expected a new path")
    tensors = tacotron2_params_to_torch(parts.params, parts.model_state, task.model)
    write_torch(out, {nvidia_name(name): a for name, a in tensors.items()}, under="state_dict")
