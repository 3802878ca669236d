"""Error rates of a checkpoint, or of anybody's transcripts, on manifests: `python -m speech_jax.evaluate`.

With --speech, synthesized recordings against those of the manifests: see `speech_pairs`.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from tqdm import tqdm

from speech_jax.core.errors import UserError, run_front_door
from speech_jax.core.files import write_file
from speech_jax.data.config import DataConfig, PlanConfig
from speech_jax.data.manifest import Utterance, read_manifest
from speech_jax.data.pipeline import batches
from speech_jax.data.plan import eval_plan
from speech_jax.data.recordings import read_recording
from speech_jax.decoding.config import BeamConfig
from speech_jax.evaluation.compare import By, compare
from speech_jax.evaluation.config import MeasureConfig
from speech_jax.evaluation.hypotheses import read_hypotheses, write_hypotheses
from speech_jax.evaluation.report import (
    HEADER,
    Evaluation,
    Item,
    error_table,
    grouping_fields,
    markdown_table,
    read_report,
    score_items,
    to_html,
    to_json,
    to_markdown,
    worst_utterances,
)
from speech_jax.evaluation.speech_pairs import SpeechRequest, evaluate_speech
from speech_jax.evaluation.wer import Costs
from speech_jax.inference.recognizer import CTCRecognizer, WindowConfig, load_recognizer
from speech_jax.text.normalize import normalize

SHOWN_WORST = 5  # on the screen; the reports have --worst


@dataclass(frozen=True)
class EvaluateConfig:
    """Word and character error rates. Give a checkpoint and manifests; or transcripts and manifests; or reports.

    Or synthesized speech: --speech SYNTHESIZED --manifest REFERENCE measures MCD, F0, duration and more of recordings
    with the same ids, and with a checkpoint also what its recognizer hears.
    """

    checkpoint: str = ""
    """A run's folder: its recognizer writes the transcripts."""
    manifest: tuple[str, ...] = ()
    """Manifests (JSON lines, as `prepare` writes them) of the recordings and what is said in them."""
    hypotheses: str = ""
    """Instead of a checkpoint, somebody else's transcripts: JSON lines with id and text, or lines "id words …"."""
    compare: tuple[str, ...] = ()
    """Instead of both, the report.json of several systems, for one table and one plot. The first is the baseline."""
    speech: tuple[str, ...] = ()
    """Manifests of synthesized recordings, one for each --manifest in their order, with the same ids."""
    measures: MeasureConfig = field(default_factory=MeasureConfig)
    """How synthesized speech is measured."""
    by: By = "set"
    """What makes the columns of a comparison."""
    samples: int = 3
    """Transcripts of each set that a comparison shows."""
    out: str = ""
    """A folder for report.md, report.html, report.json and hypotheses.jsonl (without it for --speech), or for
    compare.md and compare.png."""
    name: str = ""
    """What the system is called in the reports; the checkpoint's or file's name if left out."""
    which: Literal["best", "last"] = "best"
    """The checkpoint's best or last parameters."""
    language: str = ""
    """How both texts are normalized before they are compared; left out, as the checkpoint's tokenizer, or English."""
    costs: Costs = "levenshtein"
    """levenshtein counts the fewest errors, as jiwer; sclite aligns as NIST's tool does."""
    worst: int = 50
    """How many of the worst utterances the reports show."""
    batch_seconds: float = 120.0
    """Seconds of audio recognized at a time, padding included."""
    max_hours: float = 4.0
    """A longer recording is refused."""
    windows: WindowConfig = field(default_factory=WindowConfig)
    """How recordings longer than one window are cut."""
    adapter: str = ""
    """An adapter's file (adapter.safetensors of a run) to put on the checkpoint."""
    beam: BeamConfig = field(default_factory=BeamConfig)
    """How text is looked for: the best path, or a beam with a language model."""


