"""Checkpoints: saved in the background, hashed, verified before they are read; a bad one falls back to the one before.

A run's folder holds checkpoints/<step>/ with three items: state (arrays, by orbax), data (JSON: where the data stood,
the metrics, the pipeline's settings) and assets (JSON: whatever the caller needs to use the model), and the manifest.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import math
import shutil
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from speech_jax.core.errors import UserError
from speech_jax.core.rules import nest_leaves
from speech_jax.core.types import PyTree, TrainState
from speech_jax.training.checksums import find_damage, write_checksums
from speech_jax.training.config import CheckpointConfig
from speech_jax.training.layout import (
    HostShape,
    from_groups,
    read_item,
    read_state,
    saved_steps,
    stored_shapes,
    to_groups,
)

FOLDER = "checkpoints"
NONE, ALL_DAMAGED = -1, -2  # instead of a step
logger = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one run that trains. Reading finished ones needs no object: see `load_params`,
    `load_assets`."""

    def __init__(self, run: Path, config: CheckpointConfig, assets: Mapping[str, Any]):
        self.root = Path(run).absolute() / FOLDER
        self._config = config
        self._assets = json.loads(json.dumps(assets))  # fails here, not in the background, if it is no JSON
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._failed = False
        self._step: int | None = None
        if jax.process_index() == 0:  # what a killed run left half written
            for partial in self.root.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(partial, ignore_errors=True)
        self._scores: dict[int, float] = {}
        for step in saved_steps(self.root):
            self._note_score(step)
        logging.getLogger("absl").addFilter(_not_orbax_errors)
        self._manager = ocp.CheckpointManager(
            self.root,
            item_names=("state", "data", "assets"),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self,
                cleanup_tmp_directories=True,
                enable_async_checkpointing=True,
            ),
        )

    def _note_score(self, step: int, record: Mapping[str, Any] | None = None) -> None:
        """Remembers how good a step is: a smaller score is better."""
        try:
            record = read_item(self.root / str(step), "data") if record is None else record
            value = _guarded(record).get(self._config.metric)
        except (OSError, ValueError, AttributeError):
            return  # a damaged one: found and set aside when it is read
        if value is not None and math.isfinite(value):
            self._scores[step] = -value if self._config.mode == "max" else value

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Orbax asks this after every save: the newest and the best are kept."""
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        known = sorted((step for step in steps if step in self._scores), key=lambda step: (self._scores[step], step))
        kept = {*sorted(steps)[-max(self._config.keep_last, 2) :], *known[: self._config.keep_best]}
        return [step in kept for step in steps]

    def latest_step(self) -> int | None:
        """The newest step that has been saved or is being saved."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, data: Mapping[str, Any], *, wait: bool = False) -> None:
        """Starts to save; returns when the arrays are copied, or with `wait` when all is on the disk and hashed.

        data: JSON, with "metrics" in it where there are any. Waits for the save before, if that is still under way.
        Raises UserError if this save or the one before failed (the disk is full); earlier checkpoints are untouched.
        """
        self.wait()
        record = dict(data) | {"step": step, "best_metric": self._config.metric, "best_mode": self._config.mode}
        self._step = step
        self._note_score(step, record)
        try:
            self._check_space(state)
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(to_groups(state)),
                    data=ocp.args.JsonSave(record),
                    assets=ocp.args.JsonSave(self._assets),
                ),
                force=True,
            )
        except Exception as error:  # whatever a file system can throw
            self._error = error
            self._raise()
        self._thread = threading.Thread(target=self._finish, args=(step,), name=f"checkpoint-{step}", daemon=True)
        self._thread.start()
        if wait:
            self.wait()

    def _check_space(self, state: TrainState) -> None:
        """Notices a full disk before anything is half written."""
        needed = sum(x.nbytes for x in jax.tree.leaves(state)) // jax.process_count()
        free = shutil.disk_usage(self.root).free
        if free < needed:
            raise OSError(f"the disk is full: found {free / 1e6:.0f} MB free, expected {needed / 1e6:.0f} MB")

    def _finish(self, step: int) -> None:
        try:
            self._manager.wait_until_finished()
            if jax.process_index() == 0:
                write_checksums(self.root / str(step))
        except BaseException as error:  # handed to the main thread by wait()
            self._error = error

    def check(self) -> None:
        """Raises UserError if the save in the background failed; does not wait."""
        if self._thread is not None and not self._thread.is_alive():
            self.wait()

    def wait(self) -> None:
        """Waits until nothing is being saved. Raises UserError if it failed."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._raise()

    def _raise(self) -> None:
        if self._error is None:
            return
        error, self._error, self._failed = self._error, None, True
        self._remove_partial()
        good = [step for step in saved_steps(self.root) if find_damage(self.root / str(step)) is None]
        left = f"the last good checkpoint is step {good[-1]}" if good else "there is no earlier checkpoint"
        text = " ".join(str(error).split())
        _forget_frames(error)
        raise UserError(f"{self.root}: cannot save step {self._step} ({text[:300]}); {left}") from error

    def _remove_partial(self) -> None:
        """Gives the space of a failed save back; other writers of that save may still be at work for a moment."""
        for _ in range(40):
            partial = list(self.root.glob(f"{self._step}.orbax-checkpoint-tmp*"))
            if not partial:
                return
            for folder in partial:
                shutil.rmtree(folder, ignore_errors=True)
            time.sleep(0.05)

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """(state, data) of the newest checkpoint that is whole, or None if there is none at all.

        like: shapes with shardings; the state is born on them, whatever mesh it was saved from. A damaged checkpoint
        is named in a warning, set aside as <step>.damaged (the last such one is kept) and the one before is taken.
        Raises UserError if the checkpoint is another model's, or if there are checkpoints but all are damaged.
        """
        self.wait()
        step = self._newest_whole() if jax.process_index() == 0 else 0
        if jax.process_count() > 1:  # one process looks, all take the same
            step = int(multihost_utils.broadcast_one_to_all(np.int64(step)))
            self._manager.reload()
        if step == NONE:
            return None
        if step == ALL_DAMAGED:
            raise UserError(f"{self.root}: found only damaged checkpoints, expected one that is whole")
        folder = self.root / str(step)
        state = from_groups(read_state(folder, to_groups(like)), like)
        return state, read_item(folder, "data")

    def _newest_whole(self) -> int:
        steps = saved_steps(self.root)
        for step in reversed(steps):
            damage = find_damage(self.root / str(step))
            if damage is None:
                return step
            logger.warning("%s; falling back to the checkpoint before step %d", damage, step)
            self._set_aside(self.root / str(step))
        return ALL_DAMAGED if steps else NONE

    def _set_aside(self, folder: Path) -> None:
        for older in self.root.glob("*.damaged"):  # one is enough to look into
            shutil.rmtree(older, ignore_errors=True)
        folder.rename(folder.with_name(f"{folder.name}.damaged"))
        self._manager.reload()

    def close(self) -> None:
        """Waits for what is being saved. Raises UserError if that fails, but not again for what `save` has raised."""
        try:
            self.wait()
        finally:
            with contextlib.suppress(Exception if self._failed else ()):  # orbax repeats the error of a failed save
                self._manager.close()


def _not_orbax_errors(record: logging.LogRecord) -> bool:
    """Keeps orbax from logging a traceback of an error that it also raises: `Checkpoints` says it in one line."""
    return not (record.exc_info and "orbax" in record.pathname)


def _forget_frames(error: BaseException | None) -> None:
    """Frees what the frames of an exception hold: writers cut off in the middle would complain at the program's end."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
    gc.collect()


