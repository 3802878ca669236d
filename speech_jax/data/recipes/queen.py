"""Flight of the Amazon Queen (talkie): 6,544 acted English lines, 4.5 h, about 30 characters, 11.025 kHz MP3.

The Debian package flight-of-the-amazon-queen contains one resource file, queen.1c, with voices and script. Its
layout follows ScummVM's queen engine (talk.cpp, cutaway.cpp, logic.cpp), as does the order in which it is read. The
recordings are under the game's own free license.

Split, by whole dialogue or cutscene: crc32 of its name modulo 20, 0 = test, 1 = dev, else train; Joe's 521 remarks on
things he looks at go in groups of 40 lines. Training lines whose sentence occurs in test or dev are dropped.
5,245 / 338 / 476 utterances.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

from speech_jax.core.command_line import Range
from speech_jax.core.errors import UserError
from speech_jax.data.recipes.clips import Clip, letters_only, write_clips, write_splits
from speech_jax.data.recipes.debian import package_root

PACKAGE = "flight-of-the-amazon-queen"
_FILE = "usr/share/scummvm/flight-of-the-amazon-queen/queen.1c"
_ROW = struct.Struct(">12sBII")  # name, bundle, offset, size
_HEADER = 20  # bytes before a dialogue's or a cutscene's data
_MP3 = 1
_RESPONSES = 40  # JOE0001 to JOE0040 are answers; the remarks follow
_GROUP = 40  # remarks that go to one split together


@dataclass(frozen=True)
class Options:
    """Options of the recipe `queen`."""

    packages: Path | None = None
    """Folder of .deb files, or an unpacked root; by default the package is fetched with `apt-get download`."""
    sample_rate: Annotated[int, Range(1000, 384_000)] = 16_000
    """Sample rate of the written FLAC files in Hz. The recordings have 11,025."""
    exclude: tuple[Path, ...] = ()
    """Manifests (other test sets) whose sentences must not occur in the training and dev parts."""


class Line(NamedTuple):
    """A spoken part of a line.

    Attributes:
        voice: name of the voice entry, without its ending.
        source: the dialogue or cutscene, by which the set is split.
        text: the words.
        speaker: the speaker's name, or "".
    """

    voice: str
    source: str
    text: str
    speaker: str


def prepare(out_dir: Path, options: Options) -> None:
    """Write train.jsonl, dev.jsonl, test.jsonl and audio/*.flac."""
    path = package_root([PACKAGE], out_dir / "package", options.packages) / _FILE
    if not path.is_file():
        raise UserError(f"{path}: no such file, expected it from the Debian package {PACKAGE}")
    entries = read_entries(path)
    spoken = [line for line in read_lines(entries, str(path)) if letters_only(line.text)]
    sources = {line.voice.lower(): line.source for line in spoken}
    clips = [
        Clip(line.voice.lower(), entries[line.voice + ".SB"], line.text, line.speaker, "queen", "en") for line in spoken
    ]
    utterances = write_clips(clips, out_dir, options.sample_rate)
    write_splits(out_dir, utterances, lambda u: split_of(sources[u.id]), exclude=options.exclude)


def split_of(source: str) -> str:
    """Return the split of a dialogue or cutscene: "train", "dev" or "test"."""
    return {0: "test", 1: "dev"}.get(zlib.crc32(source.encode()) % 20, "train")


def read_entries(path: Path) -> dict[str, bytes]:
    """Read the resource file's table: name -> content."""
    data = path.read_bytes()
    if data[:4] != b"QTBL" or len(data) < 15:
        raise UserError(f"{path}: found no table QTBL at its start, expected the talkie's queen.1c")
    if data[12] != _MP3:
        raise UserError(f"{path}: found speech compression {data[12]}, expected {_MP3} (MP3)")
    (count,) = struct.unpack_from(">H", data, 13)
    entries = {}
    for row in range(count):
        at = 15 + row * _ROW.size
        if at + _ROW.size > len(data):
            raise UserError(f"{path}: cut off in row {row} of {count}")
        name, _, offset, size = _ROW.unpack_from(data, at)
        if offset + size > len(data):
            raise UserError(f"{path}: cut off: row {row} ends at byte {offset + size}, the file at {len(data)}")
        entries[name.split(b"\0")[0].decode("latin-1")] = data[offset : offset + size]
    return entries


def read_lines(entries: dict[str, bytes], where: str = "queen.1c") -> list[Line]:
    """Return every part of the script that has a voice; the first part that names a voice gets it, as in the game."""
    spoken: dict[str, Line] = {}
    for name, content in entries.items():
        try:
            if name.endswith(".DOG"):
                lines = list(_dialogue(name, content[_HEADER:]))
            elif name.endswith(".CUT"):
                lines = list(_cutscene(name, content[_HEADER:]))
            elif name == "QUEEN2.JAS":
                lines = list(_remarks(content))
            else:
                continue
        except (struct.error, IndexError) as error:
            raise UserError(f"{where}: {name} is damaged ({error}), expected a script") from error
        for line in lines:
            if line.voice + ".SB" in entries:
                spoken.setdefault(line.voice, line)
    return list(spoken.values())


def _dialogue(name: str, data: bytes) -> Iterator[Line]:
    """Yield Joe's and the other person's lines of a dialogue file."""
    levels, _, key, joe_lines, person_lines = struct.unpack_from(">5h", data, 0)
    person_at, _, second_at = struct.unpack_from(">3H", data, 22)
    joe_at = 32 + 96 * abs(levels)
    person = name.removesuffix(".DOG").rstrip("0123456789").lower()
    for start, count, letter, speaker in ((person_at, person_lines, "P", person), (joe_at, joe_lines, "J", "joe")):
        at = start
        for _ in range(count):
            number = struct.unpack_from(">h", data, at + 2)[0]
            text, at = _string(data, at + 4, 4)
            yield from _parts(name, f"{key:2d}{number & 0xFFFF:4x}{letter}", text, speaker)
    # The opening line is there if the word after the pad is 0; it shares its place with the first list item.
    if struct.unpack_from(">H", data, joe_at + 2)[0] == 0:
        text, _ = _string(data, joe_at + 4, 2)
        yield from _parts(name, f"{key:2d}SSSSJ", text, "joe")
    # What both say when they meet again.
    text, at = _string(data, second_at, 2)
    yield from _parts(name, f"{key:2d}XXXXP", text, person)
    text, _ = _string(data, at, 2)
    yield from _parts(name, f"{key:2d}XXXXJ", text, "joe")


def _cutscene(name: str, data: bytes) -> Iterator[Line]:
    """Yield a cutscene's lines, without speakers: only the game's tables name them."""
    _, count = struct.unpack_from(">Hh", data, 0)
    at = struct.unpack_from(">H", data, 8)[0]
    _, at = _string(data, at, 2)  # the entry string
    for number in range(1, abs(count) + 1):
        text, at = _string(data, at, 2)
        yield from _parts(name, f"{name.removesuffix('.CUT'):_<5}{number:02d}", text, "")


def _remarks(data: bytes) -> Iterator[Line]:
    for number, line in enumerate(data.split(b"\n")):
        prefix = f"JOE{number + 1 + _RESPONSES:04d}"
        yield from _parts(f"JAS{number // _GROUP}", prefix, line.rstrip(b"\r").decode("latin-1"), "joe")


def _string(data: bytes, at: int, align: int) -> tuple[str, int]:
    """Return a length-prefixed string and the position of the next one."""
    length = data[at]
    at += 1
    if length == 0:
        return "", at
    if at + length > len(data):
        raise IndexError(f"a string at byte {at} ends behind the file")
    return data[at : at + length].decode("latin-1"), -(-(at + length) // align) * align


def _parts(source: str, prefix: str, text: str, speaker: str) -> Iterator[Line]:
    """Cut a line at its stage commands `*XX`: each part has its own voice, except those before *GD and *GM."""
    start = at = 0
    number = 1
    while (star := text.find("*", at)) >= 0:
        command = text[star + 1 : star + 3]
        if command not in ("GD", "GM"):
            yield _line(source, prefix, number, text[start:star], speaker)
        start = at = star + 3 + (11 if command == "XY" else 0)  # *XY00(237,112)
        number += 1
    if start < len(text):
        yield _line(source, prefix, number, text[start:], speaker)


def _line(source: str, prefix: str, number: int, text: str, speaker: str) -> Line:
    return Line(f"{prefix.replace(' ', '0')}{number:x}".upper(), source, text.replace("^_", "").strip(), speaker)
