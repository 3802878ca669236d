"""Language models: probabilities that sum to one, Kneser-Ney by hand, ARPA files."""

import bz2
import gzip
import json
import lzma
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
    """Compressed by the name that is written, and by the first bytes of what is read."""
    model = train_ngrams(SENTENCES, 3)
    for name in ("x.arpa", "x.arpa.GZ", "x.lm.bz2", "x.xz"):
        write_arpa(tmp_path / name, model)
        again = read_arpa(tmp_path / name)
        for sentence in (*SENTENCES, ["zebra", "b", "d", "d"]):
            assert again.score_text(sentence) == pytest.approx(model.score_text(sentence), abs=1e-5)
    assert gzip.decompress((tmp_path / "x.arpa.GZ").read_bytes()) == (tmp_path / "x.arpa").read_bytes()


# Scores are KenLM's, of a file that it reads: ln p("the cat sleeps"), and of "the dog sleeps" with a word that is new.
ARPA = """\\data\\
ngram 1=6
ngram 2=5

\\1-grams:
-1.2\t<unk>
-99\t<s>\t-0.3
-0.8\t</s>
-0.6\tthe\t-0.3
-0.7\tcat\t-0.3
-0.7\tsleeps\t-0.3

\\2-grams:
-0.2\t<s> the
-0.2\tthe cat
-0.2\tcat sleeps
-0.2\tsleeps </s>
-0.9\tthe sleeps

\\end\\
"""
KNOWN, NEW = -1.8421, -5.9867


@pytest.mark.parametrize(
    "dialect",
    [
        lambda t: t,
        lambda t: t.replace("\t", " "),  # Sphinx, CMU
        lambda t: t.replace("\t", "  ").replace("\n", " \n"),
        lambda t: t.replace(" the", "\t the").replace("\t-0.3", " \t-0.3"),  # IRSTLM
        lambda t: t.replace("1=6", " 1=         6").replace("2=5", "2=\t5"),  # SRILM's change-lm-vocab
        lambda t: "A model.\nBeginning of data mark: \\data\\\nngram 1=nr\n\n" + t,  # CMU's toolkit
        lambda t: "\ufeff" + t.replace("\n", "\r\n"),
        lambda t: t.replace("\\\n", "\\ \n").replace(":\n", ":\t\n"),
        lambda t: t.replace("<unk>", "<UNK>").replace("<s>", "<S>").replace("</s>", "</S>"),
        lambda t: t.replace("<unk>", "!!UNK").replace("<s>", "!ENTER").replace("</s>", "!EXIT"),  # HTK
        lambda t: t.replace("-99\t<s>", "-inf\t<s>"),
        lambda t: t.replace("ngram 2=5\n", "ngram 2=5\nngram 3=0\n"),
        lambda t: t.replace("-0.2\tthe cat\n", "-0.2\tthe cat\t0.0000\n"),
        # </s> again, as a recipe for other decoders writes it
        lambda t: t.replace("1=6", "1=7").replace("-0.8\t</s>", "-inf\t</s>\t-0.3\n-0.8\t</s>"),
    ],
)
def test_dialects_of_arpa_give_the_same_scores(tmp_path, dialect):
    (tmp_path / "x.arpa").write_bytes(dialect(ARPA).encode())
    model = read_arpa(tmp_path / "x.arpa")
    assert model.score_text("the cat sleeps".split()) == pytest.approx(KNOWN, abs=1e-4)
    assert model.score_text("the dog sleeps".split()) == pytest.approx(NEW, abs=1e-4)


