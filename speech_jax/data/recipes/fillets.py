"""Fish Fillets NG: the dialogues of a puzzle game in Czech (1.6 h) and Dutch (1.5 h), two lead voices each and others.

Debian packages fillets-ng-data (texts, script/LEVEL/*dialogs_LANG.lua) and fillets-ng-data-LANG (Vorbis,
sound/LEVEL/LANG/ID.ogg). GPL-2. In the scripts `dialogId("ID", "font_SPEAKER", "English")` is followed by
`dialogStr("text")`.

Split by level: crc32 of its name modulo 20, 0 = test, 1 = dev, else train; training lines whose sentence occurs in
test or dev are dropped.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

from speech_jax.core.command_line import Range
from speech_jax.core.errors import UserError
from speech_jax.data.recipes.clips import Clip, letters_only, write_clips, write_splits
from speech_jax.data.recipes.debian import package_root

LANGUAGES = ("cs", "nl")
_STRING = r'"((?:[^"\\\n]|\\.)*)"'
_CALL = re.compile(rf"dialogId\(\s*{_STRING}\s*,\s*{_STRING}|dialogStr\(\s*{_STRING}")
_COMMENT = re.compile(r"^\s*--.*$", re.MULTILINE)
# The two fish; the other fonts are characters of single levels.
_SPEAKERS = {"font_small": "small", "font_big": "big"}


@dataclass(frozen=True)
class Options:
    """Options of the recipe `fillets`."""

    language: str = "cs"
    """cs (Czech) or nl (Dutch)."""
    packages: Path | None = None
    """Folder of .deb files, or an unpacked root; by default the packages are fetched with `apt-get download`."""
    sample_rate: Annotated[int, Range(1000, 384_000)] = 16_000
    """Sample rate of the written FLAC files in Hz. The recordings have 22,050 or 44,100."""
    exclude: tuple[Path, ...] = ()
    """Manifests (other test sets) whose sentences must not occur in the training and dev parts."""


class Dialogue(NamedTuple):
    """One line of a dialogue.

    Attributes:
        text: the subtitle.
        speaker: the speaker's name.
    """

    text: str
    speaker: str


def prepare(out_dir: Path, options: Options) -> None:
    """Write train.jsonl, dev.jsonl, test.jsonl and audio/*.flac."""
    if options.language not in LANGUAGES:
        raise UserError(f"language: found {options.language!r}, expected one of {', '.join(LANGUAGES)}")
    names = ["fillets-ng-data", f"fillets-ng-data-{options.language}"]
    game = package_root(names, out_dir / "package", options.packages) / "usr/share/games/fillets-ng"
    clips, levels = [], {}
    for folder in sorted((game / "sound").glob(f"*/{options.language}")):
        level = folder.parent.name
        dialogues: dict[str, Dialogue] = {}
        for script in sorted((game / "script" / level).glob(f"*dialogs_{options.language}.lua")):
            dialogues |= read_dialogues(script)
        for sound in sorted(folder.glob("*.ogg")):
            dialogue = dialogues.get(sound.stem)
            # %1 is filled in by the game: the recording says one of several figures.
            if dialogue is None or "%1" in dialogue.text or not letters_only(dialogue.text):
                continue
            clip = Clip(
                id=f"{level}-{sound.stem}",
                source=sound,
                text=dialogue.text,
                speaker=f"{options.language}-{dialogue.speaker}",
                domain=f"fillets-{options.language}",
                language=options.language,
            )
            clips.append(clip)
            levels[clip.id] = level
    if not clips:
        raise UserError(
            f"{game}: found no sound/LEVEL/{options.language}/*.ogg with a text, expected {' and '.join(names)}"
        )
    utterances = write_clips(clips, out_dir, options.sample_rate)
    write_splits(out_dir, utterances, lambda u: split_of(levels[u.id]), exclude=options.exclude)


def split_of(level: str) -> str:
    """Return the split of a level: "train", "dev" or "test"."""
    return {0: "test", 1: "dev"}.get(zlib.crc32(level.encode()) % 20, "train")


def read_dialogues(path: Path) -> dict[str, Dialogue]:
    """Read the dialogues of a Lua script: id -> text and speaker."""
    try:
        script = _COMMENT.sub("", path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {error}, expected a script in UTF-8") from error
    dialogues: dict[str, Dialogue] = {}
    pending: tuple[str, str] | None = None
    for name, font, text in _CALL.findall(script):
        if name:
            pending = name, _SPEAKERS.get(font) or font.removeprefix("font_")
        elif pending:
            dialogues[pending[0]] = Dialogue(" ".join(re.sub(r"\\(.)", r"\1", text).split()), pending[1])
            pending = None
    return dialogues
