"""Recipe for a folder of recordings with a CSV or TSV file: train, dev and test manifests."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from speech_jax.core.command_line import Range
from speech_jax.core.errors import UserError
from speech_jax.core.log import log
from speech_jax.data.manifest import write_manifest
from speech_jax.data.recipes.parquet import parquet_files, read_parquet
from speech_jax.data.sources.folder import parse_columns, read_folder, table_of
from speech_jax.data.sources.lhotse import recordings_of
from speech_jax.data.utterances import Utterance, Utterances

_PARTS = {"train", "dev", "valid", "validation", "test"}


@dataclass(frozen=True)
class Options:
    """Options of the recipe `folder`."""

    source: Path
    """The CSV (or TSV) file with a header line, or the folder that holds the only one; or a manifest of NeMo, a
    metadata.jsonl or Parquet file of Hugging Face, or cuts or supervisions of lhotse."""
    columns: str = ""
    """Columns of a CSV file that count where several have the same meaning, such as `text=sentence,speaker=reader`; a
    column may have any name then."""
    split: str = "train"
    """Name of the split that gets everything that is not in dev or test."""
    dev: Annotated[float, Range(0, 1)] = 0.0
    """Fraction of the speakers that goes to dev; of the utterances where no speakers are named."""
    test: Annotated[float, Range(0, 1)] = 0.0
    """Fraction that goes to test, like `dev`."""
    domain: str = ""
    """Domain of the utterances that name none."""
    language: str = ""
    """Language of the texts that name none, such as "de", for the manifests; `evaluate` normalizes by it."""
    speaker: str = ""
    """Speaker of the utterances that name none, for a voice. They are split by utterance all the same."""


def lists(options: Options) -> list[Path]:
    """Return the files of texts that the recipe reads."""
    if files := parquet_files(options.source):
        return files
    source = table_of(options.source)
    return [source, *filter(None, [recordings_of(source)])]


def prepare(out_dir: Path, options: Options) -> None:
    """Write {split}.jsonl, and dev.jsonl and test.jsonl if their fractions are above 0."""
    columns = parse_columns(options.columns)
    if files := parquet_files(options.source):
        utterances = read_parquet(files, out_dir, columns)
    else:
        utterances = read_folder(options.source, columns=columns, on_error="skip")
    _warn_of_splits(options.source, utterances)
    if options.domain:
        utterances = utterances.with_domain(options.domain)
    if options.language:
        utterances = utterances.with_language(options.language)
    write_splits(out_dir, utterances, options.split, options.dev, options.test, options.speaker)


def _warn_of_splits(source: Path, utterances: Utterances) -> None:
    """Log the folders of a list's recordings that are named as parts of a set: all of them go into one."""
    folder = source if source.is_dir() else source.parent
    names = (os.path.relpath(name, folder).split(os.sep)[0].lower() for name in utterances.audio.folders.used() if name)
    parts = sorted(set(names) & _PARTS)
    if len(parts) > 1:
        log.warning(
            "%s: the recordings lie in folders named %s, but all rows are split as one set: give a list of each part",
            source, " and ".join(parts),
        )  # fmt: skip


def _warn_of_shared(out_dir: Path, parts: Mapping[str, Sequence[Utterance]]) -> None:
    """Log how many recordings have rows in several parts, which then are no measure of what was not learned."""
    places: dict[str, set[str]] = {}
    for name, rows in parts.items():
        for row in rows:
            places.setdefault(row.audio, set()).add(name)
    shared = [audio for audio, names in places.items() if len(names) > 1]
    if shared:
        log.warning(
            "%s: %d recordings have rows in several of %s (a speaker's rows are kept in one); the first: %s",
            out_dir, len(shared), ", ".join(sorted(parts)), shared[0],
        )  # fmt: skip


def write_splits(
    out_dir: Path, utterances: Iterable[Utterance], split: str, dev: float, test: float, speaker: str = ""
) -> None:
    """Write the utterances of each split to a manifest, split by a checksum of the speaker, or else of the id.

    No speaker is in two splits, and utterances stay in their split when the set grows.

    Args:
        out_dir: the folder of the manifests.
        utterances: the whole set.
        split: name of the split that gets everything that is not in dev or test.
        dev: fraction that goes to dev.
        test: fraction that goes to test.
        speaker: name for the utterances that have none; it does not decide their split.

    Raises:
        UserError: the fractions are impossible, or nothing is left for `split`.
    """
    if dev < 0 or test < 0 or dev + test >= 1:
        raise UserError(f"found fractions dev {dev} and test {test}, expected numbers from 0 with a sum below 1")
    parts: dict[str, list[Utterance]] = {split: []}
    for u in utterances:
        place = zlib.crc32((u.speaker or u.id).encode()) / 2**32
        name = "test" if place < test else "dev" if place < test + dev else split
        parts.setdefault(name, []).append(u._replace(speaker=u.speaker or speaker))
    if not parts[split]:
        raise UserError(f"{out_dir}: found nothing left for {split!r} after dev {dev}, test {test}: too few speakers")
    _warn_of_shared(out_dir, parts)
    for name, fraction in (("dev", dev), ("test", test)):
        if fraction and name not in parts:
            log.warning("%s: no %s.jsonl: the fraction %g holds no speaker or id of so few", out_dir, name, fraction)
    for name, rows in parts.items():
        write_manifest(out_dir / f"{name}.jsonl", rows)
