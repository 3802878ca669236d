"""English phonemes: the dictionary, the rules beside it, and the network for words that no dictionary has."""

import re

import pytest

from speech_jax.core.errors import UserError
from speech_jax.evaluation.wer import ErrorCounts, count_errors
from speech_jax.tasks.g2p import entries, error_rates
from speech_jax.text.dictionary import cmudict, read_dictionary
from speech_jax.text.english import expand
from speech_jax.text.heteronyms import BY_STRESS
from speech_jax.text.letter_to_sound import _packaged, predict_phonemes, pronounce
from speech_jax.text.phonemes import phonemize, word_phonemes
from speech_jax.text.symbols import ARPABET, PHONES, TACOTRON2

# Names and new words that are not in the dictionary, as they are said.
OUT_OF_DICTIONARY = {
    "tacotron": "T AE1 K AH0 T R AA2 N",
    "blorp": "B L AO1 R P",
    "snorfle": "S N AO1 R F AH0 L",
    "plonkish": "P L AA1 NG K IH0 SH",
    "grumbleton": "G R AH1 M B AH0 L T AH0 N",
    "flimbered": "F L IH1 M B ER0 D",
    "unsquashable": "AH0 N S K W AA1 SH AH0 B AH0 L",
    "vlogging": "V L AA1 G IH0 NG",
    "defragment": "D IY0 F R AE1 G M AH0 N T",
    "microblog": "M AY1 K R OW0 B L AA2 G",
    "smartwatch": "S M AA1 R T W AA2 CH",
    "chatbot": "CH AE1 T B AA2 T",
    "podcasted": "P AA1 D K AE2 S T IH0 D",
    "wexlerton": "W EH1 K S L ER0 T AH0 N",
    "rebooting": "R IY0 B UW1 T IH0 NG",
    "crunchify": "K R AH1 N CH AH0 F AY2",
    "stremble": "S T R EH1 M B AH0 L",
    "dronning": "D R AA1 N IH0 NG",
    "retweeted": "R IY0 T W IY1 T IH0 D",
}


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Hello, world!", "{HH AH0 L OW1}, {W ER1 L D}!"),
        ("the dog, the apple", "{DH AH0} {D AO1 G}, {DH IY0} {AE1 P AH0 L}"),
        ("well-known (very)", "{W EH1 L}-{N OW1 N} ({V EH1 R IY0})"),
        ("a {HH AH0 L OW1} b", "{AH0} {HH AH0 L OW1} {B IY1}"),
        ("F B I", "{EH1 F} {B IY1} {AY1}"),
        ("U S A", "{Y UW1} {EH1 S} {EY1}"),
        ("A dog and I", "{AH0} {D AO1 G} {AH0 N D} {AY1}"),
        ("I will record a record", "{AY1} {W IH1 L} {R AH0 K AO1 R D} {AH0} {R EH1 K ER0 D}"),
        ("I read it. I have read it.", "{AY1} {R IY1 D} {IH1 T}. {AY1} {HH AE1 V} {R EH1 D} {IH1 T}."),
        ("to use the use", "{T UW1} {Y UW1 Z} {DH AH0} {Y UW1 S}"),
        ("the cats' toys", "{DH AH0} {K AE1 T S}' {T OY1 Z}"),
        ("", ""),
        ("...", "..."),
    ],
)
def test_sentences(text, expected):
    assert phonemize(text) == expected


# Sentence, number of the word, its phonemes.
HETERONYMS = """
    The wind is strong.|1|W IH1 N D
    Please wind the clock.|1|W AY1 N D
    The river winds through it.|2|W AY1 N D Z
    I read the book yesterday.|1|R EH1 D
    I will read it tomorrow.|2|R IY1 D
    Did he read it?|2|R IY1 D
    A tear fell from her eye.|1|T IH1 R
    Do not tear the paper.|2|T EH1 R
    The lead pipe is heavy.|1|L EH1 D
    They lead the race.|1|L IY1 D
    He took a bow to the crowd.|3|B AW1
    The bow and arrow broke.|1|B OW1
    We live in a small town.|1|L IH1 V
    The live show starts soon.|1|L AY1 V
    I refuse to go.|1|R AH0 F Y UW1 Z
    The refuse smelled bad.|1|R EH1 F Y UW2 Z
    She will present the award.|2|P R IY0 Z EH1 N T
    The present is wrapped.|1|P R EH1 Z AH0 N T
    I object to that.|1|AH0 B JH EH1 K T
    The desert is dry.|1|D EH1 Z ER0 T
    He will desert the army.|2|D IH0 Z ER1 T
    They produce cars.|1|P R AH0 D UW1 S
    The produce is fresh.|1|P R OW1 D UW0 S
    Close the door.|0|K L OW1 Z
    He is close to me.|2|K L OW1 S
    The dove flew away.|1|D AH1 V
    He dove into the pool.|1|D OW1 V
    A minute passed.|1|M IH1 N AH0 T
    A minute amount of dust.|1|M AY0 N UW1 T
    Polish the table.|0|P AA1 L IH0 SH
    The Polish team won.|1|P OW1 L IH0 SH
    I use it daily.|1|Y UW1 Z
    The use of it is clear.|1|Y UW1 S
    A good excuse.|2|IH0 K S K Y UW1 S
    The bass swam in the lake.|1|B AE1 S
    He plays bass guitar.|2|B EY1 S
    The contract was signed.|1|K AA1 N T R AE2 K T
    Muscles contract when cold.|1|K AH0 N T R AE1 K T
    Please separate them.|1|S EH1 P ER0 EY2 T
    A separate room.|1|S EH1 P ER0 IH0 T
    The wound healed.|1|W UW1 N D
    Send me your resume.|3|R EH1 Z AH0 M EY2
    I was content.|2|K AH0 N T EH1 N T
"""


