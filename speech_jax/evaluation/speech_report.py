"""Reports on synthesized speech: means of each measure with confidence intervals; as Markdown, HTML and JSON."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from speech_jax.evaluation.config import MeasureName
from speech_jax.evaluation.measures import MEASURES, badness
from speech_jax.evaluation.report import (
    SHOWN_GROUPS,
    STYLE,
    bootstrap_ratios,
    escape_markdown,
    grouping_fields,
    html_head,
    html_notes,
    html_table,
    markdown_table,
    rows_by,
)

SHOWN_MESSAGES = 20


class MeasuredPair(NamedTuple):
    """Measures of one synthesized recording.

    Attributes:
        id: utterance id.
        values: name of the measure -> (sum, count); for WER (100 · errors, words).
        set: name of the manifest.
        domain: domain of the recording.
        speaker: speaker of the recording.
        text: reference text.
        seconds: length of the synthesized recording.
        hypothesis: text that a recognizer returned for it.
    """

    id: str
    values: dict[str, tuple[float, float]]
    set: str = ""
    domain: str = ""
    speaker: str = ""
    text: str = ""
    seconds: float = 0.0
    hypothesis: str = ""

    def value(self, name: str) -> float:
        """Return sum / count of a measure; NaN where it was not measured."""
        total, count = self.values.get(name, (math.nan, 0.0))
        return total / count if count else math.nan


@dataclass(frozen=True)
class SpeechEvaluation:
    """Measured pairs of one synthesizer.

    Attributes:
        name: name of the system.
        items: the measured pairs.
        worst_by: measure by which `worst` sorts.
        details: further (name, value) lines of the report's head.
        left_out: a message for each recording that is not included in the figures.
    """

    name: str
    items: tuple[MeasuredPair, ...]
    worst_by: MeasureName = "mcd"
    details: tuple[tuple[str, str], ...] = ()
    left_out: tuple[str, ...] = ()

    def groups(self, field: str) -> dict[str, list[int]]:
        """Group row numbers by "set", "domain" or "speaker", in order of first occurrence."""
        return rows_by(self.items, field)

    def worst(self, number: int) -> list[int]:
        """Return row numbers sorted by `worst_by`, the worst first."""
        keys = [badness(self.worst_by, item.value(self.worst_by)) for item in self.items]
        return sorted(range(len(keys)), key=lambda row: -keys[row])[:number]

    def measured(self) -> list[str]:
        """Return the names of the measures that at least one pair has, in the order of MEASURES."""
        return [name for name in MEASURES if any(not math.isnan(item.value(name)) for item in self.items)]


class Summary(NamedTuple):
    """Mean of a measure.

    Attributes:
        mean: mean over pairs; for a rate errors / words.
        low: lower bound of the 95 % interval by the bootstrap over utterances; None for one pair.
        high: upper bound; None for one pair.
        pairs: number of pairs that have the measure.
    """

    mean: float
    low: float | None
    high: float | None
    pairs: int


def summarize(items: Sequence[MeasuredPair], name: str, *, draws: int = 1000, seed: int = 0) -> Summary | None:
    """Summarize a measure over the pairs that have it; None if no pair has it.

    Words that were recognized where the reference has none are errors of the WER, though their pair has no rate.

    Args:
        items: the pairs.
        name: name of the measure.
        draws: number of bootstrap samples.
        seed: of the random draws.
    """
    pairs = (item.values.get(name, (math.nan, 0.0)) for item in items)
    values = np.array([(total, count) for total, count in pairs if total > 0 or count and not math.isnan(total)])
    if not len(values) or not values[:, 1].any():
        return None
    mean = float(values[:, 0].sum() / values[:, 1].sum())
    if len(values) == 1:
        return Summary(mean, None, None, 1)
    low, high = np.nanquantile(bootstrap_ratios(values, draws, seed), [0.025, 0.975])
    return Summary(mean, float(low), float(high), len(values))


# --- Tables ----------------------------------------------------------------------------------------------------------


def format_value(name: str, value: float) -> str:
    """Format a value for a table; NaN becomes an empty string."""
    return "" if math.isnan(value) else f"{value:.{MEASURES[name].digits}f}"


def overview_table(evaluation: SpeechEvaluation) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return (header, rows) with a row per measure, over all pairs."""
    rows = []
    for name in evaluation.measured():
        summary = summarize(evaluation.items, name)
        assert summary is not None  # a measured one
        mean = format_value(name, summary.mean)
        rows.append((MEASURES[name].label, mean, _interval(name, summary), str(summary.pairs)))
    return ("", "mean", "95 %", "pairs"), rows


