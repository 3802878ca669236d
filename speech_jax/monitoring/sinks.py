"""Optional places for a run's numbers beside its own folder: MLflow, and Weights & Biases without a network.

Each is imported only where the config asks for it. What cannot be written there is said once and costs the run nothing.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from speech_jax.core.errors import UserError

logger = logging.getLogger(__name__)

Parts = Mapping[str, Mapping[str, float | None]]


class MLflowSink:
    """A run in an MLflow store such as sqlite:///mlflow.db; a run that goes on stays the same run there.

    folder: the run's folder; its name is the run's name, and the id is kept in it.
    """

    def __init__(self, uri: str, folder: Path):
        mlflow = _library("mlflow", "trainer.watch.mlflow")
        kept = folder / "mlflow_run"
        try:
            self._client = mlflow.MlflowClient(tracking_uri=uri)
            experiment = self._client.get_experiment_by_name("speech_jax")
            number = experiment.experiment_id if experiment else self._client.create_experiment("speech_jax")
            if kept.exists():
                self._run = self._client.get_run(kept.read_text(encoding="utf-8").strip()).info.run_id
            else:
                self._run = self._client.create_run(number, run_name=folder.resolve().name).info.run_id
                kept.write_text(self._run, encoding="utf-8")
        except Exception as error:  # whatever its store raises
            line = " ".join(str(error).split())
            raise UserError(
                f"trainer.watch.mlflow: found {uri!r} ({line[:200]}), expected a store to write to"
            ) from error
        self._metric = importlib.import_module("mlflow.entities").Metric
        self._write = _once(self._send, "MLflow")

    def write(self, kind: str, step: int, parts: Parts) -> None:
        self._write(kind, step, parts)

    def _send(self, kind: str, step: int, parts: Parts) -> None:
        now = int(time.time() * 1000)
        metrics = [self._metric(name, value, now, step) for name, value in _flat(kind, parts).items()]
        self._client.log_batch(self._run, metrics=metrics)

    def close(self) -> None:
        _once(lambda: self._client.set_terminated(self._run), "MLflow")()


class WandbSink:
    """A Weights & Biases run in the run's folder, offline: `wandb sync` sends it where it is wanted."""

    def __init__(self, project: str, folder: Path):
        wandb = _library("wandb", "trainer.watch.wandb")
        kept = folder / "wandb_run"
        known = kept.read_text(encoding="utf-8").strip() if kept.exists() else None
        try:
            self._run = wandb.init(
                project=project, name=folder.resolve().name, dir=str(folder), mode="offline", id=known,
                settings=wandb.Settings(silent=True),
            )  # fmt: skip
            kept.write_text(self._run.id, encoding="utf-8")
        except Exception as error:
            line = " ".join(str(error).split())
            raise UserError(
                f"trainer.watch.wandb: found {project!r} ({line[:200]}), expected a project's name"
            ) from error
        self._write = _once(self._send, "Weights & Biases")

    def write(self, kind: str, step: int, parts: Parts) -> None:
        self._write(kind, step, parts)

    def _send(self, kind: str, step: int, parts: Parts) -> None:
        self._run.log(_flat(kind, parts), step=step)

    def close(self) -> None:
        _once(self._run.finish, "Weights & Biases")()


def _flat(kind: str, parts: Parts) -> dict[str, float]:
    """The names of TensorBoard: train/loss, rates/padding. What is not finite is left out."""
    return {
        f"{kind if part == 'metrics' else part}/{name}": value
        for part, values in parts.items()
        for name, value in values.items()
        if value is not None
    }


def _library(name: str, field: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{field}: found no {name} installed, expected it: pip install {name}") from error


def _once(call: Callable, what: str) -> Callable:
    """The function, until it fails for the first time: that is said, and from then on nothing happens."""
    failed: list[bool] = []

    def guarded(*arguments: Any) -> None:
        if failed:
            return
        try:
            call(*arguments)
        except Exception as error:
            failed.append(True)
            logger.warning("%s cannot be written any more (%s); metrics.jsonl goes on", what, error)

    return guarded
