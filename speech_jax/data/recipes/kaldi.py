"""Recipe for a Kaldi data directory. The output of commands in wav.scp is kept as FLAC, so they run only once."""

from __future__ import annotations

import hashlib
import io
import sys
from dataclasses import dataclass
from pathlib import Path

import soundfile
from tqdm import tqdm

from speech_jax.audio.io import decode
from speech_jax.core.errors import UserError
from speech_jax.core.files import open_atomic
from speech_jax.core.log import log
from speech_jax.data.manifest import write_manifest
from speech_jax.data.recordings import run_pipe
from speech_jax.data.sources.kaldi import read_kaldi


@dataclass(frozen=True)
class Options:
    """Options of the recipe `kaldi`."""

    source: Path
    """The Kaldi data directory."""
    split: str = "train"
    """Name of the manifest."""
    domain: str = ""
    """Domain of all utterances."""
    language: str = ""
    """Language of the texts, such as "de", for the manifests; `evaluate` normalizes by it. Empty takes
    those of utt2lang where it is."""
    allow_pipes: bool = False
    """Run the commands of a wav.scp that end in "|", without a shell. Only for files that you trust."""


def lists(options: Options) -> list[Path]:
    """Return the files of texts that the recipe reads."""
    return [options.source / name for name in ("wav.scp", "text", "segments", "utt2spk", "utt2lang", "utt2dur")]


def prepare(out_dir: Path, options: Options) -> None:
    """Write {split}.jsonl, and audio/*.flac for recordings that are commands."""
    utterances = read_kaldi(options.source, allow_pipes=options.allow_pipes, on_error="skip")
    commands = sorted({u.audio for u in utterances if u.audio.endswith("|")})
    files: dict[str, str] = {}
    for command in tqdm(commands, desc="commands", unit="rec", disable=not sys.stderr.isatty() or not commands):
        path = out_dir / "audio" / f"{hashlib.sha256(command.encode()).hexdigest()[:16]}.flac"
        try:
            if not path.exists():
                _convert(command, path)
            files[command] = str(path)
        except UserError as error:
            log.warning("left out: %s", error)
    if options.language and (others := sum(u.language not in ("", options.language) for u in utterances)):
        log.warning("utt2lang: found %d utterances of another language than --language; its is taken", others)
    utterances = [
        u._replace(
            audio=files.get(u.audio, u.audio), domain=options.domain, language=options.language or u.language
        )
        for u in utterances
        if not u.audio.endswith("|") or u.audio in files
    ]
    if not utterances:
        raise UserError(f"{options.source}: found no recording that can be read, expected at least one")
    write_manifest(out_dir / f"{options.split}.jsonl", utterances)


def _convert(command: str, path: Path) -> None:
    data = run_pipe(command, allow_pipes=True)
    recording = decode(io.BytesIO(data), None, name=command)
    for finding in recording.findings:
        log.warning("%s: %s", command, finding.text)
    if recording.channels > 1:
        log.warning("%s: %d channels are averaged; the command can choose one", command, recording.channels)
    with open_atomic(path, "wb") as file:
        soundfile.write(file, recording.samples, recording.rate, format="FLAC", subtype="PCM_16")
