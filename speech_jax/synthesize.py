"""Text in, speech out: `python -m speech_jax.synthesize --checkpoint RUN --text "Good morning." --out morning.wav`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, TextIO

import numpy as np
import soundfile
import tyro
from jaxtyping import Float
from tqdm import tqdm

from speech_jax.audio.config import AudioConfig
from speech_jax.audio.griffin_lim import mel_to_audio
from speech_jax.data.files import lines, writing
from speech_jax.decoding.tacotron2 import DecodeConfig
from speech_jax.errors import UserError, run_front_door
from speech_jax.evaluation.report import plain, text_table
from speech_jax.teacher_forced import export_mels
from speech_jax.voice import Piece, Voice, load_voice_parts, pieces

FRAMES_MULTIPLE = 128  # spectrograms are padded to multiples of this, so that few programs are compiled


@dataclass(frozen=True)
class SynthesizeConfig:
    """Speaks text with a voice's checkpoint folder alone."""

    checkpoint: str
    """A run's folder."""
    text: tuple[str, ...] = ()
    """Texts, each becomes a recording; "-" reads one a line from standard input."""
    file: str = ""
    """A text file: each line becomes a recording."""
    teacher_forced: str = ""
    """A manifest. Nothing is spoken: its recordings' frames are told to the voice, and what it makes of them is written
    to the folder `out`, with a manifest that a vocoder can be trained on."""
    out: str = "."
    """A .wav file, or a folder for 0001.wav and so on."""
    which: Literal["best", "last"] = "best"
    """The run's best or its last parameters."""
    vocoder: Literal["griffin-lim"] = "griffin-lim"
    """What makes the waveform."""
    iterations: int = 60
    """Of Griffin-Lim."""
    tries: int = 3
    """How often a piece whose alignment failed is spoken, each time with other randomness; the best is kept."""
    seed: int = 0
    """The same seed and text make the same recording."""
    speaker: int = 0
    """Which voice, where the checkpoint has several."""
    pause: float = 0.2
    """Seconds of silence between the pieces of a long text."""
    report: str = ""
    """A file for a table of every piece: alignment score, repeats, skips, tries; Markdown, or JSON lines in .jsonl."""
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    """When an utterance ends."""


class Recording(NamedTuple):
    """A text as a waveform, with its pieces."""

    text: str
    audio: Float[np.ndarray, " time"]
    pieces: list[Piece]


def main(argv: Sequence[str]) -> int:
    """Flags in, recordings out; 2 where a text could not be spoken, or a piece failed in all its tries."""
    config = tyro.cli(SynthesizeConfig, args=list(argv), prog="python -m speech_jax.synthesize")
    if config.teacher_forced:
        return export_mels(config.checkpoint, config.teacher_forced, config.out, config.which)
    if config.tries < 1 or config.pause < 0:
        raise UserError(f"synthesize: found tries {config.tries}, pause {config.pause}, expected at least 1 and 0")
    texts = read_texts(config, sys.stdin)
    one_file = config.out.endswith(".wav")
    if one_file and len(texts) > 1:
        raise UserError(f"--out: found {config.out!r} for {len(texts)} texts, expected a folder")
    parts = load_voice_parts(config.checkpoint, config.which)
    speakers = parts.task.model.speakers
    if not 0 <= config.speaker < max(speakers, 1):
        raise UserError(f"--speaker: found {config.speaker}, expected 0 to {max(speakers, 1) - 1}")
    voice = Voice(parts, config.decode, seed=config.seed)
    began, seconds, failed, rows = time.perf_counter(), 0.0, 0, []
    with tqdm(texts, unit="text", disable=None, file=sys.stderr) as progress:
        for number, text in enumerate(progress, 1):
            try:
                said = say(voice, text, config)
            except UserError as error:
                failed += 1
                progress.write(f"error: text {number}: {error}", file=sys.stderr)
                continue
            path = Path(config.out) if one_file else Path(config.out) / f"{number:04d}.wav"
            write_wav(path, said.audio, parts.task.audio)
            seconds += len(said.audio) / parts.task.audio.sample_rate
            rows += [(path.name, piece) for piece in said.pieces]
            for piece in said.pieces:
                if piece.score.failure:
                    progress.write(f"{path.name}: {piece.text[:60]!r}: {piece.score.failure}", file=sys.stderr)
    taken = time.perf_counter() - began
    if config.report:
        write_report(config.report, rows)
    if seconds:
        print(f"{len(texts) - failed} recordings, {seconds:.1f} s of audio in {taken:.1f} s, real-time factor "
              f"{taken / seconds:.3f}, compiling included", file=sys.stderr)  # fmt: skip
    unsure = sum(bool(piece.score.failure) for _, piece in rows)
    if failed or unsure:
        spoken = f"{failed} of {len(texts)} texts could not be spoken"
        print(f"error: {spoken}; {unsure} of {len(rows)} pieces failed in all their tries", file=sys.stderr)
    return 2 if failed or unsure else 0


