"""Convert checkpoints from and to other toolkits' formats: `python -m speech_jax.convert SOURCE --out DIR`.

In: NeMo's .nemo, Hugging Face's folders of Parakeet-CTC, wav2vec 2.0 and Wav2Vec2-Conformer, state dicts with
torchaudio's Conformer, a Tacotron 2 or a WaveNet vocoder. Out: .nemo, Parakeet-CTC and NVIDIA's Tacotron 2. The
format of a source is detected (`_read`).
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from speech_jax.core.command_line import parse
from speech_jax.core.documents import check_file
from speech_jax.core.errors import UserError, run_front_door
from speech_jax.core.log import escape_controls
from speech_jax.interop.config import Mel, Tacotron2Import, TorchaudioConfig, WaveNetImport

if TYPE_CHECKING:
    from speech_jax.interop.imported import Imported


HUGGING_FACE = ("wav2vec2.", "wav2vec2_conformer.", "ctc_head.")  # prefixes of tensors in the folders that are read


@dataclass(frozen=True)
class ConvertConfig:
    """Convert a public checkpoint into a checkpoint folder or, with `--to`, a checkpoint folder into another format."""

    source: tyro.conf.Positional[str]
    """A .nemo file; a Hugging Face folder (Parakeet-CTC, wav2vec 2.0 or Wav2Vec2-Conformer with a CTC head); or a state
    dict of torchaudio's Conformer, NVIDIA's or torchaudio's Tacotron 2, r9y9's or nv-wavenet's WaveNet. The format is
    detected. With `--to`: a checkpoint folder of speech_jax."""
    out: str
    """Folder to write; with `--to nemo` a .nemo file, with `--to tacotron2` a .pt file."""
    to: Literal["speech_jax", "nemo", "parakeet", "tacotron2"] = "speech_jax"
    """Format to write."""
    front_end: Literal["auto", "1", "2"] = "auto"
    """Version of NeMo's feature extraction that a .nemo model was trained with: 1 before NeMo 2.4, 2 since then. auto
    takes it from the version of NeMo that wrote the file."""
    lower_case: bool = False
    """For wav2vec 2.0: lower-case the vocabulary."""
    torchaudio: Annotated[TorchaudioConfig, tyro.conf.arg(name="")] = TorchaudioConfig()
    """Settings that a state dict of torchaudio's Conformer does not contain."""
    mel: Mel | None = None
    """Mel settings of a Tacotron 2: nvidia's (the default with its 148 symbols), or those of torchaudio's bundles for
    griffinlim or wavernn, which their files do not contain."""
    tacotron2: Annotated[Tacotron2Import, tyro.conf.arg(name="")] = Tacotron2Import()
    """Settings that a state dict of a Tacotron 2 does not contain."""
    wavenet: WaveNetImport = WaveNetImport()
    """Settings that a state dict of a WaveNet does not contain."""
    which: str = "best"
    """With `--to`: checkpoint to convert, best, last or a step."""


def main(argv: Sequence[str]) -> int:
    """Convert a checkpoint and print what was not converted. Returns exit code 0."""
    config = parse(ConvertConfig, argv, prog="python -m speech_jax.convert")
    began = time.monotonic()
    if config.to == "speech_jax":
        imported = _read(config)
        # Loaded after the flags are parsed, so that --help does not wait for JAX.
        from speech_jax.interop.imported import write_checkpoint

        count = write_checkpoint(imported, config.out, config.source)
        for line in describe(imported):
            print(escape_controls(line, lines=False), file=sys.stderr)
        print(f"{config.out}: {count:,} parameters in {time.monotonic() - began:.1f} s", file=sys.stderr)
        return 0
    _write(config)
    print(f"{config.out}: written, read back and compared in {time.monotonic() - began:.1f} s", file=sys.stderr)
    return 0