def main(argv: Sequence[str]) -> int:
    """Flags in, tables out; 2 where a recording could not be read."""
    config = tyro.cli(EvaluateConfig, args=list(argv), prog="python -m speech_jax.evaluate")
    if config.speech:
        return _measure_speech(config)
    ways = [bool(config.checkpoint), bool(config.hypotheses), bool(config.compare)]
    if sum(ways) != 1:
        raise UserError(f"found {sum(ways)} of --checkpoint, --hypotheses and --compare, expected exactly one")
    if config.out:
        _make_folder(Path(config.out))  # now, not when all is computed
    if config.compare:
        return _compare(config)
    if not config.manifest:
        raise UserError("found no --manifest, expected the recordings to evaluate on")
    sets = dict(zip(set_names(config.manifest), map(read_manifest, config.manifest), strict=True))
    if config.hypotheses:
        evaluation = score_hypotheses(config, sets)
        failed: list[str] = []
    else:
        recognizer = load_recognizer(config.checkpoint, config.which, config.windows, config.beam, config.adapter)
        evaluation, failed = evaluate(recognizer, config, sets)
    _show(evaluation)
    if config.out:
        write_reports(evaluation, Path(config.out), config.worst)
    for message in failed:
        print(f"error: {message}", file=sys.stderr)
    if failed:
        print(f"error: {len(failed)} recordings could not be read and are not in the figures", file=sys.stderr)
    return 2 if failed else 0


def _measure_speech(config: EvaluateConfig) -> int:
    if config.hypotheses or config.compare:
        raise UserError("found --speech with --hypotheses or --compare, expected at most a --checkpoint beside it")
    if config.out:
        _make_folder(Path(config.out))
    hear, language = None, config.language or "en"
    if config.checkpoint:
        recognizer = load_recognizer(config.checkpoint, config.which, config.windows, config.beam, config.adapter)
        language = config.language or recognizer.tokenizer.language or "none"

        def hear(utterances: Sequence[Utterance]) -> tuple[dict[int, str], list[str]]:
            return recognize_all(recognizer, utterances, config)

    sets = set_names(config.manifest) if config.manifest else []
    request = SpeechRequest(
        tuple(zip(sets, config.manifest, strict=True)), config.speech, config.out, config.name, config.worst, language
    )
    details = [("recognizer", f"{config.checkpoint} ({config.which})")] if config.checkpoint else []
    return evaluate_speech(request, config.measures, hear, details)


def set_names(manifests: Sequence[str]) -> list[str]:
    """Short names of manifests: the file's stem, with as many folders before it as tell them apart."""
    paths = [Path(path).absolute().with_suffix("") for path in manifests]
    if len(set(paths)) != len(paths):
        raise UserError("--manifest: found the same manifest twice, expected each once")
    for length in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return names


def score_hypotheses(config: EvaluateConfig, sets: dict[str, list[Utterance]]) -> Evaluation:
    """Scores the transcripts of a file."""
    language = config.language or "en"
    found = read_hypotheses(config.hypotheses, [(name, u.id) for name, rows in sets.items() for u in rows])
    items = [
        _item(name, utterance, found[name, utterance.id], language)
        for name, utterances in sets.items()
        for utterance in utterances
    ]
    details = [("transcripts", config.hypotheses), *_inputs(config, language)]
    return score_items(items, name=config.name or Path(config.hypotheses).stem, costs=config.costs, details=details)


def evaluate(
    recognizer: CTCRecognizer, config: EvaluateConfig, sets: dict[str, list[Utterance]]
) -> tuple[Evaluation, list[str]]:
    """Recognizes and scores every utterance. The second result says which recordings could not be read, and why."""
    language = config.language or recognizer.tokenizer.language or "none"
    begun = time.perf_counter()
    utterances = [(name, utterance) for name, rows in sets.items() for utterance in rows]
    texts, failed = recognize_all(recognizer, [utterance for _, utterance in utterances], config)
    if not texts:
        raise UserError(f"{failed[0]} (and so all {len(failed)} recordings), expected at least one that can be read")
    taken = time.perf_counter() - begun
    items = [
        _item(name, utterance, texts[row], language) for row, (name, utterance) in enumerate(utterances) if row in texts
    ]
    seconds = sum(item.seconds for item in items)
    speed = f"{seconds:.0f} s in {taken:.1f} s, {seconds / max(taken, 1e-9):.1f} × real time, compiling included"
    details = [("checkpoint", f"{config.checkpoint} ({config.which})"), *_inputs(config, language), ("audio", speed)]
    if failed:
        details.append(("recordings that could not be read, not counted", str(len(failed))))
    evaluation = score_items(items, name=config.name or recognizer.name, costs=config.costs, details=details)
    return evaluation, failed


