"""Reports: their sums, their uncertainty, and that no transcript can escape into markup."""

import html.parser
import json
import random

import numpy as np
import pytest

from speech_jax.core.errors import UserError
from speech_jax.evaluation import compare, report
from speech_jax.evaluation.hypotheses import read_hypotheses, write_hypotheses
from speech_jax.evaluation.report import (
    Item,
    bootstrap_interval,
    format_alignment,
    paired_bootstrap,
    read_report,
    score_items,
    to_html,
    to_markdown,
)
from speech_jax.evaluation.wer import ErrorCounts, edit_operations

EVIL = '<script>alert("1")</script>'


def items(seed=0, number=60, noise=0.2):
    draw = random.Random(seed)
    vocabulary = "the cat sat on a mat and saw dogs run".split()
    found = []
    for i in range(number):
        words = draw.choices(vocabulary, k=draw.randint(1, 12))
        heard = [draw.choice(vocabulary) if draw.random() < noise else word for word in words]
        found.append(Item(f"u{i}", " ".join(words), " ".join(heard), f"set{i % 2}", f"d{i % 3}", f"s{i % 5}", 1.5))
    return found


def test_groups_add_up_to_the_whole():
    value = report.to_json(score_items(items(), name="x"))
    for field in ("set", "domain", "speaker"):
        for key in ("substitutions", "deletions", "insertions", "words", "utterances", "wrong_utterances"):
            assert sum(group[key] for group in value[field].values()) == value["all"][key]
    errors = sum(value["all"][key] for key in ("substitutions", "deletions", "insertions"))
    assert value["all"]["wer"] == errors / value["all"]["words"] == pytest.approx(0.18, abs=0.05)
    assert sum(row["errors"] for row in value["utterances"]) == errors


def test_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    inside = 0
    for trial in range(200):
        errors = rng.binomial(10, 0.15, size=80)
        low, high = bootstrap_interval(
            [ErrorCounts(int(e), 0, 0, 10, 1, int(e > 0)) for e in errors], draws=300, seed=trial
        )
        inside += low <= 0.15 <= high
    assert 0.90 <= inside / 200 <= 0.99


def test_interval_repeats_and_needs_two_utterances():
    counts = score_items(items()).words
    assert bootstrap_interval(counts) == bootstrap_interval(counts)
    low, high = bootstrap_interval(counts)
    assert low < sum(counts, ErrorCounts()).rate < high
    assert bootstrap_interval(counts[:1]) == (counts[0].rate, counts[0].rate)


def test_paired():
    many, few = score_items(items(noise=0.5)).words, score_items(items(noise=0.1)).words
    assert paired_bootstrap(many, few) > 0.99 and paired_bootstrap(few, many) < 0.01
    assert paired_bootstrap(many, many) == 0.0  # not fewer


def test_worst_first():
    evaluation = score_items(items())
    errors = [evaluation.words[row].errors for row in evaluation.worst(10)]
    assert errors == sorted((count.errors for count in evaluation.words), reverse=True)[:10]
    assert errors[0] > 0 and all(evaluation.words[row].errors for row in evaluation.worst(1000))


def test_alignment_in_three_lines():
    assert format_alignment(edit_operations("the cat sat", "a cat sat down")) == (
        "the cat sat ****",
        "a   cat sat down",
        "S           I   ",
    )
    assert format_alignment([]) == ("", "", "")


