"""A folder of recordings with a CSV or TSV → train, dev and test manifests."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from speech_jax.core.errors import UserError
from speech_jax.data.manifest import write_manifest
from speech_jax.data.sources.folder import read_folder
from speech_jax.data.utterances import Utterance


@dataclass(frozen=True)
class Options:
    source: Path
    """The CSV (or TSV) file with a header line, or the folder that holds the only one."""
    split: str = "train"
    """Name of the split that takes what dev and test leave."""
    dev: float = 0.0
    """Share of the speakers (of the utterances, where no speakers are named) that goes to dev."""
    test: float = 0.0
    """The same for test."""
    domain: str = ""
    """Written into every utterance that does not name its own."""


def prepare(out_dir: Path, options: Options) -> None:
    """Writes {split}.jsonl, and dev.jsonl, test.jsonl where they have a share."""
    utterances = read_folder(options.source, on_error="skip")
    if options.domain:
        utterances = [u if u.domain else u._replace(domain=options.domain) for u in utterances]
    write_splits(out_dir, utterances, options.split, options.dev, options.test)


def write_splits(out_dir: Path, utterances: Iterable[Utterance], split: str, dev: float, test: float) -> None:
    """Deals utterances to splits by a checksum of the speaker (or the id): no speaker is in two of them, and a set that
    grows keeps the places of what it had."""
    if dev < 0 or test < 0 or dev + test >= 1:
        raise UserError(f"found shares dev {dev} and test {test}, expected numbers from 0 with a sum below 1")
    parts: dict[str, list[Utterance]] = {split: []}
    for u in utterances:
        place = zlib.crc32((u.speaker or u.id).encode()) / 2**32
        name = "test" if place < test else "dev" if place < test + dev else split
        parts.setdefault(name, []).append(u)
    if not parts[split]:
        raise UserError(f"{out_dir}: found nothing left for {split!r} after dev {dev}, test {test}: too few speakers")
    for name, rows in parts.items():
        write_manifest(out_dir / f"{name}.jsonl", rows)
