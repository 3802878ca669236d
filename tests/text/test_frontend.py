"""The front end of a voice: in a tokenizer's place, in a checkpoint, and against bad input."""

import importlib.util
import json
import logging
import pickle
import shutil

import pytest

from speech_jax.core.errors import UserError
from speech_jax.data.plan import lengths
from speech_jax.data.utterances import Utterance
from speech_jax.text import espeak
from speech_jax.text.config import FrontEndConfig
from speech_jax.text.frontend import FrontEnd, make_front_end
from speech_jax.text.symbols import TACOTRON2

LETTERS = make_front_end(FrontEndConfig())
PHONEMES = make_front_end(FrontEndConfig("arpabet"))
has_espeak = pytest.mark.skipif(
    shutil.which("espeak-ng") is None and importlib.util.find_spec("espeakng_loader") is None, reason="no espeak-ng"
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
    with pytest.raises(UserError, match=r"f\.csv:2: found '5' \(U\+0035 DIGIT FIVE\) at 8"):
        german.encode("schöne 5", source="f.csv:2")


@pytest.mark.parametrize("front_end", [LETTERS, PHONEMES])
@pytest.mark.parametrize("text", ["", "   ", "...!?", "—", "\u200b"])
def test_nothing_to_speak_is_one_clear_line(front_end, text):
    with pytest.raises(UserError, match=r"^list:7: found .*, expected something to speak$"):
        front_end.encode(text, source="list:7")


@pytest.mark.parametrize("front_end", [LETTERS, PHONEMES])
def test_emoji_and_other_scripts_are_named(front_end, caplog):
    with pytest.raises(UserError, match=r"U\+1F600 GRINNING FACE\) at 4, .*U\+6F22.* at 6"):
        front_end.encode("Hi 😀 漢")
    patient = FrontEnd(FrontEndConfig(front_end.config.units, "en", "skip"), front_end.symbols)
    with caplog.at_level(logging.WARNING, "speech_jax"):
        assert patient.encode("Hi 😀 漢") == front_end.encode("Hi")
    assert "GRINNING FACE" in caplog.text and "at 4" in caplog.text
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


# ---- espeak-ng


@has_espeak
def test_other_languages_in_ipa():
    french = make_front_end(FrontEndConfig("ipa", "fr"), ["Bonjour le monde, ça va?", "Oui!"])
    spoken = french.decode(french.encode("Bonjour, ça va?"))
    assert spoken == "bɔ̃ʒˈuʁ, sa vˈa?"
    with pytest.raises(UserError, match="expected something to speak"):
        french.encode("...")
    with pytest.raises(UserError, match="U\\+1F600"):
        french.encode("Oui 😀")


@pytest.mark.skipif(importlib.util.find_spec("espeakng_loader") is None, reason="no espeakng-loader")
def test_the_wheel_serves_where_the_program_is_missing(monkeypatch):
    monkeypatch.setattr(espeak.shutil, "which", lambda name: None)
    espeak._phonemize_clauses.cache_clear()
    assert espeak.phonemize_with_espeak("Bonjour, (oui) ça va!", "fr") == "bɔ̃ʒˈuʁ, (wˈi) sa vˈa!"
    with pytest.raises(UserError, match="voice does not exist"):
        espeak.phonemize_with_espeak("ok", "xx")


def test_without_espeak_there_is_one_clear_line(monkeypatch):
    monkeypatch.setattr(espeak.shutil, "which", lambda name: None)
    monkeypatch.setattr(espeak.importlib.util, "find_spec", lambda name: None)
    espeak._phonemize_clauses.cache_clear()
    with pytest.raises(UserError, match="^espeak-ng: found no such program, expected it for phonemes of 'fr': "):
        espeak.phonemize_with_espeak("Bonjour", "fr")


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
