"""Transcribers' tags, which mark sounds and no words: `[laughter]`, `<unk>`, `(noise)`, `{breath}`, `++cough++`.

The rule: angle brackets hold a tag if they hold no space, or a name with attributes as in SSML. Square brackets and
braces hold one if they hold one word in capitals or with an underscore, or a phrase about a sound. Parentheses and
asterisks, which books use as well, hold one only if they hold a word for a sound ("(coughs)", "(audience laughing)").
Switchboard's `[laughter-yes]` is the word "yes".
"""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

from speech_jax.text.symbols import ARPABET


class Tag(NamedTuple):
    """A tag in a text: its index from 0, and its characters."""

    position: int
    text: str


# Words for sounds. A stem in the first list may have the endings of its verb.
_STEMS = "laugh chuckl giggl cough sneez breath inhal exhal sigh nois applaud cheer clapp lipsmack smack click sobb "
_STEMS += "sniff sniffl beep humm whistl gasp groan moan yawn snor snort grunt burp scream mumbl whisper sing cry"
_WORDS = (
    "laughter silence silences sil pause applause unintelligible inaudible indistinct crosstalk overlap overlapping "
    "cries sob sobs hum hums noisy hesitation static hiccup hiccups music musical nonspeech non-speech blank_audio unk "
    "spn nsn fp bkg eps redacted claps clap "
    "rire rires bruit bruits toux musique applaudissements silence lachen lacht geräusch geräusche husten musik "
    "applaus stille risa risas ruido ruidos tos música aplausos silencio risate risata rumore rumori tosse musica "
    "applausi silenzio risos aplauso śmiech hałas muzyka oklaski "
    "смех шум музыка аплодисменты кашель сміх gelach muziek skratt"
)
_SOUND = (
    rf"(?i:(?:{'|'.join(_STEMS.split())})(?:e|s|es|ing)?|{'|'.join(_WORDS.split())}"
    r"|lip[ _-]smack(?:s|ing)?|throat[ _-]clear(?:ing|s)?|clears[ _-]throat|vocalized[ _-]noise)"
)
# Words that name a scene; they are sounds only beside one of those above, or in square brackets.
_SCENE = "(?i:background|audience|crowd|people|phone|door|man|woman|both|all|speaker|speaking|foreign|loud|soft|dog)"
_PHRASE = rf"(?:(?:{_SCENE}|{_SOUND})[\s_-]{{1,2}}){{0,3}}{_SOUND}"
_TAG = re.compile(
    r"(?<!\w)<[/|!]?[A-Za-z_](?![^<>]*(?:://|@))[^<>\s]{0,60}>"
    r"|</[A-Za-z][\w:-]{0,30}>|<[A-Za-z][\w:-]{0,30}"  # of SSML
    r"(?:\s{1,3}[\w:-]{1,30}=(?:\"[^\"<>]{0,99}\"|'[^'<>]{0,99}')){0,8}\s{0,3}/?>"
    rf"|<\s?{_PHRASE}\s?/?>"
    r"|(?<!\w)\[(?i:laughter)-(?P<word>[\w'\[\]-]+?)\](?!\w)"
    rf"|(?<!\w)\[\s?(?:[A-Z]{{2,}}(?:\s[A-Z]{{2,}}){{0,3}}|[\w:]*_[\w:]*|{_PHRASE}(?:\s[^\[\]]{{1,30}})?|{_SCENE}[^\[\]]{{0,30}})\s?\](?!\w)"
    rf"|\{{\s?(?P<braces>[A-Z_]{{2,}}|{_PHRASE})\s?\}}"
    rf"|\(\s?{_PHRASE}\s?\)|\(%\w+\)|\*\s?{_PHRASE}\s?\*"
    r"|\+\+\w+\+\+|!SIL\b|%(?i:hesitation)\b|(?<=[A-Za-z])\(\d\)"
)
TAG_SIGNS = frozenset("<[{(*!%+")  # each tag has one of them
_MAY_HOLD = re.compile(f"[{re.escape(''.join(sorted(TAG_SIGNS)))}]")
_SHOWN = 8  # tags that a message names


def blank_tags(text: str) -> tuple[str, list[Tag]]:
    """Replace each tag by as many spaces, and list them.

    Example:
        >>> from speech_jax.text.tags import blank_tags
        >>> blank_tags("so [laughter] well")
        ('so            well', [Tag(position=3, text='[laughter]')])
    """
    if not _MAY_HOLD.search(text):
        return text, []
    tags: list[Tag] = []

    def blank(match: re.Match) -> str:
        if match["braces"] in ARPABET:
            return match[0]  # a phoneme
        tags.append(Tag(match.start(), match[0]))
        word = match["word"] or ""
        return (" " * (match.start("word") - match.start()) + word if word else "").ljust(len(match[0]))

    return _TAG.sub(blank, text), tags


def name_tags(tags: Counter[str]) -> str:
    """Return one line that names tags, with how often each occurs."""
    named = ", ".join(f"{tag} {count}" for tag, count in tags.most_common(_SHOWN))
    return f"{named}, …" if len(tags) > _SHOWN else named