def test_what_is_taken_of_an_odd_arpa_file_is_said(tmp_path, caplog):
    (tmp_path / "x.arpa").write_text(ARPA.replace("2=5", "2=6").replace("-0.9\tthe", "-0.3\tthe cat\n-0.9\tthe"))
    assert read_arpa(tmp_path / "x.arpa").score_text("the cat sleeps".split()) == pytest.approx(KNOWN, abs=1e-4)
    assert "x.arpa: 1 n-grams occur again, the first 'the cat'" in caplog.text
    (tmp_path / "x.arpa").write_text(ARPA.replace("1=6", "1=5").replace("-1.2\t<unk>\n", ""))
    assert read_arpa(tmp_path / "x.arpa").score((), "dog") < -200
    assert "x.arpa: it has no unknown word (<unk>)" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.replace("\\end\\", ""), r"no line '.*end.*', expected a whole"),
        (lambda t: t.replace("-0.8\t</s>", "-0.8\ta b c"), "x.arpa:8: .* a score, 1 words"),
        (lambda t: t.replace("-0.6\tthe", "0.6\tthe"), "x.arpa:9: found score '0.6', expected a log10 probability"),
        (lambda t: t.replace("-0.6\tthe", "nan\tthe"), "x.arpa:9: found score 'nan', expected a log10"),
        (lambda t: t.replace("-0.6\tthe", "inf\tthe"), "x.arpa:9: found score 'inf', expected a log10"),
        (lambda t: t.replace("-0.6\tthe", "-\u0660\tthe"), "x.arpa:9: found score '-\u0660', expected a log10"),
        (lambda t: t.replace("cat\t-0.3", "cat\t-inf"), "x.arpa:10: found weight '-inf', expected a finite log10"),
        (lambda t: t.replace("cat\t-0.3", "cat\tx"), "x.arpa:10: found weight 'x', expected a finite log10"),
        (lambda t: t.replace("1=6", "1=7").replace("2=5", "2=9"), "found 6 of 7 1-grams, 5 of 9 2-grams"),
        (lambda t: t.replace("2=5", "2=4"), "x.arpa:18: found more than 4 2-grams, expected as many as"),
        (lambda t: t.replace("ngram 2=5\n", ""), r"x.arpa:12: found 2-grams, expected .* \[1\]"),
        (lambda t: t.replace("1=6", "1=\u0666"), "x.arpa:2: found .* expected 'ngram 1=COUNT'"),
        (lambda t: t.replace("2=5", "2:5"), "x.arpa:3: found 'ngram 2:5', expected 'ngram 2=COUNT'"),  # HTK's binary
        (lambda t: t.replace("cat sleeps", "\ud8ff"), "x.arpa:16: found bytes that are not UTF-8"),
        (lambda t: "mmap lm http://kheafield.com/code\n\0", "a binary model of KenLM, expected the ARPA file"),
        (lambda t: t.replace("\n\n", "\n" * 10_001), "found 10000 lines without n-grams"),
        (lambda t: t + t, "x.arpa:20: found b'.*' after .*, expected the end of the file"),
        (lambda t: t.replace("1=6", "1=99999") + t, "x.arpa: found 6 of 99999 1-grams"),
        (lambda t: t.replace("1=6", "1=99999").replace("-1.2\t<unk>\n", "-1.2\t<unk>\n" * 10_002), "that occur again"),
        (lambda t: "hello\n", r"no line '.*data"),
        (lambda t: "", r"no line '.*data"),
    ],
)  # fmt: skip
def test_broken_arpa_files_are_refused(tmp_path, change, message):
    (tmp_path / "x.arpa").write_bytes(change(ARPA).encode(errors="surrogatepass"))
    with pytest.raises(UserError, match=message) as error:
        read_arpa(tmp_path / "x.arpa")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_broken_compressed_files_are_refused(tmp_path, pack):
    data = pack(ARPA.encode())
    for broken in (data[:-20], data[:-9] + bytes(9), data[:20] + b"garbage" + data[27:]):
        (tmp_path / "x.arpa").write_bytes(broken)
        with pytest.raises(UserError, match="x.arpa"):
            read_arpa(tmp_path / "x.arpa")


