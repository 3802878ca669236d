"""Average two checkpoints, without training: `python -m speech_jax.average --start A --end B --out DIR`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from speech_jax.core.command_line import Range, parse
from speech_jax.core.config_dict import describe_differences, differences
from speech_jax.core.errors import UserError, run_front_door
from speech_jax.core.files import write_file
from speech_jax.data.manifest import read_manifest
from speech_jax.decoding.config import BeamConfig
from speech_jax.evaluation.compare import compare
from speech_jax.evaluation.pareto import Point, pareto_front, pareto_table, plot_pareto
from speech_jax.evaluation.report import to_json

if TYPE_CHECKING:
    from speech_jax.artifacts.recognizer import RecognizerParts


@dataclass(frozen=True)
class AverageConfig:
    """Average two recognizers: (1 - ratio) · start + ratio · end for several ratios, with error rates and a plot."""

    start: str
    """Checkpoint folder of the model before fine-tuning."""
    end: str
    """Checkpoint folder of the model after fine-tuning."""
    out: str
    """Folder for compare.md, compare.png, pareto.png and reports/RATIO."""
    manifest: tuple[str, ...] = ()
    """Manifests to evaluate on; the first is the old domain, the second the new one."""
    ratio: Annotated[tuple[float, ...], Range(0, 1)] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Weights of the end model."""
    which: Literal["best", "last"] = "best"
    """The best or last checkpoint of both runs; for another one, give the folder of its step."""
    keep: Annotated[float | None, Range(0, 1)] = None
    """Write the model of this ratio to the checkpoint folder OUT/model; unset writes none."""
    beam: BeamConfig = field(default_factory=BeamConfig)
    """Decoding: the best path, or a beam search with a language model."""


def main(argv: Sequence[str]) -> int:
    """Evaluate averages of two checkpoints, and write one of them. Returns exit code 0."""
    config = parse(AverageConfig, argv, prog="python -m speech_jax.average")
    if not config.manifest and config.keep is None:
        raise UserError("found neither --manifest nor --keep, expected something to do")
    # Loaded after the flags are parsed, so that --help does not wait for JAX.
    from speech_jax.artifacts.recognizer import load_recognizer_parts, save_recognizer

    start, end = (load_recognizer_parts(folder, config.which) for folder in (config.start, config.end))
    if config.manifest:
        sweep(config, start, end)
    if config.keep is not None:
        save_recognizer(Path(config.out) / "model", between(start, end, config.keep))
        print(f"wrote {config.out}/model (ratio {config.keep:g})", file=sys.stderr)
    return 0


def between(start: RecognizerParts, end: RecognizerParts, ratio: float) -> RecognizerParts:
    """Return the average with the end's tokenizer. Raises UserError if networks or audio settings differ."""
    differing = differences(start.task.model, end.task.model, "task.model")
    differing += differences(start.task.audio, end.task.audio, "task.audio")
    if differing:
        raise UserError(
            f"--start and --end: found {describe_differences(differing)}, expected the same network and audio settings"
        )
    from speech_jax.finetuning.average import convert_vocabulary, interpolate

    moved = convert_vocabulary(start.params, end.params, start.tokenizer.pieces, end.tokenizer.pieces)
    return end._replace(
        params=interpolate(moved, end.params, ratio),
        model_state=interpolate(start.model_state, end.model_state, ratio),
    )


def sweep(config: AverageConfig, start: RecognizerParts, end: RecognizerParts) -> None:
    """Evaluate every ratio; write reports, tables and plots."""
    from speech_jax.inference.recognizer import make_recognizer
    from speech_jax.inference.scoring import score_recognizer, set_names, write_reports

    names = set_names(config.manifest)
    sets = dict(zip(names, map(read_manifest, config.manifest), strict=True))
    reports, points, out = [], [], Path(config.out)
    for ratio in config.ratio:
        recognizer = make_recognizer(between(start, end, ratio), f"ratio {ratio:g}", beam=config.beam)
        details = [("checkpoint", f"{config.start} … {config.end}"), ("manifests", ", ".join(config.manifest))]
        evaluation, failed = score_recognizer(recognizer, sets, details=details)
        if failed:
            raise UserError(failed[0])
        write_reports(evaluation, out / "reports" / f"{ratio:g}", worst=50)
        reports.append(to_json(evaluation))
        if len(names) > 1:
            rates = [reports[-1]["set"][name]["wer"] for name in names[:2]]
            if None in rates:
                raise UserError("--manifest: found a set without reference words, expected words to count errors of")
            points.append(Point(recognizer.name, "averaging", *rates))
    text, image = compare(reports)
    if points:
        old, new = (f"{name}/wer" for name in names[:2])
        text += "\n" + pareto_table(points, old=old, new=new)
        write_file(out / "pareto.png", plot_pareto(points, old=old, new=new))
        write_file(out / "pareto.json", json.dumps([p._asdict() for p in points], indent=1))
        print(f"on the front: {', '.join(p.name for p in pareto_front(points))}", file=sys.stderr)
    write_file(out / "compare.md", text + "\n")
    write_file(out / "compare.png", image)
    print(text)


if __name__ == "__main__":
    run_front_door(main)
