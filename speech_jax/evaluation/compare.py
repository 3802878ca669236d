"""Comparison of several systems on the same recordings: a table, a plot, and the significance of differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from speech_jax.core.errors import UserError
from speech_jax.evaluation.plots import bar_chart
from speech_jax.evaluation.report import escape_markdown, markdown_table, paired_bootstrap, percent
from speech_jax.evaluation.wer import ErrorCounts

By = Literal["set", "domain", "speaker"]
Report = Mapping[str, Any]  # as report.to_json returns it


def system_names(reports: Sequence[Report]) -> list[str]:
    """Return one name per report; repeated names get a number."""
    names: list[str] = []
    for report in reports:
        name, number = report["name"] or "system", 1
        while (unique := name if number == 1 else f"{name} ({number})") in names:
            number += 1
        names.append(unique)
    return names


def group_names(reports: Sequence[Report], by: By) -> list[str]:
    """Return the values of the field `by` that occur in any of the reports, in order of first occurrence."""
    return list(dict.fromkeys(group for report in reports for group in report[by]))


def error_rates(reports: Sequence[Report], by: By) -> dict[tuple[str, str], tuple[float, float, float]]:
    """Map (system, group) to (word error rate, lower bound, upper bound of its 95 % interval)."""
    return {
        (name, group): (value["wer"], *value["wer_interval"])
        for name, report in zip(system_names(reports), reports, strict=True)
        for group, value in report[by].items()
        if value["wer"] is not None
    }


def wer_table(reports: Sequence[Report], by: By) -> str:
    """Return a Markdown table with a row per system and, per group, the WER in % with its 95 % interval."""
    columns, rates = group_names(reports, by), error_rates(reports, by)
    rows = []
    for name in system_names(reports):
        cells = [rates.get((name, group)) for group in columns]
        texts = [f"{percent(c[0])} ({percent(c[1], 1)}–{percent(c[2], 1)})" if c else "" for c in cells]
        rows.append((escape_markdown(name), *texts))
    return markdown_table(("WER % (95 %)", *(escape_markdown(column) or "(none)" for column in columns)), rows)


def difference_table(reports: Sequence[Report], by: By) -> str:
    """Return a Markdown table of the probability that a system makes fewer errors than the first.

    It is the share of draws of the paired bootstrap over utterances, in %.
    """
    columns, rows = group_names(reports, by), []
    first, *rest = zip(system_names(reports), reports, strict=True)
    for name, report in rest:
        cells = []
        for group in columns:
            baseline, counts = _counts(first[1], by, group), _counts(report, by, group)
            common = [key for key in baseline if key in counts]
            if not common:
                cells.append("")
                continue
            share = paired_bootstrap([baseline[key] for key in common], [counts[key] for key in common])
            cells.append(f"{100 * share:.1f}")
        rows.append((escape_markdown(name), *cells))
    header = f"fewer errors than {escape_markdown(first[0])}, % of draws"
    return markdown_table((header, *(escape_markdown(column) or "(none)" for column in columns)), rows)


def _counts(report: Report, by: By, group: str) -> dict[tuple[str, str], ErrorCounts]:
    return {
        (row["set"], row["id"]): ErrorCounts(substitutions=row["errors"], reference=row["words"], utterances=1)
        for row in report["utterances"]
        if row[by] == group
    }


def transcript_samples(reports: Sequence[Report], by: By, number: int) -> str:
    """Return the first utterances of each group as text: the reference, then the hypothesis of each system.

    Args:
        reports: as `report.to_json` returns them.
        by: groups of utterances: "set", "domain" or "speaker".
        number: utterances per group.
    """
    lines = []
    for group in group_names(reports, by):
        rows = [row for row in reports[0]["utterances"] if row[by] == group][:number]
        for row in rows:
            pairs = [("reference", row["reference"])]
            for name, report in zip(system_names(reports), reports, strict=True):
                same = (r for r in report["utterances"] if (r["set"], r["id"]) == (row["set"], row["id"]))
                utterance = next(same, None)
                if utterance is not None:
                    pairs.append((name, utterance["hypothesis"]))
            width = max(len(name) for name, _ in pairs)
            # Indented text is code in Markdown, so that nothing in a transcript is interpreted as markup.
            lines += [f"    {name.ljust(width)}  {text}".rstrip() for name, text in pairs] + [""]
    return "\n".join(lines)


def compare(reports: Sequence[Report], by: By = "set", *, number_of_samples: int = 3) -> tuple[str, bytes]:
    """Compare the reports of several systems with the first one.

    Args:
        reports: as `report.to_json` returns them; the first is the baseline.
        by: groups of utterances: "set", "domain" or "speaker".
        number_of_samples: transcripts shown per group.

    Returns:
        Markdown text and a bar chart as PNG.

    Raises:
        UserError: there are no reports.
    """
    if not reports:
        raise UserError("compare: found no reports, expected at least one")
    parts = ["# Comparison", "", wer_table(reports, by), ""]
    if len(reports) > 1:
        parts += [difference_table(reports, by), ""]
    text = transcript_samples(reports, by, number_of_samples)
    if text:
        parts += ["## Transcripts", "", text]
    chart = bar_chart(system_names(reports), group_names(reports, by), error_rates(reports, by))
    return "\n".join(parts), chart
