"""Tokenizers: the round trip, equality with sentencepiece, what they refuse."""

import io
import json
import pickle
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speech_jax.core.errors import UserError
from speech_jax.text.config import TokenizerConfig
from speech_jax.text.tokenizer import BLANK, Tokenizer, train_tokenizer


def sentences(number=400, seed=0):
    """Texts of an invented language with frequent and rare words."""
    draw = random.Random(seed)
    syllables = [c + v for c in "bdfgklmnprst" for v in "aeiou"]
    lexicon = ["".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(300)] + ["don't", "a"]
    return [
        " ".join(lexicon[min(int(draw.expovariate(0.02)), 301)] for _ in range(draw.randint(1, 12)))
        for _ in range(number)
    ]


TEXTS = sentences()
SIZES = {"char": 0, "bpe": 150, "unigram": 150}


@pytest.fixture(scope="module", params=["char", "bpe", "unigram"])
def tokenizer(request):
    return train_tokenizer(TEXTS, TokenizerConfig(kind=request.param, vocab_size=SIZES[request.param]))


def test_round_trip(tokenizer):
    for text in TEXTS + sentences(50, seed=1):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert all(0 < i < tokenizer.vocab_size for i in ids)
    assert tokenizer.pieces[0] == BLANK
    assert tokenizer.kind == "char" or tokenizer.vocab_size == 150


@settings(max_examples=200, deadline=None, derandomize=True)
@given(data=st.data())
def test_round_trip_of_any_words(tokenizer, data):
    letters = sorted(tokenizer.characters() - {" "})
    words = data.draw(st.lists(st.text(letters, min_size=1, max_size=12), max_size=6))
    plain = Tokenizer(tokenizer.kind, tokenizer.pieces, tokenizer.scores)  # "x'" is no English word: no normalisation
    text = " ".join(words)
    assert plain.decode(plain.encode(text)) == text


def test_json_is_the_same_tokenizer(tokenizer):
    text = json.dumps(tokenizer.to_json(), allow_nan=False)
    for copy in (
        Tokenizer.from_json(text),
        Tokenizer.from_json(json.loads(text)),
        pickle.loads(pickle.dumps(tokenizer)),
    ):
        assert copy == tokenizer and copy.fingerprint() == tokenizer.fingerprint()
        assert copy.encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])


def test_training_repeats(tokenizer):
    again = train_tokenizer(TEXTS, TokenizerConfig(kind=tokenizer.kind, vocab_size=SIZES[tokenizer.kind]))
    assert again == tokenizer


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_pieces_are_sentencepieces(kind):
    """Training texts and unseen ones are cut as sentencepiece cuts them, with the same ids."""
    sentencepiece = pytest.importorskip("sentencepiece")
    ours = train_tokenizer(TEXTS, TokenizerConfig(kind=kind, vocab_size=150))
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=model, model_type=kind, vocab_size=150, character_coverage=1.0,
        normalization_rule_name="identity", unk_id=0, bos_id=-1, eos_id=-1, pad_id=-1, minloglevel=2,
        num_threads=1,  # with several, equally probable pieces come in any order
    )  # fmt: skip
    theirs = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    for text in TEXTS + sentences(300, seed=2):
        assert ours.encode(text) == theirs.encode(text)


def test_outside_characters_are_named(tokenizer):
    with pytest.raises(UserError) as error:
        tokenizer.encode("ба\u044fна", source="train.jsonl:17")
    message = str(error.value)
    assert message.startswith("train.jsonl:17: found characters outside") and "'я' (U+044F)" in message
    assert "\n" not in message and "expected" in message
    for mark in ("\u2581", BLANK):
        with pytest.raises(UserError):
            Tokenizer(tokenizer.kind, tokenizer.pieces, tokenizer.scores).encode(f"ba{mark}")


