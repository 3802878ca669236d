"""Language by which texts are normalized: the flag's, the checkpoint's, or that of the manifests' rows.

It is never guessed: English normalization takes the accents off other languages' letters and reads their figures.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from speech_jax.core.errors import UserError
from speech_jax.core.log import log
from speech_jax.data.utterances import Utterance
from speech_jax.text.normalize import LIGHT, expected_language, foreign_letters, normalize_for_scoring
from speech_jax.text.tags import blank_tags, name_tags

LANGUAGES = ("en", *LIGHT)
_EXPECTED = "expected one such as en or de ('none' only removes capitals and punctuation)"


class Normalization(NamedTuple):
    """Normalization of references and hypotheses, in which an error is counted.

    Attributes:
        language: language of all texts; empty takes the language of each utterance.
        description: language and where it comes from, for reports.
    """

    language: str
    description: str

    def apply(self, text: str, utterance: Utterance) -> str:
        """Return a text that belongs to an utterance, normalized."""
        return normalize_for_scoring(text, self.language or primary_language(utterance.language))


def choose_normalization(
    utterances: Iterable[Utterance],
    language: str = "",
    *,
    checkpoint: str | None = None,
    texts: str = "transcripts of another system",
) -> Normalization:
    """Choose the normalization of texts; a manifest that names another language is named in a warning.

    Args:
        utterances: the rows of all manifests.
        language: the language to take; empty takes the checkpoint's, else that of each row.
        checkpoint: language of the checkpoint's tokenizer, empty if it has none; None for texts without a checkpoint.
        texts: description of the texts, for messages.

    Raises:
        UserError: a language is not supported; or rows name none, and neither the flag nor the checkpoint names one.
    """
    rows, tags, unnamed = {}, Counter(), []
    for utterance in utterances:
        rows[primary_language(utterance.language)] = utterance  # one of each is enough
        tags.update(tag.text for tag in blank_tags(utterance.text)[1])
        if not utterance.language:
            unnamed.append(utterance.text)
    normalization = _choose(rows, language, checkpoint, texts)
    if normalization.language == "en" and (foreign := foreign_letters(unnamed)):
        log.warning("--language: texts are normalized as en, but %s", foreign)
    if not tags:
        return normalization
    return normalization._replace(description=f"{normalization.description} (tags left out: {name_tags(tags)})")


def _choose(rows: Mapping[str, Utterance], language: str, checkpoint: str | None, texts: str) -> Normalization:
    """Choose by the languages of the rows, each with one of its utterances."""
    named = sorted(filter(None, rows))
    if chosen := language or checkpoint:
        _check([chosen], "--language" if language else "the checkpoint's tokenizer")
        source = "" if language else "as the checkpoint's tokenizer"
        if others := [other for other in named if other != chosen]:
            log.warning("--language: texts are normalized as %s, but the manifests say %s", chosen, ", ".join(others))
            source += f"{'; ' if source else ''}the manifests say {', '.join(others)}"
        return Normalization(chosen, f"{chosen} ({source})" if source else chosen)
    if not named and checkpoint == "":
        return Normalization("none", "none (neither the checkpoint's tokenizer nor the manifests name a language)")
    if not named:
        raise UserError(f"--language: found none for {texts}, {_EXPECTED}")
    if "" in rows:
        place = f"{rows[''].id!r} ({rows[''].where})"
        raise UserError(f"--language: found none for utterance {place} while other rows name theirs, {_EXPECTED}")
    _check(named, "the manifests")
    if len(named) == 1:
        return Normalization(named[0], f"{named[0]} (from the manifests)")
    return Normalization("", f"{', '.join(named)} (each utterance by its own language, from the manifests)")


def _check(languages: Iterable[str], source: str) -> None:
    for language in languages:
        if language not in LANGUAGES:
            place = "" if source == "--language" else f" in {source}"
            raise UserError(f"--language: found {language!r}{place}, {expected_language(language)}")


def primary_language(language: str) -> str:
    """Return the language without its region: "de-DE" -> "de"."""
    return re.split("[-_]", language.lower())[0]