# --- reading a finished checkpoint, for front doors


Which = Literal["best", "last"] | int


def find_checkpoint(path: str | Path, which: Which = "best") -> Path:
    """The folder of one whole checkpoint: `path` itself if it is one, else the one that `which` names in a run's
    folder.

    "best" is the last where no metric was kept. A damaged one is named in a warning and the next best, or the one
    before, is taken; if a step's folder or number was asked for, it is an error instead.
    Raises UserError if there is none.
    """
    path = Path(path).absolute()
    if (path / "state").is_dir():
        damage = find_damage(path)
        if damage:
            raise UserError(damage)
        return path
    root = path / FOLDER if (path / FOLDER).is_dir() else path
    steps = saved_steps(root)
    if not steps:
        raise UserError(f"{path}: found no checkpoint, expected a run's folder or the folder of one step")
    if which not in ("best", "last"):
        if which not in steps:
            raise UserError(f"{root}: found no step {which}, expected one of {', '.join(map(str, steps))}")
        return find_checkpoint(root / str(which))
    whole = []
    for step in reversed(steps):
        damage = find_damage(root / str(step))
        if damage:
            logger.warning("%s; this checkpoint is not used", damage)
        else:
            whole.append(root / str(step))
            if which == "last":
                break
    if not whole:
        raise UserError(f"{root}: found {len(steps)} checkpoints, all damaged, expected one that is whole")
    return whole[0] if which == "last" else _best(whole)


