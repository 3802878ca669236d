"""The front end of a voice: in a tokenizer's place, in a checkpoint, and against bad input."""

import ctypes.util
import importlib.util
import json
import logging
import pickle

import pytest

from speech_jax.core.errors import UserError
from speech_jax.data.plan import lengths
from speech_jax.data.utterances import Utterance
from speech_jax.text import espeak
from speech_jax.text.config import FrontEndConfig
from speech_jax.text.frontend import FrontEnd, make_front_end
from speech_jax.text.sentences import END, LONGEST, SHORTEST, mark_ends
from speech_jax.text.symbols import TACOTRON2

LETTERS = make_front_end(FrontEndConfig())
PHONEMES = make_front_end(FrontEndConfig("arpabet"))
has_espeak = pytest.mark.skipif(
    ctypes.util.find_library("espeak-ng") is None and importlib.util.find_spec("espeakng_loader") is None,
    reason="no espeak-ng",
)


def test_english_is_read_aloud_in_lower_case_letters():
    assert LETTERS.decode(LETTERS.encode("Dr. Smith paid $3.50.")) == "doctor smith paid three dollars and fifty cents."
    assert LETTERS.decode(LETTERS.encode("say {HH AY1} NOW")) == "say {HH AY1} now"


def test_english_in_phonemes():
    assert PHONEMES.decode(PHONEMES.encode("Hello, 2!")) == "{HH AH0 L OW1}, {T UW1}!"


def test_it_takes_a_tokenizers_place_in_the_data():
    utterance = Utterance(id="a", audio="a.wav", seconds=1.0, text="Hello, 2!")
    _, labels = lengths([utterance], PHONEMES)
    assert labels.tolist() == [len(PHONEMES.encode("Hello, 2!"))]
    worker = pickle.loads(pickle.dumps(PHONEMES))
    assert PHONEMES.pieces == TACOTRON2.names and PHONEMES.vocab_size == 148
    assert worker == PHONEMES and worker.encode("Hello") == PHONEMES.encode("Hello")


def test_a_checkpoint_carries_it():
    for front_end in (LETTERS, PHONEMES, make_front_end(FrontEndConfig("graphemes", "de", "skip"), ["Grüß Gott"])):
        again = FrontEnd.from_json(json.loads(json.dumps(front_end.to_json())))
        assert again == front_end and again.fingerprint() == front_end.fingerprint()
    assert LETTERS.symbols == TACOTRON2
    with pytest.raises(UserError, match="frontend: found bad JSON"):
        FrontEnd.from_json({"units": "arpabet"})


def test_graphemes_of_another_language_name_what_they_do_not_have():
    german = make_front_end(FrontEndConfig("graphemes", "de"), ["Grüß Gott, schöne Welt 12"])
    assert german.decode(german.encode("GRÜß’ Göt")) == "grüß göt"
    with pytest.raises(UserError, match=r"f\.csv:2: found '5' \(U\+0035 DIGIT FIVE\) at character 8"):
        german.encode("schöne 5", source="f.csv:2")


@pytest.mark.parametrize("front_end", [LETTERS, PHONEMES])
@pytest.mark.parametrize("text", ["", "   ", "...!?", "—", "\u200b"])
def test_nothing_to_speak_is_one_clear_line(front_end, text):
    with pytest.raises(UserError, match=r"^list:7: found .*, expected something to speak$"):
        front_end.encode(text, source="list:7")


@pytest.mark.parametrize("front_end", [LETTERS, PHONEMES])
def test_emoji_and_other_scripts_are_named(front_end, caplog):
    with pytest.raises(UserError, match=r"U\+1F600 GRINNING FACE\) at character 4, .*U\+6F22.* at character 6"):
        front_end.encode("Hi 😀 漢")
    patient = FrontEnd(FrontEndConfig(front_end.config.units, "en", "skip"), front_end.symbols)
    with caplog.at_level(logging.WARNING, "speech_jax"):
        assert patient.encode("Hi 😀 漢") == front_end.encode("Hi")
    assert "left out or replaced 2: " in caplog.text and "GRINNING FACE) at character 4" in caplog.text
    with pytest.raises(UserError, match="expected something to speak"):
        patient.encode("😀")


@pytest.mark.parametrize("front_end", [LETTERS, PHONEMES])
def test_ten_thousand_characters(front_end):
    sentence = "In 1999, Dr. Lee paid $3.50 for 5 km of blorptastic rope! "
    ids = front_end.encode((sentence * 200)[:10_000])
    assert len(ids) > 10_000
    assert len(front_end.encode("ab" * 5000)) > 5000  # one word
    assert len(front_end.encode("9" * 10_000)) > 10_000  # one number


