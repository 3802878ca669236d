"""Language models that meet a tokenizer: in another case or alphabet, with other accents, partly or not at all."""

import math

import numpy as np
import pytest

from speech_jax.core.errors import UserError
from speech_jax.decoding.beam import BeamSearch
from speech_jax.decoding.config import BeamConfig
from speech_jax.decoding.language_model import compare_words, fold_words, load_language_model
from speech_jax.inference.ctc_recognizer import make_search
from speech_jax.lm import split_sentences
from speech_jax.text.ngram import read_arpa, train_ngrams, write_arpa
from speech_jax.text.tokenizer import BLANK, Tokenizer

LATIN = Tokenizer("char", (BLANK, *" 'abcdefghijklmnopqrstuvwxyz"))
GERMAN = Tokenizer("char", (*LATIN.pieces, *"äöüß"))
CAPITALS = Tokenizer("char", (BLANK, *" 'ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
PIECES = Tokenizer("bpe", (BLANK, "\u2581the", "\u2581c", "at", *"abcdefghijklmnopqrstuvwxyz\u2581"), (0.0,) * 31)
TEXTS = ["the quick brown fox jumps over the lazy dog's back", "the cat sat on the mat", "a cat"]


def write(path, texts, order=2):
    write_arpa(path, train_ngrams([text.split() for text in texts], order))
    return str(path)


def scores(tokenizer, rows):
    """Log-probabilities of one frame per row, each {piece: probability}; the blank takes a frame between any two."""
    frames = []
    for row in rows:
        frames += [[row.get(piece, 1e-4) for piece in tokenizer.pieces], [1.0] + [1e-4] * (tokenizer.vocab_size - 1)]
    return np.log(np.array(frames) / np.sum(frames, axis=1, keepdims=True))


@pytest.mark.parametrize(
    ("text", "heard", "pieces"),
    [
        ("今天天气很好", {3: {"汽": 0.6, "气": 0.4}}, "今天气汽很好 "),
        ("コーヒーを飲む", {5: {"野": 0.6, "飲": 0.4}}, "コーヒを飲む野"),
        ("ทำงานหนัก", {2: {"ว": 0.6, "ง": 0.4}}, "ทำงานหักวั"),
        ("世界jax好", {1: {"届": 0.6, "界": 0.4}}, "世界届jax好"),
    ],
)
def test_a_model_over_signs_corrects_the_best_path(tmp_path, text, heard, pieces):
    tokenizer = Tokenizer("char", (BLANK, *dict.fromkeys(pieces)))
    sentences = [sentence for line in (text, text, text[2:]) for sentence in split_sentences(line, str)]
    write_arpa(tmp_path / "signs.arpa", train_ngrams(sentences, 3))
    model = load_language_model(tmp_path / "signs.arpa", tokenizer)
    log_probs = scores(tokenizer, [heard.get(n, {char: 1.0}) for n, char in enumerate(text)])
    best, corrected = (
        tokenizer.decode(BeamSearch(tokenizer, BeamConfig(width=8), lm).search(log_probs)) for lm in (None, model)
    )
    assert best != text and corrected == text


def test_a_model_over_signs_reads_pieces_of_several_signs():
    tokenizer = Tokenizer("bpe", (BLANK, "\u2581", "你好", "世", "界", "届"), (0.0,) * 6)
    model = train_ngrams([list("你好世界"), list("世界")], 2)
    log_probs = scores(tokenizer, [{"你好": 1.0}, {"世": 1.0}, {"届": 0.6, "界": 0.4}])
    assert tokenizer.decode(BeamSearch(tokenizer, BeamConfig(width=8), model).search(log_probs)) == "你好世界"


def test_a_model_of_whole_sentences_is_refused_where_no_spaces_are_written(tmp_path, caplog):
    path = write(tmp_path / "sentences.arpa", ["今天天气很好", "今天"])
    with pytest.raises(UserError, match="words of several signs in .*'今天.*writes no spaces; `lm` makes"):
        load_language_model(path, Tokenizer("char", (BLANK, *"今天气很好")))
    load_language_model(path, Tokenizer("char", (BLANK, *" 今天气很好")))  # a recognizer of segmented texts may
    assert "they count only between spaces" in caplog.text


@pytest.mark.parametrize("tokenizer", [LATIN, PIECES])
@pytest.mark.parametrize("texts", [[t.upper() for t in TEXTS], ["кот спит на диване", "собака"]])
def test_a_model_in_other_letters_is_refused(tmp_path, tokenizer, texts):
    path = write(tmp_path / "x.arpa", texts)
    count = len({word for text in texts for word in text.split()})
    with pytest.raises(UserError, match=f"beam.lm: found 0 of {count} words of .*x.arpa in the tokenizer's") as error:
        load_language_model(path, tokenizer)
    assert ("--beam.lm-fold-case reads" in str(error.value)) == texts[0].isupper() and "\n" not in str(error.value)


@pytest.mark.parametrize(("tokenizer", "change"), [(LATIN, str.upper), (PIECES, str.upper), (CAPITALS, str.lower)])
def test_a_model_in_the_other_case_is_folded_on_request(tmp_path, tokenizer, change):
    """The result is the model of the texts in the tokenizer's case."""
    back = str.lower if change is str.upper else str.upper
    path, right = (write(tmp_path / f"{f.__name__}.arpa", map(f, TEXTS)) for f in (change, back))
    folded, right = load_language_model(path, tokenizer, fold_case=True), read_arpa(right)
    assert folded.log_probs == pytest.approx(right.log_probs) and folded.backoffs == pytest.approx(right.backoffs)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["\u2581the \u2581c at", "\u2581a \u2581c at"], "pieces of a tokenizer .'\u2581a', '\u2581c', '\u2581the' …."),
        (["the@@ re c@@ at"], "pieces of a tokenizer .'c@@', 'the@@' …."),
        (["t h e | c a t", "a | c a t"], "letters .'a', 'c', 'e' …."),
    ],
)
def test_a_model_over_pieces_or_letters_is_refused(tmp_path, texts, message):
    with pytest.raises(UserError, match=f"beam.lm: found {message} in .*x.arpa, expected a language model of words"):
        load_language_model(write(tmp_path / "x.arpa", texts), PIECES)


