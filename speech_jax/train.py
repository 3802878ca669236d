"""Train a model, or resume the run in `--out-dir`: `python -m speech_jax.train --config NAME`."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Sequence

from speech_jax.config import parse_config
from speech_jax.core.claims import check_claims
from speech_jax.core.errors import UserError, run_front_door
from speech_jax.core.log import setup_logging
from speech_jax.training.config import HostsConfig


def main(argv: Sequence[str]) -> int:
    """Parse the config, find the other processes of the run, and train. Returns the exit code."""
    config = parse_config(argv)
    if not config.out_dir:
        raise UserError("--out-dir: found '', expected a folder")
    check_claims(config.hosts, "hosts")
    # Loaded after the flags are parsed, so that --help does not wait for JAX.
    import jax

    from speech_jax.monitoring.watchdog import Watchdog
    from speech_jax.runs.train import closing_lines, train
    from speech_jax.training.hosts import start_hosts

    with contextlib.closing(Watchdog(config.trainer.watch.stalled_after, process=None)) as watchdog:
        watchdog.begin("the start of JAX with the other processes")
        start_hosts(config.hosts)
        setup_logging(quiet=jax.process_index() > 0)
    result = train(dataclasses.replace(config, hosts=HostsConfig()))  # how hosts find each other is no part of the run
    if jax.process_index() == 0:
        print("\n".join(closing_lines(config, result)), file=sys.stderr)
    return 0


if __name__ == "__main__":
    run_front_door(main)