def group_table(
    evaluation: SpeechEvaluation, field: str, *, intervals: bool = True
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return (header, rows) with a row per group and a column per measure.

    Args:
        evaluation: the measured pairs.
        field: "set", "domain" or "speaker"; of more than SHOWN_GROUPS values those with most pairs are shown.
        intervals: show "mean (low to high)", else the mean.
    """
    names, groups = evaluation.measured(), evaluation.groups(field)
    shown = sorted(groups, key=lambda group: -len(groups[group]))[:SHOWN_GROUPS]
    rows = []
    for group in (group for group in groups if group in shown):
        items = [evaluation.items[row] for row in groups[group]]
        summaries = [(name, summarize(items, name)) for name in names]
        cells = [_cell(name, summary, intervals) if summary else "" for name, summary in summaries]
        rows.append((group or "(none)", str(len(items)), *cells))
    if len(groups) > len(shown):
        rows.append((f"… and {len(groups) - len(shown)} more with fewer pairs", *[""] * (len(names) + 1)))
    return (field, "pairs", *(MEASURES[name].label for name in names)), rows


def _cell(name: str, summary: Summary, intervals: bool) -> str:
    mean = format_value(name, summary.mean)
    return f"{mean} ({_interval(name, summary)})" if intervals else mean


def _interval(name: str, summary: Summary) -> str:
    if summary.low is None or summary.high is None:
        return "–"
    return f"{format_value(name, summary.low)} to {format_value(name, summary.high)}"


def worst_table(evaluation: SpeechEvaluation, count: int) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return (header, rows) with a row per utterance, the worst first."""
    names = evaluation.measured()
    rows = [
        (evaluation.items[row].id, *(format_value(name, evaluation.items[row].value(name)) for name in names))
        for row in evaluation.worst(count)
    ]
    return ("utterance", *(MEASURES[name].label for name in names)), rows


def _sections(evaluation: SpeechEvaluation, worst: int) -> list[tuple[str, tuple]]:
    sections = [("All", overview_table(evaluation))]
    sections += [(f"By {field}", group_table(evaluation, field)) for field in grouping_fields(evaluation)]
    if worst:
        sections.append((f"Worst by {MEASURES[evaluation.worst_by].label}", worst_table(evaluation, worst)))
    return sections


def shown_messages(evaluation: SpeechEvaluation) -> list[str]:
    """Return the first messages on recordings that were left out, and the number of the rest; the JSON has all."""
    rest = len(evaluation.left_out) - SHOWN_MESSAGES
    return [*evaluation.left_out[:SHOWN_MESSAGES], *([f"… and {rest} more"] if rest > 0 else [])]


# --- Text, Markdown, HTML and JSON -----------------------------------------------------------------------------------


def to_text(evaluation: SpeechEvaluation) -> str:
    """Return the tables for the terminal, without the groups' intervals and the worst utterances."""
    header, rows = overview_table(evaluation)
    lines = [markdown_table((evaluation.name, *header[1:]), rows)]
    lines += [markdown_table(*group_table(evaluation, field, intervals=False)) for field in grouping_fields(evaluation)]
    return "\n\n".join(lines)


def to_markdown(evaluation: SpeechEvaluation, *, worst: int = 20) -> str:
    """Return the report as Markdown, without audio and pictures."""
    lines = [f"# {escape_markdown(evaluation.name) or 'Synthesized speech'}", ""]
    lines += [f"- {escape_markdown(key)}: {escape_markdown(value)}" for key, value in evaluation.details] + [""]
    for title, (header, rows) in _sections(evaluation, worst):
        cells = [[escape_markdown(cell) for cell in row] for row in rows]
        table = markdown_table([escape_markdown(cell) for cell in header], cells)
        lines += [f"## {escape_markdown(title)}", "", table, ""]
    lines += ["## What is measured", ""]
    lines += [
        f"- {escape_markdown(MEASURES[name].label)}: {escape_markdown(MEASURES[name].meaning)}"
        for name in evaluation.measured()
    ]
    if evaluation.left_out:
        lines += ["", "## Left out", "", *(f"- {escape_markdown(message)}" for message in shown_messages(evaluation))]
    return "\n".join(lines) + "\n"


class Example(NamedTuple):
    """An utterance with audio and a picture for the HTML page.

    Attributes:
        row: its row in the evaluation.
        reference: recording as FLAC.
        synthesized: recording as FLAC.
        picture: PNG.
    """

    row: int
    reference: bytes
    synthesized: bytes
    picture: bytes


# Nothing is loaded and nothing runs; audio and pictures are embedded in the page.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"
_MORE_STYLE = "img { max-width: 100% } audio { height: 2.2em; vertical-align: middle }"


def to_html(
    evaluation: SpeechEvaluation,
    *,
    worst: int = 50,
    examples: Sequence[tuple[str, Sequence[Example]]] = (),
    distributions: bytes = b"",
) -> str:
    """Return the report as one self-contained HTML page; every text in it is escaped.

    Args:
        evaluation: the measured pairs.
        worst: number of the worst utterances in the table.
        examples: (title, utterances) with audio and pictures.
        distributions: histograms as PNG; may be empty.
    """
    e = html.escape
    title = e(evaluation.name or "Synthesized speech")
    parts = [
        html_head(title, _POLICY, STYLE + _MORE_STYLE),
        html_notes(evaluation.details),
    ]
    parts += [f"<h2>{e(heading)}</h2>{html_table(*table)}" for heading, table in _sections(evaluation, worst)]
    meanings = (f"<li>{e(MEASURES[n].label)}: {e(MEASURES[n].meaning)}</li>" for n in evaluation.measured())
    parts.append("<h2>What is measured</h2><ul>" + "".join(meanings) + "</ul>")
    if distributions:
        parts.append("<h2>Distributions</h2>" + _image(distributions, "histogram of each measure"))
    for heading, utterances in examples:
        parts.append(f"<h2>{e(heading)}</h2>")
        parts += [_example_html(evaluation, example) for example in utterances]
    if evaluation.left_out:
        lines = "".join(f"<li>{e(message)}</li>" for message in shown_messages(evaluation))
        parts.append(f"<h2>Left out</h2><ul>{lines}</ul>")
    return "".join([*parts, "</body></html>\n"])


def _example_html(evaluation: SpeechEvaluation, example: Example) -> str:
    e, item = html.escape, evaluation.items[example.row]
    values = [(MEASURES[name].label, format_value(name, item.value(name))) for name in evaluation.measured()]
    figures = ", ".join(f"{label} {value}" for label, value in values if value)
    hypothesis = f'<br>recognized: <span dir="auto">{e(item.hypothesis)}</span>' if "wer" in item.values else ""
    return (
        f'<h3 dir="auto">{e(item.id)}</h3><p><span dir="auto">{e(item.text)}</span>{hypothesis}<br>'
        f"<small>{e(figures)}</small></p>"
        f"<p>reference {_player(example.reference)} synthesized {_player(example.synthesized)}</p>"
        + _image(example.picture, f"spectrograms and F0 of {item.id}")
    )


def _player(flac: bytes) -> str:
    return f'<audio controls preload="none" src="data:audio/flac;base64,{base64.b64encode(flac).decode()}"></audio>'


def _image(png: bytes, alt: str) -> str:
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def to_json(evaluation: SpeechEvaluation) -> dict[str, Any]:
    """Return all numbers as JSON values."""
    names = evaluation.measured()

    def group(rows: Sequence[int]) -> dict[str, Any]:
        items = [evaluation.items[row] for row in rows]
        summaries = {name: summarize(items, name) for name in names}
        return {"pairs": len(items)} | {name: value._asdict() for name, value in summaries.items() if value}

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


def _utterance(item: MeasuredPair) -> dict[str, Any]:
    values = {name: item.value(name) for name in item.values}
    fields = item._asdict()
    del fields["values"]
    return fields | {name: None if math.isnan(value) else value for name, value in values.items()}
