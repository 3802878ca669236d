"""Prepare a published corpus as manifests and shards: `python -m speech_jax.prepare RECIPE --out DIR …`."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import io
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from speech_jax.audio.config import TrimConfig
from speech_jax.audio.io import channel_index
from speech_jax.audio.trim import cut_report, cut_text
from speech_jax.core.command_line import Range, parse
from speech_jax.core.errors import UserError, run_front_door
from speech_jax.core.files import open_atomic
from speech_jax.core.log import log
from speech_jax.core.passwords import mask_address
from speech_jax.data import preparing
from speech_jax.data.manifest import LeftOut, read_manifest, say_left_out
from speech_jax.data.recipes import RECIPES
from speech_jax.data.statistics import report, statistics

_SHOWN = 20  # recordings that are left out and printed
FIX = "sort manifests or other lists, leave out what cannot be learned from, and report it"


@dataclass(frozen=True, kw_only=True)
class Common:
    """Options of all recipes."""

    out: Path
    """Folder for manifests, audio and shards. The same command resumes a run that was stopped; use a new folder if the
    recordings have changed."""
    shards: Annotated[int, Range(0, 100_000)] = 0
    """ArrayRecord shards to write per manifest, with their own manifest {split}.sharded.jsonl; 0 writes none."""
    sample_rate: Annotated[int, Range(1000, 384_000)] = 16_000
    """Sample rate of the shards, in Hz; recordings are verified at it, too."""
    verify: bool = True
    """Decode every recording once, to measure its length and to leave out those that cannot be read."""
    channel: str = "mean"
    """Channel of recordings that have several: mean (of all), left, right, or a number from 1. Other than mean it is
    written as FLAC to channel-NAME/, to which the manifests then refer."""
    trim: TrimConfig = field(default_factory=TrimConfig)
    """Trim silence at both ends of every utterance, by the rows' start and end; the recordings are not changed. The
    figures are printed and written to {split}.trim.json."""
    threads: Annotated[int, Range(1, 1024)] = 2
    """Threads that decode recordings."""


def main(argv: Sequence[str]) -> int:
    """Run a recipe, then verify, trim and shard its manifests. Returns exit code 0, also if recordings are left out."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if isinstance(sys.stdout, io.TextIOWrapper):  # reports name files, whose bytes may be no UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: python -m speech_jax.prepare RECIPE --out DIR …   (RECIPE --help for its options)\n")
        print("\n".join(f"  {name:12} {help_line}" for name, help_line in (RECIPES | {"fix": FIX}).items()))
        return 0
    name, *rest = argv
    if name == "fix":
        from speech_jax.data import fixing

        fixing.fix_all(parse(fixing.Options, rest, prog="python -m speech_jax.prepare fix", description=FIX))
        return 0
    if name not in RECIPES:
        raise UserError(f"found recipe {name!r}, expected one of {', '.join(RECIPES)}, fix")
    recipe = importlib.import_module(f"speech_jax.data.recipes.{name}")
    settings = dataclasses.make_dataclass("Prepare", [], bases=(recipe.Options, Common), frozen=True)
    config = parse(settings, rest, prog=f"python -m speech_jax.prepare {name}", description=RECIPES[name])
    options = recipe.Options(**{f.name: getattr(config, f.name) for f in dataclasses.fields(recipe.Options)})

    if config.trim.by != "none" and not config.verify:
        raise UserError("trim: found --no-verify, expected verify, whose pass over the recordings finds the silence")
    lists = recipe.lists(options) if hasattr(recipe, "lists") else []
    taken = channel_index(config.channel) is not None
    problems = run_recipe(name, recipe.prepare, options, config.out, lists, config.channel)
    findings: list[tuple[str, str]] = []
    if taken:
        for manifest in preparing.manifests(config.out):
            problems += preparing.take_channel(manifest, config.channel, config.threads)
    if config.verify:
        for manifest in preparing.manifests(config.out):
            verified = preparing.verify(manifest, config.sample_rate, config.threads, config.trim)
            problems += verified.left_out
            findings += verified.findings
            if verified.cuts:
                cut = cut_report(verified.cuts, config.trim)
                print(cut_text(manifest.stem, cut))
                with open_atomic(manifest.with_name(f"{manifest.stem}.trim.json")) as file:
                    json.dump(cut, file, indent=1, ensure_ascii=False)
    if config.shards:
        for manifest in preparing.manifests(config.out):
            print(preparing.write_shards(manifest, config.out / "shards", config.shards, config.sample_rate))
    numbers = {}
    for manifest in preparing.manifests(config.out):
        split = manifest.relative_to(config.out).with_suffix("").as_posix()
        rows = read_manifest(manifest, on_error="skip")
        stats = statistics(rows)
        findings += preparing.text_findings(manifest.name, rows)
        numbers[split] = stats._asdict()
        print(report(split, stats))
    lines, by_kind = preparing.findings_report(findings)
    for line in lines:
        print(line)
    for problem in problems[:_SHOWN]:
        print(f"left out: {problem}")
    more = f", all named in {config.out / 'statistics.json'}" if len(problems) > _SHOWN else ""
    print(f"{len(problems)} recordings left out{more}")
    with open_atomic(config.out / "statistics.json") as file:
        json.dump({"splits": numbers, "left_out": problems, "findings": by_kind}, file, indent=1, ensure_ascii=False)
    return 0


