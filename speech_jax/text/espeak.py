"""Phonemes (IPA) of a hundred languages by espeak-ng, an optional external program.

espeak-ng is licensed under the GPL, so it is never loaded into this process: espeak_child.py runs in a separate Python
process with the library of the installed espeak-ng, or else with that of the wheel espeakng-loader.
"""

from __future__ import annotations

import ctypes.util
import functools
import importlib.util
import json
import re
import subprocess
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from speech_jax.core.errors import UserError, install_extra
from speech_jax.text.sentences import END

_BRACKETS = re.compile(r"(\s*[()\"]+\s*)")  # espeak neither says nor keeps them
_OTHER = "。．｡।॥۔！？؟，、､،；؛：…"  # marks of other scripts, and those that they become
_ASCII = str.maketrans(dict(zip(_OTHER, [*"......!??,,,,;;:", "..."], strict=True)))
_MARK = re.compile(rf"[!,.:;?{_OTHER}]+")
_SWITCH = re.compile(r"\([a-z-]+\)")  # "(en)" marks a word that espeak assigns to another language
_TIMEOUT = 60.0  # seconds
_INSTALL = f"install espeak-ng, or {install_extra('synthetic')}"


def phonemize_with_espeak(text: str, language: str) -> str:
    """Convert text to IPA with stress, words one space apart; punctuation between clauses is kept.

    espeak gets whole sentences, but for brackets and quotation marks, so that it reads "1,000", "3.14" and "10:30" as
    one number. A single full stop is kept at the end of a sentence only: another one is an abbreviation's.

    Args:
        text: plain text, with the marks END of text/sentences.py between its sentences.
        language: espeak's name of the voice: "fr", "de", "cs", "es-419".

    Raises:
        UserError: espeak-ng is not installed, or has no such voice.
    """
    sentences = [_BRACKETS.split(sentence) for sentence in text.split(END)]
    spoken = [part for sentence in sentences for part in sentence[::2] if _has_words(part)]
    clauses = iter(_phonemize(tuple(spoken), language))
    for parts in sentences:
        for i in range(0, len(parts), 2):
            last = not "".join(parts[i + 1 :]).strip("()\" \n")
            if not _has_words(parts[i]):
                parts[i] = "".join(_MARK.findall(parts[i])).translate(_ASCII)
            else:
                parts[i] = parts[i][: parts[i][0].isspace()] + _join(next(clauses), last)
    return re.sub(r"\s+", " ", END.join("".join(parts) for parts in sentences)).strip()


def _has_words(text: str) -> bool:
    return any(c.isalnum() or unicodedata.category(c)[0] == "S" for c in text)


def phonemize_words(words: Sequence[str], language: str) -> list[str]:
    """Return the phonemes of each word alone."""
    return [_join(clauses, False) for clauses in _phonemize(tuple(words), language)]


def _join(clauses: Sequence[tuple[str, str]], last: bool) -> str:
    """Return the phonemes of clauses with the marks that end them.

    Args:
        clauses: (text, phonemes) of each clause.
        last: the sentence ends with them, so that a full stop at the end is kept.
    """
    parts = []
    for number, (text, phones) in enumerate(clauses, 1):
        match = re.search(_MARK.pattern + "$", text.rstrip())
        mark = match[0].translate(_ASCII) if match else ""
        if mark == "." and not (last and number == len(clauses)):
            mark = ""
        parts.append(" ".join(_SWITCH.sub("", phones).split()) + mark)
    return " ".join(part for part in parts if part) + (" " if clauses and clauses[-1][0][-1:].isspace() else "")


@functools.lru_cache(maxsize=1 << 14)
def _phonemize(texts: tuple[str, ...], language: str) -> tuple[tuple[tuple[str, str], ...], ...]:
    """Return (text, phonemes) of the clauses that espeak finds in each text."""
    if not texts:
        return ()
    if not re.fullmatch(r"[A-Za-z0-9_+-]+", language) or language.startswith("-"):
        raise UserError(f"language: found {language!r}, expected a voice of espeak-ng like 'fr'")
    library = ctypes.util.find_library("espeak-ng") or ""
    if not library and importlib.util.find_spec("espeakng_loader") is None:
        raise UserError(f"espeak-ng: found no such library, expected it for phonemes of {language!r}: {_INSTALL}")
    child = [sys.executable, str(Path(__file__).with_name("espeak_child.py")), language, library]
    answer = json.loads(_run(child, json.dumps(texts), language))
    return tuple(tuple((text, phones) for text, phones in clauses) for clauses in answer)


def _run(command: list[str], text: str, language: str) -> str:
    try:
        process = subprocess.run(
            command, input=text, capture_output=True, encoding="utf-8", timeout=_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"espeak-ng: {error}, expected phonemes of {language!r}: {_INSTALL}") from error
    if process.returncode:
        message = (process.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"espeak-ng: found {message!r} for language {language!r}, expected one that it has a voice for")
    return process.stdout