def test_words_that_become_one_are_added_up():
    model = train_ngrams([["The", "cat"], ["the", "cat"], ["see", "the", "dog"], ["The", "Dog"]], 2)
    folded = fold_words(model, str.lower)
    words = ["the", "cat", "see", "dog"]
    assert sum(math.exp(folded.log_probs[(word,)]) for word in words) == pytest.approx(
        sum(math.exp(model.log_probs[(w,)]) for w in ("The", "the", "cat", "see", "dog", "Dog"))
    )
    for history in ((), ("<s>",), ("the",), ("cat",)):
        total = sum(math.exp(folded.score(history, word)) for word in (*words, "</s>", "<unk>"))
        assert 0.9 < total < 1.0 + 1e-9, history
    assert folded.score(("the",), "cat") > folded.score(("see",), "cat")


def test_what_fits_in_part_is_said_with_the_rate(tmp_path, caplog):
    path = write(tmp_path / "x.arpa", [*TEXTS, "Berlin 24"])
    load_language_model(path, LATIN)
    assert "x.arpa: 14 of 16 words, " in caplog.text and "(others: '24', 'Berlin'); --beam.lm-fold-case" in caplog.text
    caplog.clear()
    load_language_model(path, LATIN, fold_case=True)
    assert "x.arpa: 15 of 16 words" in caplog.text and "(others: '24')\n" in caplog.text
    caplog.clear()
    load_language_model(write(tmp_path / "y.arpa", TEXTS), LATIN)
    assert not caplog.records


def test_letters_that_no_word_has_are_said(tmp_path, caplog):
    """Texts that were normalized for English have no umlauts: "schon" is not "schön"."""
    load_language_model(write(tmp_path / "x.arpa", TEXTS), GERMAN)
    assert "x.arpa: no word has these 4 of the tokenizer's 30 letters: ß ä ö ü" in caplog.text
    caplog.clear()
    greek = Tokenizer("char", (*LATIN.pieces, *"αβγ"))  # a tokenizer of several scripts
    load_language_model(write(tmp_path / "x.arpa", TEXTS), greek)
    assert not caplog.records


def test_shares_are_by_probability():
    assert compare_words({"a": 0.5, "B": 0.3, "C": 0.2}, frozenset("ab")) == (3, ["B", "C"], 0.5)
    assert compare_words({"A": 0.5}, frozenset("a")).share == 0.0


def test_folding_is_that_of_the_tokenizers_language(tmp_path):
    turkish = Tokenizer("char", (BLANK, *" aıişk"), language="tr")
    model = load_language_model(write(tmp_path / "x.arpa", ["IŞIK", "İKİ"]), turkish, fold_case=True)
    assert model.has_word("ışık") and model.has_word("iki")


def test_folding_needs_one_case(tmp_path):
    path = write(tmp_path / "x.arpa", TEXTS)
    for pieces in (" aA", " \u4e00"):
        with pytest.raises(UserError, match="beam.lm-fold-case: found a tokenizer without a case, or with both"):
            load_language_model(path, Tokenizer("char", (BLANK, *pieces)), fold_case=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(width=8, lm_weight=0.9), "beam.lm_weight: found 0.9, which nothing uses without beam.lm ''"),
        (dict(width=8, word_insertion_bonus=2.0), "beam.word_insertion_bonus: found 2.0, which nothing uses without"),
        (dict(token_min_logp=-3.0), "beam.token_min_logp: found -3.0, which nothing uses with beam.width 0"),
    ],
)
def test_settings_that_nothing_uses_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        make_search(LATIN, BeamConfig(**changes))


def test_without_a_model_there_is_no_bonus():
    """A bonus per word would only add words: more than the best path has, and more errors."""
    letters = Tokenizer("char", (BLANK, "a", "b", " "))
    for seed in range(20):
        logits = 1.5 * np.random.default_rng(seed).normal(size=(8, 4))
        log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        plain, default = (
            BeamSearch(letters, BeamConfig(width=64, word_insertion_bonus=bonus)).search(log_probs)
            for bonus in (0.0, 1.0)
        )
        assert plain == default
    assert make_search(LATIN, BeamConfig(width=8, word_insertion_bonus=0.0)) is not None
