"""Comparison of several systems on the same utterances: a table, a plot, and the significance of differences.

Reports are comparable if they have the same utterances with the same references, normalized for one language and scored
with the same costs. Everything is computed from the utterances, not from the rates that the reports contain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from speech_jax.core.errors import UserError
from speech_jax.evaluation.plots import bar_chart, plot_key
from speech_jax.evaluation.report import (
    bootstrap_interval,
    escape_markdown,
    format_interval,
    format_rate,
    markdown_table,
    paired_bootstrap,
)
from speech_jax.evaluation.wer import SIGNS_ARE_WORDS, ErrorCounts
from speech_jax.text.scripts import has_unspaced

By = Literal["set", "domain", "speaker"]
Report = Mapping[str, Any]  # as report.to_json returns it
Key = tuple[str, str]  # set and id of an utterance

PLOTTED_GROUPS = 12  # most groups of bars
_TIES = "A draw with equally many errors does not count as fewer; same: equally many errors in every utterance."


def system_names(reports: Sequence[Report]) -> list[str]:
    """Return one name per report; repeated names get a number."""
    names: list[str] = []
    for report in reports:
        name, number = report["name"] or "system", 1
        while (unique := name if number == 1 else f"{name} ({number})") in names:
            number += 1
        names.append(unique)
    return names


# --- Which utterances ------------------------------------------------------------------------------------------------


def differences(reports: Sequence[Report]) -> list[str]:
    """Return a line for each respect in which a report cannot be compared with the others; empty if all can be."""
    return _settings(reports) + _missing_and_edited(system_names(reports), _tables(reports))


def align(reports: Sequence[Report], *, common: bool = False) -> tuple[list[Report], list[str]]:
    """Return the reports with the same utterances in the same order; set, domain and speaker are the first report's.

    Args:
        reports: as `report.to_json` returns them.
        common: take the utterances that all reports have with the same reference, instead of refusing. If no report has
            an id twice, utterances are matched by their ids alone, so that a set may have another name.

    Returns:
        The reports, and with `common` a line per report that says how many of its utterances are compared.

    Raises:
        UserError: the reports differ in language, costs or words; or in utterances or references and `common` is not
            set; or no utterance is common.
    """
    names = system_names(reports)
    found = _settings(reports) if common else differences(reports)
    if found:
        hint = "" if common or _settings(reports) else " (--common takes the utterances that all have in common)"
        raise UserError(
            f"--compare: found {'; '.join(found)}; expected reports on the same utterances and references, normalized "
            f"for one language, with the same costs{hint}"
        )
    tables = _tables(reports)
    ids = [[identity for _, identity in table] for table in tables]
    if common and all(len(set(part)) == len(part) for part in ids):
        tables = [{("", identity): row for (_, identity), row in table.items()} for table in tables]
    first, *others = tables
    keys = [k for k, row in first.items() if all(k in t and t[k]["reference"] == row["reference"] for t in others)]
    if not keys:
        raise UserError(
            f"--common: found no utterance that {', '.join(names)} all have with the same reference, expected at least "
            "one"
        )
    fields = {key: {field: first[key][field] for field in ("set", "id", "domain", "speaker")} for key in keys}
    result: list[Report] = [
        {**report, "utterances": [{**table[key], **fields[key]} for key in keys]}
        for report, table in zip(reports, tables, strict=True)
    ]
    lines = [f"{name}: {len(keys)} of {len(table)} utterances" for name, table in zip(names, tables, strict=True)]
    return result, lines if common else []


def _tables(reports: Sequence[Report]) -> list[dict[Key, Mapping[str, Any]]]:
    """Return the utterances of each report by set and id.

    Sets are named by as much of their paths as tells those of one evaluation apart: "test" of one report and "A/test"
    of another are one set, where no other set "…/test" has the id.
    """
    tables = [_rows(report) for report in reports]
    sets: dict[str, set[str]] = {}
    for name, identity in (key for table in tables for key in table):
        sets.setdefault(identity, set()).add(name)

    def full(key: Key) -> Key:
        names = [name for name in sets[key[1]] if f"/{name}".endswith(f"/{key[0]}")]
        longest = max(names, key=len)
        return (longest, key[1]) if all(f"/{longest}".endswith(f"/{name}") for name in names) else key

    return [{full(key): row for key, row in table.items()} for table in tables]


def _rows(report: Report) -> dict[Key, Mapping[str, Any]]:
    rows: dict[Key, Mapping[str, Any]] = {}
    for row in report["utterances"]:
        key = row["set"], row["id"]
        if key in rows:
            where = f"{report['name'] or 'system'}: found utterance {key[1]!r} of the set {key[0]!r} twice"
            raise UserError(f"--compare: {where}, expected each once")
        rows[key] = row
    return rows


def _settings(reports: Sequence[Report]) -> list[str]:
    """Return a line for each report whose language, costs or words are not the first's."""
    lines = []
    words: dict[str, int] = {}
    for name, report in zip(system_names(reports), reports, strict=True):
        rows = (row for row in report["utterances"] if words.setdefault(row["reference"], row["words"]) != row["words"])
        if (row := next(rows, None)) is not None:  # an earlier version counted words between spaces in any script
            lines.append(f"{name}: {row['words']} words in {row['id']!r}, not {words[row['reference']]}")
    languages, costs = [_language(report) for report in reports], [report["costs"] for report in reports]
    language = next(filter(None, languages), "")  # an empty one is not known
    for name, other, other_costs in zip(system_names(reports), languages, costs, strict=True):
        if other and other != language:
            lines.append(f"{name}: normalized as {other}, not {language}")
        if other_costs != costs[0]:
            lines.append(f"{name}: {other_costs} costs, not {costs[0]}")
    return lines


