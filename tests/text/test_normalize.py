"""Written English to spoken words, and the light folding of other languages."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speech_jax.core.errors import UserError
from speech_jax.text import numbers
from speech_jax.text.normalize import LIGHT, normalize


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("Hello, World!", "hello world"),
        ("It's the dogs' day, 'tis said; rock 'n' roll.", "it's the dogs day tis said rock n roll"),
        ("O\u2019Neil can\u2019t", "o'neil can't"),
        ("well-known, twenty-one", "well known twenty one"),
        ("na\u00efve caf\u00e9, \u0152uvre, stra\u00dfe", "naive cafe oeuvre strasse"),
        ("\ufb01ne \uff21\uff22\uff11", "fine ab one"),  # a ligature and full-width letters
        ("Press 1 or #, then *.", "press one or pound then star"),
        ("0 10 11 20 21 99 100 101 110",
         "zero ten eleven twenty twenty one ninety nine one hundred one hundred one one hundred ten"),
        ("1,000 and 1,234,567",
         "one thousand and one million two hundred thirty four thousand five hundred sixty seven"),
        ("3.14 0.5 1,000.25", "three point one four zero point five one thousand point two five"),
        ("-5 degrees, 10-20, minus 3", "minus five degrees ten twenty minus three"),
        ("1st 2nd 3rd 4th 11th 12th 20th 21st 100th",
         "first second third fourth eleventh twelfth twentieth twenty first one hundredth"),
        ("$5 $1 $5.50 $0.01 $1.00", "five dollars one dollar five dollars and fifty cents one cent one dollar"),
        ("\u00a31.20 \u20ac3 million", "one pound and twenty pence three million euros"),
        ("5% of A&B", "five percent of a and b"),
        ("10:30 a.m., 10:05, 12:00, 7:15", "ten thirty a m ten oh five twelve o'clock seven fifteen"),
        ("in 1985, 1905, 1900, 2000, 2005 and 2026",
         "in nineteen eighty five nineteen oh five nineteen hundred two thousand two thousand five and twenty "
         "twenty six"),
        ("the 1990s, the 90s", "the nineteen nineties the nineties"),
        ("007 MP3 4x4", "zero zero seven mp three four x four"),
        ("1/2 3/4 2/3", "one half three quarters two thirds"),
        ("192.168.1.1", "one hundred ninety two point one hundred sixty eight point one point one"),
        ("Mr. Smith vs. Dr. Jones etc.", "mister smith versus doctor jones et cetera"),
        ("a\tb\n c  ", "a b c"),
        ("0 \U000112e9 e\u0301\u0301", "zero e"),  # marks without a letter of their own script
        ("", ""),
        ("... --- !!!", ""),
    ],
)  # fmt: skip
def test_english(written, spoken):
    assert normalize(written) == spoken


@pytest.mark.parametrize(
    ("language", "written", "light"),
    [
        ("cs", "Dobrý den, Příšerně žluťoučký kůň!", "dobrý den příšerně žluťoučký kůň"),
        ("fr", "L\u2019été, c'est où\u00a0?", "l'été c'est où"),
        ("es", "¿Qué? ¡Niño!", "qué niño"),
        ("ru", "Ёлка — 3 шт.", "ёлка 3 шт"),
        ("el", "Καλημέρα· κόσμε", "καλημέρα κόσμε"),
        ("none", "Cafe\u0301 \u00dcber", "café über"),
    ],
)
def test_other_languages_keep_their_letters(language, written, light):
    assert normalize(written, language) == light


def test_unknown_language():
    with pytest.raises(UserError, match="klingon"):
        normalize("x", "klingon")


# What texts are made of, with much of what is special.
TEXT = st.text(
    st.one_of(st.sampled_from("ab1209 .,:;/-'$%#*£&@+\u2019\u0301sth"), st.characters(codec="utf-8")), max_size=30
)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(TEXT)
def test_english_is_normalised_once_and_for_all(text):
    once = normalize(text)
    assert normalize(once) == once
    assert not any(c in '0123456789$%#*.,!?"' for c in once) and "  " not in once
    assert once == once.strip() and once == unicodedata.normalize("NFC", once)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(TEXT, st.sampled_from(LIGHT))
def test_light_is_normalised_once_and_for_all(text, language):
    once = normalize(text, language)
    assert normalize(once, language) == once


def _value(words):
    """Reads number words back: an independent check of all numbers below a million."""
    small = {w: i for i, w in enumerate(numbers._SMALL)} | {w: 10 * i for i, w in enumerate(numbers._TENS) if w != "_"}
    total = part = 0
    for word in words.split():
        if word == "hundred":
            part *= 100
        elif word == "thousand":
            total, part = total + part * 1000, 0
        else:
            part += small[word]
    return total + part


def test_cardinals_read_back():
    for n in [*range(0, 3000), *range(3000, 1_000_000, 997)]:
        assert _value(numbers.cardinal(n)) == n
    assert numbers.cardinal(-4) == "minus four"
    assert numbers.cardinal(10**15) == "one" + " zero" * 15
    assert numbers.cardinal(999_999_999_999_999).startswith("nine hundred ninety nine trillion nine hundred")


def test_ordinals():
    expected = (
        "zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth".split()
    )
    assert [numbers.ordinal(n) for n in range(14)] == expected
    assert numbers.ordinal(2000) == "two thousandth" and numbers.ordinal(1_000_042) == "one million forty second"


def test_figures_without_end_are_read_one_by_one():
    assert normalize("9" * 5000) == " ".join(["nine"] * 5000)  # Python refuses to make an integer of so many
    assert normalize("$" + "1" * 5000).startswith("one one one")
    assert normalize("8" * 5000 + "th").startswith("eight eight")