class _Collect(logging.Filter):
    """Collects the warnings of a recipe that name what it left out, which the report prints; others pass."""

    def __init__(self):
        super().__init__()
        self.messages = LeftOut()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if "left out" not in message:
            return True
        rows = next((each for each in record.args or () if isinstance(each, LeftOut)), None)
        self.messages += [message.removeprefix("left out: ")] if rows is None else rows
        return False


def run_recipe(name: str, prepare, options, out: Path, lists: Sequence[Path] = (), channel: str = "mean") -> list[str]:
    """Run a recipe, unless it has finished in this folder with the same options and lists.

    Args:
        name: Name of the recipe.
        prepare: Function of the recipe: (out, options).
        options: Options of the recipe.
        out: Folder to write to.
        lists: Files of texts that the recipe reads. If they have changed, it runs again.
        channel: Channel of the recordings, which must be the same in all runs in a folder.

    Returns:
        What the recipe left out, in this run or in the finished one.

    Raises:
        UserError: If the folder belongs to another recipe or other options, or if there are no recordings.
    """
    settings = {key: mask_address(str(value)) for key, value in dataclasses.asdict(options).items()}
    settings |= {} if channel == "mean" else {"channel": channel}
    text = json.dumps({"recipe": name, "options": settings})
    digest = hashlib.sha256(text.encode()).hexdigest()
    note = out / "recipe.json"
    done = json.loads(_text(note, '{"sha256": ""}'))
    used = out.is_dir() and any(path != note for path in out.iterdir())  # a recipe that failed at once leaves nothing
    # An option that the recipe did not have then was at what is now its default.
    defaults = {field.name: str(field.default) for field in dataclasses.fields(options)}
    mean = {"channel": "mean"}
    recipe, was, now = done.get("recipe"), mean | defaults | done.get("options", {}), mean | settings
    if used and done["sha256"] and (recipe, was) != (name, now):
        keys = [key for key in {**was, **now} if was.get(key, "") != now.get(key, "")]
        flags = "; ".join(f"--{key.replace('_', '-')} {was.get(key, '')!r}, now {now.get(key, '')!r}" for key in keys)
        found = f"other options ({flags})" if recipe == name else f"another recipe ({recipe!r}, now {name!r})"
        raise UserError(f"{note}: found {found}, expected the same; use another --out, or delete the folder")
    finished = bool(done.get("finished")) and bool(preparing.manifests(out))
    read = _digest(lists)
    before = None
    if finished and done.get("lists", read) == read:
        print(f"{out}: the recipe has already run with these options; its manifests are kept")
        if lists and "lists" not in done:
            print(f"{out}: an earlier version wrote them, which did not note the content of {lists[0].name}")
        return list(done.get("left_out", []))
    if finished:
        names = ", ".join(path.name for path in lists)
        print(f"{out}: {names} has changed since the recipe ran here; it runs again")
        before = preparing.rows_before(out)
    warnings = _Collect()
    log.addFilter(warnings)
    complete = False
    try:
        for state in (False, True):
            fields = {"sha256": digest, "finished": state, "left_out": warnings.messages, "lists": read}
            with open_atomic(note) as file:
                json.dump(fields | json.loads(text), file, indent=1, ensure_ascii=False)
            if not state:
                prepare(out, options)
        complete = True
    finally:
        log.removeFilter(warnings)
        if not complete:
            say_left_out(warnings.messages)
            if not used:
                _remove_alone(note)
    if not preparing.manifests(out):
        raise UserError(f"{out}: the recipe {name!r} found no recordings")
    if before is not None:
        print(f"{out}: {preparing.forget_changed(out, before)}")
    return warnings.messages


def _digest(lists: Sequence[Path]) -> str:
    """Return the SHA-256 of some files, in hexadecimal; "" for none. A missing file counts as an empty one."""
    digest = hashlib.sha256()
    for path in lists:
        size = path.stat().st_size if path.is_file() else 0
        digest.update(f"{path.name} {size} ".encode())
        if size:
            with open(path, "rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest() if lists else ""


def _remove_alone(note: Path) -> None:
    """Remove the note of a recipe that failed at once, and its folder; both stay if there is anything else."""
    with contextlib.suppress(OSError):
        if [path.name for path in note.parent.iterdir()] == [note.name]:
            note.unlink()
            note.parent.rmdir()


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
