"""Prometheus endpoint of a run: http://HOST:PORT/metrics, in the text format 0.0.4.

See https://prometheus.io/docs/instrumenting/exposition_formats/. The dashboard and the alert rules in
tpu_scripts/monitoring/ use these names and no others.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jax

from speech_jax.core.compile_clock import compile_seconds, compiled_programs
from speech_jax.core.errors import UserError
from speech_jax.core.version import __version__

METRICS = {
    # name: (type, help text)
    "info": ("gauge", "Always 1; labels: version, kind of device."),
    "step": ("gauge", "Finished steps."),
    "steps_planned": ("gauge", "Steps of the whole run."),
    "phase_timestamp_seconds": (
        "gauge", "Unix time at which the run's phase began; label: the phase, which is training after the first step.",
    ),
    "last_step_timestamp_seconds": ("gauge", "Unix time at which the metrics of the last step were read."),
    "loss": ("gauge", "Mean loss since the last log line, combined and of each term of the mix."),
    "alpha": ("gauge", "Weight of the old loss in the mix."),
    "learning_rate": ("gauge", "Learning rate."),
    "gradient_norm": ("gauge", "Norm of the gradient, combined and of each term."),
    "gradient_cosine": ("gauge", "Cosine between the gradients of two terms."),
    "train_metric": ("gauge", "Any other mean of the training log."),
    "steps_per_second": ("gauge", "Steps per second since the last log line."),
    "data_wait_ratio": ("gauge", "Fraction of time spent waiting for data."),
    "padding_ratio": ("gauge", "Fraction of the batch that is padding."),
    "units_per_second": ("gauge", "Real data per second, for example seconds of audio."),
    "model_flops_per_second": ("gauge", "Floating point operations per second on one device, as counted by XLA."),
    "utilization_ratio": ("gauge", "Model FLOPs per second divided by the peak of the device."),
    "evaluation": ("gauge", "A metric of an evaluation set."),
    "evaluation_step": ("gauge", "Step of the last evaluation."),
    "skipped_steps_total": ("counter", "Steps skipped because a number was not finite."),
    "stalled_steps_total": ("counter", "Steps that took longer than trainer.watch.stalled_after."),
    "compile_events_total": ("counter", "Programs compiled by XLA in this process."),
    "compile_seconds_total": ("counter", "Seconds of compilation in this process."),
    "device_memory_bytes": ("gauge", "Memory of each device of this host: in use, peak, limit."),
}
_PREFIX = "speech_jax_"
_RATES = {"waiting_for_data": "data_wait_ratio", "padding": "padding_ratio", "utilization": "utilization_ratio"}
_SAME = {"alpha", "learning_rate", "steps_per_second", "model_flops_per_second"}
_MEMORY = {"bytes_in_use": "in_use", "peak_bytes_in_use": "peak", "bytes_limit": "limit"}

Labels = tuple[tuple[str, str], ...]


class Endpoint:
    """HTTP server of a run's metrics, in a thread; a sink of `Tracker`.

    Args:
        host: address to listen on.
        port: port to listen on; 0 takes a free one, see the attribute `port`.
        steps: steps of the whole run.

    Raises:
        UserError: if the port cannot be opened.
    """

    def __init__(self, host: str, port: int, steps: int):
        compile_seconds()  # starts counting compilations
        self._lock = threading.Lock()
        self._values: dict[str, dict[Labels, float]] = {}
        self._set("steps_planned", steps)
        self._training = False
        self.begin("starting")
        kind = jax.local_devices()[0].device_kind
        self._set("info", 1, version=__version__, device_kind=kind)
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 10  # seconds for which a silent client can hold a thread

            def do_GET(self) -> None:
                if self.path.partition("?")[0] != "/metrics":
                    self.send_error(404)
                    return
                body = endpoint.render().encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(
                f"trainer.watch.metrics_port: found {host}:{port} taken ({reason}), expected a free one"
            ) from error
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    # --- updates ---

    def begin(self, phase: str) -> None:
        """Record the phase of a run that has not made a step yet; later it is always training."""
        if not self._training:
            with self._lock:
                self._values["phase_timestamp_seconds"] = {(("phase", phase),): time.time()}

    def beat(self, step: int) -> None:
        """Record that the metrics of this step have been read."""
        self.begin("training")
        self._training = True
        self._set("step", step)
        self._set("last_step_timestamp_seconds", time.time())

    def stalled(self) -> None:
        """Count a step that took too long."""
        with self._lock:
            values = self._values.setdefault("stalled_steps_total", {})
            values[()] = values.get((), 0.0) + 1

    def write(self, kind: str, step: int, parts: Mapping[str, Mapping[str, float | None]]) -> None:
        """Update the metrics from a line of the log, see `Tracker.write`."""
        for name, value in parts.get("metrics", {}).items():
            number = float("nan") if value is None else value
            first, _, last = name.rpartition("/")
            if kind == "eval":
                self._set("evaluation", number, set=first, metric=last)
                self._set("evaluation_step", step)
            elif name in ("skipped", "skipped_in_a_row"):
                if name == "skipped":
                    self._set("skipped_steps_total", number)
            elif kind != "train":
                continue
            elif last == "loss":
                self._set("loss", number, term=first or "all")
            elif name.partition("/")[0] == "grad_norm":
                self._set("gradient_norm", number, term=name.partition("/")[2] or "all")
            elif name.partition("/")[0] == "grad_cos":
                self._set("gradient_cosine", number, pair=name.partition("/")[2])
            elif name in _SAME:
                self._set(name, number)
            else:
                self._set("train_metric", number, name=name)
        for name, value in parts.get("rates", {}).items():
            number = float("nan") if value is None else value
            if name in _RATES or name in _SAME:
                self._set(_RATES.get(name, name), number)
            elif name.endswith("_per_second"):
                self._set("units_per_second", number, unit=name.removesuffix("_per_second"))

    def _set(self, name: str, value: float, /, **labels: str) -> None:
        with self._lock:
            self._values.setdefault(name, {})[tuple(sorted(labels.items()))] = float(value)

    # --- output ---

    def render(self) -> str:
        """Return the page of all metrics."""
        with self._lock:
            values = {name: dict(samples) for name, samples in self._values.items()}
        for counter in ("skipped_steps_total", "stalled_steps_total"):
            values.setdefault(counter, {(): 0.0})  # Prometheus sees no increase from a missing counter to 1
        values["compile_events_total"] = {(): float(compiled_programs())}
        values["compile_seconds_total"] = {(): compile_seconds()}
        values["device_memory_bytes"] = dict(_memory())
        lines = []
        for name, (kind, text) in METRICS.items():
            if values.get(name):
                lines += [f"# HELP {_PREFIX}{name} {text}", f"# TYPE {_PREFIX}{name} {kind}"]
                lines += [_sample(name, labels, value) for labels, value in sorted(values[name].items())]
        return "\n".join(lines) + "\n"

    def close(self) -> None:
        """Stop the server."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _memory() -> Iterator[tuple[Labels, float]]:
    """Memory statistics of each device; none on backends without them, such as CPU."""
    for device in jax.local_devices():
        stats = device.memory_stats() or {}
        for key, kind in _MEMORY.items():
            if key in stats:
                yield (("device", str(device.id)), ("kind", kind)), float(stats[key])


def _sample(name: str, labels: Labels, value: float) -> str:
    label_text = ",".join(f'{key}="{_escape(text)}"' for key, text in labels)
    number = "NaN" if value != value else repr(value)
    return f"{_PREFIX}{name}{{{label_text}}} {number}" if label_text else f"{_PREFIX}{name} {number}"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
