"""Evaluation of synthesized recordings against reference recordings: `python -m speech_jax.evaluate --speech`.

A recording that cannot be measured is named, counted and left out; the rest is measured and reported.
"""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from tqdm import tqdm

from speech_jax.core.errors import UserError
from speech_jax.core.files import write_file
from speech_jax.data.manifest import read_manifest
from speech_jax.data.recordings import read_recording
from speech_jax.data.utterances import Utterance
from speech_jax.evaluation.config import MeasureConfig
from speech_jax.evaluation.measures import MEASURES, Analysis, analyze, check_packages, dtw_path, measure
from speech_jax.evaluation.normalization import Normalization, choose_normalization
from speech_jax.evaluation.speech_plots import distributions, pair_picture
from speech_jax.evaluation.speech_report import (
    Example,
    MeasuredPair,
    SpeechEvaluation,
    shown_messages,
    to_html,
    to_json,
    to_markdown,
    to_text,
)
from speech_jax.evaluation.wer import SIGNS_ARE_WORDS, count_errors, split_pairs
from speech_jax.text.scripts import has_unspaced

EXAMPLE_SECONDS = 30.0  # audio per recording in report.html
NAMED_IDS = 5  # most ids that a warning names

# utterances -> (row -> transcript, messages on recordings that could not be read)
Transcriber = Callable[[Sequence[Utterance]], tuple[dict[int, str], list[str]]]


class SpeechRequest(NamedTuple):
    """An evaluation of synthesized speech.

    Attributes:
        manifests: (name of the set, path) of the reference recordings.
        speech: manifests of the synthesized recordings, in the same order.
        out: folder for the reports; empty for none.
        name: name of the system; empty for the name of the first manifest's folder.
        worst: number of the worst utterances in the reports.
        language: language of the texts, for their normalization; empty takes the recognizer's, else that of each row.
        recognizer_language: language of the recognizer's tokenizer; empty if it has none.
    """

    manifests: tuple[tuple[str, str], ...]
    speech: tuple[str, ...]
    out: str = ""
    name: str = ""
    worst: int = 50
    language: str = ""
    recognizer_language: str = ""


class UtterancePair(NamedTuple):
    """A reference recording and the synthesized recording with the same id.

    Attributes:
        set: name of the manifest.
        reference: reference recording.
        synthesized: synthesized recording.
    """

    set: str
    reference: Utterance
    synthesized: Utterance


def evaluate_speech(
    request: SpeechRequest,
    config: MeasureConfig,
    transcribe: Transcriber | None,
    details: Sequence[tuple[str, str]] = (),
) -> int:
    """Measure all pairs, print the results and write the reports.

    Args:
        request: recordings and reports.
        config: settings of the measures.
        transcribe: recognizer for WER and CER; None to leave them out.
        details: further (name, value) lines of the report's head.

    Returns:
        The exit code: 2 if recordings are missing from the figures, else 0.

    Raises:
        UserError: no pair can be measured, or an optional package is missing.
    """
    check_packages(config)
    pairs, left_out = match_pairs(request)
    normalization = Normalization(request.language or "none", "")
    if transcribe:
        references = [pair.reference for pair in pairs]
        normalization = choose_normalization(references, request.language, checkpoint=request.recognizer_language)
        details = [*details, ("normalized as", normalization.description)]
        if any(has_unspaced(reference.text) for reference in references):
            details.append(("words", SIGNS_ARE_WORDS))
        print(f"normalized as: {normalization.description}", file=sys.stderr)
    notes = check_texts(pairs, normalization)
    items, failed = measure_pairs(pairs, config)
    left_out += failed
    measured = [pair for pair, item in zip(pairs, items, strict=True) if item is not None]
    items = [item for item in items if item is not None]
    if not items:
        raise UserError(f"{failed[0]} (and so all {len(pairs)} pairs), expected at least one that can be measured")
    if transcribe:
        items, failed = add_error_rates(measured, items, transcribe, normalization)
        left_out += failed
    seconds = sum(item.seconds for item in items)
    evaluation = SpeechEvaluation(
        request.name or Path(request.speech[0]).absolute().parent.name,
        tuple(items),
        config.worst_by,
        (
            ("synthesized", ", ".join(request.speech)),
            ("reference", ", ".join(path for _, path in request.manifests)),
            ("pairs", f"{len(items)} of {len(pairs)} with the same id, {seconds:.0f} s"),
            ("measured at", f"{config.sample_rate} Hz; cepstra {config.cepstra}, c1 to c{config.order}"),
            *details,
            *notes,
            *([("left out, not counted", str(len(left_out)))] if left_out else []),
        ),
        tuple(left_out),
    )
    if request.out:  # before anything is printed: a closed pipe must not cost the reports
        write_reports(evaluation, measured, config, Path(request.out), request.worst)
    print(to_text(evaluation))
    for message in shown_messages(evaluation):
        print(f"error: {message}", file=sys.stderr)
    if left_out:
        print(f"error: {len(left_out)} recordings are not in the figures (named above)", file=sys.stderr)
    return 2 if left_out else 0


