"""Checkpoints: saved in the background, hashed, verified before reading; a damaged one falls back to the one before.

A run's folder holds checkpoints/<step>/ with state (arrays, by orbax), data (JSON: position of the data, metrics,
settings of the data pipeline), assets (JSON: whatever the caller needs to use the model) and the checksum file.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import logging
import shutil
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from speech_jax.core.errors import UserError
from speech_jax.core.log import log
from speech_jax.core.rules import nest_leaves
from speech_jax.core.types import PyTree, TrainState
from speech_jax.training.checksums import NAME, replace_file, write_checksums
from speech_jax.training.config import CheckpointConfig
from speech_jax.training.guard import is_guarded, is_within, rank
from speech_jax.training.layout import (
    HostShape,
    find_fault,
    from_groups,
    read_item,
    read_state,
    saved_steps,
    stored_shapes,
    to_groups,
    unfinished,
)

T = TypeVar("T")

FOLDER = "checkpoints"
NONE, ALL_DAMAGED = -1, -2  # instead of a step


class Checkpoints:
    """Checkpoints of a run in training. To read finished ones, see `load_params` and `load_assets`.

    Args:
        run: folder of the run.
        config: which checkpoints are kept.
        assets: JSON that is saved with every checkpoint.
    """

    def __init__(self, run: Path, config: CheckpointConfig, assets: Mapping[str, Any]):
        self.root = Path(run).absolute() / FOLDER
        self._config = config
        self._assets = json.loads(json.dumps(assets))  # if it is no JSON, it fails here, not in the background
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._failed = False
        self._step: int | None = None
        if jax.process_index() == 0:  # partial saves of a killed run
            for partial in self.root.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(partial, ignore_errors=True)
            for folder in unfinished(self.root):
                log.warning("%s: found no checksum file, as its save did not finish: it is set aside", folder)
                self._set_aside(folder)
        self._records: dict[int, Mapping[str, Any]] = {}  # for the choice of the best
        for step in saved_steps(self.root):
            with contextlib.suppress(OSError, ValueError, UserError):  # damaged; set aside when it is restored
                self._records[step] = dict(read_item(self.root / str(step), "data"))
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

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Select the newest and the best checkpoints; orbax calls this after every save."""
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        ranked = rank({step: self._records[step] for step in steps if step in self._records})
        kept = {*sorted(steps)[-max(self._config.keep_last, 2) :], *ranked[: self._config.keep_best]}
        return [step in kept for step in steps]

    def latest_step(self) -> int | None:
        """Return the newest step that has been saved or is being saved."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, data: Mapping[str, Any], *, wait: bool = False) -> None:
        """Save a checkpoint in the background; first waits for a save that is still running.

        Args:
            step: the step.
            state: the training state; its arrays are copied before this returns.
            data: JSON; with "metrics" and the guards' "limits" in it if there are any, see `guard.rank`.
            wait: return only when everything is on disk and hashed.

        Raises:
            UserError: if this save or the one before failed, for example because the disk is full. Earlier checkpoints
                are untouched.
        """
        self.wait()
        record = self._record(step, data)
        self._step = step
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

    def _record(self, step: int, data: Mapping[str, Any]) -> dict[str, Any]:
        record = dict(data) | {"step": step, "best_metric": self._config.metric, "best_mode": self._config.mode}
        self._records[step] = record
        return record

    def update(self, step: int, data: Mapping[str, Any]) -> None:
        """Replace the data of a saved checkpoint, for example by those with the metrics that it lacked."""
        self.wait()
        record = self._record(step, data)
        if jax.process_index() == 0:
            try:
                replace_file(self.root / str(step), "data/metadata", json.dumps(record).encode())
            except OSError as error:
                raise UserError(f"{self.root / str(step)}: cannot be updated ({error.strerror})") from error

    def _check_space(self, state: TrainState) -> None:
        """Detect a full disk before anything is written."""
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
        """Raise UserError if the save in the background failed; does not wait."""
        if self._thread is not None and not self._thread.is_alive():
            self.wait()

    def wait(self) -> None:
        """Wait for the save in the background. Raises UserError if it failed."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._raise()

    def _raise(self) -> None:
        if self._error is None:
            return
        error, self._error, self._failed = self._error, None, True
        self._remove_partial()
        whole = [step for step in saved_steps(self.root) if find_fault(self.root / str(step)) is None]
        last = f"the last good checkpoint is step {whole[-1]}" if whole else "there is no earlier checkpoint"
        text = " ".join(str(error).split())
        _clear_frames(error)
        raise UserError(f"{self.root}: cannot save step {self._step} ({text[:300]}); {last}") from error

    def _remove_partial(self) -> None:
        """Delete the files of a failed save; its other writers may still be running for a moment."""
        for _ in range(40):
            partial = list(self.root.glob(f"{self._step}.orbax-checkpoint-tmp*"))
            if not partial:
                return
            for folder in partial:
                shutil.rmtree(folder, ignore_errors=True)
            time.sleep(0.05)

    def restore(
        self, like: TrainState, decide: Callable[[int, dict[str, Any], dict[str, Any]], None] | None = None
    ) -> tuple[TrainState, dict[str, Any]] | None:
        """Restore the newest checkpoint that is whole.

        A damaged checkpoint is reported in a warning and renamed to <step>.damaged (only the last such folder is kept),
        and the one before is restored.

        Args:
            like: shapes with shardings; the state is restored into them, whatever mesh it was saved from.
            decide: called with the step, the data of `save` and the assets before the state is read; may raise.

        Returns:
            The state and the data of `save`; None if there is no checkpoint.

        Raises:
            UserError: if the checkpoint is of another model, or if all checkpoints are damaged.
        """
        self.wait()
        step = self._choose(self._newest_whole)
        if step == NONE:
            return None
        if step == ALL_DAMAGED:
            raise UserError(f"{self.root}: found only damaged checkpoints, expected one that is whole")
        self._records = {saved: record for saved, record in self._records.items() if saved <= step}
        folder = self.root / str(step)
        record = read_item(folder, "data")
        if decide is not None:
            decide(step, record, read_item(folder, "assets"))
        state = from_groups(read_state(folder, to_groups(like)), like)
        if int(state.step) != step:
            raise UserError(f"{folder}: found the state of step {int(state.step)}, expected that of step {step}")
        return state, record

    def find_best(self, limits: Mapping[str, float]) -> Mapping[str, Any]:
        """Return the data of the best checkpoint that is kept, by the metric in force; empty if there is none.

        The best ones are verified until `keep_best` are whole. A damaged one is set aside as in `restore`, so that it
        does not take the place of one that is whole.

        Args:
            limits: the guards' limits in force.
        """
        by = {"best_metric": self._config.metric, "best_mode": self._config.mode, "limits": limits}

        def best_whole() -> int:
            ranked = rank(self._records, by)
            whole = (step for step in ranked if self._is_whole(step, f"step {step} is not the best"))
            best = [*itertools.islice(whole, max(self._config.keep_best, 1))]
            return best[0] if best else NONE

        return self._records.get(self._choose(best_whole), {})

    def _choose(self, choose: Callable[[], int]) -> int:
        """Return the step that process 0 chooses for all."""
        step = choose() if jax.process_index() == 0 else NONE
        if jax.process_count() > 1:
            step = int(multihost_utils.broadcast_one_to_all(np.int64(step)))
            self._manager.reload()
        return step

    def _newest_whole(self) -> int:
        steps = saved_steps(self.root)
        for step in reversed(steps):
            if self._is_whole(step, f"falling back to the checkpoint before step {step}"):
                return step
        return ALL_DAMAGED if steps else NONE

    def _is_whole(self, step: int, consequence: str) -> bool:
        """Verify a checkpoint; a damaged one is reported and set aside."""
        folder = self.root / str(step)
        damage = find_fault(folder)
        if damage is not None:
            log.warning("%s; %s", damage, consequence)
            self._set_aside(folder)
            self._manager.reload()
        return damage is None

    def _set_aside(self, folder: Path) -> None:
        for older in self.root.glob("*.damaged"):  # one is enough to examine
            shutil.rmtree(older, ignore_errors=True)
        folder.rename(folder.with_name(f"{folder.name}.damaged"))

    def close(self) -> None:
        """Wait for the save in the background. Raises UserError if it failed, but not for an error raised before."""
        try:
            self.wait()
        finally:
            with contextlib.suppress(*([Exception] if self._failed else [])):  # orbax raises a failed save again
                self._manager.close()


