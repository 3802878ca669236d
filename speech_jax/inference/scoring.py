"""Score a recognizer, or transcripts, on manifests: recognize, count errors, write the reports."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from speech_jax.audio.findings import signal_findings
from speech_jax.core.errors import UserError
from speech_jax.core.files import write_file
from speech_jax.core.log import log
from speech_jax.data.config import DataConfig, PlanConfig
from speech_jax.data.pipeline import batches
from speech_jax.data.plan import eval_plan
from speech_jax.data.recordings import decode_recording
from speech_jax.data.utterances import Utterance
from speech_jax.evaluation.hypotheses import read_hypotheses, write_hypotheses
from speech_jax.evaluation.normalization import Normalization, choose_normalization
from speech_jax.evaluation.report import Evaluation, Item, score_items, to_html, to_json, to_markdown
from speech_jax.evaluation.transcript_files import Format
from speech_jax.evaluation.wer import Costs
from speech_jax.inference.recognizer import Recognizer


def set_names(manifests: Sequence[str]) -> list[str]:
    """Return short names of manifests: the file's stem, with as many folders before it as make the names distinct."""
    paths = [Path(path).absolute().with_suffix("") for path in manifests]
    if len(set(paths)) != len(paths):
        raise UserError("--manifest: found the same manifest twice, expected each once")
    names: list[str] = []
    for length in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return names


def score_recognizer(
    recognizer: Recognizer,
    sets: Mapping[str, Sequence[Utterance]],
    *,
    details: Sequence[tuple[str, str]] = (),
    language: str = "",
    name: str = "",
    costs: Costs = "levenshtein",
    batch_seconds: float = 120.0,
    max_hours: float = 4.0,
    channel: str = "mean",
) -> tuple[Evaluation, list[str]]:
    """Recognize and score every utterance of several sets.

    Args:
        recognizer: The system.
        sets: Utterances of each set by name.
        details: Facts of the evaluation for the reports.
        language: Normalization of both texts; empty takes the recognizer's, else that of each row.
        name: Name of the system in the reports; empty takes the recognizer's.
        costs: Costs of the alignment.
        batch_seconds: Seconds of audio recognized at a time, padding included.
        max_hours: A longer recording is an error.
        channel: Channel of recordings that have several.

    Returns:
        (evaluation, one message for each recording that could not be read and is not counted).

    Raises:
        UserError: If no recording could be read, or the language is not supported.
    """
    utterances = [(set_name, utterance) for set_name, rows in sets.items() for utterance in rows]
    normalization = choose_normalization(
        (utterance for _, utterance in utterances), language, checkpoint=recognizer.language
    )
    begun = time.perf_counter()
    texts, failed = recognize_all(
        recognizer, [utterance for _, utterance in utterances], batch_seconds=batch_seconds, max_hours=max_hours,
        channel=channel,
    )  # fmt: skip
    if not texts:
        raise UserError(f"{failed[0]} (and so all {len(failed)} recordings), expected at least one that can be read")
    taken = time.perf_counter() - begun
    items = [
        score_item(set_name, utterance, texts[row], normalization)
        for row, (set_name, utterance) in enumerate(utterances)
        if row in texts
    ]
    seconds = sum(item.seconds for item in items)
    speed = f"{seconds:.0f} s in {taken:.1f} s, {seconds / max(taken, 1e-9):.1f} × real time, compiling included"
    details = [*details, ("normalized as", normalization.description), ("costs", costs), ("audio", speed)]
    if failed:
        details.append(("recordings that could not be read, not counted", str(len(failed))))
    return score_items(items, name=name or recognizer.name, costs=costs, details=details), failed


def score_hypotheses(
    path: str,
    sets: Mapping[str, Sequence[Utterance]],
    *,
    details: Sequence[tuple[str, str]] = (),
    language: str = "",
    name: str = "",
    costs: Costs = "levenshtein",
    format: Format | Literal[""] = "",
    field: str = "",
) -> Evaluation:
    """Score the transcripts in a file.

    Args:
        path: File or folder of transcripts; see evaluation/transcript_files.py.
        sets: Utterances of each set by name.
        details: Facts of the evaluation for the reports.
        language: Normalization of both texts; empty takes that of each row.
        name: Name of the system in the reports; empty takes the file's.
        costs: Costs of the alignment.
        format: Format of the file; empty takes that of its name or of its lines.
        field: Name of the field with the transcripts; empty takes the one whose name says so.

    Returns:
        The evaluation.

    Raises:
        UserError: If the file cannot be read or lacks an utterance, or no language is known.
    """
    normalization = choose_normalization((u for rows in sets.values() for u in rows), language)
    hypotheses = read_hypotheses(path, sets, format=format, field=field)
    items = [
        score_item(set_name, utterance, hypotheses.texts[set_name, utterance.id], normalization)
        for set_name, utterances in sets.items()
        for utterance in utterances
    ]
    source = f"{path} ({hypotheses.description})"
    details = [("transcripts", source), *details, ("normalized as", normalization.description), ("costs", costs)]
    return score_items(items, name=name or Path(path).stem, costs=costs, details=details)


