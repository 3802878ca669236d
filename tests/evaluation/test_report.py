"""Reports: their sums, their uncertainty, and that no transcript can escape into markup."""

import html.parser
import json
import random
import re

import numpy as np
import pytest

from speech_jax.core.errors import UserError
from speech_jax.evaluation import compare, report
from speech_jax.evaluation.plots import plot_key, plot_names, wrap_name
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
    draw, errors = random.Random(seed), random.Random(seed + 1)  # the references do not depend on the noise
    vocabulary = "the cat sat on a mat and saw dogs run".split()
    found = []
    for i in range(number):
        words = draw.choices(vocabulary, k=draw.randint(1, 12))
        heard = [errors.choice(vocabulary) if errors.random() < noise else word for word in words]
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
    assert bootstrap_interval(counts[:1]) is None


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


def test_right_to_left_texts_and_long_words_stay_in_place():
    rows = [Item("עברית", "שלום עולם", "שלום", "עברית", speaker="אבי"), Item("x", "a" * 300, "b" * 300, "y")]
    page = to_html(score_items(rows, name="שם"))
    assert page.count('<div class="line" dir="auto">') == 2 and '<h1 dir="auto">שם' in page
    assert '<b dir="auto">עברית</b>' in page and '<td><span dir="auto">עברית</span></td>' in page
    assert ".op { overflow-wrap: anywhere" in page and 'name="viewport"' in page
    lines = to_markdown(score_items(rows)).splitlines()
    assert any(line.startswith("| \u2068עברית\u2069 |") for line in lines)
    assert len({len(line.replace("\u2068", "").replace("\u2069", "")) for line in lines[-20:] if line[:1] == "|"}) <= 2


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


def as_report(rows, name, language="en", **settings):
    details = [("normalized as", language)] if language else []
    return report.to_json(score_items(rows, name=name, details=details, **settings))


def test_reports_that_cannot_be_compared_are_refused_by_name():
    """Other utterances, references, languages and costs; each once, with the name of the report."""
    whole = as_report(items(), "all")
    half = as_report(items()[:30], "half")
    rows = [row._replace(reference="edited") if n >= 13 else row for n, row in enumerate(items())]
    edited = as_report(rows, "edited")
    renamed = as_report([row._replace(set="x") for row in items()], "renamed")
    for others, messages in (
        ([half, edited], ["half: 30 of 60 utterances;", "edited: other references in 47 utterances, the first 'u13'"]),
        ([renamed], ["all: 60 of 120 utterances, none of the set 'x'", "none of the set 'set0', 'set1'"]),
        ([as_report(items(), "other", "none")], ["other: normalized as none, not en"]),
        ([as_report(items(), "nist", costs="sclite")], ["nist: sclite costs, not levenshtein"]),
    ):
        with pytest.raises(UserError) as error:
            compare.compare([whole, *others])
        assert all(message in str(error.value) for message in messages) and "\n" not in str(error.value)
    with pytest.raises(UserError, match="all: 30 of 60 utterances"):  # also where the first one lacks utterances
        compare.compare([half | {"name": "all"}, whole])
    with pytest.raises(UserError, match="'u0' of the set 'set0' twice"):
        compare.compare([whole, as_report([*items(), items()[0]], "doubled")])
    # Another program's order, the spelling of old reports and the source of the language do not matter.
    old = as_report(items()[::-1], "old") | {"details": {"normalised as": "en (from the manifests)"}}
    assert compare.align([whole, old])[0][1]["utterances"][0]["id"] == "u0"
    text, _ = compare.compare([whole, as_report(items(), "mute", language="")])
    assert "- mute: its report does not say how its texts were normalized" in text


