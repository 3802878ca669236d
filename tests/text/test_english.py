"""English read aloud: golden sentences of every kind, and properties that hold for any text."""

import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speech_jax.text.config import FrontEndConfig
from speech_jax.text.english import LETTERS, PUNCTUATION, expand, read_english
from speech_jax.text.frontend import make_front_end

GOLDEN = {
    "cardinals": """
        7 apples | seven apples
        There are 101 of them. | There are one hundred one of them.
        12,345 | twelve thousand three hundred forty five
        1,000,000 people | one million people
        It has 4096 colours | It has four thousand ninety six colours
        agent 007 | agent zero zero seven
        card 1234567 | card one two three four five six seven
        10 000 people | ten thousand people
        0 | zero
    """,
    "ordinals": """
        the 1st, 2nd and 3rd | the first, second and third
        21st century | twenty first century
        his 100th birthday | his one hundredth birthday
        the 1,000th visitor | the one thousandth visitor
        112th | one hundred twelfth
    """,
    "decimals and negative numbers": """
        3.14 | three point one four
        0.05 | zero point zero five
        .5 | point five
        -7 | minus seven
        It is -3.5 now. | It is minus three point five now.
        version 1.2.3 | version one point two point three
        192.168.0.1 | one hundred ninety two dot one hundred sixty eight dot zero dot one
        1,234.5 | one thousand two hundred thirty four point five
    """,
    "fractions": """
        1/2 | one half
        3/4 of it | three quarters of it
        2/3 | two thirds
        3 1/2 | three and a half
        5½ hours | five and a half hours
        2 3/4 | two and three quarters
        7/8 | seven eighths
        24/7 | twenty four seven
        120/80 | one hundred twenty over eighty
    """,
    "years and decades": """
        in 1999 | in nineteen ninety nine
        in 1905 | in nineteen oh five
        since 2000 | since two thousand
        in 2008 | in two thousand eight
        in 2026. | in twenty twenty six.
        1066 | one thousand sixty six
        the 1990s | the nineteen nineties
        the 1800s | the eighteen hundreds
        the '60s | the sixties
        the 80s | the eighties
        the 1960s–70s | the nineteen sixties to seventies
        mid-1990s | mid nineteen nineties
        1914-1918 | nineteen fourteen to nineteen eighteen
        class of '99 | class of ninety nine
    """,
    "money": """
        $3.50 | three dollars and fifty cents
        $1 | one dollar
        $1.01 | one dollar and one cent
        $0.99 | ninety nine cents
        $.99 | ninety nine cents
        $1,200 | one thousand two hundred dollars
        $2.5 million | two point five million dollars
        $3 billion | three billion dollars
        $5K | five thousand dollars
        £20 | twenty pounds
        £4.99 | four pounds and ninety nine pence
        £0.01 | one penny
        €15.20 | fifteen euros and twenty cents
        ¥500 | five hundred yen
        20 € | twenty euros
        50¢ | fifty cents
        US$40 | forty U S dollars
        -$5 | minus five dollars
        $5-10 | five to ten dollars
        $10/hour | ten dollars per hour
        ₹100 | one hundred rupees
    """,
    "dates": """
        3/14/2026 | March fourteenth, twenty twenty six
        25/12/1999 | December twenty fifth, nineteen ninety nine
        2026-03-14 | March fourteenth, twenty twenty six
        March 3rd | March third
        March 3 | March third
        on July 4, 1776, they | on July fourth, seventeen seventy six, they
        14 March 2026 | the fourteenth of March, twenty twenty six
        the 5th of May | the fifth of May
        Jan. 5, 2001 | January fifth, two thousand one
        Dec 31 | December thirty first
        in March 2020 | in March twenty twenty
        14.3.2026 | March fourteenth, twenty twenty six
        Sept. 2019 | September twenty nineteen
    """,
    "times": """
        5:30 pm | five thirty P M
        5:30 p.m. | five thirty P M.
        at 5:30 p.m. today | at five thirty P M today
        at 5 p.m. He left. | at five P M. He left.
        17:05 | seventeen oh five
        10:00 | ten o'clock
        10:00 am | ten A M
        7am | seven A M
        12:15 | twelve fifteen
        17:00 | seventeen hundred
        10:30 a.m. EST | ten thirty A M E S T
        3pm-5pm | three P M to five P M
        9:30-10:15 | nine thirty to ten fifteen
        9:45:30 | nine forty five and thirty seconds
    """,
    "telephone numbers": """
        555-1234 | five five five, one two three four
        (555) 123-4567 | five five five, one two three, four five six seven
        1-800-555-0199 | one, eight zero zero, five five five, zero one nine nine
        +44 20 7946 0958 | plus four four, two zero, seven nine four six, zero nine five eight
        123-45-6789 | one two three, four five, six seven eight nine
    """,
    "Roman numerals": """
        Henry VIII | Henry the eighth
        Elizabeth II was queen. | Elizabeth the second was queen.
        Charles I of England | Charles the first of England
        Henry VIII's wives | Henry the eighth's wives
        Louis XIV | Louis the fourteenth
        World War II | World War two
        World War I | World War one
        Chapter IV | Chapter four
        Apollo XI | Apollo eleven
        I saw Mary. | I saw Mary.
        Pope John Paul II | Pope John Paul the second
        John and I went | John and I went
    """,
    "abbreviations": """
        Mr. Smith and Mrs. Jones | Mister Smith and Missus Jones
        Dr. Brown | Doctor Brown
        12 Main St. | twelve Main Street.
        St. Louis | Saint Louis
        123 Elm Dr. | one hundred twenty three Elm Drive.
        pens, paper, etc. | pens, paper, et cetera.
        fruit, e.g. apples | fruit, for example apples
        that is, i.e. now | that is, that is now
        cats vs. dogs | cats versus dogs
        No. 5 | Number five
        Martin Luther King Jr. spoke | Martin Luther King Junior spoke
        Prof. Lee | Professor Lee
        Acme Inc. | Acme Incorporated.
        Smith et al. | Smith et al.
        p. 12 | page twelve
        Lt. Col. Gray | Lieutenant Colonel Gray
        Mt. Everest | Mount Everest
        coffee w/o milk | coffee without milk
        fig. 3 | figure three
        J. R. R. Tolkien | J R R Tolkien
    """,
    "acronyms": """
        NASA | nasa
        the FBI | the F B I
        FBI. | F B I.
        NATO and the UN | nato and the U N
        the U.S.A. today | the U S A today
        the U.K. | the U K.
        HTML | H T M L
        CDs and DVDs | C D's and D V D's
        MP3 | M P three
        a 3D model | a three D model
        Ph.D. | P H D.
        B2B | B two B
        COVID-19 | covid nineteen
        an OK day | an okay day
        the NAACP | the N double A C P
        STOP RIGHT THERE NOW | stop right there now
        I said NO | I said no
        AT&T | A T and T
        F-16 | F sixteen
    """,
    "units": """
        5 km | five kilometers
        1 km | one kilometer
        20°C | twenty degrees Celsius
        -5 °F | minus five degrees Fahrenheit
        3 lb | three pounds
        10% | ten percent
        99.9% | ninety nine point nine percent
        60 mph | sixty miles per hour
        100 km/h | one hundred kilometers per hour
        5-10 kg | five to ten kilograms
        a 5-km run | a five kilometer run
        12 m² | twelve square meters
        16 GB | sixteen gigabytes
        2.4 GHz | two point four gigahertz
        500ml | five hundred milliliters
        6'2" tall | six feet two inches tall
        a 90° turn | a ninety degree turn
        250 µg | two hundred fifty micrograms
    """,
    "signs": """
        salt & pepper | salt and pepper
        2 + 2 = 4 | two plus two equals four
        5 - 3 = 2 | five minus three equals two
        3 x 4 = 12 | three times four equals twelve
        a 4x6 photo | a four by six photo
        #1 | number one
        #metoo | hashtag metoo
        meet @ noon | meet at noon
        press * or # | press star or pound
        and/or | and slash or
        ± 5 | plus or minus five
        π | pi
    """,
    "ranges and ratios": """
        10-20 | ten to twenty
        pages 10–20 | pages ten to twenty
        a 3:1 ratio | a three to one ratio
        16:9 | sixteen to nine
        ages 3.5-4.5 | ages three point five to four point five
    """,
    "addresses": """
        john.smith@example.com | john dot smith at example dot com
        https://www.example.com/news | W W W dot example dot com slash news
        See example.org. | See example dot org.
        www.site24.net | W W W dot site twenty four dot net
        a_b@mail.co.uk | A underscore B at mail dot C O dot U K
    """,
    "days, months and their ranges": """
        Mon.-Fri. | Monday to Friday.
        on Wed and Sat. | on Wednesday and Saturday.
        June 1-3 | June first to third
        5-7 May 2019 | the fifth to seventh of May, twenty nineteen
        in Oct '87 | in October eighty seven
        on 12/25 | on December twenty fifth
        2-14-1999 | February fourteenth, nineteen ninety nine
        14-Mar-2026 | March fourteenth, twenty twenty six
        on 1/2 of it | on one half of it
        0800 hours | zero eight hundred hours
        1h 30m | one hour thirty minutes
    """,
    "powers": """
        2^10 | two to the tenth
        10⁻³ | ten to the minus three
        6 × 10²³ | six times ten to the twenty third
        1.6e-19 | one point six times ten to the minus nineteen
        x² + y³ | x squared plus y cubed
        CO₂ and H₂SO₄ | C O two and H two S O four
    """,
    "what a quantity describes": """
        a $5 bill | a five dollar bill
        the 10 km run | the ten kilometer run
        $5 in change | five dollars in change
        3/4 lb of ham | three quarters of a pound of ham
        5 million km | five million kilometers
        2 g/L | two grams per liter
        a 10 x 12 ft room | a ten by twelve foot room
        10 kg to 20 lb | ten kilograms to twenty pounds
        5 ft 6 in | five feet six inches
        300 B.C. | three hundred B C.
        5M users in the 2019 elections | five million users in the twenty nineteen elections
        1980s-1990s and 1st-2nd | nineteen eighties to nineteen nineties and first to second
        a "1984" review | a nineteen eighty four review
        the 12" record | the twelve inch record
    """,
    "tags": """
        so [laughter] well | so well
        (coughs) yes <unk> {breath} no | yes no
        [laughter-right] he said (quietly) | right he said (quietly)
    """,
    "punctuation and Unicode": """
        “Hello,” she said. | Hello, she said.
        It’s fine… | It's fine...
        well-known | well-known
        wait — what? | wait, what?
        café naïve Zürich | cafe naive Zurich
        ﬁne | fine
        ＡＢＣ１ | A B C one
        [note] | (note)
        well, | well,
        - item | item
        Straße | Strasse
        {HH AH0}, Dr. X | {HH AH0}, Doctor X
        the {HH AH0 L OW1} test 2 | the {HH AH0 L OW1} test two
        Hello, world! | Hello, world!
    """,
}
CASES = [
    tuple(part.strip() for part in line.split(" | "))
    for block in GOLDEN.values()
    for line in block.strip().splitlines()
]
# Pieces that meet in random order: what one reading leaves must mean nothing to another.
PIECES = [written for written, _ in CASES] + [
    "I", "II", "V", "A", "St", "Dr", "No", "NASA", "Henry", "May", "3", "-", ".", ",", "$", "%", "a.m.", "/", "'", "s",
    "{", "}", "(", ")", "°", "#", "…", "MIX", "U.S.", "😀", "CIA's", "\n",
]  # fmt: skip
OUTPUT = LETTERS | PUNCTUATION
INLINE = re.compile(r"\{[A-Z0-2 ]+\}")


