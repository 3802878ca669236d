"""The public Tacotron 2's files, in and out: NVIDIA's (its own and DeepLearningExamples'), and torchaudio's bundles.

A file holds tensors and nothing on symbols or mel spectrograms. The number of symbols says which table it is; the mel
settings are those of the release.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from speech_jax.artifacts.voice import VoiceParts
from speech_jax.audio.config import AudioConfig
from speech_jax.audio.presets import nvidia_tacotron2, torchaudio_tacotron2
from speech_jax.core.errors import UserError
from speech_jax.interop.imported import Imported
from speech_jax.interop.tacotron2_names import config_of, nvidia_name, plain_name, to_ours, to_theirs
from speech_jax.interop.tensors import Tensors, read_state_dict, write_torch
from speech_jax.tasks.tacotron2 import Tacotron2TaskConfig
from speech_jax.text.frontend import FrontEnd, FrontEndConfig
from speech_jax.text.symbols import TACOTRON2, Symbols

MARK = "decoder.attention_rnn.weight_ih"  # a tensor that no other model has
Mel = Literal["nvidia", "griffinlim", "wavernn"]
TORCHAUDIO = Symbols(tuple("_-!'(),.:;? abcdefghijklmnopqrstuvwxyz"))  # of its character bundles: 38
_NO_MODEL = ("optimizer", "iteration", "learning_rate", "cuda_rng_state_all", "epoch", "amp", "scheduler")


def is_tacotron2(tensors: Tensors) -> bool:
    """Whether the tensors of a file are a Tacotron 2's."""
    return any(name.endswith(MARK) for name in tensors)


def read_tacotron2(path: str | Path, mel: Mel | None = None, found: Tensors | None = None) -> Imported:
    """A voice out of a state dict, bare or under "state_dict". Nothing in the file is run.

    mel: whose mel spectrograms it makes: NVIDIA's, or those of torchaudio's bundles for Griffin-Lim (the same) and
    WaveRNN. None takes NVIDIA's for its 148 symbols and is an error for torchaudio's, whose files do not say.
    found: the file's tensors, if they were read already.
    Raises UserError for what is damaged, missing or left over.
    """
    path = Path(path)
    tensors, ignored = {}, {}
    for name, tensor in (read_state_dict(path) if found is None else found).items():
        if name.split(".")[0] in _NO_MODEL:
            ignored[name] = "the training program's, not the network's"
        else:
            tensors[plain_name(name.removeprefix("state_dict."))] = tensor
    model = config_of(tensors, str(path))
    symbols, front_end = _front_end(len(tensors["embedding.weight"]), path)
    if mel is None and front_end is not TACOTRON2:
        raise UserError(f"{path}: found one of torchaudio's voices, expected --mel griffinlim or wavernn to say which")
    audio = _audio(mel or "nvidia")
    if audio.num_mels != model.num_mels:
        raise UserError(f"{path}: found {model.num_mels} mel bands, expected {audio.num_mels}")
    params, model_state, left = to_ours(tensors, model, str(path))
    for name in left:
        if not name.endswith("num_batches_tracked"):
            shape = tuple(tensors[name].shape)
            raise UserError(f"{path}: found tensor {name!r} with shape {shape}, which no part of the model takes")
        ignored[name] = "a counter that nothing reads"
    task = Tacotron2TaskConfig(model=model, audio=audio)
    notes = [
        f"{symbols} symbols; mel spectrograms: {mel or 'nvidia'}'s, {audio.sample_rate} Hz, hop {audio.hop}",
        "the prenet's dropout stays on in synthesis, as in the public code; here it repeats with the seed",
    ]
    reader = FrontEnd(FrontEndConfig(), front_end)
    return Imported(VoiceParts(task, reader, params, model_state), ignored, notes)


def _front_end(count: int, path: Path) -> tuple[int, Symbols]:
    for table in (TACOTRON2, TORCHAUDIO):
        if count == table.vocab_size:
            return count, table
    known = f"{TACOTRON2.vocab_size} (NVIDIA) or {TORCHAUDIO.vocab_size} (torchaudio's characters)"
    raise UserError(f"{path}: found {count} symbols, expected {known}; torchaudio's phonemes are not read")


def _audio(mel: Mel) -> AudioConfig:
    return nvidia_tacotron2() if mel == "nvidia" else torchaudio_tacotron2(mel)


def write_tacotron2(out: str | Path, parts: VoiceParts) -> None:
    """Writes a checkpoint that NVIDIA's code loads: {"state_dict": …}.

    Raises UserError for a network, symbols or mel spectrograms that it does not have.
    """
    task = parts.task
    if task.model.attention.kind != "location" or task.model.speakers or task.model.style:
        raise UserError("convert: found another attention, several voices or styles, expected NVIDIA's network")
    if task.model.reduction != 1 or (task.model.held == "zoneout" and task.model.held_rate):
        raise UserError(
            f"convert: found reduction {task.model.reduction}, held {task.model.held!r}, expected 1 frame a step and "
            "'dropout': NVIDIA's network has no zoneout, which changes what is computed in synthesis too"
        )
    if parts.front_end.symbols != TACOTRON2:
        raise UserError("convert: found other symbols than NVIDIA's 148, expected those")
    if Path(out).exists():
        raise UserError(f"{out}: found a file, expected a new name")
    tensors = to_theirs(parts.params, parts.model_state, task.model)
    write_torch(out, {nvidia_name(name): a for name, a in tensors.items()}, under="state_dict")