@pytest.mark.parametrize("by", ["set", "domain", "speaker"])
def test_common_utterances(by):
    """With --common every figure is that of the reports on these utterances alone, and their number is said."""
    edited = [row._replace(reference="edited") if n >= 13 else row for n, row in enumerate(items())]
    other = [row._replace(set="renamed") for row in items(noise=0.5)[5:]]
    reports = [as_report(items(), "all"), as_report(edited, "edited"), as_report(other, "other")]
    text, _ = compare.compare(reports, by, common=True)
    for line in ("- all: 8 of 60 utterances", "- edited: 8 of 60 utterances", "- other: 8 of 55 utterances"):
        assert line in text
    alone = [as_report(items()[5:13], "all"), as_report(items()[5:13], "edited")]
    alone.append(as_report(items(noise=0.5)[5:13], "other"))
    plain, image = compare.compare([alone[0], alone[1], alone[2]], by)
    assert text.split("\n\n", 2)[2] == plain.split("\n\n", 1)[1]
    assert compare.compare(reports, by, common=True)[1] == image
    for wrong, message in (
        ([reports[0], as_report(items(), "other", "none")], "other: normalized as none"),
        ([reports[0], as_report(items(), "nist", costs="sclite")], "nist: sclite costs"),
        ([as_report(items()[:5], "a"), as_report(items()[5:], "b")], "--common: found no utterance that a, b all have"),
    ):
        with pytest.raises(UserError, match=message):
            compare.compare(wrong, common=True)


def test_sets_are_named_by_more_or_less_of_their_paths():
    """An evaluation on A/t and B/t names them so, one on A/t alone names it t."""
    both = [row._replace(set="A/t" if n < 40 else "B/t") for n, row in enumerate(items())]
    alone = [row._replace(set="t") for row in items()[:40]]
    with pytest.raises(UserError, match="found alone: 40 of 60 utterances, none of the set 'B/t'; expected"):
        compare.compare([as_report(both, "both"), as_report(alone, "alone")])
    deep = [row._replace(set="x/A/t") for row in items()[:40]]
    text, _ = compare.compare([as_report(alone, "alone"), as_report(both[:40], "both"), as_report(deep, "deep")])
    assert text.splitlines()[2].split("|")[2].strip() == "t"  # the first's name


def test_same_ids_in_two_sets_are_two_utterances():
    rows = [Item("u", f"a {name}", f"b {name}", name) for name in ("s", "t")]
    reports = [as_report(rows, "x"), as_report(rows[::-1], "y")]
    assert "- y: 2 of 2" in compare.compare(reports, common=True)[0]
    assert "- y: 1 of 1" in compare.compare([reports[0], as_report(rows[1:], "y")], common=True)[0]


def test_equal_systems_single_utterances_and_sets_without_words():
    rows = [Item("1", "a b", "a", "one"), Item("2", "", "x y", "empty"), Item("3", "", "", "empty")]
    rows += [Item(f"m{n}", "a b", "a b" if n else "a", "many") for n in range(3)]
    other = [row._replace(hypothesis="a b") if row.id in ("1", "m0") else row for row in rows]
    text, image = compare.compare([as_report(rows, "x"), as_report(rows, "y"), as_report(other, "z")])
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line]
    table = {name: values for name, *values in cells}
    assert cells[2][0] == "x" and table["x"] == ["50.00 (–)", "no reference words, 2 inserted", "16.67 (0.0–50.0)"]
    assert table["y"] == ["same", "same", "same"] and table["z"][:2] == ["–", "same"] and 60 < float(table["z"][2]) < 80
    assert image.startswith(b"\x89PNG")

    evaluation = score_items(rows, name="x")
    groups = report.to_json(evaluation)["set"]
    assert (groups["empty"]["wer"], groups["empty"]["wer_interval"], groups["empty"]["cer"]) == (None, None, None)
    assert groups["one"]["wer"] == 0.5 and groups["one"]["wer_interval"] is None
    for page in (to_markdown(evaluation), re.sub("<[^>]*>", "", to_html(evaluation))):
        assert "words inserted where the reference has none: 2 in 1 utterances" in page
        assert "inf" not in page and "nan" not in page and "2 errors, no reference words" in page
    # A draw of the bootstrap without reference words has no rate: it is not counted as one word.
    assert bootstrap_interval([ErrorCounts(0, 0, 5, 0, 1, 1), ErrorCounts(1, 0, 0, 2, 1, 1)])[1] < 6


def test_reports_of_other_commands_and_versions():
    row = {"id": "1", "set": "s", "reference": "a", "hypothesis": "a", "errors": 0, "words": 1}
    assert compare.compare([read_report("r", lambda _: json.dumps({"utterances": [row]}))] * 2, "speaker")
    with pytest.raises(UserError, match=r"r.json: found a report of evaluate --speech, expected one of error rates"):
        read_report("r.json", lambda _: '{"measures": {}, "utterances": []}')
    for key, expected in (("errors", "a number"), ("reference", "a text"), ("speaker", "a text")):
        text = json.dumps({"utterances": [row, row | {key: None}]})
        with pytest.raises(UserError, match=f"r.json: found {key} None of utterance '1', expected {expected}"):
            read_report("r.json", lambda _, text=text: text)


