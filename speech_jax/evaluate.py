"""Error rates of a checkpoint, or of another system's transcripts, on manifests: `python -m speech_jax.evaluate`.

With --speech, synthesized recordings against those of the manifests: see `speech_pairs`.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from speech_jax.audio.io import channel_index
from speech_jax.core.command_line import Range, parse
from speech_jax.core.documents import check_file
from speech_jax.core.errors import UserError, run_front_door
from speech_jax.core.files import write_file
from speech_jax.data.manifest import read_manifest
from speech_jax.decoding.config import BeamConfig
from speech_jax.evaluation.compare import By, compare
from speech_jax.evaluation.config import MeasureConfig
from speech_jax.evaluation.report import (
    Evaluation,
    error_table,
    grouping_fields,
    header,
    markdown_table,
    notes,
    read_report,
    worst_utterances,
)
from speech_jax.evaluation.speech_pairs import SpeechRequest, evaluate_speech
from speech_jax.evaluation.transcript_files import Format
from speech_jax.evaluation.wer import Costs
from speech_jax.inference.config import SegmentBy, WindowConfig

if TYPE_CHECKING:
    from speech_jax.inference.recognizer import Recognizer

SHOWN_WORST = 5  # on the screen; the reports have --worst


@dataclass(frozen=True)
class EvaluateConfig:
    """Measure word and character error rates of a checkpoint or of transcripts, or compare reports.

    Or measure synthesized speech: `--speech SYNTHESIZED --manifest REFERENCE` reports MCD, F0, duration and more of
    recordings with the same ids, and with `--checkpoint` also that recognizer's error rates on them.
    """

    checkpoint: str = ""
    """Checkpoint folder of the recognizer to evaluate."""
    manifest: tuple[str, ...] = ()
    """Manifests of the recordings with reference texts, as `prepare` writes them, or other lists that can be read as
    such: of NeMo, Hugging Face or lhotse, CSV and TSV files."""
    hypotheses: str = ""
    """Transcripts of another system, instead of `--checkpoint`: a file with JSON rows (of NeMo, Hugging Face, this
    package), CSV or TSV with a header, lines "id words …", trn, ctm or stm; or a folder with Whisper's JSON files."""
    hypotheses_format: Format | Literal[""] = ""
    """Format of `--hypotheses`; empty takes that of the file's name, or of its lines where they fit one alone."""
    hypotheses_field: str = ""
    """Field or column of `--hypotheses` with the transcripts; empty takes the one whose name says so."""
    compare: tuple[str, ...] = ()
    """report.json files of several systems, instead of both, for one table and one plot; the first is the baseline."""
    speech: tuple[str, ...] = ()
    """Manifests of synthesized recordings, one per `--manifest` in the same order, with the same ids."""
    measures: MeasureConfig = field(default_factory=MeasureConfig)
    """Measurement of synthesized speech."""
    by: By = "set"
    """Columns of a comparison."""
    common: bool = False
    """Compare on the utterances that all reports have with the same reference; without it, reports of other utterances
    or references are refused."""
    samples: Annotated[int, Range(0, 1000)] = 3
    """Transcripts per set that a comparison shows."""
    out: str = ""
    """Folder for report.md, report.html, report.json and hypotheses.jsonl (not with `--speech`), or for compare.md and
    compare.png. Empty writes no files."""
    name: str = ""
    """Name of the system in the reports; empty takes the checkpoint's or the file's name."""
    which: Literal["best", "last"] = "best"
    """The run's best or last checkpoint."""
    language: str = ""
    """Language of the normalization of both texts; empty takes the checkpoint's, else the field `language` of the
    manifests' rows. `none` only removes capitals and punctuation."""
    costs: Costs = "levenshtein"
    """Edit costs of the word alignment: levenshtein counts errors equally (jiwer), sclite uses NIST's weights."""
    worst: Annotated[int, Range(0, 100_000)] = 50
    """Number of worst utterances in the reports."""
    batch_seconds: Annotated[float, Range(0.1, 1e6)] = 120.0
    """Seconds of audio per batch, padding included, for recordings that fit in one pass."""
    channel: str = "mean"
    """Channel of recordings that have several: mean (of all), left, right, or a number from 1; not with `--speech`."""
    max_hours: Annotated[float, Range(1e-6, math.inf)] = 4.0
    """Longest recording in hours; a longer one is not read."""
    segment: SegmentBy = "energy"
    """Detector of the pauses at which recordings longer than those of training are cut; the rest of the pauses is left
    out. vad: Silero's voice activity detector (extra `vad`). none: windows that overlap, over the whole recording."""
    windows: WindowConfig = field(default_factory=WindowConfig)
    """Windows of recordings, or of stretches of speech without a pause, that do not fit in one pass."""
    adapter: str = ""
    """Adapter file (adapter.safetensors of a run) to apply to the checkpoint; empty is none."""
    beam: BeamConfig = field(default_factory=BeamConfig)
    """Decoding: the best path, or a beam search with a language model."""