def recognize_all(
    recognizer: Recognizer,
    utterances: Sequence[Utterance],
    *,
    batch_seconds: float = 120.0,
    max_hours: float = 4.0,
    channel: str = "mean",
) -> tuple[dict[int, str], list[str]]:
    """Recognize utterances, those of similar length in one batch and long ones one by one.

    Args:
        recognizer: The system.
        utterances: Rows of a manifest.
        batch_seconds: Seconds of audio recognized at a time, padding included.
        max_hours: A longer recording is not read.
        channel: Channel of recordings that have several.

    Returns:
        ({row: text}, one message for each recording that could not be read).
    """
    rate = recognizer.audio.sample_rate
    limit = recognizer.longest / rate
    seconds = np.array([utterance.seconds for utterance in utterances])
    texts: dict[int, str] = {}
    failed: dict[int, str] = {}
    with tqdm(total=len(utterances), unit="utterance", disable=None, file=sys.stderr) as progress:
        if np.any(seconds <= limit):
            plan_config = PlanConfig(
                num_buckets=6, seconds_per_batch=batch_seconds, row_multiple=1, eval_max_seconds=limit
            )
            plan = eval_plan(seconds, np.zeros(len(seconds), np.int64), plan_config, sample_rate=rate)
            with batches(utterances, plan, None, DataConfig(plan=plan_config, cache_mb=0, channel=channel)) as stream:
                for batch in stream:
                    transcripts = recognizer.transcribe_batch(batch["audio"], batch["audio_lengths"])
                    for place in np.flatnonzero(batch["index"] >= 0):
                        texts[int(batch["index"][place])] = transcripts[place].text
                        progress.update()
                failed |= stream.skipped
        for row in np.flatnonzero(~(seconds <= limit)).tolist():  # or of unknown length: they cannot be read
            utterance = utterances[row]
            try:
                recording = decode_recording(utterance, rate, max_seconds=3600 * max_hours, channel=channel)
            except UserError as error:
                failed[row] = f"{utterance.where}: {utterance.id}: {error}"
                continue
            for finding in (*recording.findings, *signal_findings(recording.samples, rate, recording.rate)):
                log.warning("%s: %s: %s", utterance.where, utterance.id, finding.text)
            transcript = recognizer.transcribe(recording.samples)
            texts[int(row)] = transcript.text
            progress.update()
            if transcript.silence:
                share = f"{transcript.silence:.1f} of {transcript.seconds:.1f} s left out as silence"
                progress.write(f"{utterance.id}: {share}", file=sys.stderr)
    for row, u in enumerate(utterances):
        if row not in texts and row not in failed:  # an utterance without a length fits no batch
            failed[row] = f"{u.where}: {u.id}: found {u.seconds} s, expected a recording"
    return texts, list(failed.values())


def score_item(set_name: str, utterance: Utterance, hypothesis: str, normalization: Normalization) -> Item:
    """Return one utterance with its hypothesis, both texts normalized."""
    return Item(
        id=utterance.id,
        reference=normalization.apply(utterance.text, utterance),
        hypothesis=normalization.apply(hypothesis, utterance),
        set=set_name,
        domain=utterance.domain,
        speaker=utterance.speaker,
        seconds=0.0 if math.isnan(utterance.seconds) else utterance.seconds,
    )


def write_reports(evaluation: Evaluation, folder: Path, worst: int) -> None:
    """Write report.md, report.html, report.json and hypotheses.jsonl."""
    report = json.dumps(to_json(evaluation), ensure_ascii=False, indent=1, allow_nan=False)
    write_file(folder / "report.md", to_markdown(evaluation, worst=worst))
    write_file(folder / "report.html", to_html(evaluation, worst=worst))
    write_file(folder / "report.json", report + "\n")
    write_file(folder / "hypotheses.jsonl", write_hypotheses(evaluation.items))
    print(f"wrote {folder}/report.md, report.html, report.json, hypotheses.jsonl", file=sys.stderr)