def test_names_in_plots():
    """What matplotlib would draw reversed, unjoined or as boxes gets a number, and the text says which."""
    names = ["before", "שלום", "模型", "café $x$", ""]
    assert plot_names(names, "system") == ["before", "system 2", "system 3", "café $x$", ""]
    assert plot_key(names, "system") == ["system 2 is שלום", "system 3 is 模型"]
    wrapped = [wrap_name(name, 8) for name in ("", "_a$b$", "one two three")]
    assert wrapped == ["(none)", "\u200b_a\\$b\\$", "one two\nthree"]
    lines = wrap_name("x" * 300, 40).splitlines()
    assert len(lines) == 3 and max(map(len, lines)) <= 40
    reports = [as_report(items(), name) for name in names[:2]]
    assert "- In the plot, system 2 is שלום" in compare.compare(reports)[0]


def test_many_long_names_stand_outside_the_bars(monkeypatch):
    figures = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, *_, **__: figures.append(figure))
    rows = [row._replace(speaker=f"s{n % 20}") for n, row in enumerate(items())]
    reports = [as_report(rows, f"a system with quite a long name number {n}") for n in range(10)]
    text, _ = compare.compare(reports, "speaker")
    assert "The plot has the 12 of 20 groups with most words" in text
    (figure,) = figures
    figure.draw_without_rendering()
    (legend,), (axes,) = figure.legends, figure.axes
    assert len(legend.get_texts()) == 10 and axes.get_legend() is None
    box = legend.get_window_extent()
    assert not box.overlaps(axes.get_tightbbox())
    assert figure.bbox.contains(*box.min) and figure.bbox.contains(*box.max)


def test_same_names_are_numbered():
    value = report.to_json(score_items(items(), name="x"))
    assert compare.system_names([value, value, value]) == ["x", "x (2)", "x (3)"]


def test_each_sign_of_a_script_without_spaces_is_a_word():
    texts = {
        "zh": ("今天天气很好", "今天天汽很好", 6), "ja": ("コーヒーを飲む", "コーヒー飲む", 7),
        "th": ("ทำงานหนัก", "ทำงานหนึก", 7),
        "lo": ("ນ້ຳ", "ນ້ຳດີ", 1), "km": ("ខ្ញុំ", "ខ្ញុ", 1), "my": ("မြန်မာ", "မြန်", 3),
    }  # fmt: skip
    for language, (reference, hypothesis, count) in texts.items():
        evaluation = score_items([Item(language, reference, hypothesis)])
        assert evaluation.total().reference == count and 0 < evaluation.total().errors <= 2
        assert report.header(evaluation)[2] == "CER %" and ("words", f"{count} of {count}") in [
            (name, value.partition("; ")[2].partition(" words")[0]) for name, value in report.notes(evaluation)
        ]
    zh = score_items([Item("a", *texts["zh"][:2])])
    assert report.error_table(zh)[0][2:6] == ("16.67", "–", "6", "16.67")
    assert "    今 天 天 气 很 好\n    今 天 天 汽 很 好\n             S" in to_markdown(zh)


def test_signs_change_nothing_in_sets_of_spaced_scripts():
    foreign = Item("b", "", "谢谢观看", "en")  # what a recognizer may write in silence
    spaced = [Item("a", "the cat", "the bat", "en"), foreign, Item("k", "한국어 말", "한국어 말이", "en")]
    assert [count.errors for count in score_items(spaced).words] == [1, 1, 1]
    both = score_items([*spaced, Item("c", "谢谢", "谢 谢", "zh")])
    assert [count.errors for count in both.words] == [1, 1, 1, 0] and both.signs == {"zh"}
    assert report.header(both) == report.HEADER  # most words are no signs


def test_a_report_that_counts_sentences_as_words_is_not_compared():
    now = report.to_json(score_items([Item("a", "今天天气", "今天", "zh")]))
    before = now | {"utterances": [row | {"words": 1, "errors": 1} for row in now["utterances"]]}
    with pytest.raises(UserError, match=": 1 words in 'a', not 4"):
        compare.compare([now, before], common=True)
    assert "each sign of a script without spaces counts as a word" in compare.compare([now, now])[0]