def _not_orbax_errors(record: logging.LogRecord) -> bool:
    """Suppress orbax's log of a traceback that it also raises: `Checkpoints` reports it in one line."""
    return not (record.exc_info and "orbax" in record.pathname)


def _clear_frames(error: BaseException | None) -> None:
    """Free the objects in the frames of an exception: interrupted writers would raise again at exit."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
    gc.collect()


# --- reading finished checkpoints ---


Which = Literal["best", "last"] | int
_READ_TRIES = 10


class _Vanished(Exception):
    """Raised where a training has deleted a checkpoint between two looks at it."""


def find_checkpoint(path: str | Path, which: Which = "best") -> Path:
    """Find one whole checkpoint and verify its checksums.

    A damaged checkpoint is reported in a warning, and the next best, or the one before, is taken. If `path` is a step's
    folder or `which` a number, damage is an error instead. A best one that is not the last is reported in the log. A
    training may write and delete checkpoints at the same time.

    Args:
        path: folder of a run, or of one step.
        which: "best", "last" or a step; in the folder of a run only. "best" is the best by the run's metric within its
            guards (`guard.rank`), and the last one of a run without both.

    Returns:
        The step's folder.

    Raises:
        UserError: if there is no such checkpoint, no whole one, or no best one: every evaluated checkpoint breaks a
            guard or has a metric that is not finite.
    """
    if not str(path):
        raise UserError("checkpoint: found '', expected a run's folder or the folder of one step")
    return _until_whole(path, lambda: _find_checkpoint(Path(path).absolute(), which))


def _until_whole(path: str | Path, look: Callable[[], T]) -> T:
    """Look for a checkpoint again where a training has deleted the one that was found."""
    for _ in range(_READ_TRIES):
        with contextlib.suppress(_Vanished):
            return look()
    raise UserError(f"{path}: found checkpoints that are deleted faster than they can be read")


def _is_deleted(*folders: Path) -> bool:
    """Return whether one of the checkpoints that could not be read is being deleted: its checksums are gone."""
    time.sleep(0.2)  # a deletion takes a moment
    return not all((folder / NAME).exists() for folder in folders)


def _find_checkpoint(path: Path, which: Which) -> Path:
    if (path / "state").is_dir():
        damage = find_fault(path)
        if damage:
            raise UserError(damage)
        return path
    root = path / FOLDER if (path / FOLDER).is_dir() else path
    steps = saved_steps(root)
    if not steps:  # or the one that was listed has been deleted meanwhile, and the next one was not finished
        time.sleep(0.2)
        steps = saved_steps(root)
    if not steps:
        partial = "".join(f"; the save of step {folder.name} has not finished" for folder in unfinished(root))
        raise UserError(f"{path}: found no checkpoint, expected a run's folder or the folder of one step{partial}")
    if which not in ("best", "last"):
        if which not in steps:
            raise UserError(f"{root}: found no step {which}, expected one of {', '.join(map(str, steps))}")
        return find_checkpoint(root / str(which))
    whole = []
    for step in reversed(steps):
        try:
            damage = find_fault(root / str(step))
        except Exception:  # whatever orbax raises for files that are deleted meanwhile
            damage = f"{root / str(step)}: cannot be read"
        if damage:
            if _is_deleted(root / str(step)):
                raise _Vanished
            log.warning("%s; this checkpoint is not used", damage)
        else:
            whole.append(root / str(step))
            if which == "last":
                break
    if not whole:
        raise UserError(f"{root}: found {len(steps)} checkpoints, all damaged, expected one that is whole")
    try:
        return whole[0] if which == "last" else _best(whole)
    except (OSError, UserError) as error:
        if not _is_deleted(*whole):
            raise
        raise _Vanished from error


def _best(folders: list[Path]) -> Path:
    """Return the best of a run's checkpoints, of which the first is the newest. Raises UserError if there is none."""
    records = {int(folder.name): read_item(folder, "data") for folder in folders}
    last, newest = folders[0], records[int(folders[0].name)]
    metric, guarded = newest.get("best_metric"), is_guarded(newest)
    ranked = rank(records)
    if ranked:
        best = last.with_name(str(ranked[0]))
        if best != last:
            by = f"by {metric}" if metric is not None else "within its guards"
            log.warning("%s: step %s is taken, the best %s; the last is step %s", last.parent, best.name, by, last.name)
        return best
    evaluated = {step: record for step, record in records.items() if record.get("metrics")}
    if not guarded and not any(metric in record["metrics"] for record in evaluated.values()):
        if metric is not None:
            why = f"was evaluated by {metric}" if evaluated else "was evaluated"
            log.warning("%s: no checkpoint %s; step %s, the last, is taken", last.parent, why, last.name)
        return last
    raise UserError(
        f"{last.parent}: {_why_none(evaluated, newest, guarded)}, so that none is the best; to take the last, give "
        f"--which last (start.which last for init_from) or its own folder {last}"
    )