def read_texts(config: SynthesizeConfig, stdin: TextIO) -> list[str]:
    """The texts that the flags name, in their order. Raises UserError where there are none."""
    texts: list[str] = []
    for text in config.text:
        texts += [line.strip() for line in stdin if line.strip()] if text == "-" else [text]
    if config.file:
        texts += [line for _, line in lines(config.file, "a text file")]
    if not texts:
        raise UserError("found no text, expected --text or --file")
    return texts


def say(voice: Voice, text: str, config: SynthesizeConfig) -> Recording:
    """One text, in pieces where it is long. Raises UserError where the voice cannot read it."""
    parts = pieces(text)
    if not parts:
        raise UserError(f"found {text[:40]!r}, expected something to speak")
    said = voice.say(parts, tries=config.tries, speaker=config.speaker)
    audio = voice.task.audio
    silence = np.zeros(int(config.pause * audio.sample_rate), np.float32)
    waves = [wave for piece in said for wave in (to_wave(piece.mel, audio, config.iterations), silence)]
    return Recording(text, np.concatenate(waves[:-1]), said)


def to_wave(mel: Float[np.ndarray, "frames mels"], audio: AudioConfig, iterations: int) -> np.ndarray:
    """A waveform by Griffin-Lim, in [-1, 1]."""
    size = -(-max(len(mel), 1) // FRAMES_MULTIPLE) * FRAMES_MULTIPLE
    padded = np.zeros((1, size, mel.shape[1]), np.float32)
    padded[0, : len(mel)] = mel
    wave, lengths = mel_to_audio(padded, np.array([len(mel)]), audio, iterations=iterations)
    return np.clip(np.asarray(wave)[0, : int(lengths[0])], -1.0, 1.0)


def write_wav(path: Path, wave: Float[np.ndarray, " time"], audio: AudioConfig) -> None:
    """16-bit WAV, whole or not at all."""
    with writing(path, "wb") as file:
        soundfile.write(file, wave, audio.sample_rate, format="WAV", subtype="PCM_16")


def write_report(path: str, rows: Sequence[tuple[str, Piece]]) -> None:
    """Every piece with its score."""
    with writing(path) as file:
        if path.endswith(".jsonl"):
            for name, piece in rows:
                entry = {"recording": name, "text": piece.text, "tries": piece.tries, **piece.score._asdict()}
                file.write(json.dumps(entry | {"failure": piece.score.failure}, ensure_ascii=False) + "\n")
            return
        header = ("recording", "text", "focus", "coverage", "skips", "repeats", "ended", "tries", "verdict")
        file.write(text_table(header, [
            (name, plain(p.text[:60]), f"{p.score.focus:.2f}", f"{p.score.coverage:.2f}", str(p.score.skips),
             str(p.score.repeats), p.score.ended, str(p.tries), p.score.failure or "ok")
            for name, p in rows
        ]) + "\n")  # fmt: skip


if __name__ == "__main__":
    run_front_door(main)
