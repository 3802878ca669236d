"""What `prepare` does after the recipe: checks every recording, writes shards. Both go on where they were stopped."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from speech_jax.data import shards
from speech_jax.data.manifest import Utterance, read_manifest, write_manifest
from speech_jax.data.recordings import read_recording
from speech_jax.errors import UserError

log = logging.getLogger("speech_jax")

SHARDED = ".sharded.jsonl"
_SAVE_EVERY = 200  # utterances


def manifests(folder: Path) -> list[Path]:
    """The manifests that a recipe wrote, without those of the shards."""
    found = folder.rglob("*.jsonl")
    return sorted(p for p in found if p.name[0] != "." and not p.name.endswith(SHARDED))


def verify(manifest: Path, sample_rate: int, threads: int) -> list[str]:
    """Decodes every recording of a manifest; unreadable ones are named and left out, lengths become measured ones.

    Returns what is wrong with those left out, now or by an earlier call. What was decoded is noted in a file beside
    the manifest as it goes, so that a second call does not decode it again.
    """
    notes = manifest.with_name(f".{manifest.stem}.verified")
    known = _notes(notes)
    utterances = read_manifest(manifest, on_error="skip")
    left = [u for u in utterances if u.id not in known]
    if left:
        with open(notes, "a", encoding="utf-8") as file, ThreadPoolExecutor(threads) as pool:
            results = pool.map(lambda u: _measure(u, sample_rate), left)
            for count, (u, (seconds, problem)) in enumerate(_bar(zip(left, results, strict=True), len(left), manifest)):
                known[u.id] = (seconds, problem)
                file.write(json.dumps([u.id, seconds, problem], ensure_ascii=False) + "\n")
                if count % _SAVE_EVERY == 0:
                    file.flush()
    problems = [f"{manifest.name}: {name}: {problem}" for name, (_, problem) in known.items() if problem]
    good = [u._replace(seconds=known[u.id][0]) for u in utterances if not known[u.id][1]]
    if not good:
        first = f"; the first: {problems[0]}" if problems else ""
        raise UserError(f"{manifest}: found no recording that can be read{first}")
    if good != utterances:
        write_manifest(manifest, good)
    return problems


def write_shards(manifest: Path, folder: Path, count: int, sample_rate: int) -> Path:
    """Writes a manifest's utterances as `count` shards in `folder` and a manifest of the shards, whose path it returns.

    Shards that are there are kept. Recordings that cannot be read are named and left out.
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
        there = _complete(path, mine)
        result += there or shards.write_shard(path, mine, lambda u: _read(u, sample_rate), sample_rate)
    sharded = manifest.with_name(manifest.stem + SHARDED)
    write_manifest(sharded, result)
    return sharded


def _complete(path: Path, utterances: list[Utterance]) -> list[Utterance] | None:
    """The utterances of a shard that is there, if they are of these."""
    if not path.exists():
        return None
    try:
        found = shards.list_shard(path)
    except UserError as error:
        log.warning("made again: %s", error)
        return None
    return found if found and {u.id for u in found} <= {u.id for u in utterances} else None


def _read(utterance: Utterance, sample_rate: int):
    try:
        return read_recording(utterance, sample_rate)
    except UserError as error:
        log.warning("left out: %s: %s", utterance.where, error)
        return None


def _measure(utterance: Utterance, sample_rate: int) -> tuple[float, str]:
    try:
        return round(len(read_recording(utterance, sample_rate)) / sample_rate, 6), ""
    except UserError as error:
        return 0.0, str(error)


def _notes(path: Path) -> dict[str, tuple[float, str]]:
    """id -> (seconds, problem) of an earlier call; a line that was cut off by its end is left out."""
    known = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                name, seconds, problem = json.loads(line)
                known[str(name)] = (float(seconds), str(problem))
            except (ValueError, TypeError):
                continue
    return known


def _bar(items, total: int, manifest: Path, unit: str = "utt") -> Iterator:
    hidden = os.environ.get("TQDM_DISABLE") == "1" or not sys.stderr.isatty()
    return iter(tqdm(items, total=total, desc=manifest.stem, unit=unit, disable=hidden))
