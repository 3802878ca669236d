"""Phonemes (IPA) of a hundred languages by espeak-ng, an optional external program.

espeak-ng is licensed under the GPL, so it is never loaded into this process. The program `espeak-ng` is run if it is
installed, otherwise espeak_child.py in a separate Python process with the library of the wheel espeakng-loader.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from speech_jax.core.errors import UserError

_CLAUSE = re.compile(r"([!,.:;?()\"]+\s*)")
_SWITCH = re.compile(r"\([a-z-]+\)")  # "(en)" marks a word that espeak assigns to another language
_TIMEOUT = 60.0  # seconds
_INSTALL = "install espeak-ng, or: pip install 'speech_jax[synthetic]'"


def phonemize_with_espeak(text: str, language: str) -> str:
    """Convert text to IPA with stress, words one space apart; punctuation between clauses is kept.

    Args:
        text: plain text.
        language: espeak's name of the voice: "fr", "de", "cs", "es-419".

    Raises:
        UserError: espeak-ng is not installed, or has no such voice.
    """
    pieces = _CLAUSE.split(text)
    clauses = [i for i, piece in enumerate(pieces) if i % 2 == 0 and piece.strip()]
    for i, phones in zip(clauses, _phonemize_clauses(tuple(pieces[i].strip() for i in clauses), language), strict=True):
        pieces[i] = " ".join(_SWITCH.sub("", phones).split())
    return re.sub(r"\s+", " ", "".join(pieces)).strip()


@functools.lru_cache(maxsize=1 << 14)
def _phonemize_clauses(clauses: tuple[str, ...], language: str) -> tuple[str, ...]:
    if not clauses:
        return ()
    if not re.fullmatch(r"[A-Za-z0-9_+-]+", language) or language.startswith("-"):
        raise UserError(f"language: found {language!r}, expected a voice of espeak-ng like 'fr'")
    program = shutil.which("espeak-ng")
    if program:
        command = [program, "-q", "--ipa", "-b", "1", "-v", language, "--stdin"]
        return tuple(_run(command, clause, language) for clause in clauses)
    if importlib.util.find_spec("espeakng_loader") is None:
        raise UserError(f"espeak-ng: found no such program, expected it for phonemes of {language!r}: {_INSTALL}")
    child = [sys.executable, str(Path(__file__).with_name("espeak_child.py")), language]
    return tuple(json.loads(_run(child, json.dumps(clauses), language)))


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
