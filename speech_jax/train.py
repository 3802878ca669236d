"""Train a model, or resume the run in `--out-dir`: `python -m speech_jax.train --config configs/X.py`."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence

from speech_jax.config import parse_config
from speech_jax.core.claims import check_claims
from speech_jax.core.errors import run_front_door
from speech_jax.core.log import setup_logging
from speech_jax.training.config import HostsConfig


def main(argv: Sequence[str]) -> int:
    """Parse the config, find the other processes of the run, and train. Returns the exit code."""
    config = parse_config(argv)
    check_claims(config.hosts, "hosts")
    # Loaded after the flags are parsed, so that --help does not wait for JAX.
    import jax

    from speech_jax.monitoring.watchdog import Watchdog
    from speech_jax.runs.train import train
    from speech_jax.training.hosts import start_hosts

    with contextlib.closing(Watchdog(config.trainer.watch.stalled_after, process=None)) as watchdog:
        watchdog.begin("the start of JAX with the other processes")
        start_hosts(config.hosts)
        setup_logging(quiet=jax.process_index() > 0)
    train(dataclasses.replace(config, hosts=HostsConfig()))  # how hosts find each other is no part of the run
    return 0


if __name__ == "__main__":
    run_front_door(main)
