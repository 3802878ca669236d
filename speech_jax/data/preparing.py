"""Steps of `prepare` after the recipe: verify every recording and write shards. Both resume where they stopped."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import soundfile
from tqdm import tqdm

from speech_jax.audio.config import TrimConfig
from speech_jax.audio.findings import KINDS, Finding, signal_findings
from speech_jax.audio.io import decode, is_reference, probe
from speech_jax.audio.trim import Cut, sound_bounds
from speech_jax.core.config_dict import to_dict
from speech_jax.core.errors import UserError
from speech_jax.core.files import open_atomic
from speech_jax.core.log import log
from speech_jax.data import shards
from speech_jax.data.manifest import read_manifest, write_manifest
from speech_jax.data.recordings import decode_recording
from speech_jax.data.utterances import Utterance, Utterances
from speech_jax.text.tags import blank_tags

SHARDED = ".sharded.jsonl"
TEXT_KINDS = {
    "empty text": "training leaves it out",
    "tags": "they mark sounds, such as [laughter], and are no words: normalization leaves them out",
}
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
        findings: what is wrong with it although it can be read.
    """

    seconds: float
    problem: str
    start: float = 0.0
    head: float = 0.0
    tail: float = 0.0
    findings: tuple[Finding, ...] = ()


class Verified(NamedTuple):
    """Result of `verify`.

    Attributes:
        left_out: what is wrong with each row that this or an earlier call left out.
        cuts: what was trimmed off the others.
        findings: (kind, "MANIFEST: ID: text") of rows that are kept although something is wrong with them.
    """

    left_out: list[str]
    cuts: list[Cut]
    findings: list[tuple[str, str]]


def verify(manifest: Path, sample_rate: int, threads: int, trim: TrimConfig) -> Verified:
    """Decode every recording of a manifest, leave out unreadable ones, and write measured lengths.

    A segment that ends shortly after its recording ends with it. The same pass trims silence at both ends of the rows
    and notes recordings that are silent, clipped, of a lower rate and so on (audio/findings.py). Results are written to
    a file next to the manifest as they come, so that a second call does not decode the same recordings again.

    Args:
        manifest: the manifest, which is rewritten.
        sample_rate: Hz at which recordings are decoded.
        threads: number of threads.
        trim: how silence is found.

    Returns:
        What was left out, trimmed and found.

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
                file.write(_line(u.id, note, trims))
                if count % _SAVE_EVERY == 0:
                    file.flush()
    problems = [f"{manifest.name}: {name}: {note.problem}" for name, note in known.items() if note.problem]
    kept = [(_clipped(u, known[u.id]), known[u.id]) for u in utterances if not known[u.id].problem]
    good = [_trimmed(u, note) if trims else u._replace(seconds=note.seconds) for u, note in kept]
    if not good:
        first = f"; the first: {problems[0]}" if problems else ""
        raise UserError(f"{manifest}: found no recording that can be read{first}")
    if Utterances.of(good) != utterances:
        write_manifest(manifest, good)
    cuts = [Cut(u.id, note.seconds, note.head, note.tail) for u, note in kept] if trims else []
    found = [(f.kind, f"{manifest.name}: {u.id}: {f.text}") for u, note in kept for f in note.findings]
    return Verified(problems, cuts, found)


def take_channel(manifest: Path, channel: str, threads: int) -> list[str]:
    """Write one channel of a manifest's recordings as FLAC, at their own rate, and let the rows refer to these files.

    Recordings with one channel stay as they are, and a second call writes nothing again.

    Args:
        manifest: the manifest, which is rewritten.
        channel: "left", "right", or a channel's number from 1.
        threads: number of threads.

    Returns:
        What is wrong with the recordings whose rows are left out.

    Raises:
        UserError: no row is left.
    """
    folder = manifest.parent / f"channel-{channel}"
    utterances = read_manifest(manifest, on_error="skip")
    files = [audio for audio in dict.fromkeys(u.audio for u in utterances) if not is_reference(audio)]
    with ThreadPoolExecutor(threads) as pool:
        results = pool.map(lambda audio: _one_channel(audio, channel, folder), files)
        new = dict(_bar(zip(files, results, strict=True), len(files), manifest, unit="file"))
    problems = {audio: str(error) for audio, error in new.items() if isinstance(error, UserError)}
    rows = [u._replace(audio=str(new.get(u.audio, u.audio))) for u in utterances if u.audio not in problems]
    if not rows:
        raise UserError(f"{manifest}: found no recording with the channel; the first: {next(iter(problems.values()))}")
    write_manifest(manifest, rows)
    return [f"{manifest.name}: {problem}" for problem in problems.values()]


def _one_channel(audio: str, channel: str, folder: Path) -> str | UserError:
    """Return the file of one channel of a recording, the recording if it has one alone, or why it cannot be read."""
    try:
        if probe(audio).channels == 1:
            return audio
        name = f"{Path(audio).stem}-{hashlib.sha256(os.path.realpath(audio).encode()).hexdigest()[:8]}.flac"
        if not (folder / name).exists():
            recording = decode(audio, None, channel=channel)
            folder.mkdir(parents=True, exist_ok=True)
            with open_atomic(folder / name, "wb") as file:
                soundfile.write(file, recording.samples, recording.rate, format="FLAC", subtype="PCM_16")
        return str(folder / name)
    except UserError as error:
        return error


def text_findings(name: str, rows: Utterances) -> list[tuple[str, str]]:
    """Return (kind, "MANIFEST: ID: text") of the rows of a manifest whose texts are empty or hold tags."""
    findings = []
    for row, text in enumerate(rows.texts):
        if not text.strip():
            findings.append(("empty text", f"{name}: {rows.ids[row]}"))
        elif tags := blank_tags(text)[1]:
            findings.append(("tags", f"{name}: {rows.ids[row]}: {' '.join(tag.text for tag in tags)}"))
    return findings


def findings_report(findings: list[tuple[str, str]], shown: int = 3) -> tuple[list[str], dict[str, list[str]]]:
    """Return (a line for each kind of finding, with its number and the first recordings; all recordings by kind)."""
    kinds = KINDS | TEXT_KINDS
    by_kind = {kind: [text for its_kind, text in findings if its_kind == kind] for kind in kinds}
    by_kind = {kind: texts for kind, texts in by_kind.items() if texts}
    lines = []
    for kind, texts in by_kind.items():
        more = f" and {len(texts) - shown} more, see statistics.json" if len(texts) > shown else ""
        lines.append(f"kept, but {kind}: {len(texts)} recordings ({kinds[kind]}): {'; '.join(texts[:shown])}{more}")
    return lines, by_kind


class Before(NamedTuple):
    """A manifest before a recipe runs again.

    Attributes:
        inode: the file, which is another one when it is written again.
        rows: its rows by id.
    """

    inode: int
    rows: dict[str, Utterance]


def rows_before(folder: Path) -> dict[Path, Before]:
    """Return the manifests of a folder."""
    return {
        path: Before(path.stat().st_ino, {u.id: u for u in read_manifest(path, on_error="skip")})
        for path in manifests(folder)
    }


def forget_changed(folder: Path, before: dict[Path, Before]) -> str:
    """Forget what was measured of the rows that a recipe has written otherwise than before.

    A manifest that it has not written again is removed: its part has no rows any more.

    Args:
        folder: the folder of the manifests.
        before: the manifests before, see `rows_before`.

    Returns:
        A line that counts what has changed.
    """
    texts = new = gone = 0
    for path in before.keys() | set(manifests(folder)):
        inode, old = before.get(path, Before(-1, {}))
        if path.stat().st_ino == inode:
            path.unlink()
            path.with_name(path.stem + SHARDED).unlink(missing_ok=True)
        rows = {u.id: u for u in read_manifest(path, on_error="skip")} if path.exists() else {}
        texts += sum(rows[name].text != old[name].text for name in rows.keys() & old.keys())
        new, gone = new + len(rows.keys() - old.keys()), gone + len(old.keys() - rows.keys())
        same = {n for n in rows.keys() & old.keys() if _recorded(rows[n]) == _recorded(old[n])}
        notes = path.with_name(f".{path.stem}.verified")
        known = {name: note for name, note in _notes(notes).items() if name in same}
        with open_atomic(notes) as file:
            file.writelines(_line(name, note, trims=False) for name, note in known.items())
        path.with_name(f".{path.stem}.trimmed").unlink(missing_ok=True)
    return f"{texts} texts have changed, {new} utterances are new, {gone} are gone"


def _recorded(utterance: Utterance) -> tuple:
    return utterance.audio, utterance.start, utterance.end


def _trimmed(utterance: Utterance, note: Note) -> Utterance:
    """Return the row without the silence at its ends, from the note alone, so that trimming twice changes nothing."""
    end = round(note.start + note.seconds - note.tail, 6) if note.tail else utterance.end
    seconds = round(note.seconds - note.head - note.tail, 6)
    return utterance._replace(start=round(note.start + note.head, 6), end=end, seconds=seconds)


def _clipped(utterance: Utterance, note: Note) -> Utterance:
    """Return the row with its recording's end, if its own is after that."""
    if any(finding.kind == "clipped segment" for finding in note.findings):
        return utterance._replace(end=round(utterance.start + note.seconds, 6))
    return utterance