@pytest.mark.parametrize(
    "settings, message",
    [
        (("letters",), "frontend.units"),
        (("arpabet", "fr"), "graphemes or ipa"),
        (("ipa", "fr", "x"), "frontend.unknown"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(UserError, match=message):
        FrontEndConfig(*settings)


# ---- Pieces for synthesis


@pytest.mark.parametrize("front_end", [LETTERS, PHONEMES])
@pytest.mark.parametrize(
    "text",
    [
        "Dr. Lee paid $3.50 on 3/14/2026.",
        "We met on Jan. 3 in the U.S. capital, at No. 5. Prof. Brown teaches at St. John's, e.g. on Fri. afternoons.",
        "See https://example.com/a.b?c=1. Send it to a.b@example.org. It is 3.14, or 1,000,000!",
        "The first {HH AH0 L OW1}. {W ER1 L D} " * 20,
        "seven hundred thousand " * 30,
        "One. Two! Three? " * 40,
        "x" * 900,
    ],
)
def test_pieces_have_the_symbols_of_training(front_end, text):
    """A text is read as in training and then cut: joined, the pieces are what a training text would be."""
    pieces = front_end.split(text)
    assert " ".join(piece.text for piece in pieces).replace(" ", "") == front_end.prepare(text).text.replace(" ", "")
    space = front_end.symbols.id_of(" ")
    ids = [i for piece in pieces for i in piece.ids if i != space]
    assert ids == [i for i in front_end.encode(text) if i != space]
    assert max(len(piece.ids) for piece in pieces) <= LONGEST + SHORTEST


def test_a_piece_is_a_sentence_and_a_short_one_has_a_neighbor():
    def texts(text):
        return [piece.text for piece in LETTERS.split(text)]

    assert texts("Dr. Lee paid two dollars. It was late.") == ["doctor lee paid two dollars. it was late."]
    long = ["he left the house in the middle of the night.", "nobody had seen him go, not even the old dog."]
    assert texts(" ".join(long)) == long
    assert texts(f"Chapter One\n\n{long[0]}\n{long[1]}") == ["chapter one", *long]
    assert texts(f"{long[0]} Yes. {long[1].capitalize()}") == [f"{long[0]} yes.", long[1]]
    assert texts("One. ... Two.") == ["one.... two."]
    figures = texts("7,777,777 men " * 30)  # no cut lies inside a number
    assert len(figures) > 5 and all(text.startswith(("seven million", "men")) for text in figures)
    for text in ("", "...", "-- !"):
        with pytest.raises(UserError, match="expected something to speak"):
            LETTERS.split(text)


def test_other_languages_are_cut_at_the_ends_of_sentences():
    text = "Am Montag kam Dr. Müller, z. B. mit dem Zug um halb zehn. Dann ging er wieder, usw. und so weiter! Oder?"
    german = make_front_end(FrontEndConfig("graphemes", "de"), [text])
    assert [piece.text for piece in german.split(text)] == [
        "am montag kam dr. müller, z. b. mit dem zug um halb zehn.",
        "dann ging er wieder, usw. und so weiter! oder?",
    ]
    chinese = make_front_end(FrontEndConfig("graphemes", "zh"), ["今天天气很好，我们去公园。", "你呢？"])
    pieces = chinese.split("今天天气很好，我们去公园。" * 40)
    assert all(piece.text.endswith("公园。") for piece in pieces) and len(pieces) > 2
    assert chinese.decode(chinese.encode("今天 天气")) == "今天天气"  # the voice knows no spaces


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("One. Two.\n Three😀 four.", r"'😀' \(U\+1F600 GRINNING FACE\) in 'Three😀' at line 2, character 7,"),
        ("Say {HH AH0 L OW1 to them.", r"'{' \(U\+007B LEFT CURLY BRACKET\) in '{HH' at character 5,"),
        ("Say {HH QQ1} now", r"'QQ1' in 'QQ1}' at character 9,"),
    ],
)
def test_an_unknown_symbol_is_named_with_its_place_in_the_written_text(text, message):
    with pytest.raises(UserError, match=message):
        LETTERS.split(text)


def test_an_ordinal_ends_no_sentence_where_it_is_written_with_a_stop():
    assert mark_ends("Am 3. Mai. Dann", "de") == f"Am 3. Mai.{END} Dann"
    assert mark_ends("He was 12. Then he left.", "en-us") == f"He was 12.{END} Then he left."


def test_format_characters_are_silent():
    assert LETTERS.decode(LETTERS.encode("\u202aHel\u00adlo\u202c \u2066wor\u200dld\u2069")) == "hello world"


def test_a_letter_of_a_reading_is_named_by_the_word_that_it_is_in():
    voice = make_front_end(FrontEndConfig("graphemes", "en"), ["one two three for us"])
    with pytest.raises(UserError, match=r"found 'z' .* in '0' at character 5, expected"):
        voice.encode("two 0")


# ---- espeak-ng


@has_espeak
def test_other_languages_in_ipa():
    french = make_front_end(FrontEndConfig("ipa", "fr"), ["Bonjour le monde, ça va?", "Oui!"])
    spoken = french.decode(french.encode("Bonjour, ça va?"))
    assert spoken == "bɔ̃ʒˈuʁ, sa vˈa?"
    with pytest.raises(UserError, match="expected something to speak"):
        french.encode("...")
    with pytest.raises(UserError, match=r"U\+1F600 GRINNING FACE\) at line 3, character 5,"):
        french.encode("Oui!\n\nOui 😀")
    text = "Bonjour\n\nça va, ça va, ça va, ça va? Oui!"
    assert [piece.text[:9] for piece in french.split(text)] == ["bɔ̃ʒˈuʁ", "sa vˈa, s"]


@pytest.mark.skipif(importlib.util.find_spec("espeakng_loader") is None, reason="no espeakng-loader")
def test_the_wheel_serves_where_espeak_is_not_installed(monkeypatch):
    monkeypatch.setattr(espeak.ctypes.util, "find_library", lambda name: None)
    espeak._phonemize.cache_clear()
    assert espeak.phonemize_with_espeak("Bonjour, (oui) ça va!", "fr") == "bɔ̃ʒˈuʁ, (wˈi) sa vˈa!"
    with pytest.raises(UserError, match="voice does not exist"):
        espeak.phonemize_with_espeak("ok", "xx")


def test_without_espeak_there_is_one_clear_line(monkeypatch):
    monkeypatch.setattr(espeak.ctypes.util, "find_library", lambda name: None)
    monkeypatch.setattr(espeak.importlib.util, "find_spec", lambda name: None)
    espeak._phonemize.cache_clear()
    with pytest.raises(UserError, match="^espeak-ng: found no such library, expected it for phonemes of 'fr': "):
        espeak.phonemize_with_espeak("Bonjour", "fr")


@has_espeak
@pytest.mark.parametrize(
    ("language", "text", "sounds"),
    [
        ("en-us", "1,000 people, 3.14 and $2.50: yes!", "wˈʌn θˈaʊzənd pˈiːpəl, θɹˈiː pɔɪnt wˈʌn fˈɔːɹ ænd"),
        ("de", "Es sind 10.000 Leute.", "ɛs zɪnt tsˈeːn tˈaʊzənt lˈɔøtə."),
        ("fr", "Il a 1,5 litre.", "il a œ̃ viʁɡyl sˈɛ̃k lˈitʁ."),
        ("en-us", "Dr. Smith left.", "dˈɑːktɚ smˈɪθ lˈɛft."),  # the stop of an abbreviation is no pause
        ("en-us", "No. 5 said no.", "nˈoʊ fˈaɪv sˈɛd nˈoʊ."),
        ("cmn", "你好。", "ni2χˈɑu2."),
        ("en-us", 'He said "1,000" (or 3.5)!', 'hiː sˈɛd "wˈʌn θˈaʊzənd" (ɔːɹ θɹˈiː pɔɪnt fˈaɪv)!'),
    ],
)
def test_espeak_reads_whole_sentences(language, text, sounds):
    assert espeak.phonemize_with_espeak(text, language).startswith(sounds)


@has_espeak
def test_a_sound_that_the_voice_lacks_is_named_by_its_word_and_replaced_by_a_near_one_where_that_is_asked_for(caplog):
    voice = make_front_end(FrontEndConfig("ipa", "en-us"), ["The cat sat on a red mat, but not for Ben!"])
    text = "The cat sat.\nOn a button!"
    place = r"found 'ʔ' .*in 'button!' at line 2, character 6 \(unknown = 'skip' reads it as 't'"
    with pytest.raises(UserError, match=place):
        voice.encode(text)
    with caplog.at_level(logging.WARNING, "speech_jax"):
        spoken = voice.decode(voice.with_unknown("skip").encode(text))
    assert spoken.endswith("ɐ bˈʌtn!")
    assert "in 'button!' at line 2, character 6 (read as 't')" in caplog.text


def test_a_voice_that_is_no_name_is_refused():
    with pytest.raises(UserError, match="language: found '--path=x'"):
        espeak.phonemize_with_espeak("a", "--path=x")


def test_espeak_is_never_loaded_into_this_process():
    import subprocess
    import sys

    code = (
        "import sys; from speech_jax.text.frontend import *\n"
        "try: make_front_end(FrontEndConfig('ipa', 'fr'), ['Oui'])\n"
        "except Exception: pass\n"
        "assert 'espeakng_loader' not in sys.modules and 'espeak' not in open('/proc/self/maps').read()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_letters_of_a_voice_are_small_by_its_language_and_tags_are_no_words():
    front_end = make_front_end(FrontEndConfig(units="graphemes", language="tr"), ["Işık, İyi [gülme sesi_] günler"])
    assert front_end.prepare("IŞIK <unk> İYİ (laughs) GÜN\u00adLER").text == "ışık iyi günler"
    assert "I" not in front_end.characters() and "\u0307" not in front_end.characters()