def match_pairs(request: SpeechRequest) -> tuple[list[UtterancePair], list[str]]:
    """Match synthesized and reference recordings by id.

    Returns:
        The pairs, and messages on ids without a partner.

    Raises:
        UserError: the manifests do not correspond, or no id occurs in both.
    """
    if len(request.manifests) != len(request.speech):
        raise UserError(
            f"found {len(request.speech)} of --speech and {len(request.manifests)} of --manifest, expected as many: "
            "the synthesized recordings and, in the same order, their references"
        )
    pairs: list[UtterancePair] = []
    left_out: list[str] = []
    for (name, manifest), speech in zip(request.manifests, request.speech, strict=True):
        references = {u.id: u for u in read_manifest(manifest, on_error="keep")}
        synthesized = {u.id: u for u in read_manifest(speech, on_error="keep")}
        left_out += _without_partner(manifest, references, synthesized, "synthesized recording", speech)
        left_out += _without_partner(speech, synthesized, references, "reference", manifest)
        pairs += [UtterancePair(name, u, synthesized[u.id]) for u in references.values() if u.id in synthesized]
    if not pairs:
        raise UserError(
            f"{request.speech[0]}: found no id that {request.manifests[0][1]} has too, expected the same ids"
        )
    return pairs, left_out


def check_texts(pairs: Sequence[UtterancePair], normalization: Normalization) -> list[tuple[str, str]]:
    """Warn of pairs whose texts have different words. Returns (name, value) lines of the report's head."""
    differing = [
        reference.id
        for _, reference, synthesized in pairs
        if synthesized.text
        and normalization.apply(reference.text, reference) != normalization.apply(synthesized.text, reference)
    ]
    if not differing:
        return []
    ids = ", ".join(map(repr, differing[:NAMED_IDS]))
    print(f"warning: {len(differing)} pairs have different texts, the first {ids}", file=sys.stderr)
    return [("pairs whose texts differ, measured all the same", f"{len(differing)}, the first {ids}")]


def _without_partner(path: str, ids: Iterable[str], partners: dict, kind: str, partner_path: str) -> list[str]:
    return [
        f"{path}: found id {identity!r} without a {kind}, expected it in {partner_path}"
        for identity in ids
        if identity not in partners
    ]


def measure_pairs(pairs: Sequence[UtterancePair], config: MeasureConfig) -> tuple[list[MeasuredPair | None], list[str]]:
    """Measure each pair.

    Returns:
        A measured pair, or None where that failed, for each pair; and a message for each failure.
    """
    items: list[MeasuredPair | None] = []
    failed: list[str] = []
    for pair in tqdm(pairs, unit="pair", disable=None, file=sys.stderr):
        try:
            reference, other = analyze_pair(pair, config)
            values = measure(reference, other, dtw_path(reference, other), config)
        except UserError as error:
            failed.append(str(error))
            items.append(None)
            continue
        except (ValueError, RuntimeError, ArithmeticError) as error:  # from DNSMOS or WORLD
            where = f"{pair.synthesized.where}: {pair.synthesized.id}"
            failed.append(f"{where}: found {type(error).__name__} ({error}), expected a recording to measure")
            items.append(None)
            continue
        u = pair.reference
        sums = {name: (value, 1.0) for name, value in values.items()}
        seconds = len(other.audio) / config.sample_rate
        items.append(
            MeasuredPair(
                u.id, sums, set=pair.set, domain=u.domain, speaker=u.speaker, text=u.text, seconds=seconds
            )
        )
    return items, failed


