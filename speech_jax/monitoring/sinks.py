"""Optional trackers in addition to the run's folder: MLflow, and Weights & Biases offline.

Each is imported only if the config names it. If one cannot be written, that is logged once, and the run continues.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from speech_jax.core.errors import UserError
from speech_jax.core.log import log
from speech_jax.core.passwords import is_masked, mask_passwords
from speech_jax.monitoring.tracking import flat

Parts = Mapping[str, Mapping[str, float | None]]


class MLflowSink:
    """A run in an MLflow store. A resumed run stays the same run there.

    Args:
        uri: the store, such as sqlite:///mlflow.db; "env" is the one in MLFLOW_TRACKING_URI.
        folder: the run's folder; its name becomes the run's name, and the file mlflow_run in it holds the run's id.

    Raises:
        UserError: if MLflow is not installed or the store cannot be written.
    """

    def __init__(self, uri: str, folder: Path):
        mlflow = _library("mlflow", "trainer.watch.mlflow")
        uri = _store(uri)
        id_file = folder / "mlflow_run"
        try:
            self._client = mlflow.MlflowClient(tracking_uri=uri)
            experiment = self._client.get_experiment_by_name("speech_jax")
            experiment_id = experiment.experiment_id if experiment else self._client.create_experiment("speech_jax")
            if id_file.exists():
                self._run = self._client.get_run(id_file.read_text(encoding="utf-8").strip()).info.run_id
            else:
                self._run = self._client.create_run(experiment_id, run_name=folder.resolve().name).info.run_id
                id_file.write_text(self._run, encoding="utf-8")
        except Exception as error:  # stores raise errors of many kinds
            line = mask_passwords(" ".join(str(error).split()), uri)
            raise UserError(
                f"trainer.watch.mlflow: found {uri!r} ({line[:200]}), expected a store to write to"
            ) from error
        self._metric = importlib.import_module("mlflow.entities").Metric
        self._uri = uri
        self._write = _until_failure(self._send, "MLflow", uri)

    def write(self, kind: str, step: int, parts: Parts) -> None:
        """Log one line, see `Tracker.write`."""
        self._write(kind, step, parts)

    def _send(self, kind: str, step: int, parts: Parts) -> None:
        now = int(time.time() * 1000)
        metrics = [self._metric(name, value, now, step) for name, value in flat(kind, parts).items()]
        self._client.log_batch(self._run, metrics=metrics)

    def close(self) -> None:
        """Mark the run as finished."""
        _until_failure(lambda: self._client.set_terminated(self._run), "MLflow", self._uri)()


class WandbSink:
    """An offline Weights & Biases run in the run's folder; upload it with `wandb sync`.

    Args:
        project: name of the project.
        folder: the run's folder; its name becomes the run's name, and the file wandb_run in it holds the run's id.

    Raises:
        UserError: if wandb is not installed or cannot write the run.
    """

    def __init__(self, project: str, folder: Path):
        wandb = _library("wandb", "trainer.watch.wandb")
        id_file = folder / "wandb_run"
        run_id = id_file.read_text(encoding="utf-8").strip() if id_file.exists() else None
        try:
            self._run = wandb.init(
                project=project, name=folder.resolve().name, dir=str(folder), mode="offline", id=run_id,
                settings=wandb.Settings(silent=True),
            )  # fmt: skip
            id_file.write_text(self._run.id, encoding="utf-8")
        except Exception as error:
            line = " ".join(str(error).split())
            raise UserError(
                f"trainer.watch.wandb: found {project!r} ({line[:200]}), expected a project's name"
            ) from error
        self._write = _until_failure(self._send, "Weights & Biases")

    def write(self, kind: str, step: int, parts: Parts) -> None:
        """Log one line, see `Tracker.write`."""
        self._write(kind, step, parts)

    def _send(self, kind: str, step: int, parts: Parts) -> None:
        self._run.log(flat(kind, parts), step=step)

    def close(self) -> None:
        """Finish the run."""
        _until_failure(self._run.finish, "Weights & Biases")()


def _store(uri: str) -> str:
    """Return the address of the MLflow store, which "env" leaves to the environment."""
    if uri == "env":
        uri = os.environ.get("MLFLOW_TRACKING_URI", "")
        if not uri:
            raise UserError("trainer.watch.mlflow: found 'env' without MLFLOW_TRACKING_URI, expected it to be set")
    if is_masked(uri):
        raise UserError(
            f"trainer.watch.mlflow: found {uri!r} from a saved config, which has no password, expected the store's "
            "address, or 'env' and the address in MLFLOW_TRACKING_URI"
        )
    return uri


def _library(name: str, field: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{field}: found no {name} installed, expected it: pip install {name}") from error


def _until_failure(call: Callable, tracker: str, address: str = "") -> Callable:
    """Wrap a function: its first error is logged, without the password of `address`, and later calls do nothing."""
    failed: list[bool] = []

    def guarded(*arguments: Any) -> None:
        if failed:
            return
        try:
            call(*arguments)
        except Exception as error:
            failed.append(True)
            line = mask_passwords(str(error), address)
            log.warning("%s cannot be written any more (%s); metrics.jsonl is still written", tracker, line)

    return guarded
