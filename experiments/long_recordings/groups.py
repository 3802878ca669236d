"""Recordings of a few clips: `python -m experiments.long_recordings.groups --checkpoint RUN --manifest M`.

Two to six clips are joined, with pauses of 0, 0.5 and 1.5 s, to recordings of less than 28 s, which fit in one pass.
They are recognized uncut and cut; the table goes to results/groups.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.long_recordings.join import GAPS, RATE, joined
from experiments.tables import HERE, markdown
from speech_jax.core.command_line import parse
from speech_jax.data.manifest import read_manifest
from speech_jax.data.recordings import read_recording
from speech_jax.evaluation.wer import wer
from speech_jax.inference.recognizer import load_recognizer

SIZES = (2, 3, 4, 6)


@dataclass(frozen=True)
class Options:
    """Compare recordings of a few clips, recognized whole and cut at their pauses."""

    checkpoint: str = "runs/quickstart/alpha_0.3"
    """Recognizer."""
    manifest: Path = Path("runs/quickstart/data/A/test.jsonl")
    """The clips."""
    clips: int = 96
    """Number of clips, the first ones; a multiple of 12 uses all of them in every row."""


def main() -> None:
    """Print and write the table."""
    import sys

    options = parse(Options, sys.argv[1:], prog="python -m experiments.long_recordings.groups")
    utterances = list(read_manifest(options.manifest))[: options.clips]
    clips = [read_recording(utterance, RATE) for utterance in utterances]
    texts = [utterance.text for utterance in utterances]
    recognizers = [load_recognizer(options.checkpoint, "last", segment=segment) for segment in ("none", "energy")]

    def rate(recognizer, references: list[str], recordings: list[np.ndarray]) -> str:
        hypotheses = [transcript.text for transcript in recognizer.transcribe_many(recordings)]
        return f"{100 * wer(references, hypotheses).rate:.1f}"

    alone = rate(recognizers[1], texts, clips)
    lines = [["1", "", f"{np.mean([len(clip) for clip in clips]) / RATE:.1f}", alone, alone]]
    for gap in GAPS:
        for size in SIZES:
            starts = range(0, len(clips) - size + 1, size)
            recordings = [joined(clips[start : start + size], gap) for start in starts]
            references = [" ".join(texts[start : start + size]) for start in starts]
            seconds = f"{np.mean([len(recording) for recording in recordings]) / RATE:.1f}"
            rates = [rate(recognizer, references, recordings) for recognizer in recognizers]
            lines.append([str(size), f"{gap:g}", seconds, *rates])
            print(lines[-1], flush=True)
    table = markdown(["clips", "pause, s", "length, s", "WER, --segment none", "WER, --segment energy"], lines)
    (HERE / "long_recordings/results/groups.md").write_text(table + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
