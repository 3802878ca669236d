"""What was measured of many synthesized recordings: means with their uncertainty; as Markdown, HTML and JSON."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from speech_jax.evaluation.config import Name
from speech_jax.evaluation.measures import MEASURES, is_worse
from speech_jax.evaluation.report import SHOWN_GROUPS, STYLE, fields, plain, resampled, rows_by, text_table

SHOWN_MESSAGES = 20


class Pair(NamedTuple):
    """One synthesized recording. values: name -> (sum, how many it is a sum of), for WER 100 · errors and words."""

    id: str
    values: dict[str, tuple[float, float]]
    set: str = ""
    domain: str = ""
    speaker: str = ""
    text: str = ""
    seconds: float = 0.0
    hypothesis: str = ""

    def value(self, name: str) -> float:
        """Sum over number; NaN where it was not measured."""
        total, number = self.values.get(name, (math.nan, 0.0))
        return total / number if number else math.nan


@dataclass(frozen=True)
class SpeechEvaluation:
    """Measured pairs of one synthesizer."""

    name: str
    items: tuple[Pair, ...]
    worst_by: Name = "mcd"
    details: tuple[tuple[str, str], ...] = ()
    left_out: tuple[str, ...] = ()
    """One line for each recording that is not in the figures."""

    def groups(self, field: str) -> dict[str, list[int]]:
        """Row numbers by the value of "set", "domain" or "speaker", in the order of their first occurrence."""
        return rows_by(self.items, field)

    def worst(self, number: int) -> list[int]:
        """Row numbers, the worst by `worst_by` first."""
        keys = [is_worse(self.worst_by, item.value(self.worst_by)) for item in self.items]
        return sorted(range(len(keys)), key=lambda row: -keys[row])[:number]

    def measured(self) -> list[str]:
        """The names of the measures that at least one pair has, in the order of MEASURES."""
        return [name for name in MEASURES if any(not math.isnan(item.value(name)) for item in self.items)]


class Summary(NamedTuple):
    """A mean over pairs, its 95 % interval by the bootstrap over utterances, and the number of pairs it is of."""

    mean: float
    low: float
    high: float
    pairs: int


def summary(items: Sequence[Pair], name: str, *, draws: int = 1000, seed: int = 0) -> Summary | None:
    """Of a measure over those pairs that have it; of a rate, errors over words. None where no pair has it."""
    found = np.array([item.values[name] for item in items if not math.isnan(item.value(name))], np.float64)
    if not len(found):
        return None
    mean = float(found[:, 0].sum() / found[:, 1].sum())
    if len(found) == 1:
        return Summary(mean, mean, mean, 1)
    low, high = np.quantile(resampled(found, draws, seed), [0.025, 0.975])
    return Summary(mean, float(low), float(high), len(found))


# --- tables ---------------------------------------------------------------------------------------------------------


def number(name: str, value: float) -> str:
    """A value as a table shows it; empty where there is none."""
    return "" if math.isnan(value) else f"{value:.{MEASURES[name].digits}f}"


def overview(evaluation: SpeechEvaluation) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """(header, rows): a row a measure, over all pairs."""
    rows = []
    for name in evaluation.measured():
        found = summary(evaluation.items, name)
        cells = [number(name, value) for value in found[:3]]
        rows.append((MEASURES[name].label, cells[0], f"{cells[1]} to {cells[2]}", str(found.pairs)))
    return ("", "mean", "95 %", "pairs"), rows


def by_group(
    evaluation: SpeechEvaluation, field: str, *, intervals: bool = True
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """(header, rows): a row a value of `field`, a column a measure, "mean (low to high)"; those with most pairs."""
    names, groups = evaluation.measured(), evaluation.groups(field)
    shown = sorted(groups, key=lambda group: -len(groups[group]))[:SHOWN_GROUPS]
    rows = []
    for group in (group for group in groups if group in shown):
        items = [evaluation.items[row] for row in groups[group]]
        found = [(name, summary(items, name)) for name in names]
        cells = [_cell(name, value, intervals) if value else "" for name, value in found]
        rows.append((group or "(none)", str(len(items)), *cells))
    if len(groups) > len(shown):
        rows.append((f"… and {len(groups) - len(shown)} more with fewer pairs", *[""] * (len(names) + 1)))
    return (field, "pairs", *(MEASURES[name].label for name in names)), rows


def _cell(name: str, found: Summary, intervals: bool) -> str:
    mean = number(name, found.mean)
    return f"{mean} ({number(name, found.low)} to {number(name, found.high)})" if intervals else mean


def worst_table(evaluation: SpeechEvaluation, count: int) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """(header, rows): a row an utterance, the worst first."""
    names = evaluation.measured()
    rows = [
        (evaluation.items[row].id, *(number(name, evaluation.items[row].value(name)) for name in names))
        for row in evaluation.worst(count)
    ]
    return ("utterance", *(MEASURES[name].label for name in names)), rows


def _sections(evaluation: SpeechEvaluation, worst: int) -> list[tuple[str, tuple]]:
    sections = [("All", overview(evaluation))]
    sections += [(f"By {field}", by_group(evaluation, field)) for field in fields(evaluation)]
    if worst:
        sections.append((f"Worst by {MEASURES[evaluation.worst_by].label}", worst_table(evaluation, worst)))
    return sections


def shown_messages(evaluation: SpeechEvaluation) -> list[str]:
    """The first lines on what was left out, and how many more there are; the JSON has all."""
    more = len(evaluation.left_out) - SHOWN_MESSAGES
    return [*evaluation.left_out[:SHOWN_MESSAGES], *([f"… and {more} more"] if more > 0 else [])]


# --- the forms of a report ------------------------------------------------------------------------------------------


def to_text(evaluation: SpeechEvaluation) -> str:
    """What the screen shows; the reports have the groups' intervals and the worst utterances too."""
    header, rows = overview(evaluation)
    lines = [text_table((evaluation.name, *header[1:]), rows)]
    lines += [text_table(*by_group(evaluation, field, intervals=False)) for field in fields(evaluation)]
    return "\n\n".join(lines)