@pytest.mark.parametrize("written, spoken", CASES)
def test_golden(written, spoken):
    assert expand(written) == spoken


def test_there_are_enough_golden_cases():
    assert len(CASES) >= 150 and len({written for written, _ in CASES}) == len(CASES)


def check_properties(text):
    once = expand(text)
    assert set(INLINE.sub("", once)) <= OUTPUT
    assert once == once.strip() and "  " not in once
    assert expand(once) == once


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60))
def test_any_unicode_text_gives_letters_and_punctuation_and_is_read_once(text):
    check_properties(text)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=6), st.sampled_from(["", " "]))
def test_what_was_read_means_nothing_to_a_second_reading(pieces, joint):
    check_properties(joint.join(pieces))


@settings(max_examples=100, deadline=None)
@given(st.text("0123456789.,:/-$% 'sIVXkmAP", max_size=40))
def test_any_heap_of_figures_is_read(text):
    check_properties(text)


@pytest.mark.parametrize(
    "piece", ["9", "1,", "a", "A", "1-", "$1 ", "1/2 ", "a.", "IV ", "(", "{A", "😀", "1:", "www.", "x@"]
)
def test_ten_thousand_characters_take_linear_time(piece):
    def seconds(length):
        text = (piece * length)[:length]
        began = time.process_time()
        expand(text)
        return time.process_time() - began

    expand("warm")
    short = min(seconds(2500) for _ in range(3))
    assert min(seconds(10_000) for _ in range(2)) < 8 * short + 0.05  # four times as long; quadratic would be 16


