"""Sentences of the synthetic corpus: two small grammars that share letters and sounds, but few words."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from speech_jax.core.errors import UserError

# A pattern's [name] is replaced by one of the words of that name.
_HOME_PATTERNS = (
    "the [adjective] [animal] [moved] [where] the [place]",
    "the [adjective] [animal] [moved] [where] the [adjective] [place]",
    "my [person] is [doing] in the [room]",
    "my [person] and my [person] are [doing] in the [room]",
    "it will be [weather] [when]",
    "it was [weather] and [weather] [past]",
    "please put the [adjective] [thing] on the [furniture]",
    "the [thing] is under the [adjective] [furniture]",
    "we bought [food] and [food] at the market",
    "she likes [food] with [food]",
    "he found a [adjective] [thing] near the [place]",
    "did you see the [adjective] [animal] [past]",
    "we want to go to the [place] [when]",
    "once there was a [adjective] [animal] who lived by the [place]",
    "the [person] told us a story about a [adjective] [animal]",
    "my [person] lost a [thing] at the [place]",
    "the [animal] and the [animal] are [doing] in the [place]",
    "open the window because it is [weather]",
)
_HOME_WORDS = {
    "adjective": "small big old young brown white black happy lazy quick quiet funny clever gentle hungry sleepy",
    "animal": "dog cat horse mouse bird rabbit fox cow sheep duck bear wolf frog goat owl pig",
    "moved": "ran jumped walked slept waited played danced hid stood looked",
    "where": "under behind near around beside across",
    "place": "house garden river forest bridge lake field mountain village beach school barn",
    "person": "mother father sister brother uncle aunt grandmother cousin friend teacher",
    "doing": "cooking reading sleeping singing working playing laughing painting cleaning eating",
    "room": "kitchen bedroom bathroom garden hall attic",
    "weather": "sunny rainy windy cloudy cold warm stormy snowy foggy wet dry",
    "when": "tomorrow tonight soon on_sunday on_monday on_friday in_the_morning in_the_evening after_lunch "
    "before_dinner",
    "past": "yesterday last_night last_week this_morning",
    "thing": "book cup lamp clock chair spoon basket blanket hammer candle bottle ribbon ball coat",
    "furniture": "table shelf bed desk sofa stove",
    "food": "bread butter cheese apples honey milk soup rice fish beans carrots plums salt",
}
_PHONE_PATTERNS = (
    "call [digit] [digit] [digit] [digit]",
    "call extension [digit] [digit] [digit]",
    "dial [digit] [digit] [digit] [digit] [digit]",
    "press [digit] for [department]",
    "press [digit] to [verb] the [item]",
    "transfer me to [department] extension [digit] [digit]",
    "[verb] [item] number [digit] [digit] [digit]",
    "your code is [digit] [digit] [digit] [digit]",
    "account [digit] [digit] [digit] is [state]",
    "the balance is [tens] dollars and [tens] cents",
    "[verb] the [item] at [hour] thirty",
    "line [digit] is [state]",
    "volume [level] to [tens] percent",
    "hang up and dial [digit] [digit] [digit]",
    "agent [digit] [digit] [verb] the [item]",
)
_PHONE_WORDS = {
    "digit": "zero one two three four five six seven eight nine",
    "department": "sales support billing service security accounting delivery",
    "verb": "cancel confirm repeat record delete forward change pause resume",
    "item": "message order payment ticket password invoice transfer contract",
    "state": "busy closed blocked active expired available",
    "tens": "twenty thirty forty fifty sixty seventy eighty ninety",
    "hour": "one two three four five six seven eight nine ten eleven twelve",
    "level": "up down",
}
GRAMMARS = {"A": (_HOME_PATTERNS, _HOME_WORDS), "B": (_PHONE_PATTERNS, _PHONE_WORDS)}
_SLOT = re.compile(r"\[(\w+)\]")


def draw_sentences(domain: str, count: int, seed: int) -> list[str]:
    """Draw different sentences of domain "A" (home) or "B" (telephone).

    Args:
        domain: "A" or "B".
        count: number of sentences. A longer list begins with the shorter one.
        seed: the same seed gives the same sentences.

    Raises:
        UserError: the grammar has fewer sentences.
    """
    patterns, words = GRAMMARS[domain]
    choices = {name: [w.replace("_", " ") for w in line.split()] for name, line in words.items()}
    generator = np.random.default_rng([seed, ord(domain)])

    def draw(words: Sequence[str]) -> str:
        return words[int(generator.integers(len(words)))]

    sentences: dict[str, None] = {}
    misses = 0
    while len(sentences) < count:
        sentence = _SLOT.sub(lambda m: draw(choices[m[1]]), draw(patterns))
        misses = misses + 1 if sentence in sentences else 0
        if misses > 200:
            raise UserError(f"domain {domain}: found only about {len(sentences)} different sentences, expected {count}")
        sentences[sentence] = None
    return list(sentences)


def vocabulary(domain: str) -> set[str]:
    """Return all words of a domain."""
    patterns, words = GRAMMARS[domain]
    return set(_SLOT.sub(" ", " ".join(patterns)).split()) | set(" ".join(words.values()).replace("_", " ").split())
