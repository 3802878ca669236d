"""Error counts against brute force, jiwer, and sclite: a golden file of 1,000 pairs, and the tool where it is."""

import gzip
import json
import random
import shutil
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pytest

from speech_jax.evaluation.wer import ErrorCounts, cer, cer_counts, count_errors, edit_operations, wer, wer_counts

GOLDEN = Path(__file__).parent / "sclite_1000.json.gz"
SCRIPT = Path(__file__).parents[2] / "experiments" / "parity" / "sclite.py"


def random_pairs(number, seed, *, words=12, longest=20):
    draw = random.Random(seed)
    vocabulary = [f"w{i}" for i in range(words)]
    text = lambda: draw.choices(vocabulary, k=draw.randint(0, longest))  # noqa: E731
    return [text() for _ in range(number)], [text() for _ in range(number)]


def distance(a, b):
    """Levenshtein's recursion, as it is written in the books."""

    @cache
    def d(i, j):
        if i == 0 or j == 0:
            return i + j
        return min(d(i - 1, j) + 1, d(i, j - 1) + 1, d(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    return d(len(a), len(b))


def test_fewest_errors():
    references, hypotheses = random_pairs(300, 0, words=5)
    for r, h, found in zip(references, hypotheses, count_errors(references, hypotheses), strict=True):
        assert found.errors == distance(tuple(r), tuple(h))
        assert found.reference - found.deletions == len(h) - found.insertions


def test_equals_jiwer():
    jiwer = pytest.importorskip("jiwer")
    references, hypotheses = ([" ".join(x) for x in side] for side in random_pairs(1000, 1))
    kept = [(r, h) for r, h in zip(references, hypotheses, strict=True) if r]
    references, hypotheses = map(list, zip(*kept, strict=True))
    theirs = jiwer.process_words(references, hypotheses)
    assert wer(references, hypotheses).errors == theirs.substitutions + theirs.deletions + theirs.insertions
    assert wer(references, hypotheses).rate == pytest.approx(theirs.wer, abs=1e-12)
    assert cer(references, hypotheses).rate == pytest.approx(jiwer.cer(references, hypotheses), abs=1e-12)


def test_sclite_golden():
    """Every utterance's S, D and I, and so the totals, are sclite's."""
    golden = json.loads(gzip.decompress(GOLDEN.read_bytes()))
    pairs = [(pair["reference"].split(), pair["hypothesis"].split()) for pair in golden["pairs"]]
    assert len(pairs) == 1000
    found = count_errors([r for r, _ in pairs], [h for _, h in pairs], "sclite")
    expected = [tuple(pair["sdi"]) for pair in golden["pairs"]]
    assert [(c.substitutions, c.deletions, c.insertions) for c in found] == expected
    fewest = sum(c.errors for c in count_errors([r for r, _ in pairs], [h for _, h in pairs]))
    assert fewest < sum(map(sum, expected)) < 1.01 * fewest  # these pairs tell the two costs apart


@pytest.mark.skipif(shutil.which("sctk") is None, reason="sclite (Debian's sctk) is not installed")
def test_sclite_live(tmp_path):
    out = tmp_path / "pairs.json.gz"
    subprocess.run([sys.executable, str(SCRIPT), "--seed", "7", "--out", str(out)], check=True, capture_output=True)
    pairs = json.loads(gzip.decompress(out.read_bytes()))["pairs"]
    found = count_errors([p["reference"].split() for p in pairs], [p["hypothesis"].split() for p in pairs], "sclite")
    assert [[c.substitutions, c.deletions, c.insertions] for c in found] == [p["sdi"] for p in pairs]


@pytest.mark.parametrize("costs", ["levenshtein", "sclite"])
def test_alignment_spells_both_texts_and_has_the_counts(costs):
    references, hypotheses = random_pairs(200, 2, words=4)
    for r, h, count in zip(references, hypotheses, count_errors(references, hypotheses, costs), strict=True):
        ops = edit_operations(r, h, costs)
        assert [op.reference for op in ops if op.reference is not None] == r
        assert [op.hypothesis for op in ops if op.hypothesis is not None] == h
        kinds = [sum(op.kind == kind for op in ops) for kind in "SDI"]
        assert kinds == [count.substitutions, count.deletions, count.insertions]
        assert all((op.reference == op.hypothesis) == (op.kind == "=") for op in ops)


def test_most_correct_words_among_equals():
    # Two substitutions, or an insertion and a deletion around a correct word: both are two errors.
    assert [op.kind for op in edit_operations("a b", "b c")] == ["D", "=", "I"]


def test_edges():
    assert wer([""], [""]).rate == 0.0
    assert wer([""], ["a b"]) == ErrorCounts(0, 0, 2, 0, 1, 1)
    assert wer([""], ["a b"]).rate == float("inf")
    assert wer(["a b"], [""]) == ErrorCounts(0, 2, 0, 2, 1, 1)
    assert wer([], []) == ErrorCounts()
    assert edit_operations("", "") == []
    with pytest.raises(ValueError):
        count_errors([["a"]], [])


@pytest.mark.parametrize("rate", [wer, cer])
def test_one_text_is_no_list_of_texts(rate):
    with pytest.raises(ValueError, match="found one text, expected a list of texts"):
        rate("the cat", "the bat")


def test_counts_merge_without_bias():
    references, hypotheses = ([" ".join(x) for x in side] for side in random_pairs(101, 3))
    whole = wer(references, hypotheses)
    assert wer(references[:40], hypotheses[:40]) + wer(references[40:], hypotheses[40:]) == whole
    assert sum(map(wer_counts, references, hypotheses), ErrorCounts()) == whole
    assert sum(map(cer_counts, references, hypotheses), ErrorCounts()) == cer(references, hypotheses)
    assert whole.utterances == 101 and whole.wrong_utterances == sum(map(str.__ne__, references, hypotheses))


def test_ten_thousand_utterances_are_quick():
    references, hypotheses = random_pairs(10_000, 4, words=500, longest=30)
    begun = time.process_time()
    count_errors(references, hypotheses)
    assert time.process_time() - begun < 10  # half a second on an idle core