@pytest.fixture
def door(tmp_path, capsys, monkeypatch):
    """Return a function that writes an ARPA file of some text lines or rows and returns its model and the screen."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, text="", rows=(), out="lm.arpa"):
        for name, lines in {"text.txt": text.splitlines(), "m.jsonl": map(json.dumps, rows)}.items():
            (tmp_path / name).write_text("".join(line + "\n" for line in lines))
        files = [*(["--text", "text.txt"] if text else []), *(["--manifest", "m.jsonl"] if rows else [])]
        capsys.readouterr()
        assert front_door.main([*files, "--order", "2", "--out", out, *arguments]) == 0
        return read_arpa(tmp_path / out), capsys.readouterr().err

    return run


def row(name, text, **more):
    return {"id": name, "audio": "x.wav", "text": text, "seconds": 1} | more


def test_front_door(door, tmp_path):
    (tmp_path / "held.jsonl").write_text(json.dumps(row("1", "the cat sat on a mat")) + "\n")
    text = "The cat, sat.\nThe dog sat on 2 mats.\n"
    model, screen = door("--language", "en", "--heldout", "held.jsonl", text=text)
    assert "held.jsonl: perplexity" in screen and "normalized as: en" in screen
    assert model.has_word("two") and model.has_word("cat") and not model.has_word("mat")
    model, _ = door("--language", "", text=text)  # as they are
    assert model.has_word("2") and model.has_word("cat,")
    again, _ = door("--language", "", text=text, out="lm.arpa.gz")
    assert again == model and gzip.decompress((tmp_path / "lm.arpa.gz").read_bytes()).startswith(b"\\data\\\n")


def test_each_sign_of_a_script_without_spaces_is_a_word(door):
    model, screen = door("--language", "none", text="你好世界\n世界很大 ok\n")
    assert all(map(model.has_word, ("你", "好", "ok"))) and not model.has_word("你好世界")
    assert ("世", "界") in model.log_probs
    assert "lm.arpa: each sign of a script without spaces is a word: 6 of 10" in screen


def test_language_is_that_of_the_manifests_or_asked_for(door, tmp_path):
    """English rules would make "schon" of "schön"."""
    model, screen = door(rows=[row("1", "Schön!", language="de-DE")])
    assert model.has_word("schön") and "normalized as: de (from the manifests)" in screen
    model, _ = door(rows=[row("1", "Schön!", language="de")], text="Größe 3")
    assert model.has_word("größe") and model.has_word("3")
    rows = [row("1", "Schön!", language="de"), row("2", "3 cafés", language="en")]
    model, _ = door(rows=rows)  # each by its own
    assert all(map(model.has_word, ("schön", "three", "cafes")))
    for texts in (dict(text="Schön"), dict(rows=[row("1", "Schön")])):
        with pytest.raises(UserError, match="--language: found none for the texts of a language model"):
            door(**texts)
    with pytest.raises(UserError, match="--language: found de, en .* expected the one of text.txt"):
        door(rows=rows, text="Schön")


@pytest.mark.parametrize("language", ["en", ""])
def test_marks_of_sentences_are_no_words(door, language):
    text = "<s> the cat sat </s>\n<S> a <UNK> cat </S>\n<s> a b </s> <s> c </s>\n"
    model, screen = door("--language", language, text=text)
    words = {gram[0] for gram in model.log_probs if len(gram) == 1}
    assert words == {START, END, UNKNOWN, "the", "cat", "sat", "a", "b", "c"}
    assert (START, "c") in model.log_probs and ("b", END) in model.log_probs and ("a", UNKNOWN) in model.log_probs
    assert "text.txt: <s> and </s> in 3 lines are taken as the marks of sentences" in screen


def test_bad_input_of_the_front_door_is_one_line(door, tmp_path):
    (tmp_path / "silence.jsonl").write_text(json.dumps(row("1", " ", language="en")) + "\n")
    for arguments, message in (
        (["--out", "x"], "neither --manifest nor --text"),
        (["--text", "missing", "--language", "en", "--out", "x"], "missing: "),
        (["--text", "text.txt", "--out", "."], "--out: found the folder '.', expected a file"),
        (["--manifest", "m.jsonl", "--heldout", "silence.jsonl", "--out", "x"], "--heldout: found no words in silence"),
        (
            ["--text", "m.jsonl", "--language", "en", "--out", "x"],
            "--text: found m.jsonl:1: .* manifests are for --man",
        ),
        (["--text", "lm.arpa", "--language", "en", "--out", "x"], "--text: found lm.arpa:1: "),
        (["--text", "empty.txt", "--language", "en", "--out", "x"], "no words"),
    ):
        door(text="a b", rows=[row("1", "a b", language="en")])
        (tmp_path / "empty.txt").write_text("\n\n")
        with pytest.raises(UserError, match=message) as error:
            front_door.main(arguments)
        assert "\n" not in str(error.value) and not (tmp_path / "x").exists()