def _why_none(evaluated: Mapping[int, Mapping[str, Any]], newest: Mapping[str, Any], guarded: bool) -> str:
    """Say why no checkpoint may be the best, with the metrics of the newest three."""
    limits, metric = newest.get("limits") or {}, newest.get("best_metric")
    if not any(limits.keys() <= record["metrics"].keys() for record in evaluated.values()):
        return "no checkpoint was evaluated, and it is unknown if its guards hold"
    if guarded and not any(is_within(record, newest) for record in evaluated.values()):
        why = "every evaluated checkpoint breaks a guard"
    elif guarded:
        why = f"no evaluated checkpoint is within its guards and has a finite {metric}"
    else:
        why = f"no evaluated checkpoint has a finite {metric}"
    details = []
    for step in sorted(evaluated, reverse=True)[:3]:
        metrics = evaluated[step]["metrics"]
        values = [f"{name} {metrics[name]:.4g}, limit {limit:.4g}" for name, limit in limits.items() if name in metrics]
        values += [f"{metric} {metrics[metric]:.4g}"] if metric in metrics and metric not in limits else []
        details.append(f"step {step}: {', '.join(values)}")
    return f"of those kept, {why} ({'; '.join(details)})"


def load_assets(path: str | Path, which: Which = "best") -> dict[str, Any]:
    """Load the JSON that was saved with the parameters: config, tokenizer, audio settings, versions.

    Args:
        path: folder of a run, or of one step.
        which: "best", "last" or a step.

    Raises:
        UserError: if there is no whole checkpoint.
    """
    return read_assets(find_checkpoint(path, which))


