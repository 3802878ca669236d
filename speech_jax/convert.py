"""Other people's checkpoints into ours, and ours into theirs: `python -m speech_jax.convert`.

In: NeMo's .nemo, Hugging Face's folders of Parakeet-CTC, wav2vec 2.0 and Wav2Vec2-Conformer, state dicts with
torchaudio's Conformer, a Tacotron 2 or a WaveNet vocoder. Out: .nemo, Parakeet-CTC and NVIDIA's Tacotron 2. What a
source is, is seen from it (`_read`).
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from speech_jax.core.errors import UserError, run_front_door
from speech_jax.interop.config import Mel, TorchaudioConfig, WaveNetImport

if TYPE_CHECKING:
    from speech_jax.interop.imported import Imported


@dataclass(frozen=True)
class ConvertConfig:
    """Public checkpoints in: the result is an ordinary checkpoint folder. With --to, one of ours goes out."""

    source: tyro.conf.Positional[str]
    """A .nemo file; a folder of Hugging Face's (Parakeet-CTC, wav2vec 2.0 or Wav2Vec2-Conformer with a CTC head); a
    state dict with torchaudio's Conformer, of NVIDIA's or torchaudio's Tacotron 2, or of r9y9's or nv-wavenet's
    WaveNet. With --to, one of our checkpoint folders."""
    out: str
    """The folder to write; with --to nemo the .nemo file, with --to tacotron2 the .pt file."""
    to: Literal["speech_jax", "nemo", "parakeet", "tacotron2"] = "speech_jax"
    """Whose checkpoint to write."""
    front_end: Literal["auto", "1", "2"] = "auto"
    """The generation of NeMo's features that a .nemo model was trained with: 1 before NeMo 2.4, 2 since. The file does
    not say; auto goes by the version of NeMo that wrote it."""
    lower_case: bool = False
    """For wav2vec 2.0: hear small letters where the vocabulary has capitals."""
    torchaudio: Annotated[TorchaudioConfig, tyro.conf.arg(name="")] = TorchaudioConfig()
    """What a state dict with torchaudio's Conformer does not say."""
    mel: Mel | None = None
    """Whose mel spectrograms a Tacotron 2 makes: nvidia's (the default for its 148 symbols), or those of torchaudio's
    bundles for griffinlim or wavernn, whose files do not say."""
    wavenet: WaveNetImport = WaveNetImport()
    """What a state dict with a WaveNet does not say."""
    which: str = "best"
    """With --to, which checkpoint of ours: best, last, or a step."""


def main(argv: Sequence[str]) -> int:
    """The front door; returns the exit code."""
    config = tyro.cli(ConvertConfig, prog="python -m speech_jax.convert", args=list(argv))
    began = time.monotonic()
    if config.to == "speech_jax":
        found = _read(config)
        # Loaded after the flags are parsed, so that --help does not wait for JAX.
        from speech_jax.interop.imported import write_checkpoint

        count = write_checkpoint(found, config.out, config.source)
        for line in describe(found):
            print(line, file=sys.stderr)
        print(f"{config.out}: {count:,} parameters in {time.monotonic() - began:.1f} s", file=sys.stderr)
        return 0
    _write(config)
    print(f"{config.out}: written in {time.monotonic() - began:.1f} s", file=sys.stderr)
    return 0


def describe(found: Imported) -> list[str]:
    """What the user is told: the network, the notes, and every tensor that was not taken, by reason."""
    from speech_jax.artifacts.recognizer import RecognizerParts

    model: Any = found.parts.task.model
    lines = [f"{type(model).__name__.removesuffix('Config')}"]
    if isinstance(found.parts, RecognizerParts):
        tokenizer = found.parts.tokenizer
        lines[0] += f": {model.layers} layers of {model.width}, {tokenizer.vocab_size} classes with the blank "
        lines[0] += f"({tokenizer.kind})"
    lines += found.notes
    return lines + [f"{count} tensors not taken: {why}" for why, count in Counter(found.ignored.values()).items()]


def _read(config: ConvertConfig) -> Imported:
    from speech_jax.interop.nemo import read_nemo
    from speech_jax.interop.parakeet import read_json, read_parakeet
    from speech_jax.interop.tacotron2 import is_tacotron2, read_tacotron2
    from speech_jax.interop.tensors import read_state_dict
    from speech_jax.interop.torchaudio import is_state_dict, read_torchaudio
    from speech_jax.interop.wav2vec2 import PREFIXES, read_wav2vec2
    from speech_jax.interop.wavenet import is_wavenet, read_wavenet

    source = Path(config.source)
    if source.is_dir():
        kind = read_json(source / "config.json").get("model_type")
        if kind == "parakeet_ctc":
            return read_parakeet(source)
        if kind in PREFIXES:
            return read_wav2vec2(source, config.lower_case)
        known = ", ".join(("parakeet_ctc", *PREFIXES))
        raise UserError(f"{source / 'config.json'}: found model_type {kind!r}, expected one of {known}")
    if is_state_dict(source):
        tensors = read_state_dict(source)
        if is_tacotron2(tensors):
            return read_tacotron2(source, config.mel, tensors)
        if is_wavenet(tensors):
            return read_wavenet(source, config.wavenet, tensors)
        return read_torchaudio(source, config.torchaudio, tensors)
    return read_nemo(source, None if config.front_end == "auto" else int(config.front_end))


def _write(config: ConvertConfig) -> None:
    from speech_jax.artifacts.recognizer import load_recognizer_parts
    from speech_jax.artifacts.voice import load_voice_parts
    from speech_jax.interop.nemo import write_nemo
    from speech_jax.interop.parakeet import write_parakeet
    from speech_jax.interop.tacotron2 import write_tacotron2

    which: Any = int(config.which) if config.which.isdecimal() else config.which
    if config.to == "tacotron2":
        return write_tacotron2(config.out, load_voice_parts(config.source, which))
    parts = load_recognizer_parts(config.source, which)
    write = {"nemo": write_nemo, "parakeet": write_parakeet}[config.to]
    write(config.out, *parts)


if __name__ == "__main__":
    run_front_door(main)
