"""Parquet files of Hugging Face's datasets for the recipe `folder`: recordings inside them are written to files.

See huggingface.co/docs/datasets/audio_load. A set is one file, or the shards of one name such as
train-00000-of-00004.parquet. Reading requires pyarrow, which comes with the extra `tfds`.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from speech_jax.audio.io import probe
from speech_jax.core.errors import UserError
from speech_jax.core.files import write_file
from speech_jax.core.log import log
from speech_jax.data.manifest import TABLES, LeftOut, check_ids, measured, say_kind, say_left_out
from speech_jax.data.rows import AUDIO_ENDINGS, FIELDS, parse_row, short
from speech_jax.data.sources.folder import check_columns, find_recording
from speech_jax.data.utterances import Utterance, Utterances

_SHARD = re.compile(r"-\d+-of-(\d+)(?:-[0-9a-f]+)?$")
_SIGNATURES = {b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg"}
_SAME = 0.05  # seconds by which the length of a row's times and that of its recording may differ
_BATCH = 32  # rows, with their recordings, in memory


def parquet_files(path: Path) -> list[Path]:
    """Return the files of a Parquet set, by one of its files or by the folder that holds it and no other list.

    Returns:
        The files; none if `path` is another list.

    Raises:
        UserError: The folder holds several sets, or a shard of the set is missing.
    """
    if path.is_dir():
        if any(each.suffix.lower() in TABLES or each.name == "metadata.jsonl" for each in path.iterdir()):
            return []
        files = sorted(path.glob("*.parquet"))
    else:
        files = [path] if path.suffix.lower() == ".parquet" else []
    names = sorted({_SHARD.sub("", file.stem) for file in files})
    if len(names) > 1:
        raise UserError(f"{path}: found the Parquet sets {', '.join(names)}, expected one: name one of its files")
    shard = _SHARD.search(files[0].stem) if files else None
    if shard:
        files = sorted(f for f in files[0].parent.glob("*.parquet") if _SHARD.sub("", f.stem) == names[0])
        if len(files) != int(shard[1]):
            raise UserError(f"{files[0].parent}: found {len(files)} files {names[0]}-…, expected {int(shard[1])}")
    return files


def read_parquet(files: list[Path], folder: Path, columns: Mapping[str, str]) -> Utterances:
    """Read the utterances of a Parquet set, and write the recordings that lie in it to folder/audio/.

    Args:
        files: the files of the set.
        folder: where the recordings go.
        columns: the columns that count, by field, such as {"text": "sentence"}.

    Returns:
        The rows that can be read; the others are named in the log.

    Raises:
        UserError: pyarrow is missing, a file or its columns cannot be read, or no row is left.
    """
    names: set[str] = set()
    problems = LeftOut()
    rows = Utterances.of(_rows(files, folder / "audio", columns, names, problems))
    say_kind(files[0], "parquet", len(rows), names)
    say_left_out(problems)
    check_ids(rows)
    return measured(rows, files[0], "skip")


def _rows(
    files: list[Path], folder: Path, columns: Mapping[str, str], names: set[str], problems: LeftOut
) -> Iterator[Utterance]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise UserError(f"{files[0]}: reading Parquet requires pyarrow: pip install pyarrow") from error
    stem = _SHARD.sub("", files[0].stem)
    count = whole = 0
    for file in files:
        try:
            with pq.ParquetFile(file) as table:
                header = [name.lower() for name in table.schema_arrow.names]
                names.update(header)
                check_columns(str(file), header, columns)
                batches = (batch.to_pylist() for batch in table.iter_batches(batch_size=_BATCH))
                for number, row in enumerate((row for batch in batches for row in batch), 1):
                    try:
                        utterance, is_whole = _utterance(
                            row, f"{file}:{number}", folder / f"{stem}-{count:06d}", file.parent, columns
                        )
                        whole += is_whole
                        yield utterance
                    except UserError as error:
                        problems.append(str(error))
                    count += 1
        except (pa.ArrowException, OSError, ValueError) as error:
            raise UserError(f"{file}: found no Parquet file that can be read ({short(error)})") from error
    if whole:
        log.warning("%s: the times of %d rows are as long as their recordings, which are taken whole", files[0], whole)


def _utterance(
    row: Mapping[str, Any], where: str, recording: Path, folder: Path, columns: Mapping[str, str]
) -> tuple[Utterance, bool]:
    """Return the utterance of a row, and True if its times are those of a longer recording that it was cut from.

    Args:
        row: value by column.
        where: FILE:ROW, for messages.
        recording: the file for a recording that lies in the row, without its ending.
        folder: the folder of the set, where recordings are looked up by their names.
        columns: the columns that count, by field.
    """
    fields = {name.lower(): None if isinstance(v, float) and math.isnan(v) else v for name, v in row.items()}
    columns = dict(columns)
    names = (columns.pop("audio"),) if "audio" in columns else FIELDS["audio"]
    given = [fields.pop(name) for name in {*names, *FIELDS["audio"]} & fields.keys() if name in names]
    objects = [each for each in given if isinstance(each, dict)]
    audio = next((each for each in [*objects, *given] if each is not None), None)
    data = audio.get("bytes") if isinstance(audio, dict) else None
    name = audio.get("path") if isinstance(audio, dict) else audio
    if not data and not name:
        raise UserError(f"{where}: found no recording, expected its bytes or the name of its file")
    if data:  # the content is part of the name, so that another recording in this row is noticed
        digest = hashlib.blake2b(data, digest_size=4).hexdigest()
        path = recording.with_name(f"{recording.name}-{digest}{_ending(str(name or ''), data)}")
    else:
        path = Path(find_recording(folder, str(name)))
    fields["audio"] = str(path)
    key = next((each for each in (columns.get("id", ""), *FIELDS["id"]) if fields.get(each) is not None), None)
    fields["id"] = recording.name if key is None else str(fields[key])
    utterance = parse_row(fields, where, columns=columns | {"id": "id"})
    if not data:
        return utterance, False
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, data)
    if utterance.end is None or abs(utterance.end - utterance.start - probe(path).seconds) > _SAME:
        return utterance, False
    return utterance._replace(start=0.0, end=None, seconds=math.nan), utterance.start > 0


def _ending(name: str, data: bytes) -> str:
    """Return the ending of a recording's file, by its name or its first bytes."""
    ending = Path(name).suffix.lower()
    return ending if ending in AUDIO_ENDINGS else _SIGNATURES.get(data[:4], ".mp3")
