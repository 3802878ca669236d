"""English words with two pronunciations, chosen by the adjacent words: "the wind", "wind the clock"; "read", "live".

There is no parser. A word counts as a verb after "to", a pronoun, an auxiliary or "please", and at the start of a
clause before an article; other rules are those of the tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from speech_jax.text.dictionary import Pronunciation, cmudict


class Context(NamedTuple):
    """The words around a word, in lower case; empty beyond the clause.

    Attributes:
        earlier: the word before `before`.
        before: the word before it.
        after: the word after it.
        sentence: all words of the sentence.
    """

    earlier: str = ""
    before: str = ""
    after: str = ""
    sentence: frozenset[str] = frozenset()


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_VERB_AFTER = _set(
    "to will would can could shall should must may might not i we you they who i'll we'll you'll they'll he'll she'll "
    "don't didn't doesn't won't can't cannot couldn't wouldn't let's let please never always often"
)
_S_VERB_AFTER = _set("he she it who which everybody everyone nobody somebody someone never always often")  # objects
_HAVE = _set("have has had having was were is are be been being already never i've we've you've they've")
_ARTICLES = _set("the a an his her its our their my your this that these those")
_NOUN_AFTER = _ARTICLES | _set("of no any in for some much more 's every each")
_BE = _set("is are was were be been being am seem seems seemed feel feels felt so very too how quite really it's i'm")
_ENDS_CLAUSE = _set("when if in on at to as and or under because with while after before for the a an from by well")
_NO_PLURALS = _set("his its this is was has does as us yes always sometimes perhaps less")

# Stressed on the first syllable as nouns or adjectives, on the second as verbs; nouns where nothing tells.
BY_STRESS = _set(
    "record records present presents object objects project projects permit permits conduct contract contracts "
    "contrast contrasts increase increases decrease decreases import imports insult insults protest rebel rebels "
    "subject subjects suspect suspects conflict conflicts convict convicts progress transport extract attribute "
    "attributes compound compounds console contest contests convert converts defect defects desert deserts digest "
    "discount discounts escort exploit implant insert inserts offset perfect segment survey surveys torment "
    "transfer transfers upset addict addicts"
)
_VERBS = _set("refuse produce combine reject recall")  # verbs where nothing tells
_PRODUCE = _set("fresh local organic farm garden green")
# The last syllable is reduced in nouns and adjectives, full in verbs.
_ATE = _set(
    "separate estimate moderate duplicate alternate graduate delegate advocate deliberate intimate elaborate "
    "appropriate associate coordinate subordinate animate articulate degenerate approximate aggregate"
)
# Voiceless end in nouns, voiced in verbs.
_VOICED = {"use": ("Y UW1 S", "Y UW1 Z"), "excuse": ("IH0 K S K Y UW1 S", "IH0 K S K Y UW1 Z")}
_VOICED |= {"abuse": ("AH0 B Y UW1 S", "AH0 B Y UW1 Z"), "house": ("HH AW1 S", "HH AW1 Z")}
_LIVE = {"live": ("L AY1 V", "L IH1 V"), "lives": ("L AY1 V Z", "L IH1 V Z")}
_SHOWN_LIVE = _set("music show shows concert broadcast stream audience tv event events performance recording coverage")
_READ = ("R EH1 D", "R IY1 D")
_PAST = _set("yesterday ago last")
_ASKING = _set("does did can could will would should shall may might must let")  # "did he read"


class _Word(NamedTuple):
    """A word with a usual pronunciation and another beside the words given, before it or after it."""

    usual: str
    other: str
    before: frozenset[str] = frozenset()
    after: frozenset[str] = frozenset()
    verb: bool = False  # the other one is also that of the verb


_WORDS = {
    "wind": _Word("W IH1 N D", "W AY1 N D", after=_set("up down through"), verb=True),
    "winds": _Word("W IH1 N D Z", "W AY1 N D Z", after=_set("up down through along around its"), verb=True),
    "tear": _Word("T IH1 R", "T EH1 R", after=_set("up down apart off out open"), verb=True),
    "tears": _Word("T IH1 R Z", "T EH1 R Z", after=_set("up down apart off open"), verb=True),
    "lead": _Word(
        "L IY1 D", "L EH1 D", before=_set("of molten"),
        after=_set("pipe pipes paint poisoning acid bullet bullets weight weights crystal free balloon mine mines ore"),
    ),
    "bow": _Word(
        "B OW1", "B AW1", before=_set("deep low final polite ship's"), after=_set("to down before out"), verb=True
    ),
    "close": _Word("K L OW1 S", "K L OW1 Z", after=_set("the a an his her its our their my your it them that this of"),
                   verb=True),
    "dove": _Word("D AH1 V", "D OW1 V", before=_set("he she it we i they who"),
                  after=_set("into in off under for through headfirst")),
    "minute": _Word(
        "M IH1 N AH0 T", "M AY0 N UW1 T",
        after=_set("amount amounts detail details particle particles quantity quantities difference differences trace "
                   "traces fraction fractions change changes"),
    ),
    "bass": _Word(
        "B EY1 S", "B AE1 S", before=_set("striped sea largemouth smallmouth caught catch fried grilled"),
        after=_set("swam swim swims fishing boat fillet lives lived"),
    ),
    "wound": _Word("W UW1 N D", "W AW1 N D", after=_set("up around down through tightly its")),
    "content": _Word("K AA1 N T EH0 N T", "K AH0 N T EH1 N T", before=_BE, after=_set("with to")),
    "resume": _Word("R IH0 Z UW1 M", "R EH1 Z AH0 M EY2", before=_ARTICLES - _set("that")),
    "sow": _Word("S OW1", "S AW1", before=_set("the a an old pregnant")),
    "does": _Word("D AH1 Z", "D OW1 Z", before=_set("two three four several")),
    "invalid": _Word("IH2 N V AE1 L AH0 D", "IH1 N V AH0 L IH0 D", before=_set("an old"), after=_set("chair")),
}  # fmt: skip


HETERONYMS = frozenset({"polish", "read", *_VOICED, *_LIVE, *BY_STRESS, *_VERBS, *_ATE, *_WORDS})


def choose(word: str, context: Context, *, capital: bool = False) -> Pronunciation | None:
    """Return the pronunciation of a word of the tables by its neighbors, or None for other words.

    Args:
        word: the word in lower case.
        context: the words around it.
        capital: the word is written with a capital letter.
    """
    if word not in HETERONYMS:
        return None
    verb = _is_verb(word, context)
    before, after = context.before, context.after
    if word == "polish":
        starts = not before and (after in _ARTICLES or after in ("it", "them"))
        return _split("P OW1 L IH0 SH" if capital and not starts else "P AA1 L IH0 SH")
    if word == "read":
        past = before in _HAVE or (before in _S_VERB_AFTER | {"i", "we", "they", "you"} and context.sentence & _PAST)
        past = past or (before in ("he", "she", "who", "it") and context.earlier not in _ASKING)
        return _split(_READ[0 if past and before not in _ASKING else 1])
    if word in _VOICED:
        noun = before in _NOUN_AFTER or context.earlier in _ARTICLES or after == "of" or (word == "house" and not verb)
        return _split(_VOICED[word][0 if noun and not verb else 1])
    if word in _LIVE:
        return _split(_LIVE[word][0 if before in _NOUN_AFTER - {"that"} or after in _SHOWN_LIVE else 1])
    if word in BY_STRESS:
        return _by_stress(cmudict()[word], verb=verb)
    if word in _VERBS:
        noun = before in _ARTICLES - _set("that these those") or before in _PRODUCE
        return _by_stress(cmudict()[word], verb=verb or not noun)
    if word in _ATE:
        return _by_last_vowel(cmudict()[word], verb=verb)
    return _beside(word, context, verb=verb)


def _beside(word: str, context: Context, *, verb: bool) -> Pronunciation:
    """Decide by the lists of `_WORDS`."""
    entry, (earlier, before, after, _) = _WORDS[word], context
    other = before in entry.before or after in entry.after or (entry.verb and verb)
    if word == "bow":
        other = other or (before == "a" and earlier in ("take", "takes", "took", "taking"))
    if word == "close":
        other = (other or before == "the") and after not in ("to", "by", "enough", "friend", "friends")
    return _split(entry.other if other else entry.usual)


def _is_verb(word: str, context: Context) -> bool:
    earlier, before, after, _ = context
    if before in _VERB_AFTER or (word.endswith("s") and before in _S_VERB_AFTER):
        return True
    if not before:
        return after in _ARTICLES or after in ("it", "them")
    plural = before.endswith("s") and not before.endswith(("ss", "'s")) and before not in _NO_PLURALS
    return plural and not earlier and after in _ENDS_CLAUSE and not word.endswith("s")


def _split(phones: str) -> Pronunciation:
    return tuple(phones.split())


def _by_stress(pronunciations: Sequence[Pronunciation], *, verb: bool) -> Pronunciation:
    """Return the first pronunciation with primary stress on the first vowel, or for a verb without it."""
    for phones in pronunciations:
        vowels = [phone for phone in phones if phone[-1].isdigit()]
        if vowels[0].endswith("1") != verb:
            return phones
    return pronunciations[0]


def _by_last_vowel(pronunciations: Sequence[Pronunciation], *, verb: bool) -> Pronunciation:
    """Return the first pronunciation with a full vowel in the last syllable, or for a noun with a reduced one."""
    for phones in pronunciations:
        if phones[-2].startswith("EY") == verb:
            return phones
    return pronunciations[0]
