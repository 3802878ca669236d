"""Folding: every character is kept, replaced and listed, or unknown and listed; nothing disappears unnamed."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speech_jax.text.fold import fold
from speech_jax.text.symbols import TACOTRON2

KEEP = TACOTRON2.characters()
CZECH = frozenset("aábcčdďeéěfghiíjklmnňoóprřsštťuúůvyýzž ,.")


@pytest.mark.parametrize(
    "text, expected",
    [
        ("plain text", "plain text"),
        ("  a \t\n b\u00a0c ", "a b c"),
        ("“quoted” ‘it’s’", "quoted 'it's'"),
        ("a – b — c", "a - b , c"),
        ("wait…", "wait..."),
        ("ﬁne ＡＢ", "fine AB"),
        ("naïve Łódź Ærø ß", "naive Lodz Aero ss"),
        ("e\u0301", "e"),
        ("zero\u200bwidth co\u00adoperate \u202aleft\u202c\ufeff", "zerowidth cooperate left"),
        ("[x]", "(x)"),
        ("¿Qué?", "Que?"),
    ],
)
def test_into_the_letters_of_the_table(text, expected):
    found = fold(text, KEEP)
    assert found.text == expected and found.unknown == ()


def test_accents_stay_where_the_table_has_them():
    assert fold("Řeka e\u0301", CZECH).text == "řeka é"
    assert fold("ö", CZECH).text == "o"


def test_figures_of_other_scripts():
    assert fold("٣ ३ ３", frozenset("0123456789 ")).text == "3 3 3"


def test_what_is_replaced_and_what_is_unknown_is_listed_with_its_place():
    found = fold("é 漢5", KEEP)
    assert [tuple(c) for c in found.replaced] == [(0, "é", "e")]
    assert [(c.position, c.original) for c in found.unknown] == [(2, "漢"), (3, "5")]
    assert found.text == "e"
    assert "'漢' (U+6F22 CJK UNIFIED IDEOGRAPH-6F22) at 3" in found.warning()
    assert fold("ok", KEEP).warning() == ""
    assert fold("😀" * 20, KEEP).warning().endswith("and 12 more")


def test_neighbours_of_an_unknown_character_stay_two_words():
    assert fold("a😀b", KEEP).text == "a b"


@given(st.text())
def test_every_character_is_accounted_for(text):
    found = fold(text, KEEP)
    assert set(found.text) <= KEEP and fold(found.text, KEEP).text == found.text
    listed = set()
    for change in (*found.replaced, *found.unknown):
        assert text[change.position : change.position + len(change.original)] == change.original
        listed |= set(range(change.position, change.position + len(change.original)))
    for i, character in enumerate(text):
        composed = unicodedata.normalize("NFC", character)
        assert i in listed or character.isspace() or all(c in KEEP for c in composed)


def test_ten_thousand_marks_on_one_letter():
    found = fold("e" + "\u0301" * 10_000, KEEP)
    assert set(found.text) <= {"e", " "}
