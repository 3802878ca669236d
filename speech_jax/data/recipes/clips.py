"""Steps that the recipes share: write recordings as FLAC files, and write splits without test sentences in training."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from jaxtyping import Float
from tqdm import tqdm

from speech_jax.audio.io import read_audio
from speech_jax.core.errors import UserError
from speech_jax.core.files import open_atomic
from speech_jax.core.log import log
from speech_jax.data.manifest import read_manifest, write_manifest
from speech_jax.data.utterances import Utterance


class Clip(NamedTuple):
    """One recording of a package.

    Attributes:
        id: its name.
        source: a file, or the bytes of one.
        text: the transcript.
        speaker: the speaker's name, or "".
        domain: the domain's name, or "".
        language: language of the transcript such as "de", or "".
    """

    id: str
    source: Path | bytes
    text: str
    speaker: str = ""
    domain: str = ""
    language: str = ""


def letters_only(text: str) -> str:
    """Return the lower-case letters and digits of a text, so that two spellings of one sentence compare equal."""
    return "".join(c for c in text.casefold() if c.isalnum())


def write_flac(path: Path, audio: Float[np.ndarray, "time"], sample_rate: int) -> None:
    """Write a 16-bit FLAC file, whole or not at all."""
    with open_atomic(path, "wb") as file:
        soundfile.write(file, audio, sample_rate, format="FLAC", subtype="PCM_16")


def write_clips(
    clips: Sequence[Clip], out_dir: Path, sample_rate: int, *, shortest: float = 0.2, longest: float = 60.0
) -> list[Utterance]:
    """Decode each clip to out_dir/audio/ID.flac.

    An existing file is not decoded again. Clips that cannot be read are named in a warning and left out.

    Args:
        clips: the recordings.
        out_dir: the folder of the set.
        sample_rate: Hz of the written files.
        shortest: shorter clips, in seconds, are left out and counted.
        longest: clips of this many seconds or more are left out and counted.

    Returns:
        The utterances, in the order of the clips.

    Raises:
        UserError: no clip is left, or an existing file has another sample rate.
    """
    folder = out_dir / "audio"

    def convert(clip: Clip) -> Utterance | None:
        path = folder / f"{clip.id}.flac"
        if not path.exists():
            try:
                source = io.BytesIO(clip.source) if isinstance(clip.source, bytes) else clip.source
                audio = read_audio(source, sample_rate, name=clip.id if isinstance(clip.source, bytes) else "")
            except UserError as error:
                log.warning("left out: %s", error)
                return None
            write_flac(path, audio, sample_rate)
        info = soundfile.info(path)
        if info.samplerate != sample_rate:
            raise UserError(
                f"{path}: found audio of {info.samplerate} Hz from an earlier run, expected {sample_rate}; "
                "choose another folder"
            )
        return Utterance(
            id=clip.id,
            audio=str(path),
            text=clip.text,
            speaker=clip.speaker,
            domain=clip.domain,
            language=clip.language,
            seconds=info.frames / info.samplerate,
        )

    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:  # decoder and resampler release the GIL
        results = list(tqdm(pool.map(convert, clips), total=len(clips), desc=out_dir.name, unit="clip", disable=None))
    readable = [u for u in results if u is not None]
    kept = [u for u in readable if shortest <= u.seconds < longest]
    if len(kept) < len(readable):
        outside = f"shorter than {shortest} s or not shorter than {longest} s"
        log.warning("%d clips left out: %s", len(readable) - len(kept), outside)
    if not kept:
        raise UserError(f"{out_dir}: found no clips that can be read among {len(clips)}, expected recordings")
    return kept


def write_splits(
    out_dir: Path,
    utterances: Iterable[Utterance],
    split_of: Callable[[Utterance], str],
    *,
    clean_dev: bool = False,
    exclude: Sequence[Path] = (),
) -> dict[str, list[Utterance]]:
    """Write out_dir/{train,dev,test}.jsonl without sentences (`letters_only`) of test and dev in train.

    Args:
        out_dir: the folder of the manifests.
        utterances: the whole set.
        split_of: utterance -> "train", "dev" or "test".
        clean_dev: also remove the sentences of test from dev.
        exclude: manifests whose sentences are removed from train and dev, for a training on several sets.

    Returns:
        The utterances of each split.
    """
    splits: dict[str, list[Utterance]] = {"train": [], "dev": [], "test": []}
    for utterance in utterances:
        splits[split_of(utterance)].append(utterance)
    excluded = {letters_only(text) for path in exclude for text in read_manifest(path).texts}
    test = {letters_only(u.text) for u in splits["test"]}
    dev = {letters_only(u.text) for u in splits["dev"]}
    held_out = {"train": excluded | test | dev, "dev": excluded | test if clean_dev else excluded, "test": set()}
    for name, rows in splits.items():
        kept = [u for u in rows if letters_only(u.text) not in held_out[name]]
        if len(kept) < len(rows):
            log.info(
                "%s: %d utterances left out of %s: their sentence is held out", out_dir, len(rows) - len(kept), name
            )
        splits[name] = kept
        if kept:  # a manifest without a line is an error to its readers
            write_manifest(out_dir / f"{name}.jsonl", kept)
        else:
            log.warning("%s: the %s part is empty", out_dir, name)
    return splits
