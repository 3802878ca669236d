"""The table of symbols: the public Tacotron 2's order, phonemes in braces, and errors that name what is unknown."""

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speech_jax.core.errors import UserError
from speech_jax.text.symbols import ARPABET, PHONES, TACOTRON2, Symbols, graphemes

# The list of NVIDIA's text/symbols.py and text/cmudict.py, written out.
PUBLIC = list("_-!'(),.:;? ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
PUBLIC += """
    @AA @AA0 @AA1 @AA2 @AE @AE0 @AE1 @AE2 @AH @AH0 @AH1 @AH2 @AO @AO0 @AO1 @AO2 @AW @AW0 @AW1 @AW2 @AY @AY0 @AY1 @AY2
    @B @CH @D @DH @EH @EH0 @EH1 @EH2 @ER @ER0 @ER1 @ER2 @EY @EY0 @EY1 @EY2 @F @G @HH @IH @IH0 @IH1 @IH2 @IY @IY0 @IY1
    @IY2 @JH @K @L @M @N @NG @OW @OW0 @OW1 @OW2 @OY @OY0 @OY1 @OY2 @P @R @S @SH @T @TH @UH @UH0 @UH1 @UH2 @UW @UW0
    @UW1 @UW2 @V @W @Y @Z @ZH
""".split()


def test_the_148_symbols_are_in_the_public_order():
    assert list(TACOTRON2.names) == PUBLIC
    assert TACOTRON2.vocab_size == 148 and len(ARPABET) == 84 and len(PHONES) == 69
    assert TACOTRON2.encode("-! AZaz{AA ZH}") == [1, 2, 11, 12, 37, 38, 63, 64, 147]


def test_phonemes_in_braces_and_back():
    text = "turn left on {HH AW1 S S T AH0 N} street!"
    ids = TACOTRON2.encode(text)
    assert len(ids) == len("turn left on  street!") + 7
    assert TACOTRON2.decode(ids) == text
    assert TACOTRON2.encode("{ HH  AH0 }{L}") == TACOTRON2.encode("{HH AH0 L}")


@given(st.lists(st.integers(1, 147), max_size=30))
def test_any_ids_survive_text(ids):
    assert TACOTRON2.encode(TACOTRON2.decode(ids)) == ids


def test_the_padding_is_left_out_of_the_text_and_is_not_in_it():
    assert TACOTRON2.decode([38, 0, 39, 0]) == "ab"
    with pytest.raises(UserError, match=r"'_' \(U\+005F LOW LINE\) at 2"):
        TACOTRON2.encode("a_b")


def test_unknown_symbols_are_named_with_their_places():
    with pytest.raises(UserError) as error:
        TACOTRON2.encode("né{AX}x7", source="list.txt:3")
    message = str(error.value)
    assert message.startswith("list.txt:3: found symbols outside the table: ")
    assert "'é' (U+00E9 LATIN SMALL LETTER E WITH ACUTE) at 2" in message
    assert "phoneme 'AX' at 4" in message and "'7' (U+0037 DIGIT SEVEN) at 8" in message
    with pytest.raises(UserError) as error:
        TACOTRON2.encode("7" * 10_000)
    assert len(str(error.value)) < 600 and "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["{", "a}b", "{HH AH0", "{}}"])
def test_a_brace_that_is_no_pair_is_unknown(text):
    with pytest.raises(UserError, match=r"'[{}]' \(U\+007[BD]"):
        TACOTRON2.encode(text)


def test_graphemes_of_any_language():
    table = graphemes(["čtyři", "_sta {x}", "łódź"])
    assert table.names[0] == "_" and "_" not in table.names[1:]
    assert table.names[1:] == tuple(sorted(set("čtyřista {x}łódź")))
    assert table.decode(table.encode("čtyři {x}")) == "čtyři {x}"  # no phonemes in this table, so braces are characters
    assert table == graphemes(["łódź", "čtyři", "sta {x}"])
    with pytest.raises(UserError, match="no characters"):
        graphemes(["", "_"])


def test_json_equality_and_workers():
    again = Symbols.from_json(json.dumps(TACOTRON2.to_json()))
    assert again == TACOTRON2 and again.fingerprint() == TACOTRON2.fingerprint()
    assert pickle.loads(pickle.dumps(TACOTRON2)) == TACOTRON2
    other = Symbols(("_", "b", "a"))
    assert other != Symbols(("_", "a", "b")) and other.fingerprint() != Symbols(("_", "a", "b")).fingerprint()
    for bad in ("{", "[]", '{"names": "abc"}', '{"names": [1]}'):
        with pytest.raises(UserError, match="symbols: found bad JSON"):
            Symbols.from_json(bad)
    for names in ((), ("_", "a", "a"), ("_", "ab"), ("_", "")):
        with pytest.raises(UserError, match="symbols: found"):
            Symbols(names)


def test_ids_outside_the_table():
    with pytest.raises(UserError, match=r"found 148, expected 0\.\.147"):
        TACOTRON2.decode([148])