def _best(folders: list[Path]) -> Path:
    """The best by the metric that the newest of them names; the newest if none has it."""
    records = {folder: read_item(folder, "data") for folder in folders}
    metric, mode = records[folders[0]].get("best_metric"), records[folders[0]].get("best_mode")
    sign = -1 if mode == "max" else 1
    scores = {f: _guarded(r).get(metric) for f, r in records.items()}
    known = {f: sign * s for f, s in scores.items() if s is not None and math.isfinite(s)}
    return min(known, key=known.__getitem__) if known else folders[0]


def _guarded(record: Mapping[str, Any]) -> Mapping[str, float]:
    """The metrics of a checkpoint that may be the best: none where a guard was broken."""
    return (record.get("metrics") or {}) if record.get("within_guards", True) else {}


def load_assets(path: str | Path, which: Which = "best") -> dict[str, Any]:
    """The JSON that the training run put beside the parameters: config, tokenizer, audio settings, versions."""
    return read_assets(find_checkpoint(path, which))


def read_assets(folder: Path) -> dict[str, Any]:
    """`load_assets` of a folder that `find_checkpoint` has just found whole: every call of that hashes all files."""
    return read_item(folder, "assets")


def load_params(path: str | Path, which: Which = "best", *, ema: bool = True) -> tuple[PyTree, PyTree]:
    """(params, model_state) as nested dicts of NumPy arrays, on no device and no mesh.

    ema: the moving average instead of the parameters, where the run kept one.
    Raises UserError if there is no whole checkpoint.
    """
    return read_params(find_checkpoint(path, which), ema=ema)


def read_params(folder: Path, *, ema: bool = True) -> tuple[PyTree, PyTree]:
    """`load_params` of a folder that `find_checkpoint` has just found whole."""
    stored = stored_shapes(folder)
    group = "ema" if ema and "ema" in stored else "params"
    wanted = {name: stored[name] for name in (group, "model_state") if name in stored}
    like = {name: {leaf: HostShape(m.shape) for leaf, m in leaves.items()} for name, leaves in wanted.items()}
    arrays = read_state(folder, like)
    return nest_leaves(arrays[group]), nest_leaves(arrays.get("model_state", {}))


class OpenCheckpoint(NamedTuple):
    """One whole checkpoint, found and verified once; its arrays are read on demand.

    Attributes:
        path: The path that the user gave, for messages.
        folder: The folder of the step.
        assets: The JSON beside the parameters: config, tokenizer, audio settings, versions.
    """

    path: str
    folder: Path
    assets: dict[str, Any]

    def params(self, *, ema: bool = True) -> tuple[PyTree, PyTree]:
        """Return (params, model_state), see `load_params`."""
        return read_params(self.folder, ema=ema)


def open_checkpoint(path: str | Path, which: Which = "best") -> OpenCheckpoint:
    """Find and verify one checkpoint, and read its assets. Raises UserError as `find_checkpoint` does."""
    folder = find_checkpoint(path, which)
    return OpenCheckpoint(str(path), folder, read_assets(folder))