def analyze_pair(pair: UtterancePair, config: MeasureConfig) -> tuple[Analysis, Analysis]:
    """Read and analyze the reference and the synthesized recording.

    Raises:
        UserError: a recording cannot be read or analyzed; names the line of the manifest.
    """
    analyses = []
    for utterance in (pair.reference, pair.synthesized):
        try:
            audio = read_recording(utterance, config.sample_rate, max_seconds=config.max_seconds)
            analyses.append(analyze(audio, config))
        except UserError as error:
            raise UserError(f"{utterance.where}: {utterance.id}: {error}") from error
    return analyses[0], analyses[1]


def add_error_rates(
    pairs: Sequence[UtterancePair], items: Sequence[MeasuredPair], transcribe: Transcriber, normalization: Normalization
) -> tuple[list[MeasuredPair], list[str]]:
    """Add WER and CER of both recordings against the reference text.

    Args:
        pairs: the recordings.
        items: their measures, in the same order.
        transcribe: the recognizer.
        normalization: normalization of the texts, by the language of the reference.

    Returns:
        The measured pairs with error rates, and messages on recordings that could not be transcribed.
    """
    references = [normalization.apply(pair.reference.text, pair.reference) for pair in pairs]
    result, failed = list(items), []
    for suffix, utterances in (
        ("", [pair.synthesized for pair in pairs]),
        ("_reference", [pair.reference for pair in pairs]),
    ):
        texts, messages = transcribe(utterances)
        failed += messages
        rows = sorted(texts)
        hypotheses = {row: normalization.apply(texts[row], pairs[row].reference) for row in rows}
        pairs_of_words = split_pairs([references[row] for row in rows], [hypotheses[row] for row in rows])
        words = count_errors(*pairs_of_words[:2])
        characters = count_errors(
            [" ".join(references[row].split()) for row in rows], [" ".join(hypotheses[row].split()) for row in rows]
        )
        for row, word_errors, character_errors in zip(rows, words, characters, strict=True):
            values = dict(result[row].values)
            values[f"wer{suffix}"] = (100.0 * word_errors.errors, word_errors.reference)
            values[f"cer{suffix}"] = (100.0 * character_errors.errors, character_errors.reference)
            result[row] = result[row]._replace(values=values)
            if not suffix:
                result[row] = result[row]._replace(hypothesis=hypotheses[row])
    return result, failed


# --- Reports ---------------------------------------------------------------------------------------------------------


def write_reports(
    evaluation: SpeechEvaluation, pairs: Sequence[UtterancePair], config: MeasureConfig, folder: Path, worst: int
) -> None:
    """Write report.json and report.md, then report.html, for which recordings are read again.

    Args:
        evaluation: the measured pairs.
        pairs: their recordings, in the same order.
        config: settings; `config.examples` utterances get audio and pictures.
        folder: where to write.
        worst: number of the worst utterances in the tables.
    """
    report = json.dumps(to_json(evaluation), ensure_ascii=False, indent=1, allow_nan=False)
    write_file(folder / "report.json", report + "\n")
    write_file(folder / "report.md", to_markdown(evaluation, worst=worst))
    worst_rows = evaluation.worst(config.examples)
    first_rows = [row for row in range(min(config.examples, len(pairs))) if row not in worst_rows]
    examples = {row: make_example(row, pairs[row], config) for row in (*worst_rows, *first_rows)}
    sections = [
        (f"The worst by {MEASURES[evaluation.worst_by].label}", [examples[row] for row in worst_rows]),
        ("The first of the others", [examples[row] for row in first_rows]),
    ]
    page = to_html(
        evaluation,
        worst=worst,
        examples=[section for section in sections if section[1]],
        distributions=distributions(evaluation),
    )
    write_file(folder / "report.html", page)
    print(f"wrote {folder}/report.md, report.html, report.json", file=sys.stderr)


def make_example(row: int, pair: UtterancePair, config: MeasureConfig) -> Example:
    """Return an utterance for the HTML page; its recordings are read again to save memory."""
    reference, other = analyze_pair(pair, config)
    picture = pair_picture(reference, other, dtw_path(reference, other))
    return Example(row, _flac(reference.audio, config.sample_rate), _flac(other.audio, config.sample_rate), picture)


def _flac(audio: np.ndarray, rate: int) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, audio[: math.ceil(EXAMPLE_SECONDS * rate)], rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()