def describe(imported: Imported) -> list[str]:
    """Return lines on the network, the reader's notes, and the number of unused tensors by reason."""
    from speech_jax.artifacts.recognizer import RecognizerParts

    model: Any = imported.parts.task.model
    lines = [f"{type(model).__name__.removesuffix('Config')}"]
    if isinstance(imported.parts, RecognizerParts):
        tokenizer = imported.parts.tokenizer
        lines[0] += f": {model.layers} layers of {model.width}, {tokenizer.vocab_size} classes with the blank "
        lines[0] += f"({tokenizer.kind})"
    lines += imported.notes
    return lines + [f"{count} tensors not used: {why}" for why, count in Counter(imported.ignored.values()).items()]


def _read(config: ConvertConfig) -> Imported:
    from speech_jax.interop.nemo import read_nemo
    from speech_jax.interop.parakeet import read_json, read_parakeet
    from speech_jax.interop.tacotron2 import is_tacotron2, read_tacotron2
    from speech_jax.interop.tensors import read_state_dict
    from speech_jax.interop.torchaudio import is_state_dict, read_torchaudio
    from speech_jax.interop.wav2vec2 import PREFIXES, read_wav2vec2
    from speech_jax.interop.wavenet import is_wavenet, read_wavenet

    source = Path(config.source)
    if (source / "checkpoints").is_dir():
        raise UserError(f"{source}: found a checkpoint folder of speech_jax, expected another toolkit's, or --to too")
    if source.is_dir():
        kind = read_json(source / "config.json").get("model_type")
        if kind == "parakeet_ctc":
            return read_parakeet(source)
        if isinstance(kind, str) and kind in PREFIXES:
            return read_wav2vec2(source, config.lower_case)
        types = ", ".join(("parakeet_ctc", *PREFIXES))
        raise UserError(f"{source / 'config.json'}: found model_type {kind!r}, expected one of {types}")
    check_file(source, "a checkpoint")
    if is_state_dict(source):
        tensors = read_state_dict(source)
        if is_tacotron2(tensors):
            return read_tacotron2(source, config.mel, tensors, config.tacotron2)
        if is_wavenet(tensors):
            return read_wavenet(source, config.wavenet, tensors)
        if any(name.startswith(HUGGING_FACE) for name in tensors):
            raise UserError(f"{source}: found the weights of a Hugging Face model, expected its folder")
        return read_torchaudio(source, config.torchaudio, tensors)
    return read_nemo(source, None if config.front_end == "auto" else int(config.front_end))


def _write(config: ConvertConfig) -> None:
    from speech_jax.artifacts.recognizer import load_recognizer_parts
    from speech_jax.artifacts.voice import load_voice_parts
    from speech_jax.interop.check import check_export
    from speech_jax.interop.nemo import read_nemo, write_nemo
    from speech_jax.interop.parakeet import read_parakeet, write_parakeet
    from speech_jax.interop.tacotron2 import read_tacotron2, write_tacotron2

    out = Path(config.out)
    empty = config.to == "parakeet" and out.is_dir() and not any(out.iterdir())
    if os.path.lexists(out) and not empty:
        raise UserError(f"--out: found {out}, which exists, expected a new path")
    which: Any = int(config.which) if config.which.isdecimal() else config.which
    try:
        if config.to == "tacotron2":
            voice = load_voice_parts(config.source, which)
            write_tacotron2(out, voice)
            check_export(out, voice, read_tacotron2(out).parts)
            return
        parts = load_recognizer_parts(config.source, which)
        write, read = {"nemo": (write_nemo, read_nemo), "parakeet": (write_parakeet, read_parakeet)}[config.to]
        write(out, parts.task, parts.tokenizer, parts.params, parts.model_state)
        check_export(out, parts, read(out).parts)
    except BaseException:  # nothing half-written or different is left
        shutil.rmtree(out) if out.is_dir() else out.unlink(missing_ok=True)
        if empty:
            out.mkdir()
        raise


if __name__ == "__main__":
    run_front_door(main)
