"""Synthesized recordings against those of a reference, pair by pair: `python -m speech_jax.evaluate --speech`.

A recording that cannot be measured is named, counted and left out; the others are measured and reported all the same.
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
from speech_jax.data.manifest import Utterance, read_manifest
from speech_jax.data.recordings import read_recording
from speech_jax.evaluation.config import MeasureConfig
from speech_jax.evaluation.measures import MEASURES, Analysis, analyze, best_path, check_packages, measure
from speech_jax.evaluation.speech_plots import distributions, pair_picture
from speech_jax.evaluation.speech_report import (
    Example,
    Pair,
    SpeechEvaluation,
    shown_messages,
    to_html,
    to_json,
    to_markdown,
    to_text,
)
from speech_jax.evaluation.wer import count_errors
from speech_jax.text.normalize import normalize

EXAMPLE_SECONDS = 30.0  # of sound on the page
NAMED_IDS = 5

# utterances -> (row -> transcript, messages on what could not be read)
Hear = Callable[[Sequence[Utterance]], tuple[dict[int, str], list[str]]]


class SpeechRequest(NamedTuple):
    """What is measured and where the reports go. manifests: (name of the set, path); language: of the transcripts."""

    manifests: tuple[tuple[str, str], ...]
    speech: tuple[str, ...]
    out: str = ""
    name: str = ""
    worst: int = 50
    language: str = "en"


class Couple(NamedTuple):
    """Two recordings with one id."""

    set: str
    reference: Utterance
    synthesized: Utterance


def evaluate_speech(
    request: SpeechRequest, config: MeasureConfig, hear: Hear | None, details: Sequence[tuple[str, str]] = ()
) -> int:
    """Measures, shows and writes. Returns 2 where recordings are missing from the figures, else 0."""
    check_packages(config)
    couples, left_out, notes = match(request)
    items, failed = measure_all(couples, config)
    left_out += failed
    measured = [couple for couple, item in zip(couples, items, strict=True) if item is not None]
    items = [item for item in items if item is not None]
    if not items:
        raise UserError(f"{failed[0]} (and so all {len(couples)} pairs), expected at least one that can be measured")
    if hear:
        items, unheard = recognize(measured, items, hear, request.language)
        left_out += unheard
    pairs = f"{len(items)} of {len(couples)} with the same id, {sum(item.seconds for item in items):.0f} s"
    evaluation = SpeechEvaluation(
        request.name or Path(request.speech[0]).absolute().parent.name,
        tuple(items),
        config.worst_by,
        (
            ("synthesized", ", ".join(request.speech)),
            ("reference", ", ".join(path for _, path in request.manifests)),
            ("pairs", pairs),
            ("measured at", f"{config.sample_rate} Hz; cepstra {config.cepstra}, c1 to c{config.order}"),
            *details,
            *notes,
            *([("left out, not counted", str(len(left_out)))] if left_out else []),
        ),
        tuple(left_out),
    )
    print(to_text(evaluation))
    if request.out:
        write_reports(evaluation, measured, config, Path(request.out), request.worst)
    for message in shown_messages(evaluation):
        print(f"error: {message}", file=sys.stderr)
    if left_out:
        print(f"error: {len(left_out)} recordings are not in the figures (named above)", file=sys.stderr)
    return 2 if left_out else 0


def match(request: SpeechRequest) -> tuple[list[Couple], list[str], list[tuple[str, str]]]:
    """(pairs with one id, messages on ids that have no partner, notes for the report).

    A row without `seconds` whose recording cannot be measured is named in a warning, and its partner has none.
    """
    if len(request.manifests) != len(request.speech):
        raise UserError(
            f"found {len(request.speech)} of --speech and {len(request.manifests)} of --manifest, expected as many: "
            "the synthesized recordings and, in the same order, their references"
        )
    couples: list[Couple] = []
    left_out: list[str] = []
    for (name, manifest), speech in zip(request.manifests, request.speech, strict=True):
        references = {u.id: u for u in read_manifest(manifest, on_error="skip")}
        synthesized = {u.id: u for u in read_manifest(speech, on_error="skip")}
        left_out += _without(manifest, references, synthesized, "synthesized recording", speech)
        left_out += _without(speech, synthesized, references, "reference", manifest)
        couples += [Couple(name, u, synthesized[u.id]) for u in references.values() if u.id in synthesized]
    if not couples:
        raise UserError(
            f"{request.speech[0]}: found no id that {request.manifests[0][1]} has too, expected the same ids"
        )
    other = [c for c in couples if c.synthesized.text and not _same_words(c, request.language)]
    notes = []
    if other:
        named = ", ".join(repr(c.reference.id) for c in other[:NAMED_IDS])
        notes.append(("pairs whose texts differ, measured all the same", f"{len(other)}, the first {named}"))
        print(f"warning: {len(other)} pairs have different texts, the first {named}", file=sys.stderr)
    return couples, left_out, notes


def _without(where: str, ids: Iterable[str], others: dict, what: str, expected: str) -> list[str]:
    """One message for each id that the others lack."""
    return [
        f"{where}: found id {identity!r} without a {what}, expected it in {expected}"
        for identity in ids
        if identity not in others
    ]


def _same_words(couple: Couple, language: str) -> bool:
    return normalize(couple.reference.text, language) == normalize(couple.synthesized.text, language)


def measure_all(couples: Sequence[Couple], config: MeasureConfig) -> tuple[list[Pair | None], list[str]]:
    """(a measured pair or None for each, messages on those that could not be measured)."""
    items: list[Pair | None] = []
    failed: list[str] = []
    for couple in tqdm(couples, unit="pair", disable=None, file=sys.stderr):
        try:
            reference, other = analyzes(couple, config)
            values = measure(reference, other, best_path(reference, other), config)
        except UserError as error:
            failed.append(str(error))
            items.append(None)
            continue
        except (ValueError, RuntimeError, ArithmeticError) as error:  # of a library that measures (DNSMOS, WORLD)
            where = f"{couple.synthesized.where}: {couple.synthesized.id}"
            failed.append(f"{where}: found {type(error).__name__} ({error}), expected a recording to measure")
            items.append(None)
            continue
        u = couple.reference
        found = {name: (value, 1.0) for name, value in values.items()}
        seconds = len(other.audio) / config.sample_rate
        items.append(Pair(u.id, found, couple.set, u.domain, u.speaker, u.text, seconds))
    return items, failed


def analyzes(couple: Couple, config: MeasureConfig) -> tuple[Analysis, Analysis]:
    """(reference, synthesized), read and analyzed. Raises UserError naming the line of the manifest."""
    found = []
    for utterance in (couple.reference, couple.synthesized):
        try:
            audio = read_recording(utterance, config.sample_rate, max_seconds=config.max_seconds)
            found.append(analyze(audio, config))
        except UserError as error:
            raise UserError(f"{utterance.where}: {utterance.id}: {error}") from error
    return found[0], found[1]


def recognize(
    couples: Sequence[Couple], items: Sequence[Pair], hear: Hear, language: str
) -> tuple[list[Pair], list[str]]:
    """The pairs with WER and CER of both recordings against the reference's text; messages on what was not heard."""
    references = [normalize(couple.reference.text, language) for couple in couples]
    result, failed = list(items), []
    for suffix, utterances in (
        ("", [couple.synthesized for couple in couples]),
        ("_reference", [couple.reference for couple in couples]),
    ):
        texts, messages = hear(utterances)
        failed += messages
        rows = sorted(texts)
        heard = {row: normalize(texts[row], language) for row in rows}
        words = count_errors([references[row].split() for row in rows], [heard[row].split() for row in rows])
        letters = count_errors(*([" ".join(t[row].split()) for row in rows] for t in (references, heard)))
        for row, word, letter in zip(rows, words, letters, strict=True):
            values = dict(result[row].values)
            values[f"wer{suffix}"] = (100.0 * word.errors, word.reference)
            values[f"cer{suffix}"] = (100.0 * letter.errors, letter.reference)
            result[row] = result[row]._replace(values=values)
            if not suffix:
                result[row] = result[row]._replace(hypothesis=heard[row])
    return result, failed