def _line(name: str, note: Note, trims: bool) -> str:
    """Return a line of the file of notes, see `_notes`."""
    fields = [name, *note[: 5 if trims else 2], *([note.findings] if note.findings else [])]
    return json.dumps(fields, ensure_ascii=False) + "\n"


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
    given = {(u.id, u.text, u.speaker, u.domain) for u in utterances}
    return rows if rows and {(u.id, u.text, u.speaker, u.domain) for u in rows} <= given else None


def _read(utterance: Utterance, sample_rate: int):
    try:
        return decode_recording(utterance, sample_rate).samples
    except UserError as error:
        log.warning("left out: %s: %s", utterance.where, error)
        return None


def _measure(utterance: Utterance, sample_rate: int, trim: TrimConfig) -> Note:
    try:
        recording = decode_recording(utterance, sample_rate)
    except UserError as error:
        return Note(0.0, str(error))
    audio = recording.samples
    findings = (*recording.findings, *signal_findings(audio, sample_rate, recording.rate))
    seconds = round(len(audio) / sample_rate, 6)
    start, end = sound_bounds(audio, sample_rate, trim)
    return Note(seconds, "", utterance.start, round(start, 6), round(max(0.0, seconds - end), 6), findings)


def _notes(path: Path) -> dict[str, Note]:
    """Return id -> note of an earlier call, without the settings and without an incomplete last line."""
    known = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                name, seconds, problem, *rest = json.loads(line)
                findings = rest.pop() if rest and isinstance(rest[-1], list) else []
                start, head, tail = map(float, rest or (0, 0, 0))
                found = tuple(Finding(str(kind), str(text)) for kind, text in findings)
                known[str(name)] = Note(float(seconds), str(problem), start, head, tail, found)
            except (ValueError, TypeError):
                continue
    return known


def _bar(items, total: int, manifest: Path, unit: str = "utt") -> Iterator:
    hidden = os.environ.get("TQDM_DISABLE") == "1" or not sys.stderr.isatty()
    return iter(tqdm(items, total=total, desc=manifest.stem, unit=unit, disable=hidden))