def _language(report: Report) -> str:
    """Return the language of the normalization; empty if the report does not name it."""
    details = report["details"]  # old reports have the British spelling
    return details.get("normalized as", details.get("normalised as", "")).partition(" (")[0]


def _missing_and_edited(names: Sequence[str], tables: Sequence[Mapping[Key, Mapping[str, Any]]]) -> list[str]:
    """Return a line for each system that lacks utterances of another, or has other references."""
    lines = []
    references: dict[Key, str] = {}
    for table in tables:
        for key, row in table.items():
            references.setdefault(key, row["reference"])
    for name, table in zip(names, tables, strict=True):
        if len(table) < len(references):
            sets = dict.fromkeys(key[0] for key in references)
            missing = [repr(other) for other in sets if other not in {key[0] for key in table}]
            none = f", none of the set {', '.join(missing)}" if missing else ""
            lines.append(f"{name}: {len(table)} of {len(references)} utterances{none}")
        edited = [key for key, row in table.items() if row["reference"] != references[key]]
        if edited:
            lines.append(f"{name}: other references in {len(edited)} utterances, the first {edited[0][1]!r}")
    return lines


# --- Tables ----------------------------------------------------------------------------------------------------------


def group_names(reports: Sequence[Report], by: By) -> list[str]:
    """Return the values of the field `by` that occur in any of the reports, in order of first occurrence."""
    return list(dict.fromkeys(row[by] for report in reports for row in report["utterances"]))


def error_counts(report: Report, by: By) -> dict[str, dict[Key, ErrorCounts]]:
    """Return the word errors of each utterance of a report: group -> (set, id) -> counts, errors not told apart."""
    groups: dict[str, dict[Key, ErrorCounts]] = {}
    for row in report["utterances"]:
        count = ErrorCounts(substitutions=row["errors"], reference=row["words"], utterances=1)
        groups.setdefault(row[by], {})[row["set"], row["id"]] = count
    return groups


Rates = dict[tuple[str, str], tuple[ErrorCounts, tuple[float, float] | None]]


def error_rates(reports: Sequence[Report], by: By) -> Rates:
    """Map (system, group) to the sum of its word errors and the 95 % interval of the rate, None where there is none."""
    return {
        (name, group): (sum(counts.values(), ErrorCounts()), bootstrap_interval(list(counts.values())))
        for name, report in zip(system_names(reports), reports, strict=True)
        for group, counts in error_counts(report, by).items()
    }


def wer_table(reports: Sequence[Report], by: By) -> str:
    """Return a Markdown table with a row per system and, per group, the WER in % with its 95 % interval."""
    return _wer_table(system_names(reports), group_names(reports, by), error_rates(reports, by))


def _wer_table(names: Sequence[str], columns: Sequence[str], rates: Rates) -> str:
    rows = []
    for name in names:
        cells = [rates.get((name, group)) for group in columns]
        rows.append((escape_markdown(name), *(_cell(*cell) if cell else "" for cell in cells)))
    return markdown_table(("WER % (95 %)", *(escape_markdown(column) or "(none)" for column in columns)), rows)


def _cell(total: ErrorCounts, interval: tuple[float, float] | None) -> str:
    if not total.reference:
        return f"no reference words, {total.errors} inserted"
    return f"{format_rate(total)} ({format_interval(interval)})"


