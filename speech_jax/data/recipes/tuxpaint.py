"""Tux Paint's stamps: short noun phrases read at home by volunteers, in eleven languages, at most 30 minutes each.

The Debian package tuxpaint-stamps-default (161 MB) has NAME_desc_LANG.ogg (NAME_desc.ogg in English) and NAME.txt: the
first line English, then lines `LANG.utf8=text`. GPL-2. Home recordings; the text is a translator's, mostly what is
read.

Split by the English text, the same for all languages: crc32 modulo 10, 0 = test, 1 = dev, else train; training phrases
that occur in test or dev are dropped.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from speech_jax.core.command_line import Range
from speech_jax.core.errors import UserError
from speech_jax.core.log import log
from speech_jax.data.recipes.clips import Clip, letters_only, write_clips, write_splits
from speech_jax.data.recipes.debian import package_root

PACKAGE = "tuxpaint-stamps-default"
LANGUAGES = ("be", "bg", "ca", "da", "el", "en", "es", "fr", "nl", "ro", "ru")
_STAMPS = "usr/share/tuxpaint/stamps"


@dataclass(frozen=True)
class Options:
    """Options of the recipe `tuxpaint`."""

    language: str = "es"
    """be, bg, ca, da, el, en, es, fr, nl, ro or ru."""
    packages: Path | None = None
    """Folder of .deb files, or an unpacked root; by default the package is fetched with `apt-get download`."""
    sample_rate: Annotated[int, Range(1000, 384_000)] = 16_000
    """Sample rate of the written FLAC files in Hz. The recordings have 44,100."""
    exclude: tuple[Path, ...] = ()
    """Manifests (other test sets) whose sentences must not occur in the training and dev parts."""


def prepare(out_dir: Path, options: Options) -> None:
    """Write train.jsonl, dev.jsonl, test.jsonl and audio/*.flac."""
    language = options.language
    if language not in LANGUAGES:
        raise UserError(f"language: found {language!r}, expected one of {', '.join(LANGUAGES)}")
    stamps = package_root([PACKAGE], out_dir / "package", options.packages) / _STAMPS
    ending = "_desc.ogg" if language == "en" else f"_desc_{language}.ogg"
    clips, english, without_text = [], {}, 0
    for sound in sorted(stamps.rglob(f"*{ending}")):
        path = sound.with_name(sound.name.removesuffix(ending) + ".txt")
        texts = read_texts(path) if path.is_file() else {}
        text = texts.get(language, "")
        if not letters_only(text):
            without_text += 1
            continue
        name = "-".join(sound.relative_to(stamps).with_name(sound.name.removesuffix(ending)).parts)
        clips.append(Clip(name, sound, text, domain=f"tuxpaint-{language}", language=language))
        english[name] = texts["en"]
    if without_text:
        log.warning("%d sounds in %s have no text", without_text, language)
    if not clips:
        raise UserError(f"{stamps}: found no *{ending} with a text, expected the Debian package {PACKAGE}")
    utterances = write_clips(clips, out_dir, options.sample_rate)
    write_splits(out_dir, utterances, lambda u: split_of(english[u.id]), exclude=options.exclude)


def split_of(english: str) -> str:
    """Return the split of a stamp by its English text: "train", "dev" or "test"."""
    return {0: "test", 1: "dev"}.get(zlib.crc32(english.encode()) % 10, "train")


def read_texts(path: Path) -> dict[str, str]:
    """Read a stamp's descriptions: language -> text; "en" from the first line."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}, expected the description of a stamp") from error
    texts = {"en": " ".join(lines[0].split()) if lines else ""}
    for line in lines[1:]:
        language, separator, text = line.partition(".utf8=")
        if separator:
            texts.setdefault(language.strip(), " ".join(text.split()))
    return texts