def main(argv: Sequence[str]) -> int:
    """Evaluate what the flags name and print tables.

    Returns:
        Exit code: 0; 2 if a recording could not be read.
    """
    config = parse(EvaluateConfig, argv, prog="python -m speech_jax.evaluate")
    if config.channel != "mean" and (config.speech or not config.checkpoint):
        raise UserError(f"--channel: found {config.channel!r}, expected it with --checkpoint and without --speech")
    channel_index(config.channel)  # a wrong name is one error, not one for each recording
    if config.speech:
        return _measure_speech(config)
    modes = [bool(config.checkpoint), bool(config.hypotheses), bool(config.compare)]
    if sum(modes) != 1:
        flags = "--checkpoint, --hypotheses, --compare and --speech"
        raise UserError(f"found {sum(modes)} of {flags}, expected exactly one")
    if config.common and not config.compare:
        raise UserError("--common: found it without --compare, expected both or neither")
    for flag, value in (("format", config.hypotheses_format), ("field", config.hypotheses_field)):
        if value and not config.hypotheses:
            raise UserError(f"--hypotheses-{flag}: found {value!r} without --hypotheses, expected both or neither")
    if config.out:
        _make_folder(Path(config.out))  # now, not when all is computed
    if config.compare:
        return _compare(config)
    # Loaded after the flags are parsed, so that --help does not wait for JAX.
    from speech_jax.inference.scoring import score_hypotheses, score_recognizer, set_names, write_reports

    if not config.manifest:
        raise UserError("found no --manifest, expected the recordings to evaluate on")
    names = set_names(config.manifest)
    loaded = _load_recognizer(config) if config.checkpoint else None  # before the manifests: it is named first
    kept = [read_manifest(path, on_error="keep" if loaded else "raise") for path in config.manifest]
    sets = dict(zip(names, kept, strict=True))
    if loaded is None:
        evaluation = score_hypotheses(
            config.hypotheses, sets, details=_inputs(config), language=config.language, name=config.name,
            costs=config.costs, format=config.hypotheses_format, field=config.hypotheses_field,
        )  # fmt: skip
        failed: list[str] = []
    else:
        recognizer, source = loaded
        evaluation, failed = score_recognizer(
            recognizer, sets, details=[("checkpoint", source), *_inputs(config)],
            language=config.language, name=config.name, costs=config.costs, batch_seconds=config.batch_seconds,
            max_hours=config.max_hours, channel=config.channel,
        )  # fmt: skip
    if config.out:  # before anything is printed: a closed pipe (| head) must not cost the reports
        write_reports(evaluation, Path(config.out), config.worst)
    _show(evaluation)
    for message in failed:
        print(f"error: {message}", file=sys.stderr)
    if failed:
        print(f"error: {len(failed)} recordings could not be read and are not in the figures", file=sys.stderr)
    return 2 if failed else 0


def _measure_speech(config: EvaluateConfig) -> int:
    if config.hypotheses or config.compare:
        raise UserError("found --speech with --hypotheses or --compare, expected --speech alone or with --checkpoint")
    if config.out:
        _make_folder(Path(config.out))
    from speech_jax.inference.scoring import recognize_all, set_names

    transcribe, recognizer_language, details = None, "", []
    if config.checkpoint:
        recognizer, source = _load_recognizer(config)
        details = [("recognizer", source)]
        recognizer_language = recognizer.language
        transcribe = functools.partial(
            recognize_all, recognizer, batch_seconds=config.batch_seconds, max_hours=config.max_hours
        )

    sets = set_names(config.manifest) if config.manifest else []
    request = SpeechRequest(
        tuple(zip(sets, config.manifest, strict=True)), config.speech, config.out, config.name, config.worst,
        config.language, recognizer_language,
    )  # fmt: skip
    return evaluate_speech(request, config.measures, transcribe, details)


def _load_recognizer(config: EvaluateConfig) -> tuple[Recognizer, str]:
    """Return the recognizer, and its checkpoint, step and adapter for the reports."""
    from speech_jax.inference.recognizer import load_recognizer
    from speech_jax.training.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(config.checkpoint, config.which)
    recognizer = load_recognizer(
        checkpoint, windows=config.windows, beam=config.beam, adapter=config.adapter, segment=config.segment
    )
    adapter = f", adapter {config.adapter}" if config.adapter else ""
    return recognizer, f"{config.checkpoint} ({config.which}, step {checkpoint.folder.name}{adapter})"


def _inputs(config: EvaluateConfig) -> list[tuple[str, str]]:
    return [("manifests", ", ".join(config.manifest))]


def _show(evaluation: Evaluation) -> None:
    rows = error_table(evaluation)
    for by in grouping_fields(evaluation):
        rows += [(f"{by} {row[0]}", *row[1:]) for row in error_table(evaluation, by)]
    print(markdown_table((evaluation.name, *header(evaluation)[1:]), rows))
    for key, value in notes(evaluation):
        if key in ("normalized as", "transcripts") or (key, value) not in evaluation.details:
            print(f"{key}: {value}", file=sys.stderr)
    worst = worst_utterances(evaluation, SHOWN_WORST)
    if worst:
        print("\nUtterances with most errors\n\n" + worst.rstrip())


def _compare(config: EvaluateConfig) -> int:
    reports = [read_report(path, lambda path: _read(path)) for path in config.compare]
    text, image = compare(reports, config.by, number_of_samples=config.samples, common=config.common)
    if config.out:
        folder = Path(config.out)
        write_file(folder / "compare.md", text + "\n")
        write_file(folder / "compare.png", image)
        print(f"wrote {folder}/compare.md, compare.png", file=sys.stderr)
    print(text)
    return 0


def _read(path: str) -> str:
    check_file(path, "a report of evaluate")
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
