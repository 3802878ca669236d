"""Prepare a published corpus as manifests and shards: `python -m speech_jax.prepare RECIPE --out DIR …`."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from speech_jax.audio.config import TrimConfig
from speech_jax.audio.trim import cut_report, cut_text
from speech_jax.core.errors import UserError, run_front_door
from speech_jax.core.files import open_atomic
from speech_jax.core.log import log
from speech_jax.core.passwords import mask_address
from speech_jax.data import preparing
from speech_jax.data.manifest import read_manifest
from speech_jax.data.recipes import RECIPES
from speech_jax.data.statistics import report, statistics


@dataclass(frozen=True, kw_only=True)
class Common:
    """Options of all recipes."""

    out: Path
    """Folder for manifests, audio and shards. The same command resumes a run that was stopped; use a new folder if the
    recordings have changed."""
    shards: int = 0
    """ArrayRecord shards to write per manifest, with their own manifest {split}.sharded.jsonl; 0 writes none."""
    sample_rate: int = 16_000
    """Sample rate of the shards, in Hz; recordings are verified at it, too."""
    verify: bool = True
    """Decode every recording once, to measure its length and to leave out those that cannot be read."""
    trim: TrimConfig = field(default_factory=TrimConfig)
    """Trim silence at both ends of every utterance, by the rows' start and end; the recordings are not changed. The
    figures are printed and written to {split}.trim.json."""
    threads: int = 2
    """Threads that decode recordings."""


def main(argv: Sequence[str]) -> int:
    """Run a recipe, then verify, trim and shard its manifests. Returns exit code 0, also if recordings are left out."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: python -m speech_jax.prepare RECIPE --out DIR …   (RECIPE --help for its options)\n")
        print("\n".join(f"  {name:12} {help_line}" for name, help_line in RECIPES.items()))
        return 0
    name, *rest = argv
    if name not in RECIPES:
        raise UserError(f"found recipe {name!r}, expected one of {', '.join(RECIPES)}")
    recipe = importlib.import_module(f"speech_jax.data.recipes.{name}")
    settings = dataclasses.make_dataclass("Prepare", [], bases=(recipe.Options, Common), frozen=True)
    config = tyro.cli(settings, args=rest, prog=f"python -m speech_jax.prepare {name}", description=RECIPES[name])
    options = recipe.Options(**{f.name: getattr(config, f.name) for f in dataclasses.fields(recipe.Options)})

    if config.trim.by != "none" and not config.verify:
        raise UserError("trim: found --no-verify, expected verify, whose pass over the recordings finds the silence")
    problems = run_recipe(name, recipe.prepare, options, config.out)
    if config.verify:
        for manifest in preparing.manifests(config.out):
            unreadable, cuts = preparing.verify(manifest, config.sample_rate, config.threads, config.trim)
            problems += unreadable
            if cuts:
                cut = cut_report(cuts, config.trim)
                print(cut_text(manifest.stem, cut))
                with open_atomic(manifest.with_name(f"{manifest.stem}.trim.json")) as file:
                    json.dump(cut, file, indent=1, ensure_ascii=False)
    if config.shards:
        for manifest in preparing.manifests(config.out):
            print(preparing.write_shards(manifest, config.out / "shards", config.shards, config.sample_rate))
    numbers = {}
    for manifest in preparing.manifests(config.out):
        split = manifest.relative_to(config.out).with_suffix("").as_posix()
        stats = statistics(read_manifest(manifest, on_error="skip"))
        numbers[split] = stats._asdict()
        print(report(split, stats))
    for problem in problems:
        print(f"left out: {problem}")
    print(f"{len(problems)} recordings left out")
    with open_atomic(config.out / "statistics.json") as file:
        json.dump({"splits": numbers, "left_out": problems}, file, indent=1, ensure_ascii=False)
    return 0


class _Collect(logging.Handler):
    """Collects a recipe's warnings; each names a recording that it left out."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage().removeprefix("left out: "))


def run_recipe(name: str, prepare, options, out: Path) -> list[str]:
    """Run a recipe, unless it has finished in this folder with the same options.

    Args:
        name: Name of the recipe.
        prepare: Function of the recipe: (out, options).
        options: Options of the recipe.
        out: Folder to write to.

    Returns:
        Warnings of the recipe, of this run or of the finished one.

    Raises:
        UserError: If the folder belongs to another recipe or other options, or if there are no recordings.
    """
    settings = {key: mask_address(str(value)) for key, value in dataclasses.asdict(options).items()}
    text = json.dumps({"recipe": name, "options": settings})
    digest = hashlib.sha256(text.encode()).hexdigest()
    note = out / "recipe.json"
    done = json.loads(_text(note, '{"sha256": ""}'))
    used = out.is_dir() and any(path != note for path in out.iterdir())  # a recipe that failed at once leaves nothing
    if used and done["sha256"] and done["sha256"] != digest:
        raise UserError(f"{note}: found another recipe or other options, expected the same; use another --out")
    finished = bool(done.get("finished")) and bool(preparing.manifests(out))
    if finished:
        print(f"{out}: the recipe has already run with these options; its manifests are kept")
        return list(done.get("left_out", []))
    warnings = _Collect()
    log.addHandler(warnings)
    try:
        for state in (False, True):
            fields = {"sha256": digest, "finished": state, "left_out": warnings.messages, **json.loads(text)}
            with open_atomic(note) as file:
                json.dump(fields, file, indent=1, ensure_ascii=False)
            if not state:
                prepare(out, options)
    finally:
        log.removeHandler(warnings)
    if not preparing.manifests(out):
        raise UserError(f"{out}: the recipe {name!r} found no recordings")
    return warnings.messages


def _text(path: Path, default: str) -> str:
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else default
        if "sha256" not in json.loads(text):
            raise ValueError("no sha256")
        return text
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}), expected the record of an earlier run; remove it") from error


if __name__ == "__main__":
    run_front_door(main)
