"""Source: synthetic speech, the folder of the recipe `synthetic`, which is created if it is missing."""

from __future__ import annotations

from pathlib import Path

from speech_jax.core.errors import UserError
from speech_jax.data.manifest import read_manifest
from speech_jax.data.utterances import Utterances


def read_synthetic(folder: str | Path, split: str) -> Utterances:
    """Read `folder`/`split`.jsonl. If it is missing, the recipe runs with its default options first."""
    manifest = Path(folder) / f"{split}.jsonl"
    if not manifest.exists():
        from speech_jax.data.recipes import synthetic  # the synthesizer is an extra

        synthetic.prepare(Path(folder), synthetic.Options())
    if not manifest.exists():
        splits = ", ".join(sorted(str(p.relative_to(folder))[: -len(".jsonl")] for p in Path(folder).rglob("*.jsonl")))
        raise UserError(f"{folder}: found no split {split!r}, expected one of {splits}")
    return read_manifest(manifest)
