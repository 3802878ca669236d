"""Text in, speech out: `python -m speech_jax.synthesize --checkpoint RUN --text "Good morning." --out morning.wav`."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TextIO

import numpy as np
import tyro
from jaxtyping import Float
from tqdm import tqdm

from speech_jax.audio.config import AudioConfig
from speech_jax.core.errors import UserError, run_front_door
from speech_jax.core.files import open_atomic, read_lines
from speech_jax.data.speakers import find_speaker
from speech_jax.decoding.config import Cores, DecodeConfig, Dtype
from speech_jax.evaluation.report import escape_markdown, markdown_table
from speech_jax.inference.config import EngineName

if TYPE_CHECKING:
    from speech_jax.inference.audio_output import Vocoder
    from speech_jax.inference.voice import Piece, Voice


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
    resynthesize: str = ""
    """A manifest. Nothing is spoken: its recordings are made again from their own mel frames by the vocoder, into the
    folder `out` with a manifest of the same ids. `checkpoint` may then be the vocoder's, too."""
    out: str = "."
    """A .wav file, or a folder for 0001.wav and so on; "-" is standard output, all texts one after the other."""
    format: Literal["wav", "raw"] = "wav"
    """What goes to standard output: WAV, or its 16-bit samples alone (little-endian, mono, at the voice's rate)."""
    which: Literal["best", "last"] = "best"
    """The run's best or its last parameters."""
    vocoder: str = "griffin-lim"
    """What makes the waveform: griffin-lim, or the checkpoint folder of a vocoder of the same mel settings."""
    engine: EngineName = "auto"
    """What runs the vocoder's network: auto is the fastest known to work on this machine, fold makes 16 segments
    of a text at once."""
    weights: Dtype = "float32"
    """The vocoder's weights in its engine: bfloat16 and int8 are faster in the native one."""
    cores: Cores = 1
    """Cores that the native engine takes. 2 makes the same sound sooner where both are idle; where one of them has
    other work it takes longer."""
    temperature: float = 1.0
    """Of what the vocoder's network draws: below 1 there is less noise, and less breath."""
    iterations: int = 60
    """Of Griffin-Lim."""
    tries: int = 3
    """How often a piece whose alignment failed is spoken, each time with other randomness; the best is kept."""
    stream: bool = False
    """Sound as soon as there is some, chunk by chunk. What is out cannot be tried again: one try, and Griffin-Lim's
    phases see no further than a few frames ahead."""
    chunk_steps: int = 32
    """With --stream, steps of the decoder a chunk: so many before the first."""
    seed: int = 0
    """The same seed and text make the same recording."""
    speaker: str = ""
    """Whose voice, where the checkpoint has several: a name, or a number from 0; the first if left out."""
    pause: float = 0.2
    """Seconds of silence between the pieces of a long text, and between texts on standard output."""
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
    # Loaded after the flags are parsed, so that --help does not wait for JAX.
    from speech_jax.artifacts.voice import load_voice_parts
    from speech_jax.core.compile_clock import Stopwatch
    from speech_jax.inference.audio_output import stdout_sound, wav_file
    from speech_jax.inference.resynthesis import resynthesize
    from speech_jax.inference.teacher_forced import export_mels
    from speech_jax.inference.voice import Voice

    if config.teacher_forced:
        return export_mels(config.checkpoint, config.teacher_forced, config.out, config.which)
    if config.resynthesize:
        return resynthesize(*vocoder_alone(config), config.resynthesize, config.out)
    if config.tries < 1 or config.pause < 0 or config.chunk_steps < 1 or config.iterations < 0:
        raise UserError(
            f"synthesize: found tries {config.tries}, pause {config.pause}, chunk_steps {config.chunk_steps}, "
            f"iterations {config.iterations}, expected at least 1, 0, 1 and 0"
        )
    texts = read_texts(config, sys.stdin)
    if config.out.endswith(".wav") and len(texts) > 1:
        raise UserError(f"--out: found {config.out!r} for {len(texts)} texts, expected a folder")
    parts = load_voice_parts(config.checkpoint, config.which)
    audio = parts.task.audio
    who = find_speaker(config.speaker, parts.speakers, parts.task.model.speakers)
    vocoder = vocoder_of(config, audio, parts.speakers[who] if parts.speakers else "")
    voice = Voice(parts, config.decode, seed=config.seed)
    watch, failed, rows = Stopwatch(), 0, []
    with (
        tqdm(texts, unit="text", disable=None, file=sys.stderr) as progress,
        stdout_sound(audio.sample_rate, config.format, enabled=config.out == "-") as speaker,
    ):
        for number, text in enumerate(progress, 1):
            name = config.out if config.out == "-" or config.out.endswith(".wav") else f"{number:04d}.wav"
            path = Path(config.out) if name == config.out else Path(config.out) / name
            name = f"text {number}" if config.out == "-" else path.name
            try:
                said = spoken(voice, vocoder, text, config)
                first = next(said)  # what cannot be spoken at all leaves no file behind
                with wav_file(path, audio.sample_rate, to=speaker) as write:
                    for wave, done in itertools.chain((first,), said):
                        watch.add_audio(len(wave) / audio.sample_rate)
                        write(wave)
                        rows += [(name, piece) for piece in done]
                        for piece in done:
                            if piece.score.failure:
                                progress.write(f"{name}: {piece.text[:60]!r}: {piece.score.failure}", file=sys.stderr)
                    if config.out == "-" and number < len(texts):
                        write(silence(config, audio.sample_rate))
            except UserError as error:
                failed += 1
                progress.write(f"error: text {number}: {error}", file=sys.stderr)
    if config.report:
        write_report(config.report, rows)
    watch.print_summary(len(texts) - failed)
    unsure = sum(bool(piece.score.failure) for _, piece in rows)
    if failed or unsure:
        missing = f"{failed} of {len(texts)} texts could not be spoken"
        print(f"error: {missing}; {unsure} of {len(rows)} pieces failed in all their tries", file=sys.stderr)
    return 2 if failed or unsure else 0