def recognize_all(
    recognizer: CTCRecognizer, utterances: Sequence[Utterance], config: EvaluateConfig
) -> tuple[dict[int, str], list[str]]:
    """(row -> text, messages on what could not be read). Batches of like lengths; long recordings in windows."""
    rate = recognizer.audio.sample_rate
    limit = recognizer.longest / rate
    seconds = np.array([utterance.seconds for utterance in utterances])
    texts: dict[int, str] = {}
    failed: list[str] = []
    with tqdm(total=len(utterances), unit="utterance", disable=None, file=sys.stderr) as progress:
        if np.any(seconds <= limit):
            plan_config = PlanConfig(
                num_buckets=6, seconds_per_batch=config.batch_seconds, row_multiple=1, eval_max_seconds=limit
            )
            plan = eval_plan(seconds, np.zeros(len(seconds), np.int64), plan_config, sample_rate=rate)
            with batches(utterances, plan, None, DataConfig(plan=plan_config, cache_mb=0)) as stream:
                for batch in stream:
                    path = recognizer.recognize(batch["audio"], batch["audio_lengths"])
                    for place in np.flatnonzero(batch["index"] >= 0):
                        transcript = recognizer.to_transcript(path, place, int(batch["audio_lengths"][place]))
                        texts[int(batch["index"][place])] = transcript.text
                        progress.update()
                failed += stream.skipped.values()
        for row in np.flatnonzero(seconds > limit):
            utterance = utterances[row]
            try:
                audio = read_recording(utterance, rate, max_seconds=3600 * config.max_hours)
            except UserError as error:
                failed.append(f"{utterance.where}: {utterance.id}: {error}")
                continue
            texts[int(row)] = recognizer.transcribe(audio).text
            progress.update()
    known = {message.split(": ", 1)[0] for message in failed}
    failed += [  # an utterance without a length fits no batch
        f"{u.where}: {u.id}: found {u.seconds} s, expected a recording"
        for row, u in enumerate(utterances)
        if row not in texts and u.where not in known
    ]
    return texts, failed


def write_reports(evaluation: Evaluation, folder: Path, worst: int) -> None:
    """report.md, report.html, report.json, hypotheses.jsonl."""
    report = json.dumps(to_json(evaluation), ensure_ascii=False, indent=1, allow_nan=False)
    write_file(folder / "report.md", to_markdown(evaluation, worst=worst))
    write_file(folder / "report.html", to_html(evaluation, worst=worst))
    write_file(folder / "report.json", report + "\n")
    write_file(folder / "hypotheses.jsonl", write_hypotheses(evaluation.items))
    print(f"wrote {folder}/report.md, report.html, report.json, hypotheses.jsonl", file=sys.stderr)


def _item(name: str, utterance: Utterance, hypothesis: str, language: str) -> Item:
    return Item(
        id=utterance.id,
        reference=normalize(utterance.text, language),
        hypothesis=normalize(hypothesis, language),
        set=name,
        domain=utterance.domain,
        speaker=utterance.speaker,
        seconds=0.0 if math.isnan(utterance.seconds) else utterance.seconds,
    )


def _inputs(config: EvaluateConfig, language: str) -> list[tuple[str, str]]:
    return [("manifests", ", ".join(config.manifest)), ("normalized as", language), ("costs", config.costs)]


def _show(evaluation: Evaluation) -> None:
    rows = error_table(evaluation)
    for by in grouping_fields(evaluation):
        rows += [(f"{by} {row[0]}", *row[1:]) for row in error_table(evaluation, by)]
    print(markdown_table((evaluation.name, *HEADER[1:]), rows))
    worst = worst_utterances(evaluation, SHOWN_WORST)
    if worst:
        print("\nUtterances with most errors\n\n" + worst.rstrip())


def _compare(config: EvaluateConfig) -> int:
    reports = [read_report(path, lambda path: _read(path)) for path in config.compare]
    text, image = compare(reports, config.by, number_of_samples=config.samples)
    print(text)
    if config.out:
        folder = Path(config.out)
        write_file(folder / "compare.md", text + "\n")
        write_file(folder / "compare.png", image)
        print(f"wrote {folder}/compare.md, compare.png", file=sys.stderr)
    return 0


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {error}, expected a report of evaluate") from error


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}, expected a folder to write to") from error


if __name__ == "__main__":
    run_front_door(main)
