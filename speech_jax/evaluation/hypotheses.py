"""Transcripts in files: JSON lines with an id and a text, or lines "id words …" as Kaldi writes them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from speech_jax.core.errors import UserError
from speech_jax.evaluation.report import Item

_TEXTS = ("hypothesis", "text", "pred_text")  # ours, a manifest's, NeMo's


def write_hypotheses(items: Iterable[Item]) -> str:
    """One JSON object a line, with the reference beside it."""
    rows = ({"set": i.set, "id": i.id, "reference": i.reference, "hypothesis": i.hypothesis} for i in items)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read_hypotheses(path: str, wanted: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """The texts of the wanted (set, id). A row without a set serves all. An empty text is one, a missing row is not.

    Raises UserError naming file and line.
    """
    found: dict[tuple[str, str], str] = {}
    number = 0
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    key, text = _parse(line, f"{path}:{number}")
                    if key in found:
                        raise UserError(f"{path}:{number}: found id {key[1]!r} again, expected one line an id")
                    found[key] = text
    except UnicodeDecodeError as error:
        raise UserError(f"{path}:{number + 1}: found bytes that are not UTF-8, expected text") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}, expected transcripts") from error
    texts = {key: found.get(key, found.get(("", key[1]))) for key in wanted}
    missing = [key[1] for key, text in texts.items() if text is None]
    if missing:
        raise UserError(
            f"{path}: found no transcript of {len(missing)} of {len(wanted)} utterances, the first {missing[0]!r}; "
            f"expected one line for each (an empty text where nothing was recognized)"
        )
    return texts


def _parse(line: str, where: str) -> tuple[tuple[str, str], str]:
    if not line.lstrip().startswith("{"):
        name, _, text = line.strip().partition(" ") if "\t" not in line else line.strip().partition("\t")
        return ("", name), text
    try:
        row = json.loads(line)
        text = next(row[name] for name in _TEXTS if name in row)
        key = (row.get("set", ""), row["id"])
    except (ValueError, KeyError, StopIteration, RecursionError) as error:
        raise UserError(f"{where}: found no id and text, expected a JSON object with both") from error
    if not all(isinstance(value, str) for value in (*key, text)):
        raise UserError(f"{where}: found an id or a text that is not a string, expected strings")
    return key, text
