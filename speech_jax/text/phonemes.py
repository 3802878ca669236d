"""English text to phonemes: the CMU dictionary, a few rules, and the letter-to-sound network for all other words.

The result is text with phonemes in braces and punctuation between them, "{HH AH0 L OW1}, {W ER1 L D}!", which
`Symbols.encode` reads. Braces that are already in the text stay.

Of the homographs, "the" and the words of `_BY_STRESS`, `_USE` and `_READ` are decided by an adjacent word. Others
("lead", "wind", "tear", "bass", "row") get the dictionary's first pronunciation; write phonemes in braces to override.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from speech_jax.text.dictionary import Pronunciation, cmudict
from speech_jax.text.letter_to_sound import pronounce
from speech_jax.text.letters import is_pronounceable

_TOKEN = re.compile(r"\{[^{}]*\}|[A-Za-z]+(?:'[A-Za-z]+)*'?|[^A-Za-z{]|\{")
_VOWELS = frozenset("AEIOU")
_VERB_AFTER = frozenset(
    "to will would can could shall should must may might not i we you they who i'll we'll you'll they'll he'll she'll "
    "don't didn't doesn't won't can't cannot couldn't wouldn't let's let please".split()
)
_HAVE = frozenset("have has had having was were is are be been being already never i've we've you've they've".split())
_NOUN_AFTER = frozenset("the a an of no any this that in for its his her their our my your some more much 's".split())
# Stressed on the first syllable as nouns, on the second as verbs.
_BY_STRESS = frozenset(
    "record records present presents object objects project projects permit permits conduct contract contracts "
    "contrast contrasts increase increases decrease decreases import imports insult insults protest rebel rebels "
    "subject subjects suspect suspects conflict conflicts convict convicts progress transport extract".split()
)
_USE = {"use": ("Y UW1 S", "Y UW1 Z"), "excuse": ("IH0 K S K Y UW1 S", "IH0 K S K Y UW1 Z")}
_USE |= {"live": ("L AY1 V", "L IH1 V"), "lives": ("L AY1 V Z", "L IH1 V Z")}
_READ = ("R EH1 D", "R IY1 D")


def phonemize(text: str, lexicon: Mapping[str, Sequence[Pronunciation]] | None = None) -> str:
    """Replace every word by its phonemes in braces; all other characters stay.

    No word is left out, since `expand` returns only letters that the network covers.

    Args:
        text: result of `english.expand`.
        lexicon: pronunciations that take precedence over the dictionary's.
    """
    tokens = _TOKEN.findall(text)
    words = [i for i, token in enumerate(tokens) if token[0].isalpha()]
    pieces = list(tokens)
    for n, i in enumerate(words):
        before = tokens[words[n - 1]] if n and "".join(tokens[words[n - 1] + 1 : i]).strip() in ("", "-") else ""
        after = tokens[words[n + 1]] if n + 1 < len(words) and not "".join(tokens[i + 1 : words[n + 1]]).strip() else ""
        phones = word_phonemes(tokens[i], before, after, lexicon or {})
        # An apostrophe at the end is a quotation mark or a silent plural possessive.
        pieces[i] = "{" + " ".join(phones) + "}" + ("'" if tokens[i].endswith("'") else "")
    return "".join(pieces)


def word_phonemes(
    word: str, before: str = "", after: str = "", lexicon: Mapping[str, Sequence[Pronunciation]] | None = None
) -> Pronunciation:
    """Return the phonemes of one word.

    Args:
        word: the word.
        before: word before it; empty after a pause or at the start.
        after: word after it; empty before a pause or at the end.
        lexicon: as in `phonemize`.
    """
    dictionary, lower = cmudict(), word.lower().rstrip("'")
    if lexicon and lower in lexicon:
        return lexicon[lower][0]
    if len(word) == 1 and word.isupper() and (word not in "AI" or _spelled(before) or _spelled(after)):
        return dictionary[lower + "."][0]  # the letter's name
    if lower == "the":
        first = word_phonemes(after, lexicon=lexicon)[0] if after else "T"
        return ("DH", "IY0" if first[0] in _VOWELS else "AH0")
    if lower == "read":
        return tuple(_READ[before.lower() not in _HAVE].split())
    if lower in _USE:
        return tuple(_USE[lower][before.lower() not in _NOUN_AFTER].split())
    if lower in _BY_STRESS:
        return _by_stress(dictionary[lower], verb=before.lower() in _VERB_AFTER)
    return _look_up(lower) or _compose(lower)


def _spelled(word: str) -> bool:
    return len(word.removesuffix("'s")) == 1 and word[0].isupper() and word[0] != "I"


def _look_up(word: str) -> Pronunciation | None:
    pronunciations = cmudict().get(word)
    return pronunciations[0] if pronunciations else None


def _compose(word: str) -> Pronunciation:
    """Pronounce a word outside the dictionary: as a genitive or plural of a word in it, by the network, or spelled."""
    for ending in ("'s", "s"):
        base = word.removesuffix(ending)
        if base != word and len(base) > 2 and (ending == "'s" or not base.endswith("s")):
            phones = _look_up(base)
            if phones is None and ending == "'s" and is_pronounceable(base):
                phones = pronounce(base)
            if phones:
                return phones + _s_after(phones[-1])
    return pronounce(word) or tuple(phone for letter in word if letter != "'" for phone in cmudict()[letter + "."][0])


def _s_after(phone: str) -> Pronunciation:
    if phone in ("S", "Z", "SH", "ZH", "CH", "JH"):
        return ("IH0", "Z")
    return ("S",) if phone in ("P", "T", "K", "F", "TH") else ("Z",)


def _by_stress(pronunciations: Sequence[Pronunciation], *, verb: bool) -> Pronunciation:
    """Return the first pronunciation with primary stress on the first vowel, or for a verb without it."""
    for phones in pronunciations:
        vowels = [phone for phone in phones if phone[-1].isdigit()]
        if vowels[0].endswith("1") != verb:
            return phones
    return pronunciations[0]
