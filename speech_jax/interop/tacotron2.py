"""Public Tacotron 2 checkpoints, read and written: NVIDIA's (own and DeepLearningExamples'), torchaudio's bundles.

A file holds tensors only. The number of symbols tells which symbol table it uses, unless a file lists others; the mel
settings are those of the release.
"""

from __future__ import annotations

from pathlib import Path

from speech_jax.artifacts.voice import VoiceParts
from speech_jax.audio.config import AudioConfig
from speech_jax.audio.presets import nvidia_tacotron2, torchaudio_tacotron2
from speech_jax.core.documents import read_document
from speech_jax.core.errors import UserError
from speech_jax.interop.config import Mel, Tacotron2Import
from speech_jax.interop.imported import Imported
from speech_jax.interop.tacotron2_names import (
    nvidia_name,
    tacotron2_config,
    tacotron2_params_from_torch,
    tacotron2_params_to_torch,
    torchaudio_name,
)
from speech_jax.interop.tensors import Tensors, network_tensors, read_state_dict, write_torch
from speech_jax.tasks.tacotron2 import Tacotron2TaskConfig
from speech_jax.text.config import FrontEndConfig
from speech_jax.text.frontend import FrontEnd
from speech_jax.text.symbols import PHONE_MARK, TACOTRON2, Symbols

_MAX_SYMBOLS = 1 << 20  # bytes of a file of symbols
_PRIVATE = 0xE000  # from here on, characters without a meaning
_CONTROLS = frozenset(chr(i) for i in (*range(32), *range(127, 160)))
MARK = "decoder.attention_rnn.weight_ih"  # a tensor that no other model has
TORCHAUDIO = Symbols(tuple("_-!'(),.:;? abcdefghijklmnopqrstuvwxyz"))  # 38 symbols of the character bundles


def is_tacotron2(tensors: Tensors) -> bool:
    """Return True if the tensors are those of a Tacotron 2."""
    return any(name.endswith(MARK) for name in tensors)


def read_tacotron2(
    path: str | Path,
    mel: Mel | None = None,
    tensors: Tensors | None = None,
    settings: Tacotron2Import | None = None,
) -> Imported:
    """Read a Tacotron 2 from a state dict, bare or under "state_dict", without executing anything in the file.

    Args:
        path: the file.
        mel: mel spectrograms of the model: NVIDIA's, or those of torchaudio's bundles for Griffin-Lim (the same) and
            WaveRNN. None takes NVIDIA's for its 148 symbols and is an error for torchaudio's, whose files do not
            contain it.
        tensors: of the file, if they were read already.
        settings: the symbols, where they are neither NVIDIA's nor torchaudio's.

    Raises:
        UserError: the file is damaged, or tensors are missing or left over.
    """
    path, settings = Path(path), settings or Tacotron2Import()
    state_dict = read_state_dict(path) if tensors is None else tensors
    network, ignored = network_tensors(state_dict, [MARK], str(path))
    tensors = {torchaudio_name(name): tensor for name, tensor in network.items()}
    model = tacotron2_config(tensors, str(path))
    symbols = len(tensors["embedding.weight"])
    reader, symbol_notes = _front_end(symbols, settings, path)
    if mel is None and reader.symbols is TORCHAUDIO:
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
        *symbol_notes,
    ]
    return Imported(VoiceParts(task, reader, params, model_state), ignored, notes)


def _front_end(count: int, settings: Tacotron2Import, path: Path) -> tuple[FrontEnd, list[str]]:
    if settings.symbols:
        symbols, notes = read_symbols(Path(settings.symbols), count)
        letters = symbols.characters() >= set("abcdefghijklmnopqrstuvwxyz")
        language = settings.language or ("en" if letters else "")
        if not language:
            raise UserError(f"--symbols: found {settings.symbols} without the letters a to z, expected --language too")
        if not settings.language:
            notes.append("texts are read as English; --language names another language")
        config = FrontEndConfig(language=language, units="tacotron2" if language == "en" else "graphemes")
        return FrontEnd(config, symbols), notes
    if settings.language not in ("", "en"):
        raise UserError(f"--language: found {settings.language!r}, expected --symbols too, or en")
    for table in (TACOTRON2, TORCHAUDIO):
        if count == table.vocab_size:
            return FrontEnd(FrontEndConfig(), table), []
    expected = f"{TACOTRON2.vocab_size} (NVIDIA) or {TORCHAUDIO.vocab_size} (torchaudio's characters)"
    raise UserError(
        f"{path}: found {count} symbols, expected {expected}, or --symbols FILE with one symbol per line; torchaudio's "
        "phoneme bundles are not supported"
    )


def read_symbols(path: Path, count: int) -> tuple[Symbols, list[str]]:
    """Read a symbol table: a text file with a symbol per line in the order of their ids, the padding first.

    Args:
        path: the file. A symbol is a character ("<space>", or a space alone, for the space), or a phoneme as
            "@AA1".
        count: number of symbols of the network.

    Returns:
        The table, and notes. Of a symbol that is there twice, the last is used, as in the public code.

    Raises:
        UserError: the file has another number of symbols, or one that is neither a character nor a phoneme.
    """
    try:
        text = read_document(path, "a file of symbols", _MAX_SYMBOLS).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: found {error}, expected a symbol per line in UTF-8") from error
    lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    if len(lines) != count:
        raise UserError(f"{path}: found {len(lines)} lines, expected {count}, one per symbol of the network")
    names = [" " if line == "<space>" else line for line in lines]
    for number, name in enumerate(names[1:], 2):
        phoneme = name.startswith(PHONE_MARK) and len(name) > 1 and not any(c.isspace() for c in name)
        if not phoneme and (len(name) != 1 or name in _CONTROLS):
            raise UserError(
                f"{path}:{number}: found {name!r}, expected a character, <space>, or a phoneme such as @AA1"
            )
    if len(names[0]) == 1 and names[0].isalnum():
        raise UserError(f"{path}:1: found {names[0]!r}, expected the padding, such as _")
    names[0] = names[0] if len(names[0]) == 1 and names[0] not in names[1:] else chr(_PRIVATE)
    last, notes = {name: i for i, name in enumerate(names)}, []
    for i, name in enumerate(names):
        if last[name] != i:
            names[i] = chr(_PRIVATE + 1 + i)  # no text has it
            notes.append(f"symbol {name!r} is at {i} and {last[name]}; the last is used, as in the public code")
    return Symbols(tuple(names)), notes


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
