"""`UserError`, the error that users read, and the wrapper with which a front door reports it."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence

from speech_jax.core.memory import keep_freed_memory


class UserError(Exception):
    """Bad input. The message is one line: file and line, what was found, what was expected.

    Example:
        >>> from speech_jax.core.errors import UserError
        >>> from speech_jax.decoding.config import BeamConfig
        >>> try:
        ...     BeamConfig(width=-1)
        ... except UserError as error:
        ...     print(error)
        beam.width: found -1, expected 0 to 4096
    """


def run_front_door(main: Callable[[Sequence[str]], int | None]) -> None:
    """Call `main(argv)` and exit with its code; on a UserError, print one line on stderr and exit with 2.

    `--debug` anywhere on the command line is removed from argv; errors then show their traceback.
    """
    keep_freed_memory()
    argv = sys.argv[1:]
    debug = "--debug" in argv
    try:
        code = main([a for a in argv if a != "--debug"])
    except UserError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except BrokenPipeError:  # the reader of stdout has closed it (`| head`): not an error
        sys.stderr.close()
        code = 0
    except Exception:
        if not _several_processes():
            raise
        traceback.print_exc()
        code = 1
    if code and _several_processes():  # a regular exit would wait for the other processes, which wait for this one
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code or 0)


def _several_processes() -> bool:
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()
