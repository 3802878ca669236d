"""Error-rate reports: WER and CER with confidence intervals per set, domain and speaker; as Markdown, HTML, JSON."""

from __future__ import annotations

import html
import json
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from speech_jax.core.errors import UserError
from speech_jax.evaluation.wer import (
    SIGNS_ARE_WORDS,
    Costs,
    ErrorCounts,
    Op,
    count_errors,
    edit_operations,
    split_pairs,
)
from speech_jax.text.scripts import columns, has_unspaced, split_words

SHOWN_GROUPS = 20  # most rows of a table; the JSON holds all


class Item(NamedTuple):
    """One utterance to score.

    Attributes:
        id: utterance id.
        reference: normalized reference text.
        hypothesis: normalized recognized text.
        set: name of the manifest.
        domain: domain of the recording; may be empty.
        speaker: speaker of the recording; may be empty.
        seconds: length of the recording.
    """

    id: str
    reference: str
    hypothesis: str
    set: str = ""
    domain: str = ""
    speaker: str = ""
    seconds: float = 0.0


def rows_by(items: Sequence[Any], field: str) -> dict[str, list[int]]:
    """Group row numbers by the value of an attribute of the items, in order of first occurrence."""
    groups: dict[str, list[int]] = {}
    for row, item in enumerate(items):
        groups.setdefault(getattr(item, field), []).append(row)
    return groups


@dataclass(frozen=True)
class Evaluation:
    """Scored utterances of one system.

    Attributes:
        name: name of the system.
        items: the utterances.
        words: word errors per utterance.
        characters: character errors per utterance.
        costs: costs that the word errors were counted with.
        sclite_errors: number of word errors with sclite's costs, which may exceed the minimum.
        details: further (name, value) lines of the report's head, for example the checkpoint and the run time.
        signs: sets in which each sign of a script without spaces is a word, see `wer.split_pairs`.
        sign_words: number of reference words that are such signs.
    """

    name: str
    items: tuple[Item, ...]
    words: tuple[ErrorCounts, ...]
    characters: tuple[ErrorCounts, ...]
    costs: Costs = "levenshtein"
    sclite_errors: int = 0
    details: tuple[tuple[str, str], ...] = ()
    signs: frozenset[str] = frozenset()
    sign_words: int = 0

    @property
    def characters_first(self) -> bool:
        """True if most reference words are signs, so that the character error rate is the better measure."""
        return 2 * self.sign_words > self.total().reference

    def operations(self, row: int) -> list[Op]:
        """Return the alignment of an utterance's words."""
        item = self.items[row]
        split = split_words if item.set in self.signs else str.split
        return edit_operations(split(item.reference), split(item.hypothesis), self.costs)

    def total(self, which: str = "words") -> ErrorCounts:
        """Return the error counts summed over all utterances; `which` is "words" or "characters"."""
        return sum(getattr(self, which), ErrorCounts())

    def groups(self, field: str) -> dict[str, list[int]]:
        """Group row numbers by "set", "domain" or "speaker", in order of first occurrence."""
        return rows_by(self.items, field)

    def worst(self, number: int) -> list[int]:
        """Return the rows of the utterances with most word errors; ties are sorted by error rate."""
        wrong = [row for row, count in enumerate(self.words) if count.errors]
        return sorted(wrong, key=lambda row: (-self.words[row].errors, -self.words[row].rate, row))[:number]


def score_items(
    items: Iterable[Item], *, name: str = "", costs: Costs = "levenshtein", details: Sequence[tuple[str, str]] = ()
) -> Evaluation:
    """Count word and character errors of every utterance.

    Args:
        items: the utterances.
        name: name of the system.
        costs: "levenshtein" as jiwer, or "sclite" as NIST's sclite.
        details: further (name, value) lines of the report's head.

    Raises:
        UserError: there are no utterances.
    """
    items = tuple(items)
    if not items:
        raise UserError("evaluation: found no utterances, expected at least one")
    references: list[list[str]] = [[]] * len(items)
    hypotheses: list[list[str]] = [[]] * len(items)
    signs = set()
    for name_of_set, rows in rows_by(items, "set").items():
        pairs = split_pairs([items[row].reference for row in rows], [items[row].hypothesis for row in rows])
        for row, reference, hypothesis in zip(rows, *pairs[:2], strict=True):
            references[row], hypotheses[row] = reference, hypothesis
        if pairs[2]:
            signs.add(name_of_set)
    words = count_errors(references, hypotheses, costs)
    characters = count_errors(
        [" ".join(item.reference.split()) for item in items], [" ".join(item.hypothesis.split()) for item in items]
    )
    sclite = words if costs == "sclite" else count_errors(references, hypotheses, "sclite")
    errors = sum(count.errors for count in sclite)
    sign_words = sum(has_unspaced(word) for words in references for word in words) if signs else 0
    return Evaluation(
        name, items, tuple(words), tuple(characters), costs=costs, sclite_errors=errors, details=tuple(details),
        signs=frozenset(signs), sign_words=sign_words,
    )  # fmt: skip