def difference_table(reports: Sequence[Report], by: By) -> str:
    """Return a Markdown table of the probability that a system makes fewer errors than the first.

    It is the share of draws of the paired bootstrap over utterances, in %; "same" where both have equally many errors
    in every utterance, and "–" for a single utterance.
    """
    columns, rows = group_names(reports, by), []
    (first_name, *names), (first, *others) = system_names(reports), [error_counts(report, by) for report in reports]
    for name, counts in zip(names, others, strict=True):
        cells = [_difference(first.get(group, {}), counts.get(group, {})) for group in columns]
        rows.append((escape_markdown(name), *cells))
    header = f"fewer errors than {escape_markdown(first_name)}, % of draws"
    return markdown_table((header, *(escape_markdown(column) or "(none)" for column in columns)), rows)


def _difference(baseline: Mapping[Key, ErrorCounts], counts: Mapping[Key, ErrorCounts]) -> str:
    pairs = [(baseline[key], counts[key]) for key in baseline if key in counts]
    if not pairs:
        return ""
    if all(first.errors == second.errors for first, second in pairs):
        return "same"
    if len(pairs) == 1:
        return "–"
    return f"{100 * paired_bootstrap(*zip(*pairs, strict=True)):.1f}"


def transcript_samples(reports: Sequence[Report], by: By, number: int) -> str:
    """Return the first utterances of each group as text: the reference, then the hypothesis of each system.

    Args:
        reports: with the same utterances in the same order, as `align` returns them.
        by: groups of utterances: "set", "domain" or "speaker".
        number: utterances per group.
    """
    groups: dict[str, list[int]] = {}
    for index, row in enumerate(reports[0]["utterances"]):
        groups.setdefault(row[by], []).append(index)
    names = system_names(reports)
    width = max(len("reference"), *map(len, names))
    lines = []
    for index in (index for rows in groups.values() for index in rows[:number]):
        rows = [report["utterances"][index] for report in reports]
        pairs = [("reference", rows[0]["reference"])]
        pairs += [(name, row["hypothesis"]) for name, row in zip(names, rows, strict=True)]
        # Indented text is code in Markdown, so that nothing in a transcript is interpreted as markup.
        lines += [f"    {name.ljust(width)}  {text}".rstrip() for name, text in pairs] + [""]
    return "\n".join(lines)


def compare(
    reports: Sequence[Report], by: By = "set", *, number_of_samples: int = 3, common: bool = False
) -> tuple[str, bytes]:
    """Compare the reports of several systems with the first one.

    Args:
        reports: as `report.to_json` returns them; the first is the baseline.
        by: groups of utterances: "set", "domain" or "speaker", as the first report has them.
        number_of_samples: transcripts shown per group.
        common: compare on the utterances that all reports have with the same reference, instead of refusing others.

    Returns:
        Markdown text and a bar chart as PNG.

    Raises:
        UserError: there are no reports, or they cannot be compared: see `align`.
    """
    if not reports:
        raise UserError("compare: found no reports, expected at least one")
    reports, remarks = align(reports, common=common)
    names, groups, rates = system_names(reports), group_names(reports, by), error_rates(reports, by)
    remarks += [
        f"{name}: its report does not say how its texts were normalized"
        for name, report in zip(names, reports, strict=True)
        if not _language(report) and any(map(_language, reports))
    ]
    if any(has_unspaced(row["reference"]) for row in reports[0]["utterances"]):
        remarks.append(SIGNS_ARE_WORDS)
    parts = ["# Comparison", ""]
    if remarks:
        parts += [*(f"- {escape_markdown(line)}" for line in remarks), ""]
    parts += [_wer_table(names, groups, rates), ""]
    if len(reports) > 1:
        parts += [difference_table(reports, by), "", _TIES, ""]
    plotted = groups
    if len(groups) > PLOTTED_GROUPS:
        words = {group: max(rates[name, group][0].reference for name in names) for group in groups}
        plotted = sorted(groups, key=lambda group: -words[group])[:PLOTTED_GROUPS]
        parts += [f"The plot has the {PLOTTED_GROUPS} of {len(groups)} groups with most words.", ""]
    key = plot_key(names, "system") + plot_key(plotted, by)
    if key:
        parts += [*(f"- In the plot, {escape_markdown(line)}" for line in key), ""]
    text = transcript_samples(reports, by, number_of_samples)
    if text:
        parts += ["## Transcripts", "", text]
    return "\n".join(parts), bar_chart(names, plotted, rates, by)