# --- the reports ----------------------------------------------------------------------------------------------------


def write_reports(
    evaluation: SpeechEvaluation, couples: Sequence[Couple], config: MeasureConfig, folder: Path, worst: int
) -> None:
    """report.json and report.md, and then, as it reads recordings again, report.html."""
    report = json.dumps(to_json(evaluation), ensure_ascii=False, indent=1, allow_nan=False)
    write_file(folder / "report.json", report + "\n")
    write_file(folder / "report.md", to_markdown(evaluation, worst=worst))
    worst_rows = evaluation.worst(config.examples)
    first_rows = [row for row in range(min(config.examples, len(couples))) if row not in worst_rows]
    examples = {row: example(row, couples[row], config) for row in (*worst_rows, *first_rows)}
    sections = [
        (f"The worst by {MEASURES[evaluation.worst_by].label}", [examples[row] for row in worst_rows]),
        ("The first that are not among them", [examples[row] for row in first_rows]),
    ]
    page = to_html(
        evaluation,
        worst=worst,
        examples=[section for section in sections if section[1]],
        distributions=distributions(evaluation),
    )
    write_file(folder / "report.html", page)
    print(f"wrote {folder}/report.md, report.html, report.json", file=sys.stderr)


def example(row: int, couple: Couple, config: MeasureConfig) -> Example:
    """An utterance for the page. Its recordings are read again: keeping all of them would take too much memory."""
    reference, other = analyzes(couple, config)
    picture = pair_picture(reference, other, best_path(reference, other))
    return Example(row, *(_flac(x.audio, config.sample_rate) for x in (reference, other)), picture)


def _flac(audio: np.ndarray, rate: int) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, audio[: math.ceil(EXAMPLE_SECONDS * rate)], rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()