def bootstrap_interval(
    counts: Sequence[ErrorCounts], *, level: float = 0.95, draws: int = 1000, seed: int = 0
) -> tuple[float, float] | None:
    """Return a confidence interval of the error rate by the bootstrap over utterances (Bisani and Ney 2004).

    Args:
        counts: error counts per utterance.
        level: confidence level.
        draws: number of bootstrap samples; one without reference tokens has no rate and is left out.
        seed: of the random draws.

    Returns:
        (lower bound, upper bound); None for fewer than two utterances, or if there are no reference tokens.
    """
    if len(counts) < 2 or not any(c.reference for c in counts):
        return None
    rates = bootstrap_ratios(np.array([[c.errors, c.reference] for c in counts], np.float64), draws, seed)
    low, high = np.nanquantile(rates, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_bootstrap(
    first: Sequence[ErrorCounts], second: Sequence[ErrorCounts], *, draws: int = 1000, seed: int = 0
) -> float:
    """Return the fraction of bootstrap draws in which the second system has fewer errors than the first.

    This is the "probability of improvement" of Bisani and Ney (2004): as there, a draw in which both have equally
    many errors does not count. Two systems with the same errors in every utterance therefore get 0, either way round.

    Args:
        first: error counts per utterance of one system.
        second: those of the other system on the same utterances.
        draws: number of bootstrap samples.
        seed: of the random draws.
    """
    difference = np.array([[b.errors - a.errors, 1] for a, b in zip(first, second, strict=True)], np.float64)
    return float(np.mean(bootstrap_ratios(difference, draws, seed) < 0))


def bootstrap_ratios(pairs: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Return the ratio of the columns' sums in `draws` bootstrap samples of the rows of `pairs` [rows, 2].

    It is NaN where the second column's sum is 0.
    """
    rng, ratios = np.random.default_rng(seed), []
    chunk = max(1, min(draws, 4_000_000 // len(pairs)))
    for start in range(0, draws, chunk):
        times = rng.multinomial(len(pairs), np.full(len(pairs), 1 / len(pairs)), size=min(chunk, draws - start))
        sums = times @ pairs
        ratios.append(np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan), where=sums[:, 1] != 0))
    return np.concatenate(ratios)


# --- Tables ----------------------------------------------------------------------------------------------------------

HEADER = ("", "utterances", "words", "WER %", "95 %", "S", "D", "I", "CER %", "wrong utterances %")
_CHARACTERS_FIRST = ("", "utterances", "CER %", "95 %", "words", "WER %", "S", "D", "I", "wrong utterances %")


def header(evaluation: Evaluation) -> tuple[str, ...]:
    """Return the names of `error_table`'s columns: the character error rate comes first where most words are signs."""
    return _CHARACTERS_FIRST if evaluation.characters_first else HEADER


def percent(rate: float, digits: int = 2) -> str:
    """Format a rate in percent: 0.1234 -> "12.34"; "–" for a rate that is not finite."""
    return f"{100 * rate:.{digits}f}" if np.isfinite(rate) else "–"


def format_rate(counts: ErrorCounts, digits: int = 2) -> str:
    """Format an error rate in percent; "–" without reference tokens, where there is none."""
    return percent(counts.rate, digits) if counts.reference else "–"


def format_interval(interval: tuple[float, float] | None) -> str:
    """Format `bootstrap_interval` in percent: (0.1, 0.2) -> "10.0–20.0"; "–" for None."""
    return "–" if interval is None else f"{percent(interval[0], 1)}–{percent(interval[1], 1)}"


def _describe_errors(count: ErrorCounts) -> str:
    rate = f"WER {format_rate(count, 1)} %" if count.reference else "no reference words"
    return f"{count.errors} errors, {rate}"


def error_table(evaluation: Evaluation, field: str | None = None) -> list[tuple[str, ...]]:
    """Return table rows for `header`; the 95 % interval is that of the error rate before it.

    Args:
        evaluation: the scored utterances.
        field: "set", "domain" or "speaker" for a row per value; None for one row over everything. Of more than
            SHOWN_GROUPS values those with most errors are shown, the worst first.
    """
    groups = {"all": list(range(len(evaluation.items)))} if field is None else evaluation.groups(field)
    rows = []
    names = list(groups)
    if len(names) > SHOWN_GROUPS:
        errors = {name: sum(evaluation.words[row].errors for row in groups[name]) for name in names}
        names = sorted(names, key=lambda name: -errors[name])[:SHOWN_GROUPS]
    for name in names:
        words = [evaluation.words[row] for row in groups[name]]
        characters = [evaluation.characters[row] for row in groups[name]]
        total = sum(words, ErrorCounts())
        first = characters if evaluation.characters_first else words
        cells = {
            "": name or "(none)",
            "utterances": str(total.utterances),
            "words": str(total.reference),
            "WER %": format_rate(total),
            "95 %": format_interval(bootstrap_interval(first)),
            "S": str(total.substitutions),
            "D": str(total.deletions),
            "I": str(total.insertions),
            "CER %": format_rate(sum(characters, ErrorCounts())),
            "wrong utterances %": percent(total.sentence_rate, 1),
        }
        rows.append(tuple(cells[column] for column in header(evaluation)))
    if len(groups) > len(names):
        rest = len(groups) - len(names)
        rows.append((f"… and {rest} more with fewer errors", *[""] * (len(HEADER) - 1)))
    return rows


def format_alignment(ops: Sequence[Op]) -> tuple[str, str, str]:
    """Return lines of equal width: reference, hypothesis (**** for a missing word), and S, D, I below the errors."""
    cells = []
    for op in ops:
        width = max(columns(op.reference or ""), columns(op.hypothesis or ""), 1)
        texts = (op.reference, op.hypothesis, " " if op.kind == "=" else op.kind)
        cells.append([_padded("*" * width if text is None else text, width) for text in texts])
    lines = [" ".join(parts) for parts in zip(*cells, strict=True)] or ["", "", ""]
    return lines[0], lines[1], lines[2]


def _padded(text: str, width: int) -> str:
    return text + " " * (width - columns(text))


def _sections(evaluation: Evaluation) -> list[tuple[str, list[tuple[str, ...]]]]:
    return [("All", error_table(evaluation))] + [
        (f"By {field}", error_table(evaluation, field)) for field in grouping_fields(evaluation)
    ]


def notes(evaluation: Evaluation) -> list[tuple[str, str]]:
    """Return (name, value) lines of the report's head: the details, and what is special in the counts."""
    errors = evaluation.total().errors
    lines = list(evaluation.details)
    if evaluation.signs:
        share = f"{evaluation.sign_words} of {evaluation.total().reference} words are such signs"
        lines.append(("words", f"{SIGNS_ARE_WORDS}; {share}"))
    inserted = [count.errors for count in evaluation.words if count.errors and not count.reference]
    if inserted:
        where = f"{sum(inserted)} in {len(inserted)} utterances"
        lines.append(("words inserted where the reference has none", f"{where}, counted as errors"))
    if evaluation.costs == "levenshtein" and evaluation.sclite_errors != errors:
        excess = evaluation.sclite_errors - errors
        lines.append(
            ("sclite's total", f"{evaluation.sclite_errors} word errors, {excess} more than the minimum ({errors})")
        )
    return lines


@runtime_checkable
class Grouped(Protocol):
    """An evaluation whose utterances can be grouped."""

    def groups(self, field: str) -> dict[str, list[int]]:
        """Group row numbers by "set", "domain" or "speaker"."""
        ...


def grouping_fields(evaluation: Grouped) -> list[str]:
    """Return those of "set", "domain" and "speaker" that divide the utterances, each in a different way."""
    fields, divisions = [], []
    for field in ("set", "domain", "speaker"):
        division = list(evaluation.groups(field).values())
        if len(division) > 1 and division not in divisions:
            fields.append(field)
            divisions.append(division)
    return fields


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with aligned columns, which is also readable in a terminal."""
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in (header, *rows)]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        padding = [" " * (width - len(cell)) for cell, width in zip(row, widths, strict=True)]
        first, *rest = map(_isolate, row)
        first, rest = first + padding[0], [space + cell for space, cell in zip(padding[1:], rest, strict=True)]
        return "| " + " | ".join([first, *rest]) + " |"

    rule = "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    return "\n".join([line(cells[0]), rule, *map(line, cells[1:])])


def _isolate(cell: str) -> str:
    """Put a right-to-left text between Unicode's isolates, so that it does not reorder the cells beside it."""
    right_to_left = any(unicodedata.bidirectional(character) in ("R", "AL") for character in cell)
    return f"\u2068{cell}\u2069" if right_to_left else cell


# --- Markdown, HTML and JSON -----------------------------------------------------------------------------------------


def to_markdown(evaluation: Evaluation, *, worst: int = 20) -> str:
    """Return the report as Markdown, with the `worst` utterances aligned."""
    lines = [f"# {escape_markdown(evaluation.name) or 'Evaluation'}", ""]
    lines += [f"- {escape_markdown(key)}: {escape_markdown(value)}" for key, value in notes(evaluation)] + [""]
    for title, rows in _sections(evaluation):
        lines += [
            f"## {title}",
            "",
            markdown_table(header(evaluation), [[escape_markdown(cell) for cell in row] for row in rows]),
            "",
        ]
    text = worst_utterances(evaluation, worst, escape=escape_markdown)
    if text:
        lines += ["## Utterances with most errors", "", text]
    return "\n".join(lines)


def worst_utterances(evaluation: Evaluation, number: int, *, escape: Callable[[str], str] = str) -> str:
    """Return the utterances with most errors as text, aligned in three lines each; `escape` is applied to ids."""
    lines = []
    for row in evaluation.worst(number):
        item, count = evaluation.items[row], evaluation.words[row]
        lines += [f"{escape(item.id)}: {_describe_errors(count)}", ""]
        ops = evaluation.operations(row)
        # Indented text is code in Markdown, so that nothing in a transcript is interpreted as Markdown or HTML.
        lines += ["    " + line.rstrip() for line in format_alignment(ops)]
        lines += [""]
    return "\n".join(lines)


def escape_markdown(text: str) -> str:
    """Escape a text so that it is interpreted neither as Markdown nor as HTML."""
    escaped = html.escape(str(text), quote=False).replace("\n", " ").replace("\r", " ")
    return "".join("\\" + c if c in "\\`*_[]#" else c for c in escaped)


STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; color: #222 }
h1, h2, h3, p, li, div { overflow-wrap: anywhere }
.wide { overflow-x: auto; overflow-wrap: normal }
table { border-collapse: collapse; margin: .3em 0 }
th, td { padding: .2em .7em; text-align: right; border-bottom: 1px solid #ddd }
td { white-space: nowrap }
th:first-child, td:first-child { text-align: left }
td:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 6em }
.line { margin: .2em 0 1.2em }
.op { overflow-wrap: anywhere; max-width: 100% }
.op { display: inline-block; text-align: center; margin: 0 .15em; vertical-align: top; min-width: .6em }
.op span { display: block; min-height: 1.4em }
.S { background: #ffe3b3 }
.D { background: #ffc9c9 }
.I { background: #cfe2ff }
small { color: #666 }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"  # nothing is loaded and nothing runs


def html_head(title: str, policy: str, style: str) -> str:
    """Return the beginning of a page, up to its heading; `title` is escaped already."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<style>{style}</style></head><body><h1 dir="auto">{title}</h1>'
    )


def html_notes(lines: Iterable[tuple[str, str]]) -> str:
    """Return (name, value) lines as an HTML list."""
    e = html.escape
    return "<ul>" + "".join(f'<li>{e(key)}: <span dir="auto">{e(value)}</span></li>' for key, value in lines) + "</ul>"


def html_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table that scrolls by itself where it is wider than the page; its first column has names."""
    e = html.escape
    parts = ['<div class="wide"><table><tr>', *(f"<th>{e(cell)}</th>" for cell in header), "</tr>"]
    for name, *cells in rows:
        parts.append(f'<tr><td><span dir="auto">{e(name)}</span></td>')
        parts.append("".join(f"<td>{e(cell)}</td>" for cell in cells) + "</tr>")
    return "".join([*parts, "</table></div>"])


def to_html(evaluation: Evaluation, *, worst: int = 50) -> str:
    """Return the report as one self-contained HTML page; every text in it is escaped."""
    e = html.escape
    title = e(evaluation.name or "Evaluation")
    parts = [
        html_head(title, _POLICY, STYLE),
        html_notes(notes(evaluation)),
    ]
    parts += [f"<h2>{e(title)}</h2>{html_table(header(evaluation), rows)}" for title, rows in _sections(evaluation)]
    rows = evaluation.worst(worst)
    if rows:
        parts.append(
            "<h2>Utterances with most errors</h2><p><small>Reference above, hypothesis below: "
            '<span class="S">substituted</span> <span class="D">deleted</span> <span class="I">inserted</span>'
            "</small></p>"
        )
    for row in rows:
        item, count = evaluation.items[row], evaluation.words[row]
        parts.append(f'<div><b dir="auto">{e(item.id)}</b> <small>{_describe_errors(count)}, ')
        parts.append(f'<span dir="auto">{e(item.speaker)}</span> {item.seconds:.1f} s</small></div>')
        parts.append('<div class="line" dir="auto">')
        for op in evaluation.operations(row):
            style = "" if op.kind == "=" else f" {op.kind}"
            above, below = e(op.reference or ""), e(op.hypothesis or "")
            parts.append(f'<span class="op{style}"><span>{above}</span><span>{below}</span></span> ')
        parts.append("</div>")
    return "".join([*parts, "</body></html>\n"])


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """Return all numbers and transcripts as JSON values; `read_report` reads them back.

    A rate without reference words, and an interval that `bootstrap_interval` does not give, are None.
    """

    def group(rows: list[int]) -> dict[str, Any]:
        words = [evaluation.words[row] for row in rows]
        total = sum(words, ErrorCounts())
        characters = sum((evaluation.characters[row] for row in rows), ErrorCounts())
        return {
            "wer": total.rate if total.reference else None,
            "wer_interval": bootstrap_interval(words),
            "cer": characters.rate if characters.reference else None,
            "substitutions": total.substitutions,
            "deletions": total.deletions,
            "insertions": total.insertions,
            "words": total.reference,
            "utterances": total.utterances,
            "wrong_utterances": total.wrong_utterances,
            "seconds": round(sum(evaluation.items[row].seconds for row in rows), 3),
        }

    by = {f: {name: group(rows) for name, rows in evaluation.groups(f).items()} for f in ("set", "domain", "speaker")}
    return {
        "name": evaluation.name,
        "costs": evaluation.costs,
        "details": dict(evaluation.details),
        "all": group(list(range(len(evaluation.items)))) | {"sclite_errors": evaluation.sclite_errors},
        **by,
        "utterances": [
            item._asdict() | {"errors": words.errors, "words": words.reference}
            for item, words in zip(evaluation.items, evaluation.words, strict=True)
        ],
    }


def read_report(path: str, read: Callable[[str], str]) -> Mapping[str, Any]:
    """Read a report that `to_json` returned, and check the entries that a comparison needs.

    Args:
        path: the report's path, for messages.
        read: returns the text of a path.

    Raises:
        UserError: the text is not such a report.
    """
    try:
        value = json.loads(read(path))
        if "measures" in value:
            raise UserError(f"{path}: found a report of evaluate --speech, expected one of error rates")
        rows = [{"domain": "", "speaker": ""} | row for row in value["utterances"]]
        texts = ("id", "set", "reference", "hypothesis", "domain", "speaker")
        for key, kind in (dict.fromkeys(texts, str) | dict.fromkeys(("errors", "words"), int)).items():
            bad = next((row for row in rows if not isinstance(row[key], kind)), None)
            if bad is not None:
                expected = "a text" if kind is str else "a number"
                raise UserError(f"{path}: found {key} {bad[key]!r} of utterance {bad['id']!r}, expected {expected}")
        return {"name": "", "costs": "levenshtein", "details": {}} | value | {"utterances": rows}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: found no report of evaluate ({error!r}), expected its report.json") from error
