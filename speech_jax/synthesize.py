"""Text in, speech out: `python -m speech_jax.synthesize --checkpoint RUN --text "Good morning." --out morning.wav`."""

from __future__ import annotations

import itertools
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO

from tqdm import tqdm

from speech_jax.audio.config import AudioConfig
from speech_jax.core.command_line import Range, parse
from speech_jax.core.errors import UserError, run_front_door
from speech_jax.core.files import open_atomic, read_lines
from speech_jax.data.speakers import find_speaker
from speech_jax.decoding.config import Cores, DecodeConfig, Dtype
from speech_jax.evaluation.report import escape_markdown, markdown_table
from speech_jax.inference.config import EngineName
from speech_jax.text.normalize import foreign_letters
from speech_jax.text.tags import blank_tags, name_tags

if TYPE_CHECKING:
    from speech_jax.inference.audio_output import Vocoder
    from speech_jax.inference.voice import Piece


@dataclass(frozen=True)
class SynthesizeConfig:
    """Synthesize speech with the checkpoint folders of a voice and, if there is one, a vocoder."""

    checkpoint: str
    """Checkpoint folder of a voice."""
    text: tuple[str, ...] = ()
    """Texts, one recording each; "-" reads one text per line from standard input."""
    file: str = ""
    """Text file, one recording per line."""
    teacher_forced: str = ""
    """Manifest; no text is synthesized. Instead, the voice's teacher-forced mel frames of these recordings are written
    to the folder `--out`, with a manifest to train a vocoder on."""
    resynthesize: str = ""
    """Manifest; no text is synthesized. Instead, its recordings are resynthesized from their own mel frames by the
    vocoder into the folder `--out`, with a manifest of the same ids. `--checkpoint` may then be a vocoder's, too."""
    out: str = "."
    """A sound file (.wav, .flac, .mp3, .ogg or .opus), or a folder for 0001.wav, 0002.wav, …; "-" writes all texts to
    standard output, in their order."""
    format: Literal["wav", "raw"] = "wav"
    """Format of standard output: WAV, or raw 16-bit samples (little-endian, mono, at the voice's rate)."""
    which: Literal["best", "last"] = "best"
    """The run's best or last checkpoint."""
    vocoder: str = "griffin-lim"
    """griffin-lim, or the checkpoint folder of a vocoder with the voice's audio settings."""
    engine: EngineName = "auto"
    """Engine of the vocoder's network. auto: the fastest one that works on this machine. fold: samples 16 segments of
    a text at once."""
    weights: Dtype = "float32"
    """Type of the vocoder's weights; bfloat16 and int8 are faster in the native engine."""
    cores: Cores = 1
    """Processor cores of the native engine. 2 gives the same samples, faster if both cores are idle and slower if one
    of them is busy."""
    temperature: Annotated[float, Range(0.001, 10)] = 1.0
    """Sampling temperature of the vocoder; < 1 gives less noise and less breathiness."""
    iterations: Annotated[int, Range(0, 10_000)] = 60
    """Iterations of Griffin-Lim."""
    tries: Annotated[int, Range(1, 100)] = 3
    """Attempts for a piece of text whose alignment fails, each with other dropout; the best one is kept."""
    stream: bool = False
    """Write the audio chunk by chunk while it is synthesized. A piece then has one try, and Griffin-Lim looks only
    a few frames ahead."""
    chunk_steps: Annotated[int, Range(1, 10_000)] = 32
    """With `--stream`: decoder steps per chunk (sets the latency to the first audio)."""
    unknown: Literal["error", "skip"] | None = None
    """Handling of characters and sounds that the voice does not have. error: the text is not synthesized. skip: warn
    and speak the rest; a sound is replaced by a near one that the voice has. None is the voice's own setting."""
    seed: Annotated[int, Range(-(2**31), 2**32 - 1)] = 0
    """Seed; the same seed and text give the same recording."""
    speaker: str = ""
    """Speaker of a voice of several: a name, or a number from 0. Empty is the first."""
    pause: Annotated[float, Range(0, 60)] = 0.2
    """Seconds of silence between the pieces of a long text, and between texts on standard output."""
    report: str = ""
    """File for a table of all pieces (alignment score, repeats, skips, tries): Markdown, or JSON lines if it ends in
    .jsonl; empty writes none."""
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    """Conditions that end an utterance."""


