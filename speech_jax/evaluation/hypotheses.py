"""Transcript files: JSON lines with an id and a text, or Kaldi's lines "id words …"."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from speech_jax.core.errors import UserError
from speech_jax.evaluation.report import Item

# Of this package, of NeMo, of others. NeMo keeps the reference of its manifest in `text` beside `pred_text`.
_TEXT_KEYS = ("hypothesis", "pred_text", "text")


def write_hypotheses(items: Iterable[Item]) -> str:
    """Return one JSON object per line, with set, id, reference and hypothesis."""
    rows = ({"set": i.set, "id": i.id, "reference": i.reference, "hypothesis": i.hypothesis} for i in items)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read_hypotheses(path: str, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Read the transcripts of the given utterances.

    Args:
        path: transcript file. A row without a set applies to every set. An empty text is a transcript.
        keys: (set, id) of the utterances.

    Raises:
        UserError: a line cannot be read, an id occurs twice or a transcript is missing.
    """
    rows: dict[tuple[str, str], str] = {}
    number = 0
    try:
        with open(path, encoding="utf-8-sig") as file:  # Windows programs write a byte order mark
            for number, line in enumerate(file, 1):
                if line.strip():
                    key, text = _parse(line, f"{path}:{number}")
                    if key in rows:
                        raise UserError(f"{path}:{number}: found id {key[1]!r} again, expected one line per id")
                    rows[key] = text
    except UnicodeDecodeError as error:
        raise UserError(f"{path}:{number + 1}: found bytes that are not UTF-8, expected text") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}, expected transcripts") from error
    texts = {key: rows[key] if key in rows else rows["", key[1]] for key in keys if key in rows or ("", key[1]) in rows}
    missing = [key[1] for key in keys if key not in texts]
    if missing:
        raise UserError(
            f"{path}: found no transcript of {len(missing)} of {len(keys)} utterances, the first {missing[0]!r}; "
            f"expected one line for each (an empty text where nothing was recognized)"
        )
    return texts


def _parse(line: str, where: str) -> tuple[tuple[str, str], str]:
    if not line.lstrip().startswith("{"):
        name, _, text = line.strip().partition(" ") if "\t" not in line else line.strip().partition("\t")
        return ("", name), text
    try:
        row = json.loads(line)
        text = next(row[name] for name in _TEXT_KEYS if name in row)
        key = (row.get("set", ""), row["id"])
    except (ValueError, KeyError, StopIteration, RecursionError) as error:
        raise UserError(f"{where}: found no id and text, expected a JSON object with both") from error
    if not all(isinstance(value, str) for value in (*key, text)):
        raise UserError(f"{where}: found an id or a text that is not a string, expected strings")
    return key, text
