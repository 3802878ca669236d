"""English text to phonemes: the CMU dictionary, a few rules, and the letter-to-sound network for all other words.

The result is text with phonemes in braces and punctuation between them, "{HH AH0 L OW1}, {W ER1 L D}!", which
`Symbols.encode` reads. Braces that are already in the text stay.

Words with two pronunciations ("read", "wind", "the record") are decided by the adjacent words, see heteronyms.py; write
phonemes in braces to override.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from speech_jax.text.dictionary import Pronunciation, cmudict
from speech_jax.text.heteronyms import Context, choose
from speech_jax.text.letter_to_sound import pronounce
from speech_jax.text.letters import is_pronounceable

_TOKEN = re.compile(r"\{[^{}]*\}|[A-Za-z]+(?:'[A-Za-z]+)*'?|[^A-Za-z{]|\{")
_VOWELS = frozenset("AEIOU")

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
        before = tokens[words[n - 1]] if n and _adjoin(tokens, words[n - 1], i) else ""
        earlier = tokens[words[n - 2]] if before and n > 1 and _adjoin(tokens, words[n - 2], words[n - 1]) else ""
        after = tokens[words[n + 1]] if n + 1 < len(words) and not "".join(tokens[i + 1 : words[n + 1]]).strip() else ""
        sentence = _sentence(tokens, i) if tokens[i].lower() == "read" else frozenset()
        phones = word_phonemes(tokens[i], before, after, lexicon or {}, earlier=earlier, sentence=sentence)
        # An apostrophe at the end is a quotation mark or a silent plural possessive.
        pieces[i] = "{" + " ".join(phones) + "}" + ("'" if tokens[i].endswith("'") else "")
    return "".join(pieces)


def _sentence(tokens: Sequence[str], position: int) -> frozenset[str]:
    """Return the words between the ends of sentences around a token."""
    ends = [i for i, token in enumerate(tokens) if token in ".!?"]
    start = max((end for end in ends if end < position), default=-1)
    stop = min((end for end in ends if end > position), default=len(tokens))
    return frozenset(token.lower() for token in tokens[start + 1 : stop])


def _adjoin(tokens: Sequence[str], first: int, second: int) -> bool:
    """Return True if there is no pause between two words."""
    return "".join(tokens[first + 1 : second]).strip() in ("", "-")


def word_phonemes(
    word: str,
    before: str = "",
    after: str = "",
    lexicon: Mapping[str, Sequence[Pronunciation]] | None = None,
    *,
    earlier: str = "",
    sentence: frozenset[str] = frozenset(),
) -> Pronunciation:
    """Return the phonemes of one word.

    Args:
        word: the word.
        before: word before it; empty after a pause or at the start.
        after: word after it; empty before a pause or at the end.
        lexicon: as in `phonemize`.
        earlier: word before `before`; empty as for it.
        sentence: all words of the sentence, in lower case.
    """
    dictionary, lower = cmudict(), word.lower().rstrip("'")
    if lexicon and lower in lexicon:
        return lexicon[lower][0]
    if len(word) == 1 and word.isupper() and (word not in "AI" or _spelled(before) or _spelled(after)):
        return dictionary[lower + "."][0]  # the letter's name
    if lower == "the":
        first = word_phonemes(after, lexicon=lexicon)[0] if after else "T"
        return ("DH", "IY0" if first[0] in _VOWELS else "AH0")
    context = Context(earlier.lower(), before.lower(), after.lower(), sentence)
    if phones := choose(lower, context, capital=word[0].isupper()):
        return phones
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