def accepted(reading):
    """The pattern of a reading in readings.tsv."""
    marks = {"{": "(?:", "}": ")", "|": "|", "(": "(?:", ")": ")?"}
    tokens = re.findall(r"[{}|()]|[^\s{}|()]+", reading)
    return re.compile("".join(marks.get(token) or f"(?: {re.escape(token)})" for token in tokens))


def test_sentences_of_every_kind_are_read_as_a_voice_cuts_them():
    front_end = make_front_end(FrontEndConfig())
    lines = Path(__file__).with_name("readings.tsv").read_text("utf-8").splitlines()[1:]
    wrong = []
    for kind, sentence, reading in (line.split("\t") for line in lines):
        spoken = " ".join(piece.text for piece in front_end.split(sentence))
        words = re.sub(r"(?<![a-z])'|'(?![a-z])", " ", re.sub(r"[^a-z' ]", " ", spoken)).split()
        if not accepted(reading).fullmatch("".join(f" {word}" for word in words)):
            wrong.append((kind, sentence, spoken))
    assert len(lines) > 550 and len(wrong) / len(lines) < 0.01, wrong


def test_what_cannot_be_read_is_named_with_its_place():
    found = read_english("Hi 😀 you 漢!")
    assert found.text == "Hi you!"
    assert [(c.position, c.original) for c in found.unknown] == [(3, "😀"), (9, "漢")]
    assert "U+1F600" in found.warning() and "at 4" in found.warning()


def test_a_phoneme_that_there_is_not_is_named():
    found = read_english("say {HH AX0} {} now")
    assert found.text == "say now" and [tuple(c) for c in found.unknown] == [(8, "AX0", "")]
    assert found.warning() == "left out: phoneme 'AX0' at 9"


def test_positions_are_those_of_the_whole_text_also_behind_phonemes():
    found = read_english("{AA1} ok 😀")
    assert [c.position for c in found.unknown] == [9]


@pytest.mark.parametrize("text", ["", " ", "\n\t", "😀", "\u200b"])
def test_nothing_to_read_gives_nothing(text):
    assert expand(text) == ""
