"""Reports of several systems on the same recordings: one table, one plot, and how sure the differences are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from speech_jax.core.errors import UserError
from speech_jax.evaluation.plots import bars
from speech_jax.evaluation.report import paired, percent, plain, text_table
from speech_jax.evaluation.wer import ErrorCounts

By = Literal["set", "domain", "speaker"]
Report = Mapping[str, Any]  # what report.to_json makes


def names(reports: Sequence[Report]) -> list[str]:
    """One name a report, numbered where two are called the same."""
    found: list[str] = []
    for report in reports:
        name, number = report["name"] or "system", 1
        while (unique := name if number == 1 else f"{name} ({number})") in found:
            number += 1
        found.append(unique)
    return found


def groups(reports: Sequence[Report], by: By) -> list[str]:
    """The values of `by` that occur in any of the reports, in their order."""
    return list(dict.fromkeys(group for report in reports for group in report[by]))


def rates(reports: Sequence[Report], by: By) -> dict[tuple[str, str], tuple[float, float, float]]:
    """(system, group) -> (word error rate, bounds of its 95 % interval)."""
    return {
        (name, group): (value["wer"], *value["wer_interval"])
        for name, report in zip(names(reports), reports, strict=True)
        for group, value in report[by].items()
        if value["wer"] is not None
    }


def wer_table(reports: Sequence[Report], by: By) -> str:
    """A Markdown table: a row a system; WER in % with the 95 % interval for each group."""
    columns, found = groups(reports, by), rates(reports, by)
    rows = []
    for name in names(reports):
        cells = [found.get((name, group)) for group in columns]
        shown = [f"{percent(c[0])} ({percent(c[1], 1)}–{percent(c[2], 1)})" if c else "" for c in cells]
        rows.append((plain(name), *shown))
    return text_table(("WER % (95 %)", *(plain(column) or "(none)" for column in columns)), rows)


def difference_table(reports: Sequence[Report], by: By) -> str:
    """How probable it is that a system makes fewer errors than the first, by the paired bootstrap over utterances."""
    columns, rows = groups(reports, by), []
    first, *others = zip(names(reports), reports, strict=True)
    for name, report in others:
        cells = []
        for group in columns:
            before, after = _counts(first[1], by, group), _counts(report, by, group)
            common = [key for key in before if key in after]
            if not common:
                cells.append("")
                continue
            share = paired([before[key] for key in common], [after[key] for key in common])
            cells.append(f"{100 * share:.1f}")
        rows.append((plain(name), *cells))
    header = f"fewer errors than {plain(first[0])}, % of draws"
    return text_table((header, *(plain(column) or "(none)" for column in columns)), rows)


def _counts(report: Report, by: By, group: str) -> dict[tuple[str, str], ErrorCounts]:
    return {
        (row["set"], row["id"]): ErrorCounts(substitutions=row["errors"], reference=row["words"], utterances=1)
        for row in report["utterances"]
        if row[by] == group
    }


def samples(reports: Sequence[Report], by: By, number: int) -> str:
    """Transcripts of the first `number` utterances of each group, every system's below the reference."""
    lines = []
    for group in groups(reports, by):
        rows = [row for row in reports[0]["utterances"] if row[by] == group][:number]
        for row in rows:
            pairs = [("reference", row["reference"])]
            for name, report in zip(names(reports), reports, strict=True):
                same = (r for r in report["utterances"] if (r["set"], r["id"]) == (row["set"], row["id"]))
                found = next(same, None)
                if found is not None:
                    pairs.append((name, found["hypothesis"]))
            width = max(len(name) for name, _ in pairs)
            # Indented: code in Markdown, so that nothing in a transcript is read as markup.
            lines += [f"    {name.ljust(width)}  {text}".rstrip() for name, text in pairs] + [""]
    return "\n".join(lines)


def compare(reports: Sequence[Report], by: By = "set", *, number_of_samples: int = 3) -> tuple[str, bytes]:
    """(Markdown, PNG) of reports in their order; the first is what the others are compared with."""
    if not reports:
        raise UserError("compare: found no reports, expected at least one")
    parts = ["# Comparison", "", wer_table(reports, by), ""]
    if len(reports) > 1:
        parts += [difference_table(reports, by), ""]
    text = samples(reports, by, number_of_samples)
    if text:
        parts += ["## Transcripts", "", text]
    return "\n".join(parts), bars(names(reports), groups(reports, by), rates(reports, by))