def read_assets(folder: Path) -> dict[str, Any]:
    """Read the assets of a folder that `find_checkpoint` has verified; unlike `load_assets`, does not hash again."""
    return read_item(folder, "assets")


def load_params(path: str | Path, which: Which = "best", *, ema: bool = True) -> tuple[PyTree, PyTree]:
    """Load the parameters of a checkpoint as NumPy arrays, on no device and no mesh.

    Args:
        path: folder of a run, or of one step.
        which: "best", "last" or a step.
        ema: load the moving average of the parameters, if the run kept one.

    Returns:
        (params, model_state) as nested dicts of NumPy arrays.

    Raises:
        UserError: if there is no whole checkpoint.

    Example:
        >>> import tempfile
        >>> import jax.numpy as jnp
        >>> from speech_jax.core.types import TrainState
        >>> from speech_jax.training.checkpoint import Checkpoints, load_assets, load_params
        >>> from speech_jax.training.config import CheckpointConfig
        >>> params = {"head": {"kernel": jnp.full((2, 3), 0.5)}}
        >>> state = TrainState(step=jnp.int32(1), params=params, model_state={}, opt_state={}, ema=None)
        >>> with tempfile.TemporaryDirectory() as run:
        ...     checkpoints = Checkpoints(run, CheckpointConfig(), assets={"labels": ["a", "b"]})
        ...     checkpoints.save(1, state, data={}, wait=True)
        ...     checkpoints.close()
        ...     loaded, _ = load_params(run)
        ...     assets = load_assets(run)
        >>> loaded["head"]["kernel"].shape, float(loaded["head"]["kernel"].sum()), assets["labels"]
        ((2, 3), 3.0, ['a', 'b'])
    """
    return read_params(find_checkpoint(path, which), ema=ema)


def read_params(folder: Path, *, ema: bool = True) -> tuple[PyTree, PyTree]:
    """Read the parameters of a folder that `find_checkpoint` has verified; see `load_params`."""
    stored = stored_shapes(folder)
    group = "ema" if ema and "ema" in stored else "params"
    shapes = {name: stored[name] for name in (group, "model_state") if name in stored}
    like = {name: {leaf: HostShape(m.shape) for leaf, m in leaves.items()} for name, leaves in shapes.items()}
    arrays = read_state(folder, like)
    return nest_leaves(arrays[group]), nest_leaves(arrays.get("model_state", {}))


class OpenCheckpoint(NamedTuple):
    """One whole checkpoint, found and verified once; its arrays are read on demand.

    Attributes:
        path: The path that the user gave, for messages.
        folder: The folder of the step.
        assets: The JSON saved with the parameters: config, tokenizer, audio settings, versions.
    """

    path: str
    folder: Path
    assets: dict[str, Any]

    def params(self, *, ema: bool = True) -> tuple[PyTree, PyTree]:
        """Return (params, model_state), see `load_params`."""
        try:
            return read_params(self.folder, ema=ema)
        except (OSError, ValueError) as error:
            if not _is_deleted(self.folder):
                raise
            raise UserError(f"{self.folder}: the checkpoint was deleted while it was read; read it again") from error


def open_checkpoint(path: str | Path | OpenCheckpoint, which: Which = "best") -> OpenCheckpoint:
    """Find and verify one checkpoint, and read its assets; an open one is returned as it is.

    Raises UserError as `find_checkpoint` does.
    """
    if isinstance(path, OpenCheckpoint):
        return path

    def look() -> OpenCheckpoint:
        folder = find_checkpoint(path, which)
        try:
            return OpenCheckpoint(str(path), folder, read_assets(folder))
        except (OSError, UserError) as error:
            if not _is_deleted(folder):
                raise
            raise _Vanished from error

    return _until_whole(path, look)
