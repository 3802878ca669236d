"""Asterisk's telephone prompts: 20 to 30 minutes of one studio voice per language, 16 kHz G.722, with exact texts.

Two Debian packages per language: asterisk-core-sounds-LANG-g722 (sounds) and asterisk-core-sounds-LANG (the list of
texts, lines `name : text`). CC-BY-SA-3.0 or CC-BY-3.0: see the packages' copyright files.

Split by text: crc32(text) modulo 5, 0 = test; of the rest crc32("dev" + text) modulo 12, 0 = dev (about 8 %); else
train. Clips of 15 s and more are left out. Sentences of the test part, and of the manifests in `exclude`, are dropped
from train and dev, those of dev from train.
"""

from __future__ import annotations

import gzip
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from speech_jax.core.command_line import Range
from speech_jax.core.errors import UserError
from speech_jax.core.log import log
from speech_jax.data.recipes.clips import Clip, letters_only, write_clips, write_splits
from speech_jax.data.recipes.debian import package_root

LANGUAGES = ("en", "es", "fr", "it", "ru")
# Tones, music and animals. Their lines in the list are descriptions in brackets, or name a sound.
_NOT_SPEECH = re.compile(
    r"silence/|(.*/)?(ascending-2tone|descending-2tone|beep|beeperr|confbridge-join|confbridge-leave|tt-monkeys)$"
)
_NOTES = re.compile(r"\[[^\]]*\]|\([^)]*\)|<[^>]*>")


@dataclass(frozen=True)
class Options:
    """Options of the recipe `asterisk`."""

    language: str = "en"
    """en, es, fr, it or ru."""
    packages: Path | None = None
    """Folder of .deb files, or an unpacked root; by default the packages are fetched with `apt-get download`."""
    sample_rate: Annotated[int, Range(1000, 384_000)] = 16_000
    """Sample rate of the written FLAC files in Hz. The recordings have 16,000."""
    max_seconds: Annotated[float, Range(0.1, 3600)] = 15.0
    """Clips longer than this many seconds are left out."""
    exclude: tuple[Path, ...] = ()
    """Manifests (other test sets) whose sentences must not occur in the training and dev parts."""


def prepare(out_dir: Path, options: Options) -> None:
    """Write train.jsonl, dev.jsonl, test.jsonl and audio/*.flac."""
    if options.language not in LANGUAGES:
        raise UserError(f"language: found {options.language!r}, expected one of {', '.join(LANGUAGES)}")
    texts_package = f"asterisk-core-sounds-{options.language}"
    names = [texts_package, f"{texts_package}-g722"]
    root = package_root(names, out_dir / "package", options.packages)
    path = root / "usr/share/doc" / texts_package / f"core-sounds-{options.language}.txt.gz"
    texts = read_texts(path)
    folder = _sound_folder(root, options.language)
    domain = f"asterisk-{options.language}"
    clips, missing = [], 0
    for name, text in texts.items():
        sound = folder / f"{name}.g722"
        if not sound.is_file():
            missing += 1
            continue
        clips.append(Clip(name.replace("/", "-"), sound, text, domain, domain, options.language))
    if missing:
        log.warning("%d of %d texts have no sound in %s", missing, len(texts), folder)
    if not clips:
        raise UserError(f"{folder}: found no .g722 files named as in {path}, expected the package {names[1]}")
    utterances = write_clips(clips, out_dir, options.sample_rate, longest=options.max_seconds)
    write_splits(out_dir, utterances, lambda u: split_of(u.text), clean_dev=True, exclude=options.exclude)


def split_of(text: str) -> str:
    """Return the split of a prompt: "train", "dev" or "test"."""
    if zlib.crc32(text.encode()) % 5 == 0:
        return "test"
    return "dev" if zlib.crc32(b"dev" + text.encode()) % 12 == 0 else "train"


def read_texts(path: Path) -> dict[str, str]:
    """Read the list of prompts: name -> text without stage notes, speech only."""
    try:
        lines = gzip.decompress(path.read_bytes()).decode("utf-8", "replace").splitlines()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: {error}, expected the gzipped list of an asterisk-core-sounds package") from error
    texts: dict[str, str] = {}
    for line in lines:
        line = line.strip().lstrip("\ufeff")
        if not line or line.startswith(";"):
            continue
        name, colon, text = line.partition(":")
        name = name.strip()
        text = " ".join(_NOTES.sub(" ", text).split())
        if colon and not _NOT_SPEECH.match(name) and letters_only(text):
            texts.setdefault(name, text)
    if not texts:
        raise UserError(f"{path}: found no lines NAME : TEXT, expected a list of prompts")
    return texts


def _sound_folder(root: Path, language: str) -> Path:
    """Return the language's folder of sounds, such as en_US_f_Allison; links to it are ignored."""
    sounds = root / "usr/share/asterisk/sounds"
    for folder in sorted(sounds.glob(f"{language}*")):
        if folder.is_dir() and not folder.is_symlink() and next(folder.rglob("*.g722"), None):
            return folder
    raise UserError(f"{sounds}: found no folder {language}* with .g722 files, expected the package's sounds")