def main(argv: Sequence[str]) -> int:
    """Synthesize the texts, or resynthesize the recordings, that the flags name.

    Returns:
        Exit code: 0; 2 if a text cannot be synthesized, a piece failed in all its tries, or a recording was left out.
    """
    config = parse(SynthesizeConfig, argv, prog="python -m speech_jax.synthesize")
    # Loaded after the flags are parsed, so that --help does not wait for JAX.
    from speech_jax.artifacts.voice import load_voice_parts
    from speech_jax.core.compile_clock import Stopwatch
    from speech_jax.inference.audio_output import is_sound_file, sound_file, stdout_sound
    from speech_jax.inference.resynthesis import resynthesize
    from speech_jax.inference.teacher_forced import export_mels
    from speech_jax.inference.text_to_speech import silence, stream, synthesize_pieces
    from speech_jax.inference.voice import Voice

    single = config.out != "-" and is_sound_file(config.out)
    if single and (config.teacher_forced or config.resynthesize):
        raise UserError(f"--out: found the sound file {config.out!r}, expected a folder for several recordings")
    if config.teacher_forced:
        return export_mels(config.checkpoint, config.teacher_forced, config.out, config.which)
    if config.resynthesize:
        return resynthesize(*load_vocoder_alone(config), config.resynthesize, config.out)
    texts = read_texts(config, sys.stdin)
    if single and len(texts) > 1:
        raise UserError(f"--out: found {config.out!r} for {len(texts)} texts, expected a folder")
    parts = load_voice_parts(config.checkpoint, config.which)
    if config.unknown:
        parts = parts._replace(front_end=parts.front_end.with_unknown(config.unknown))
    audio = parts.task.audio
    number = find_speaker(config.speaker, parts.speakers, parts.task.model.speakers)
    vocoder = load_chosen_vocoder(config, audio, parts.speakers[number] if parts.speakers else "")
    voice = Voice(parts, config.decode, seed=config.seed)
    options = {"pause": config.pause, "speaker": number}

    def chunks(text: str, source: str) -> Iterator[tuple[Any, list[Piece]]]:
        if config.stream:
            return stream(voice, vocoder, text, chunk_steps=config.chunk_steps, source=source, **options)
        return synthesize_pieces(voice, vocoder, text, tries=config.tries, source=source, **options)

    watch, failed, left_out, tags = Stopwatch(), 0, 0, Counter()
    spoken: list[str] = []
    rows: list[tuple[str, Piece]] = []
    with (
        tqdm(texts, unit="text", disable=None, file=sys.stderr) as progress,
        stdout_sound(audio.sample_rate, config.format, enabled=config.out == "-") as stdout_writer,
    ):
        for number, (source, text) in enumerate(progress, 1):
            path = Path(config.out) if single else Path(config.out) / f"{number:04d}.wav"
            name = f"text {number}" if config.out == "-" else path.name
            try:
                audio_chunks = chunks(text, source)
                first = next(audio_chunks)  # so a text that cannot be read leaves no file
                left_out += len(voice.front_end.prepare(text).unknown)
                tags.update(tag.text for tag in blank_tags(text)[1])
                spoken.append(text)
                with sound_file(path, audio.sample_rate, to=stdout_writer) as write:
                    for wave, pieces in itertools.chain((first,), audio_chunks):
                        watch.add_audio(len(wave) / audio.sample_rate)
                        write(wave)
                        rows += [(name, piece._replace(mel=None, weights=None)) for piece in pieces]
                        for piece in pieces:
                            if piece.score.failure:
                                progress.write(f"{name}: {piece.text[:60]!r}: {piece.score.failure}", file=sys.stderr)
                    if config.out == "-" and number < len(texts):
                        write(silence(config.pause, audio.sample_rate))
            except UserError as error:
                failed += 1
                places = [place for place in (f"text {number}", source) if not str(error).startswith(place)]
                progress.write(": ".join(["error", *dict.fromkeys(places), str(error)]), file=sys.stderr)
    if config.report:
        write_report(config.report, rows)
    watch.print_summary(len(texts) - failed)
    if left_out:
        print(f"left out or replaced: {left_out} unknown characters (named above)", file=sys.stderr)
    if tags:
        print(f"left out: {tags.total()} tags, which are no words: {name_tags(tags)}", file=sys.stderr)
    if voice.front_end.language == "en" and (foreign := foreign_letters(spoken)):
        print(f"warning: {foreign}, but are read by the English rules of the voice", file=sys.stderr)
    failures = sum(bool(piece.score.failure) for _, piece in rows)
    if failed or failures:
        lines = [f"{failed} of {len(texts)} texts could not be synthesized"] if failed else []
        if failures:
            lines.append(f"{failures} of {len(rows)} pieces failed in all their tries; the best try of each is written")
        print(f"error: {'; '.join(lines)}", file=sys.stderr)
    return 2 if failed or failures else 0


def load_chosen_vocoder(config: SynthesizeConfig, audio: AudioConfig, speaker: str) -> Vocoder:
    """Return the vocoder that the flags name, for mel frames with these audio settings."""
    from speech_jax.inference.audio_output import find_vocoder

    return find_vocoder(
        config.vocoder, audio, config.checkpoint, iterations=config.iterations, seed=config.seed, speaker=speaker,
        engine=config.engine, dtype=config.weights, cores=config.cores, temperature=config.temperature,
    )  # fmt: skip


def load_vocoder_alone(config: SynthesizeConfig) -> tuple[Vocoder, AudioConfig]:
    """Return the vocoder for `--resynthesize`, and its audio settings from a checkpoint of a voice or a vocoder."""
    from speech_jax.artifacts.folder import read_model_of
    from speech_jax.training.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(config.checkpoint, config.which)
    audio = read_model_of(checkpoint, "voice", "vocoder", reads=False).task.audio
    return load_chosen_vocoder(config, audio, config.speaker), audio


def read_texts(config: SynthesizeConfig, stdin: TextIO) -> list[tuple[str, str]]:
    """Return (place, text) of the texts that the flags name, in their order. Raises UserError if there are none."""
    texts: list[tuple[str, str]] = []
    for text in config.text:
        if text == "-":
            texts += [(f"standard input:{n}", line.strip()) for n, line in enumerate(stdin, 1) if line.strip()]
        else:
            texts.append((f"text {len(texts) + 1}", text))
    if config.file:
        texts += read_lines(config.file, "a text file")
    if not texts:
        raise UserError("found no text, expected --text or --file")
    return texts


def write_report(path: str, rows: Sequence[tuple[str, Piece]]) -> None:
    """Write every piece with its score, as Markdown or JSON lines."""
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