def to_markdown(evaluation: SpeechEvaluation, *, worst: int = 20) -> str:
    """The report as Markdown, without sound and pictures."""
    lines = [f"# {plain(evaluation.name) or 'Synthesized speech'}", ""]
    lines += [f"- {plain(key)}: {plain(value)}" for key, value in evaluation.details] + [""]
    for title, (header, rows) in _sections(evaluation, worst):
        cells = [[plain(cell) for cell in row] for row in rows]
        lines += [f"## {plain(title)}", "", text_table([plain(cell) for cell in header], cells), ""]
    lines += ["## What is measured", ""]
    lines += [f"- {plain(MEASURES[name].label)}: {plain(MEASURES[name].meaning)}" for name in evaluation.measured()]
    if evaluation.left_out:
        lines += ["", "## Left out", "", *(f"- {plain(message)}" for message in shown_messages(evaluation))]
    return "\n".join(lines) + "\n"


class Example(NamedTuple):
    """An utterance for the page: its row, both recordings as FLAC, and a picture as PNG."""

    row: int
    reference: bytes
    synthesized: bytes
    picture: bytes


# Nothing is loaded and nothing runs; sound and pictures lie in the page itself.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"
_MORE_STYLE = "img { max-width: 100% } audio { height: 2.2em; vertical-align: middle } .wide { overflow-x: auto }"


def to_html(
    evaluation: SpeechEvaluation,
    *,
    worst: int = 50,
    examples: Sequence[tuple[str, Sequence[Example]]] = (),
    distributions: bytes = b"",
) -> str:
    """The report as one HTML page that needs nothing else; every text in it is escaped.

    examples: (title, utterances) with sound and pictures. distributions: a PNG.
    """
    e = html.escape
    title = e(evaluation.name or "Synthesized speech")
    parts = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        f"<style>{STYLE}{_MORE_STYLE}</style></head><body><h1>{title}</h1>",
        "<ul>" + "".join(f"<li>{e(key)}: {e(value)}</li>" for key, value in evaluation.details) + "</ul>",
    ]
    for heading, (header, rows) in _sections(evaluation, worst):
        parts.append(f'<h2>{e(heading)}</h2><div class="wide"><table><tr>')
        parts.append("".join(f"<th>{e(cell)}</th>" for cell in header) + "</tr>")
        parts += ["<tr>" + "".join(f"<td>{e(cell)}</td>" for cell in row) + "</tr>" for row in rows]
        parts.append("</table></div>")
    meanings = (f"<li>{e(MEASURES[n].label)}: {e(MEASURES[n].meaning)}</li>" for n in evaluation.measured())
    parts.append("<h2>What is measured</h2><ul>" + "".join(meanings) + "</ul>")
    if distributions:
        parts.append("<h2>Distributions</h2>" + _image(distributions, "how often which value was found"))
    for heading, shown in examples:
        parts.append(f"<h2>{e(heading)}</h2>")
        parts += [_example_html(evaluation, example) for example in shown]
    if evaluation.left_out:
        lines = "".join(f"<li>{e(message)}</li>" for message in shown_messages(evaluation))
        parts.append(f"<h2>Left out</h2><ul>{lines}</ul>")
    return "".join([*parts, "</body></html>\n"])


def _example_html(evaluation: SpeechEvaluation, example: Example) -> str:
    e, item = html.escape, evaluation.items[example.row]
    found = [(MEASURES[name].label, number(name, item.value(name))) for name in evaluation.measured()]
    figures = ", ".join(f"{label} {value}" for label, value in found if value)
    heard = f"<br>recognized: {e(item.hypothesis)}" if "wer" in item.values else ""
    return (
        f"<h3>{e(item.id)}</h3><p>{e(item.text)}{heard}<br><small>{e(figures)}</small></p>"
        f"<p>reference {_player(example.reference)} synthesized {_player(example.synthesized)}</p>"
        + _image(example.picture, f"spectrograms and F0 of {item.id}")
    )


def _player(flac: bytes) -> str:
    return f'<audio controls preload="none" src="data:audio/flac;base64,{base64.b64encode(flac).decode()}"></audio>'


def _image(png: bytes, alt: str) -> str:
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def to_json(evaluation: SpeechEvaluation) -> dict[str, Any]:
    """Everything in numbers, for other programs."""
    names = evaluation.measured()

    def group(rows: Sequence[int]) -> dict[str, Any]:
        items = [evaluation.items[row] for row in rows]
        found = {name: summary(items, name) for name in names}
        return {"pairs": len(items)} | {name: value._asdict() for name, value in found.items() if value}

    return {
        "name": evaluation.name,
        "details": dict(evaluation.details),
        "measures": {name: {"label": MEASURES[name].label, "meaning": MEASURES[name].meaning} for name in names},
        "all": group(range(len(evaluation.items))),
        **{f: {name: group(rows) for name, rows in evaluation.groups(f).items()} for f in ("set", "domain", "speaker")},
        "worst_by": evaluation.worst_by,
        "left_out": list(evaluation.left_out),
        "utterances": [_utterance(item) for item in evaluation.items],
    }


def _utterance(item: Pair) -> dict[str, Any]:
    values = {name: item.value(name) for name in item.values}
    shown = item._asdict()
    del shown["values"]
    return shown | {name: None if math.isnan(value) else value for name, value in values.items()}
