"""Settings of monitoring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from speech_jax.core.command_line import Range


@dataclass(frozen=True)
class WatchConfig:
    """Monitoring of a run. Process 0 serves and logs; every process reports what hangs in it."""

    metrics_port: Annotated[int, Range(0, 65535)] = 0
    """Port of the Prometheus endpoint, for example 9100. 0: no endpoint."""
    metrics_host: str = "127.0.0.1"
    """Address to serve the metrics on. 0.0.0.0 is open to other machines, without a password."""
    profile: str = ""
    """Steps to trace with XProf, as "FIRST:LAST": "10:20" traces steps 11 to 20 into profile/ of the run's folder.
    Empty: no trace."""
    stalled_after: Annotated[float, Range(0, 1e9)] = 900.0
    """Seconds after which a step that has not finished is reported on stderr, with the stacks of all threads; also a
    phase before the first step, such as compiling. The run continues. 0: never."""
    mlflow: str = ""
    """URI of an MLflow store to log to as well, for example sqlite:///mlflow.db, or "env": the one in the environment
    variable MLFLOW_TRACKING_URI, where a password is safe: other users of a machine see its command lines. Configs,
    checkpoints and logs hold no password. Requires `pip install mlflow`. Empty: none."""
    wandb: str = ""
    """Weights & Biases project to log to as well, offline in the run's folder. Requires `pip install wandb`. Empty:
    none."""

    def idle(self) -> dict[str, str]:
        """Return the fields that the others leave without effect, see `core.claims`."""
        return {} if self.metrics_port else {"metrics_host": "with {metrics_port}"}