def test_words_of_two_pronunciations_are_told_by_their_neighbors():
    for line in HETERONYMS.strip().splitlines():
        sentence, position, phones = line.strip().split("|")
        assert re.findall(r"{([^}]*)}", phonemize(expand(sentence)))[int(position)] == phones, sentence


def test_the_lexicon_goes_first():
    assert phonemize("Flax dog", {"flax": [("F", "L", "AO1")]}) == "{F L AO1} {D AO1 G}"


def test_everything_that_expand_says_can_be_encoded():
    text = phonemize(expand("Dr. Xqzy's 3rd blorptastic e-mail @ 5:30 pm cost $4.99, 'n' \"so\" it's OK; xyz's?"))
    assert TACOTRON2.decode(TACOTRON2.encode(text)) == text


def test_genitives_of_known_words_follow_the_rule():
    assert word_phonemes("antelope's") == cmudict()["antelope"][0] + ("S",)
    assert word_phonemes("walrus's") == cmudict()["walrus"][0] + ("IH0", "Z")
    assert word_phonemes("aardvark's")[-1] == "S"


def test_words_of_two_stresses_have_both_in_the_dictionary():
    for word in BY_STRESS:
        first = {[p for p in way if p[-1].isdigit()][0][-1] == "1" for way in cmudict()[word]}
        assert first == {True, False}, word


def test_every_letter_has_a_name():
    for letter in "BCDEFGHJKLMNOPQRSTUVWXYZ":
        assert word_phonemes(letter) == cmudict()[letter.lower() + "."][0]


def test_the_dictionary_is_whole():
    known = cmudict()
    assert len(known) > 125_000 and known["tomato"] == (
        ("T", "AH0", "M", "EY1", "T", "OW2"),
        ("T", "AH0", "M", "AA1", "T", "OW2"),
    )
    assert set(ARPABET).issuperset(p for ways in known.values() for way in ways for p in way)


def test_a_bad_dictionary_names_its_line():
    assert read_dictionary(["Word W ER1 D # a comment", "", "word(2) W ER0 D"], "x")["word"][1] == ("W", "ER0", "D")
    with pytest.raises(UserError, match=r"my\.dict:2: found 'QQ' for 'b'"):
        read_dictionary(["a AH0", "b QQ"], "my.dict")
    with pytest.raises(UserError, match=r"my\.dict:1: found 'no phoneme'"):
        read_dictionary(["alone"], "my.dict")


def test_the_network_says_new_words():
    assert not set(OUT_OF_DICTIONARY) & set(cmudict())
    said = [pronounce(word) for word in OUT_OF_DICTIONARY]
    plain = [[p.rstrip("012") for p in phones] for phones in said]
    references = [[p.rstrip("012") for p in phones.split()] for phones in OUT_OF_DICTIONARY.values()]
    errors = sum(count_errors(references, plain), ErrorCounts())
    assert errors.rate < 0.08, list(zip(OUT_OF_DICTIONARY, plain, strict=True))


def test_the_network_on_words_of_the_dictionary_that_it_was_not_trained_on():
    words = [entry.word for entry in entries(cmudict(), "test")[::20]]
    assert len(words) > 300
    assert error_rates({word: pronounce(word) for word in words}, cmudict())["per"] < 0.09


def test_the_network_is_deterministic_and_takes_any_length():
    word = "blorptastic"
    assert predict_phonemes(word, _packaged()) == predict_phonemes(word, _packaged()) == pronounce(word)
    assert set(pronounce("ab'cdefghijklmnopqrstuvwxyz" * 40)) <= set(PHONES)
    assert word_phonemes("Zzzzqqq") and word_phonemes("x")
