"""Written English to spoken words, and the light folding of other languages."""

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speech_jax.core.errors import UserError
from speech_jax.text import numbers
from speech_jax.text.normalize import LIGHT, normalize, normalize_for_scoring
from speech_jax.text.tokenizer import Tokenizer


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
        ("-5 degrees, 10-20, minus 3", "minus five degrees ten to twenty minus three"),
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
        ("007 MP3 4x4", "zero zero seven mp three four by four"),
        ("1/2 3/4 2/3", "one half three quarters two thirds"),
        ("192.168.1.1", "one hundred ninety two dot one hundred sixty eight dot one dot one"),
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


FIGURES = """
    add 1½ cups | add one and a half cups
    add 1½ tsp | add one and a half teaspoons
    221B Baker St. The house is old. | two hundred twenty one b baker street the house is old
    He lives on Main St. It is quiet near St. John's. | he lives on main street it is quiet near saint john's
    10² metres | ten squared metres
    open 24/7 | open twenty four seven
    born 12/25/2023 | born december twenty fifth twenty twenty three
    on 2024-01-02 | on january second twenty twenty four
    $5-10 each | five to ten dollars each
    the 2019-20 season | the twenty nineteen to twenty season
    5%-10% | five to ten percent
    it costs 20 € | it costs twenty euros
    ₹500 | five hundred rupees
    .5 inch | point five inch
    £2.5bn | two point five billion pounds
    $5K | five thousand dollars
    20 °C – 25 °C | twenty to twenty five degrees celsius
    5 μm or 5 µm | five micrometers or five micrometers
    ٣ cats | three cats
    10⁻³ m | ten to the minus three meters
    mr. smith vs. dr. jones | mister smith versus doctor jones
    Mr Smith met Dr Jones | mister smith met doctor jones
    12 main st. in st. louis | twelve main street in saint louis
    World War II, world war ii | world war two world war two
    WWII, wwi and WW2 | world war two world war one and world war two
    12\u202f500 and 1\u00a0000\u00a0000 | twelve thousand five hundred and one million
    Jan–Mar | january to march
    Henry VIII and the FBI | henry the eighth and the fbi
    and/or he/she | and or he she
    see www.example.com | see w w w dot example dot com
    5 pm, 5 p.m., five pm | five p m five p m five p m
    α-helix, μετά | alpha helix μετά
    The "1984" novel | the nineteen eighty four novel
    THE CHAPTER I READ | the chapter i read
    col·legi co\u00adoperate wo\u200brd \ufeffend | collegi cooperate word end
"""


@pytest.mark.parametrize("line", FIGURES.strip().splitlines())
def test_figures_and_signs_are_read_as_a_voice_reads_them(line):
    written, spoken = line.strip().split(" | ")
    assert normalize(written) == spoken


@pytest.mark.parametrize(
    ("language", "written", "light"),
    [
        ("tr", "İyi günler, Işık ISPARTA", "iyi günler ışık ısparta"),
        ("az", "QIZIL İt", "qızıl it"),
        ("de", "İstanbul", "istanbul"),
        ("lt", "I\u0307\u0301", "í"),
        ("el", "ΟΔΟΣ, οδοσ και Σ' αυτό", "οδος οδος και σ αυτό"),
        ("ro", "Şi ţară", "și țară"),
        ("ca", "col·lecció COL.LEGI", "col·lecció col·legi"),
        ("none", "צה״ל צה\"ל צ'ק 'שלום'", "צה״ל צה״ל צ׳ק שלום"),
        ("uz", "Oʻzbek O'zbek tog‘ ma'no", "oʻzbek oʻzbek togʻ ma'no"),
        ("fa", "مي\u200cخواهم كـــتاب", "میخواهم کتاب"),
        ("none", "ශ්\u200dරී ලංකා", "ශ්රී ලංකා"),
        ("ml", "അവന്\u200d", "അവൻ"),
        ("th", "ทำงาน น้ำ น\u0e4d\u0e49\u0e32", "ทำงาน น้ำ น้ำ"),
        ("lo", "ນ້ຳ ໜຶ່ງ", "ນ້ຳ ໜຶ່ງ"),
        ("ko", "ㅋㅋ 네", "ㅋㅋ 네"),
        ("hy", "և", "և"),
        ("ru", "№ 5, 10² и 1½", "5 10 2 и 1 1 2"),
        ("de", "Donau\u00addampf\u00adschiff \u202afährt\u202c", "donaudampfschiff fährt"),
        ("fr", "[rire] C’est <unk> çа (bruit)", "c'est çа"),
    ],
)
def test_letters_of_a_language_stay_whole(language, written, light):
    assert normalize(written, language) == light


@pytest.mark.parametrize(
    "tag",
    "[laughter] [LAUGHTER] <unk> <UNK> <SPOKEN_NOISE> [noise] (noise) {breath} {NOISE} <b_aside> [vocalized-noise] "
    "(coughs) *sighs* ++cough++ !SIL <|nospeech|> <laugh/> [BLANK_AUDIO] <COMMA> [Music] (%hesitation) </s> <eps> "
    "[lip_smack] (audience_laughing) [inaudible_01:23] [background_noise]".split(),
)
def test_tags_are_no_words(tag):
    for written in (tag, tag if tag[0] == "<" else tag.replace("_", " ")):
        assert normalize(f"well {written} yes") == "well yes"
        assert normalize(f"ja {written} gut", "de") == "ja gut"


def test_words_in_brackets_stay():
    assert normalize("he (quietly) said [the king] came, 3 < 5") == "he quietly said the king came three less than five"
    assert normalize("[laughter-yes] th[e]- (music by Bach)") == "yes th e music by bach"


def test_signs_that_many_leave_out_are_no_errors():
    for written, other, language in (("col·legi", "collegi", "ca"), ("צה״ל", "צהל", "he"), ("ශ්\u200dරී", "ශ්රී", "si")):
        assert normalize_for_scoring(written, language) == normalize_for_scoring(other, language)


def test_a_tokenizer_of_earlier_normalization_reads_its_texts():
    earlier = Tokenizer("char", ("<blank>", *" ทนํา้"), language="none")
    assert earlier.decode(earlier.encode("ทำ น้ำ")) == "ท\u0e4dา น้\u0e4dา"
    assert Tokenizer("char", ("<blank>", *" celo"), language="ca").encode("Col·le") == [2, 5, 4, 1, 4, 3]


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


def test_the_page_of_languages_lists_the_codes():
    page = (Path(__file__).parents[2] / "docs/guides/languages.md").read_text("utf-8")
    codes = page.partition("The codes\n")[2].partition(":::")[0].replace("`", "").split()
    assert codes == sorted(set(LIGHT) - {"none"}) and f"for {len(codes)} other languages" in page


@pytest.mark.parametrize(
    ("language", "written", "light"),
    [("ckb", "كوردستان، علي", "کوردستان علی"), ("kmr", "Îro li MALÊ", "îro li malê"), ("sa", "रामः।", "रामः")],
)
def test_languages_of_fewer_recordings(language, written, light):
    assert normalize(written, language) == light


def test_a_region_is_named_in_the_error():
    with pytest.raises(UserError, match=r"language: found 'de-DE', expected a code .* \('de'\?\)"):
        normalize("x", "de-DE")


def test_tags_of_ssml_are_no_words():
    written = "<speak>Hi <break time=\"1s\"/> <s level='high'>now</s> <break /> if a < b and c > d</speak>"
    assert normalize(written) == "hi now if a less than b and c greater than d"
    assert normalize(written, "de") == "hi now if a b and c d"