class _Tags(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text.append(data)


def test_html_is_escaped_and_loads_nothing():
    rows = [
        Item(EVIL, "a b", f"{EVIL} b", EVIL, EVIL, EVIL, 1.0),
        Item("two", "c", "c", "other", "other", "other", 1.0),
    ]
    parser = _Tags()
    parser.feed(to_html(score_items(rows, name=EVIL, details=[(EVIL, EVIL)])))
    names = {tag for tag, _ in parser.tags}
    assert not names & {"script", "img", "link", "iframe"}
    assert not any(key in ("src", "href") or key.startswith("on") for _, a in parser.tags for key in a)
    assert sum(EVIL in text for text in parser.text) >= 6  # shown as it is, not swallowed


def test_markdown_is_escaped():
    rows = [Item(EVIL, "a b", f"{EVIL} b", EVIL, "x|y\nz", EVIL, 1.0), Item("two", "c", "c", "o", "o", "o", 1.0)]
    lines = to_markdown(score_items(rows, name=EVIL)).splitlines()
    assert not [line for line in lines if "<script" in line and not line.startswith("    ")]
    table = [line for line in lines if line.startswith("|")]
    assert all(line.count("|") - line.count("\\|") == len(report.HEADER) + 1 for line in table)


def test_many_speakers_are_cut_to_the_worst():
    rows = [Item(f"{i}", "a b c", "a" if i == 33 else "a b c", speaker=f"s{i}") for i in range(40)]
    table = report.error_table(score_items(rows), "speaker")
    assert len(table) == report.SHOWN_GROUPS + 1
    assert table[0][0] == "s33" and "20 more" in table[-1][0]


def test_sclite_total_is_named_where_it_differs():
    rows = [Item("1", "w6 w6 w1 w5 w6 w2 w7 w0 w6", "w7 w7 w0 w7 w0 w3 w3 w5 w0")]
    text = to_markdown(score_items(rows))
    evaluation = score_items(rows)
    assert evaluation.sclite_errors > evaluation.total().errors
    assert f"{evaluation.sclite_errors} word errors" in text
    assert "sclite's total" not in to_markdown(score_items(items()[:1]))


def test_nothing_to_score():
    with pytest.raises(UserError, match="no utterances"):
        score_items([])


def test_report_json_is_strict_and_read_back():
    text = json.dumps(report.to_json(score_items([Item("1", "", "a"), Item("2", "b", "b")], name="x")), allow_nan=False)
    assert read_report("r.json", lambda path: text)["all"]["words"] == 1
    for wrong in ("{", "[]", '{"all": {}}', "null"):
        with pytest.raises(UserError, match="r.json"):
            read_report("r.json", lambda path, wrong=wrong: wrong)


def test_compare(tmp_path):
    reports = [
        report.to_json(score_items(items(noise=noise), name=name)) for name, noise in (("before", 0.4), ("<b>", 0.1))
    ]
    text, image = compare.compare(reports)
    assert image[:8] == b"\x89PNG\r\n\x1a\n" and len(image) > 5000
    assert "set0" in text and "set1" in text and "| before" in text
    assert "<b>" not in "\n".join(line for line in text.splitlines() if not line.startswith("    "))
    for name, value in zip(("before", "&lt;b&gt;"), reports, strict=True):
        row = next(line for line in text.splitlines() if line.startswith(f"| {name}"))
        assert f"{100 * value['set']['set1']['wer']:.2f}" in row
    assert "100.0" in next(line for line in compare.difference_table(reports, "set").splitlines() if "&lt;b" in line)
    assert "    reference  " + items()[0].reference in text
    # A system that was scored on one set only leaves the other's cell empty.
    half = report.to_json(score_items([item for item in items() if item.set == "set0"], name="half"))
    assert compare.wer_table([reports[0], half], "set").splitlines()[-1].rstrip(" |").count("|") == 2


def test_same_names_are_numbered():
    value = report.to_json(score_items(items(), name="x"))
    assert compare.system_names([value, value, value]) == ["x", "x (2)", "x (3)"]


def test_hypotheses_round_trip(tmp_path):
    rows = items()
    path = tmp_path / "h.jsonl"
    path.write_text(write_hypotheses(rows))
    wanted = [(item.set, item.id) for item in rows]
    assert read_hypotheses(str(path), wanted) == {(item.set, item.id): item.hypothesis for item in rows}


@pytest.mark.parametrize(
    "text",
    [
        "u1 a b\nu2\n",
        "\ufeffu1 a b\nu2\n",
        "u1\ta b\nu2\t\n",
        '{"id":"u1","text":"a b"}\n{"id":"u2","pred_text":""}\n',
        '\ufeff{"id":"u1","text":"the reference","pred_text":"a b"}\n{"id":"u2","pred_text":"","text":"c"}\n',  # NeMo's
    ],
)
def test_hypotheses_of_others(tmp_path, text):
    path = tmp_path / "h"
    path.write_text(text, encoding="utf-8")
    assert read_hypotheses(str(path), [("s", "u1"), ("t", "u2")]) == {("s", "u1"): "a b", ("t", "u2"): ""}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"u1 a\nu1 b\n", r"h:2: found id 'u1' again"),
        (b"u2 a\n", r"h: found no transcript of 1 of 1 utterances, the first 'u1'"),
        (b'{"id": "u1"}\n', r"h:1: found no id and text"),
        (b'{"id": 3, "text": "a"}\n', r"h:1: found an id or a text that is not a string"),
        (b'{"id": \n', r"h:1: found no id and text"),
        (b"u1 \xff\n", r"h:1: found bytes that are not UTF-8"),
    ],
)
def test_bad_hypotheses(tmp_path, text, message):
    path = tmp_path / "h"
    path.write_bytes(text)
    with pytest.raises(UserError, match=message):
        read_hypotheses(str(path), [("s", "u1")])
