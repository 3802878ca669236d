"""Phonemes (IPA) of a hundred languages by espeak-ng, which is a program of its own: optional, never imported.

espeak-ng is under the GPL, so nothing of it is loaded into this process. It is run as the program `espeak-ng` where
that is installed, else by espeak_child.py in a Python of its own with the library of the wheel espeakng-loader.
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
_SWITCH = re.compile(r"\([a-z-]+\)")  # "(en)": a word that espeak takes for another language
_SECONDS = 60.0  # within which espeak-ng must answer
_HOW = "install espeak-ng, or: pip install 'speech_jax[synthetic]'"


def phonemize_with_espeak(text: str, language: str) -> str:
    """IPA with stress, words one space apart; the punctuation between clauses stays where it was.

    language: espeak's name of the voice: "fr", "de", "cs", "es-419". Raises UserError where there is no espeak-ng or no
    such voice.
    """
    pieces = _CLAUSE.split(text)
    spoken = [i for i, piece in enumerate(pieces) if i % 2 == 0 and piece.strip()]
    for i, phones in zip(spoken, _ask(tuple(pieces[i].strip() for i in spoken), language), strict=True):
        pieces[i] = " ".join(_SWITCH.sub("", phones).split())
    return re.sub(r"\s+", " ", "".join(pieces)).strip()


@functools.lru_cache(maxsize=1 << 14)
def _ask(clauses: tuple[str, ...], language: str) -> tuple[str, ...]:
    """The phonemes of every clause."""
    if not clauses:
        return ()
    if not re.fullmatch(r"[A-Za-z0-9_+-]+", language) or language.startswith("-"):
        raise UserError(f"language: found {language!r}, expected a voice of espeak-ng like 'fr'")
    program = shutil.which("espeak-ng")
    if program:
        command = [program, "-q", "--ipa", "-b", "1", "-v", language, "--stdin"]
        return tuple(_run(command, clause, language) for clause in clauses)
    if importlib.util.find_spec("espeakng_loader") is None:
        raise UserError(f"espeak-ng: found no such program, expected it for phonemes of {language!r}: {_HOW}")
    child = [sys.executable, str(Path(__file__).with_name("espeak_child.py")), language]
    return tuple(json.loads(_run(child, json.dumps(clauses), language)))


def _run(command: list[str], text: str, language: str) -> str:
    try:
        done = subprocess.run(command, input=text, capture_output=True, encoding="utf-8", timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"espeak-ng: {error}, expected phonemes of {language!r}: {_HOW}") from error
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"espeak-ng: found {said!r} for language {language!r}, expected one that it has a voice for")
    return done.stdout
