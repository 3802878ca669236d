"""Steps of `prepare` after the recipe: verify every recording and write shards. Both resume where they stopped."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from speech_jax.audio.config import TrimConfig
from speech_jax.audio.trim import Cut, sound_bounds
from speech_jax.core.config_dict import to_dict
from speech_jax.core.errors import UserError
from speech_jax.core.log import log
from speech_jax.data import shards
from speech_jax.data.manifest import read_manifest, write_manifest
from speech_jax.data.recordings import read_recording
from speech_jax.data.utterances import Utterance, Utterances

SHARDED = ".sharded.jsonl"
_SAVE_EVERY = 200  # utterances


def manifests(folder: Path) -> list[Path]:
    """Return the manifests that a recipe wrote, without those of the shards."""
    return sorted(p for p in folder.rglob("*.jsonl") if p.name[0] != "." and not p.name.endswith(SHARDED))


class Note(NamedTuple):
    """Result of decoding a row.

    Attributes:
        seconds: its length.
        problem: what is wrong with it, or "".
        start: with trimming, where the row began in its recording, in seconds.
        head: with trimming, seconds of silence at its start.
        tail: with trimming, seconds of silence at its end.
    """

    seconds: float
    problem: str
    start: float = 0.0
    head: float = 0.0
    tail: float = 0.0


def verify(manifest: Path, sample_rate: int, threads: int, trim: TrimConfig) -> tuple[list[str], list[Cut]]:
    """Decode every recording of a manifest, leave out unreadable ones, and write measured lengths.

    The same pass trims silence at both ends of the rows. Results are written to a file next to the manifest as they
    come, so that a second call does not decode the same recordings again.

    Args:
        manifest: the manifest, which is rewritten.
        sample_rate: Hz at which recordings are decoded.
        threads: number of threads.
        trim: how silence is found.

    Returns:
        (what is wrong with the rows left out by this or an earlier call, what was trimmed off the others).

    Raises:
        UserError: no recording can be read, or an earlier call trimmed with other settings.
    """
    trims = trim.by != "none"
    notes = manifest.with_name(f".{manifest.stem}.{'trimmed' if trims else 'verified'}")
    _check_trimmed(manifest.with_name(f".{manifest.stem}.trimmed"), trim)
    known = _notes(notes)
    utterances = read_manifest(manifest, on_error="skip")
    left = [u for u in utterances if u.id not in known]
    if trims and any(u.audio.startswith("tfds:") for u in left):
        raise UserError(
            f"{manifest}: found examples of tfds, expected recordings that a row can have a part of (--trim)"
        )
    if left:
        with open(notes, "a", encoding="utf-8") as file, ThreadPoolExecutor(threads) as pool:
            if trims and not known:
                file.write(_settings(trim) + "\n")
            results = pool.map(lambda u: _measure(u, sample_rate, trim), left)
            for count, (u, note) in enumerate(_bar(zip(left, results, strict=True), len(left), manifest)):
                known[u.id] = note
                file.write(json.dumps([u.id, *note[: 5 if trims else 2]], ensure_ascii=False) + "\n")
                if count % _SAVE_EVERY == 0:
                    file.flush()
    problems = [f"{manifest.name}: {name}: {note.problem}" for name, note in known.items() if note.problem]
    kept = [(u, known[u.id]) for u in utterances if not known[u.id].problem]
    good = [_trimmed(u, note) if trims else u._replace(seconds=note.seconds) for u, note in kept]
    if not good:
        first = f"; the first: {problems[0]}" if problems else ""
        raise UserError(f"{manifest}: found no recording that can be read{first}")
    if Utterances.of(good) != utterances:
        write_manifest(manifest, good)
    return problems, [Cut(u.id, note.seconds, note.head, note.tail) for u, note in kept] if trims else []


def _trimmed(utterance: Utterance, note: Note) -> Utterance:
    """Return the row without the silence at its ends, from the note alone, so that trimming twice changes nothing."""
    end = round(note.start + note.seconds - note.tail, 6) if note.tail else utterance.end
    seconds = round(note.seconds - note.head - note.tail, 6)
    return utterance._replace(start=round(note.start + note.head, 6), end=end, seconds=seconds)


def _settings(trim: TrimConfig) -> str:
    return json.dumps(to_dict(trim))


def _check_trimmed(notes: Path, trim: TrimConfig) -> None:
    """Raise UserError if an earlier call trimmed the manifest with other settings: its silence is already gone."""
    if notes.exists():
        settings = notes.read_text(encoding="utf-8", errors="replace").split("\n", 1)[0]
        if settings != _settings(trim):
            raise UserError(
                f"{notes}: found rows trimmed with {settings}, expected {_settings(trim)}; take another --out"
            )


def write_shards(manifest: Path, folder: Path, count: int, sample_rate: int) -> Path:
    """Write a manifest's utterances as shards, and a manifest of the shards.

    Existing shards are kept. Recordings that cannot be read are named in a warning and left out.

    Args:
        manifest: the manifest.
        folder: the folder of the shards.
        count: number of shards.
        sample_rate: Hz of the written audio.

    Returns:
        Path of the shards' manifest.

    Raises:
        UserError: the shards cannot be written.
    """
    name = "-".join(manifest.relative_to(folder.parent).with_suffix("").parts)
    utterances = read_manifest(manifest, on_error="skip")
    count = min(count, len(utterances))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made: {error.strerror}") from error
    result: list[Utterance] = []
    for index, mine in enumerate(_bar(shards.deal(utterances, count), count, manifest, unit="shard")):
        path = folder / shards.shard_name(name, index, count)
        existing = _complete(path, mine)
        result += existing or shards.write_shard(path, mine, lambda u: _read(u, sample_rate), sample_rate)
    sharded = manifest.with_name(manifest.stem + SHARDED)
    write_manifest(sharded, result)
    return sharded


def _complete(path: Path, utterances: list[Utterance]) -> list[Utterance] | None:
    """Return the utterances of an existing shard if they are among `utterances`, else None."""
    if not path.exists():
        return None
    try:
        rows = shards.list_shard(path)
    except UserError as error:
        log.warning("written again: %s", error)
        return None
    return rows if rows and {u.id for u in rows} <= {u.id for u in utterances} else None


def _read(utterance: Utterance, sample_rate: int):
    try:
        return read_recording(utterance, sample_rate)
    except UserError as error:
        log.warning("left out: %s: %s", utterance.where, error)
        return None


def _measure(utterance: Utterance, sample_rate: int, trim: TrimConfig) -> Note:
    try:
        audio = read_recording(utterance, sample_rate)
    except UserError as error:
        return Note(0.0, str(error))
    seconds = round(len(audio) / sample_rate, 6)
    start, end = sound_bounds(audio, sample_rate, trim)
    return Note(seconds, "", utterance.start, round(start, 6), round(max(0.0, seconds - end), 6))


def _notes(path: Path) -> dict[str, Note]:
    """Return id -> note of an earlier call, without the settings and without an incomplete last line."""
    known = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                name, seconds, problem, *rest = json.loads(line)
                known[str(name)] = Note(float(seconds), str(problem), *map(float, rest))
            except (ValueError, TypeError):
                continue
    return known


def _bar(items, total: int, manifest: Path, unit: str = "utt") -> Iterator:
    hidden = os.environ.get("TQDM_DISABLE") == "1" or not sys.stderr.isatty()
    return iter(tqdm(items, total=total, desc=manifest.stem, unit=unit, disable=hidden))