def test_texts_are_normalised_first():
    tokenizer = train_tokenizer(["I have 2 dogs!", "five CATS"])
    assert tokenizer.language == "en"
    assert tokenizer.decode(tokenizer.encode("Two  DOGS.")) == "two dogs"
    raw = train_tokenizer(["I have 2"], TokenizerConfig(language=""))
    assert raw.pieces == (BLANK, *" 2Iaehv") and raw.decode(raw.encode(" 2 I")) == " 2 I"
    assert raw.fingerprint() != Tokenizer("char", raw.pieces, language="en").fingerprint()


def test_given_alphabet():
    tokenizer = train_tokenizer([], TokenizerConfig(alphabet="zyx "))
    assert tokenizer.pieces == (BLANK, "z", "y", "x", " ")
    assert tokenizer.encode("x z") == [3, 4, 1]


def test_decode_leaves_blanks_out_and_checks_ids(tokenizer):
    ids = tokenizer.encode(TEXTS[0])
    assert tokenizer.decode([0, *ids[:2], 0, 0, *ids[2:], 0]) == TEXTS[0]
    for wrong in (-1, tokenizer.vocab_size):
        with pytest.raises(UserError, match="expected 0"):
            tokenizer.decode([wrong])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Tokenizer("char", ("a", "b")), "first piece"),
        (lambda: Tokenizer("char", (BLANK, "a", "a")), "repeated"),
        (lambda: Tokenizer("char", (BLANK, "ab")), "several characters"),
        (lambda: Tokenizer("bpe", (BLANK, "ab")), "0 scores"),
        (lambda: Tokenizer("char", (BLANK, "a"), language="xx"), "language"),
        (lambda: Tokenizer.from_json("{"), "bad JSON"),
        (lambda: Tokenizer.from_json('{"kind": "char"}'), "bad JSON"),
        (lambda: Tokenizer.from_json('{"kind": "words", "pieces": ["<blank>"]}'), "kind 'words'"),
        (lambda: Tokenizer.from_json('{"kind": "bpe", "pieces": ["<blank>", 3], "scores": [0, 1]}'), "bad JSON"),
        (lambda: Tokenizer.from_json('{"kind": "bpe", "pieces": ["<blank>", "a"], "scores": [0, NaN]}'), "bad JSON"),
        (lambda: train_tokenizer([]), "no characters"),
        (lambda: train_tokenizer([" "], TokenizerConfig(kind="bpe", language="")), "no training texts"),
        (lambda: train_tokenizer(["a b"], TokenizerConfig(kind="bpe", vocab_size=5000)), "Vocabulary size too high"),
        (lambda: train_tokenizer(["a"], TokenizerConfig(kind="bpe", alphabet="a")), "alphabet"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(UserError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_bytes_and_marks_of_sentencepiece():
    """Models with byte_fallback spell unknown characters by their bytes."""
    names = ("<unk>", "<s>", "</s>", "<pad>", "<|en|>", "\u2581", "a", "<0xC3>", "<0xBC>", "<0x41>", "<0x07>")
    tokenizer = Tokenizer("bpe", (BLANK, *names), (0.0,) * 12)
    assert tokenizer.decode([1, 2, 5, 6, 7, 8, 9, 10, 11, 6, 7, 3, 4]) == "aüA a"
    assert tokenizer.decode([6, 8, 7]) == "\ufffda"  # half of a character


def test_special_pieces_of_a_char_tokenizer_are_no_text():
    """Imported vocabularies have them as classes: they can win a frame, and are neither encoded nor heard."""
    tokenizer = Tokenizer("char", (BLANK, "<s>", "</s>", "<unk>", " ", "a", "b"))
    assert tokenizer.decode([1, 5, 3, 4, 6, 2, 0]) == "a b"
    assert tokenizer.encode("a b") == [5, 4, 6] and "<" not in tokenizer.characters()
    assert Tokenizer.from_json(tokenizer.to_json()) == tokenizer
    with pytest.raises(UserError, match="outside the tokenizer"):
        tokenizer.encode("<s>")
    with pytest.raises(UserError, match="several characters"):
        Tokenizer("char", (BLANK, "<pad>"))
