"""Language models: probabilities that sum to one, Kneser-Ney by hand, ARPA files."""

import gzip
import math

import numpy as np
import pytest

from speech_jax import lm as front_door
from speech_jax.core.errors import UserError
from speech_jax.text.ngram import END, START, UNKNOWN, read_arpa, train_ngrams, write_arpa

TEXTS = ["a b a", "a b c", "b b a c", "c a b", "a", "d"]
SENTENCES = [text.split() for text in TEXTS]


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_probabilities_sum_to_one_after_every_history(order):
    model = train_ngrams(SENTENCES, order)
    words = ["a", "b", "c", "d", END, UNKNOWN]
    rng = np.random.default_rng(0)
    histories = [(), (START,), (START, "a"), ("zebra", "a"), ("b", UNKNOWN)]
    histories += [tuple(rng.choice(words[:4], size=n)) for n in (1, 2, 3) for _ in range(10)]
    for history in histories:
        total = sum(math.exp(model.score(tuple(history), word)) for word in words)
        assert total == pytest.approx(1.0, abs=1e-9), history


def test_bigrams_are_interpolated_kneser_ney_by_hand():
    """p(b | a) = (c(a b) - D) / c(a ·) + D N(a ·) / c(a ·) p(b), where p(b) counts the words before b."""
    sentences = [["a", "b"], ["a", "b"], ["a", "c"], ["c", "b"]]
    model = train_ngrams(sentences, 2)
    # bigrams: <s>a 3, ab 2, b</s> 3, ac 1, c</s> 1, <s>c 1, cb 1: n1 = 4, n2 = 1
    d2 = 4 / (4 + 2 * 1)
    # different words before: a 1, b 2, </s> 2, c 2 of 7; n1 = 1, n2 = 3; five words share what is left
    d1 = 1 / (1 + 2 * 3)
    p_b = (2 - d1) / 7 + 4 * d1 / 7 / 5
    assert math.exp(model.score((), "b")) == pytest.approx(p_b)
    assert math.exp(model.score(("a",), "b")) == pytest.approx((2 - d2) / 3 + d2 * 2 / 3 * p_b)


def test_what_was_seen_is_likelier_and_unknown_words_are_possible():
    model = train_ngrams(SENTENCES, 3)
    assert model.score_text("a b a".split()) > model.score_text("b a a".split())
    assert not model.has_word("zebra") and -math.inf < model.score(("a",), "zebra") < model.score(("a",), "b")


def test_arpa_files_are_read_back(tmp_path):
    model = train_ngrams(SENTENCES, 3)
    write_arpa(tmp_path / "x.arpa", model)
    (tmp_path / "x.arpa.gz").write_bytes(gzip.compress((tmp_path / "x.arpa").read_bytes()))
    for name in ("x.arpa", "x.arpa.gz"):
        again = read_arpa(tmp_path / name)
        for sentence in (*SENTENCES, ["zebra", "b", "d", "d"]):
            assert again.score_text(sentence) == pytest.approx(model.score_text(sentence), abs=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.replace("\\end\\", ""), "no end"),
        (lambda t: t.replace("\\1-grams:\n", "\\1-grams:\n-1.0\ta b\n"), "x.arpa:6: .* a score, 1 words"),
        (lambda t: t.replace("\\1-grams:\n", "\\1-grams:\n-x\ta\n"), "x.arpa:6: .* expected numbers"),
        (lambda t: t.replace("ngram 2=", "ngram 2=1"), "of 1.* 2-grams"),
        (lambda t: "hello\n" + t, "x.arpa:1: found 'hello', expected 'ngram N=COUNT'"),
        (lambda t: "", "found no end"),
    ],
)  # fmt: skip
def test_broken_arpa_files_are_refused(tmp_path, change, message):
    write_arpa(tmp_path / "x.arpa", train_ngrams(SENTENCES, 2))
    (tmp_path / "x.arpa").write_text(change((tmp_path / "x.arpa").read_text()))
    with pytest.raises(UserError, match=message):
        read_arpa(tmp_path / "x.arpa")


def test_front_door(tmp_path, capsys):
    (tmp_path / "text.txt").write_text("The cat, sat.\nThe dog sat on 2 mats.\n")
    (tmp_path / "m.jsonl").write_text('{"id": "1", "audio": "x.wav", "text": "the cat sat on a mat", "seconds": 1}\n')
    arguments = ["--text", str(tmp_path / "text.txt"), "--order", "2", "--out", str(tmp_path / "lm.arpa")]
    assert front_door.main([*arguments, "--heldout", str(tmp_path / "m.jsonl")]) == 0
    assert "perplexity" in capsys.readouterr().err
    model = read_arpa(tmp_path / "lm.arpa")
    assert model.has_word("two") and model.has_word("cat") and not model.has_word("mat")
    for bad, message in ((["--out", "x"], "neither"), (["--text", "missing", "--out", "x"], "missing: ")):
        with pytest.raises(UserError, match=message):
            front_door.main(bad)
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(UserError, match="no words"):
        front_door.main(["--text", str(tmp_path / "empty.txt"), "--out", "x"])
