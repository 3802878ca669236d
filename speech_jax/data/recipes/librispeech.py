"""Recipe for LibriSpeech (openslr.org/12): one manifest per part, from its unpacked tree or its tar files.

The layout: LibriSpeech/PART/SPEAKER/CHAPTER/SPEAKER-CHAPTER-NUMBER.flac, and in the same folder
SPEAKER-CHAPTER.trans.txt with lines "ID TEXT". Multilingual and other sets in the same layout work too, but not
LibriTTS, whose text files differ.
"""

from __future__ import annotations

import re
import shutil
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from speech_jax.core.errors import UserError
from speech_jax.core.files import open_atomic, read_lines
from speech_jax.data.manifest import check_ids, measured, write_manifest
from speech_jax.data.utterances import Utterance

PARTS = ("train-clean-100", "train-clean-360", "train-other-500", "dev-clean", "dev-other", "test-clean", "test-other")
_TARS = (".tar", ".tar.gz", ".tgz")
_MEMBER = re.compile(r"(?:\./)?LibriSpeech/([\w-]+)/(\d+)/(\d+)/(\d+-\d+(?:-\d+\.flac|\.trans\.txt))")
MAX_MEMBER = 256 << 20  # bytes of one file; LibriSpeech's largest has 1 MB
MAX_TOTAL = 256 << 30  # bytes unpacked; the whole of LibriSpeech has 60 GB
MAX_MEMBERS = 2_000_000


@dataclass(frozen=True)
class Options:
    """Options of the recipe `librispeech`."""

    source: Path
    """A folder with LibriSpeech's tree (LibriSpeech/train-clean-100/…), or with its tar files, or one tar file."""
    parts: tuple[str, ...] = ()
    """Parts to prepare, for example train-clean-100 dev-clean; empty for all that exist."""


def prepare(out_dir: Path, options: Options) -> None:
    """Write {part}.jsonl for every part. Tar files are unpacked into out_dir/audio/; existing files are kept."""
    source = options.source
    tars = [source] if source.is_file() else sorted(p for p in source.glob("*") if p.name.endswith(_TARS))
    roots = [source, source / "LibriSpeech"] if source.is_dir() else []
    for tar in tars:
        if options.parts and tar.name.split(".")[0] in PARTS and tar.name.split(".")[0] not in options.parts:
            continue
        unpack(tar, out_dir / "audio", options.parts)
        roots.append(out_dir / "audio")
    folders = {p.name: p for root in roots for p in sorted(root.glob("*")) if _is_part(p)}
    parts = options.parts or tuple(sorted(folders))
    missing = [part for part in parts if part not in folders]
    if missing or not parts:
        names = ", ".join(sorted(folders)) or "none"
        raise UserError(f"{source}: found the parts {names}, expected {', '.join(missing) or 'at least one'}")
    for part in parts:
        if not (out_dir / f"{part}.jsonl").exists():
            write_manifest(out_dir / f"{part}.jsonl", read_part(folders[part]))


def read_part(folder: Path) -> list[Utterance]:
    """Read the utterances of one part, sorted by id. Raises UserError naming a bad line of a transcript."""
    result = []
    transcripts = sorted(folder.glob("*/*/*.trans.txt"))
    for transcript in tqdm(transcripts, desc=folder.name, unit="chapter", disable=not sys.stderr.isatty()):
        chapter = []
        for where, line in read_lines(transcript, "lines 'ID TEXT'"):
            name, _, text = line.partition(" ")
            if not re.fullmatch(r"\d+-\d+-\d+", name) or not text.strip():
                raise UserError(f"{where}: found {line[:60]!r}, expected 'ID TEXT'")
            audio = transcript.parent / f"{name}.flac"
            speaker = name.split("-")[0]
            chapter.append(
                Utterance(name, str(audio), text=text.strip(), speaker=speaker, where=where, language="en")
            )
        result += measured(chapter, transcript, "skip")
    check_ids(result)
    return sorted(result, key=lambda u: u.id)


def unpack(tar: Path, folder: Path, parts: tuple[str, ...] = ()) -> None:
    """Unpack the recordings and transcripts of a tar file to folder/PART/SPEAKER/CHAPTER/. Existing files are kept.

    Args:
        tar: the tar file.
        folder: where to unpack.
        parts: names of parts; empty for all.

    Raises:
        UserError: the tar is damaged, would write outside `folder`, or is larger than LibriSpeech can be.
    """
    total = 0
    try:
        with tarfile.open(tar, "r|*") as archive:
            for count, member in enumerate(_progress(archive, tar.name)):
                total += member.size
                if count >= MAX_MEMBERS or total > MAX_TOTAL or member.size > MAX_MEMBER:
                    raise UserError(f"{tar}: found {member.name!r} of {member.size} bytes: more than LibriSpeech holds")
                member = tarfile.data_filter(member, str(folder))  # raises on "..", links out of the folder, devices
                match = _MEMBER.fullmatch(member.name)
                if match is None or not member.isfile() or (parts and match[1] not in parts):
                    continue
                target = folder / match[1] / match[2] / match[3] / match[4]
                if target.exists() and target.stat().st_size == member.size:
                    continue
                content = archive.extractfile(member)
                assert content is not None  # a file: it was just checked
                with open_atomic(target, "wb") as file:
                    shutil.copyfileobj(content, file)
    except (tarfile.TarError, EOFError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{tar}: damaged or no tar file ({reason}), expected LibriSpeech's tar") from error


def _progress(archive: tarfile.TarFile, name: str) -> Iterator[tarfile.TarInfo]:
    return iter(tqdm(archive, desc=name, unit="file", disable=not sys.stderr.isatty()))


def _is_part(path: Path) -> bool:
    """Return True if a folder contains SPEAKER/CHAPTER/*.trans.txt."""
    return path.is_dir() and next(path.glob("*/*/*.trans.txt"), None) is not None
