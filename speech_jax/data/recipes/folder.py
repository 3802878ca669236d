"""Recipe for a folder of recordings with a CSV or TSV file: train, dev and test manifests."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from speech_jax.core.errors import UserError
from speech_jax.core.log import log
from speech_jax.data.manifest import write_manifest
from speech_jax.data.sources.folder import read_folder
from speech_jax.data.utterances import Utterance


@dataclass(frozen=True)
class Options:
    """Options of the recipe `folder`."""

    source: Path
    """The CSV (or TSV) file with a header line, or the folder that holds the only one."""
    split: str = "train"
    """Name of the split that gets everything that is not in dev or test."""
    dev: float = 0.0
    """Fraction of the speakers that goes to dev; of the utterances where no speakers are named."""
    test: float = 0.0
    """Fraction that goes to test, like `dev`."""
    domain: str = ""
    """Domain of the utterances that name none."""
    language: str = ""
    """Language of the texts that name none, such as "de", for the manifests; `evaluate` normalizes by it."""


def prepare(out_dir: Path, options: Options) -> None:
    """Write {split}.jsonl, and dev.jsonl and test.jsonl if their fractions are above 0."""
    utterances = read_folder(options.source, on_error="skip")
    if options.domain:
        utterances = utterances.with_domain(options.domain)
    if options.language:
        utterances = utterances.with_language(options.language)
    write_splits(out_dir, utterances, options.split, options.dev, options.test)


def write_splits(out_dir: Path, utterances: Iterable[Utterance], split: str, dev: float, test: float) -> None:
    """Write the utterances of each split to a manifest, split by a checksum of the speaker, or else of the id.

    No speaker is in two splits, and utterances stay in their split when the set grows.

    Args:
        out_dir: the folder of the manifests.
        utterances: the whole set.
        split: name of the split that gets everything that is not in dev or test.
        dev: fraction that goes to dev.
        test: fraction that goes to test.

    Raises:
        UserError: the fractions are impossible, or nothing is left for `split`.
    """
    if dev < 0 or test < 0 or dev + test >= 1:
        raise UserError(f"found fractions dev {dev} and test {test}, expected numbers from 0 with a sum below 1")
    parts: dict[str, list[Utterance]] = {split: []}
    for u in utterances:
        place = zlib.crc32((u.speaker or u.id).encode()) / 2**32
        name = "test" if place < test else "dev" if place < test + dev else split
        parts.setdefault(name, []).append(u)
    if not parts[split]:
        raise UserError(f"{out_dir}: found nothing left for {split!r} after dev {dev}, test {test}: too few speakers")
    for name, fraction in (("dev", dev), ("test", test)):
        if fraction and name not in parts:
            log.warning("%s: no %s.jsonl: the fraction %g holds no speaker or id of so few", out_dir, name, fraction)
    for name, rows in parts.items():
        write_manifest(out_dir / f"{name}.jsonl", rows)
