"""Aggregated results: the numbers of a run in `results/summary.csv`, from which the committed table and plot are made.

Every `summary.py` of the experiments is used in one way:

    python -m experiments.NAME.summary               # summary.csv -> summary.md and the plot
    python -m experiments.NAME.summary --runs [DIR]  # first aggregates what run.sh left in DIR into summary.csv

A CSV holds numbers and the names of settings. Transcripts, reports and logs stay in the folder of the runs.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from speech_jax.core.files import write_file

Row = dict[str, str | float]
HERE = Path(__file__).parent


def results(name: str) -> Path:
    """Return the folder with the committed results of an experiment."""
    return HERE / name / "results"


def aggregate(name: str, doc: str, default_runs: str, collect: Callable[[Path], list[Row]]) -> list[Row]:
    """Parse the command line of a summary and return its rows.

    Args:
        name: the experiment's folder.
        doc: text of `--help`.
        default_runs: folder that `run.sh` writes, for `--runs` without a value.
        collect: reads the folder of the runs, returns the rows of the CSV. Called only with `--runs`.

    Returns:
        The rows of `results/summary.csv`; numbers are floats, empty cells "".
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="?", const=default_runs, type=Path, help=f"what run.sh left ({default_runs})")
    runs = parser.parse_args().runs
    path = results(name) / "summary.csv"
    if runs is not None:
        write_file(path, to_csv(collect(runs)))
    return from_csv(path.read_text(encoding="utf-8"))


def to_csv(rows: Sequence[Row]) -> str:
    """Return rows as CSV; the first row's keys are the columns. Floats are written with nine significant digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow([f"{v:.9g}" if isinstance(v, float) else v for v in (row.get(key, "") for key in rows[0])])
    return text.getvalue()


def from_csv(text: str) -> list[Row]:
    """Return the rows of a CSV; cells that are numbers become floats."""
    return [{key: number(value) for key, value in row.items()} for row in csv.DictReader(io.StringIO(text))]


def number(cell: str) -> str | float:
    """Return a cell as a float where it is one, else as it is."""
    try:
        return float(cell)
    except ValueError:
        return cell


def read_json(path: Path) -> dict:
    """Return the object in a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_lines(path: Path) -> list[dict]:
    """Return the objects of a file with one JSON object per line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def pick(rows: Iterable[Row], **values: str | float) -> list[Row]:
    """Return the rows that have these values in these columns."""
    return [row for row in rows if all(row[key] == value for key, value in values.items())]


def spread(values: Sequence[float], form: Callable[[float], str] = "{:.2f}".format) -> str:
    """Return mean and, of several values, (least–greatest) as text."""
    return span(statistics.mean(values), *((min(values), max(values)) if len(values) > 1 else ()), form=form)


def span(mean: float, *bounds: float, form: Callable[[float], str] = "{:.2f}".format) -> str:
    """Return a number with its bounds, where there are any: `1.23 (1.20–1.27)`."""
    return form(mean) + (f" ({'–'.join(form(bound) for bound in bounds)})" if bounds else "")


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Return a Markdown table; the first `left` columns are aligned to the left, the others to the right."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * left + "---:|" * (len(header) - left)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def publish(name: str, tables: Sequence[str], plots: Mapping[str, bytes]) -> None:
    """Print the tables and write them, with the plots, into the experiment's results.

    Args:
        name: the experiment's folder.
        tables: Markdown tables in their order.
        plots: file name -> PNG.
    """
    text = "\n".join(tables)
    print(text, end="")
    write_file(results(name) / "summary.md", text)
    for file, png in plots.items():
        write_file(results(name) / file, png)


def png(figure) -> bytes:
    """Return a matplotlib figure as a PNG without the version of matplotlib in it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