def vocoder_of(config: SynthesizeConfig, audio: AudioConfig, speaker: str) -> Vocoder:
    """What makes the sound of frames with these mel settings."""
    from speech_jax.inference.audio_output import find_vocoder

    return find_vocoder(
        config.vocoder, audio, config.checkpoint, iterations=config.iterations, seed=config.seed, speaker=speaker,
        engine=config.engine, dtype=config.weights, cores=config.cores, temperature=config.temperature,
    )  # fmt: skip


def vocoder_alone(config: SynthesizeConfig) -> tuple[Vocoder, AudioConfig]:
    """The vocoder and the mel settings of a run that may be a voice or a vocoder itself."""
    from speech_jax.artifacts.folder import read_model_of
    from speech_jax.training.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(config.checkpoint, config.which)
    audio = read_model_of(checkpoint, "voice", "vocoder", reads=False).task.audio
    return vocoder_of(config, audio, config.speaker), audio


def read_texts(config: SynthesizeConfig, stdin: TextIO) -> list[str]:
    """The texts that the flags name, in their order. Raises UserError where there are none."""
    texts: list[str] = []
    for text in config.text:
        texts += [line.strip() for line in stdin if line.strip()] if text == "-" else [text]
    if config.file:
        texts += [line for _, line in read_lines(config.file, "a text file")]
    if not texts:
        raise UserError("found no text, expected --text or --file")
    return texts


# ---- Speaking


def spoken(
    voice: Voice, vocoder: Vocoder, text: str, config: SynthesizeConfig
) -> Iterator[tuple[Float[np.ndarray, " time"], list[Piece]]]:
    """The sound of a text, all of it or, with --stream, as it is made; with each part the pieces that end in it. Raises
    UserError where the voice cannot read the text."""
    from speech_jax.inference.voice import spoken_pieces

    if not config.stream:
        said = say(voice, vocoder, text, config)
        yield said.audio, said.pieces
        return
    speaker = find_speaker(config.speaker, voice.speakers, voice.task.model.speakers)
    for number, piece in enumerate(spoken_pieces(voice.front_end, text)):
        if number:
            yield silence(config, voice.task.audio.sample_rate), []
        done: list[Piece] = []
        for wave in vocoder.stream(_frames(voice, piece, config.chunk_steps, speaker, done)):
            yield wave, []
        yield np.zeros(0, np.float32), done


def _frames(voice: Voice, text: str, steps: int, speaker: int, done: list[Piece]) -> Iterator[np.ndarray]:
    """The chunks of frames of a piece of text, which goes to `done` when it has ended."""
    for mel, piece in voice.stream(text, chunk_steps=steps, speaker=speaker):
        done += [piece] if piece is not None else []
        yield mel


def say(voice: Voice, vocoder: Vocoder, text: str, config: SynthesizeConfig) -> Recording:
    """One text, in pieces where it is long. Raises UserError where the voice cannot read it."""
    from speech_jax.inference.voice import spoken_pieces

    speaker = find_speaker(config.speaker, voice.speakers, voice.task.model.speakers)
    said = voice.say(spoken_pieces(voice.front_end, text), tries=config.tries, speaker=speaker)
    pause = silence(config, voice.task.audio.sample_rate)
    waves = [wave for piece in said for wave in (vocoder.wave(piece.mel), pause)]
    return Recording(text, np.concatenate(waves[:-1]), said)


def silence(config: SynthesizeConfig, rate: int) -> Float[np.ndarray, " time"]:
    """The pause between two pieces."""
    return np.zeros(int(config.pause * rate), np.float32)


# ---- What came of it


def write_report(path: str, rows: Sequence[tuple[str, Piece]]) -> None:
    """Every piece with its score."""
    with open_atomic(path) as file:
        if path.endswith(".jsonl"):
            for name, piece in rows:
                entry = {"recording": name, "text": piece.text, "tries": piece.tries, **piece.score._asdict()}
                file.write(json.dumps(entry | {"failure": piece.score.failure}, ensure_ascii=False) + "\n")
            return
        header = ("recording", "text", "focus", "coverage", "skips", "repeats", "ended", "tries", "verdict")
        file.write(markdown_table(header, [
            (name, escape_markdown(p.text[:60]), f"{p.score.focus:.2f}", f"{p.score.coverage:.2f}", str(p.score.skips),
             str(p.score.repeats), p.score.ended, str(p.tries), p.score.failure or "ok")
            for name, p in rows
        ]) + "\n")  # fmt: skip


if __name__ == "__main__":
    run_front_door(main)
