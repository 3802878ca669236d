"""`UserError`, the error that users read, and the wrapper with which a front door reports it."""

from __future__ import annotations

import difflib
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType

from speech_jax.core.memory import keep_freed_memory
from speech_jax.core.passwords import mask_address, mask_passwords


class UserError(Exception):
    """Bad input. The message is one line: file and line, what was found, what was expected.

    Passwords in addresses are masked in it.

    Example:
        >>> from speech_jax.core.errors import UserError
        >>> from speech_jax.decoding.config import BeamConfig
        >>> try:
        ...     BeamConfig(width=-1)
        ... except UserError as error:
        ...     print(error)
        beam.width: found -1, expected 0 to 4096
    """

    def __init__(self, message: object = ""):
        super().__init__(mask_passwords(str(message)))


def nearest(word: str, words: Iterable[str]) -> str:
    """Return the nearest spelling of `word` among `words`, or "" if none is near."""
    spelled = {each.casefold(): each for each in words}
    return "".join(spelled[near] for near in difflib.get_close_matches(word.casefold(), list(spelled), n=1))


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """Return the end of an error about an unknown word: "; did you mean 'dev/wer'?", or "" if no word is near."""
    near = nearest(word, words)
    return f"; did you mean {near!r}?" if near else ""


def run_front_door(main: Callable[[Sequence[str]], int | None]) -> None:
    """Call `main(argv)` and exit with its code; on a UserError, print one line on stderr and exit with 2.

    `--debug` anywhere on the command line is removed from argv; errors then show their traceback. Passwords in
    addresses reach `main` alone: they are masked in tracebacks, and in `sys.argv`, which libraries record.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")  # of doors that do not set up more
    keep_freed_memory()
    sys.excepthook = _print_traceback
    argv = sys.argv[1:]
    sys.argv[1:] = map(mask_address, argv)
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
    except Exception as error:
        if not _several_processes():
            raise
        _print_traceback(type(error), error, error.__traceback__)
        code = 1
    if code and _several_processes():  # a regular exit would wait for the other processes, which wait for this one
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code or 0)


def _print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sys.stderr.write(mask_passwords("".join(traceback.format_exception(kind, error, trace))))


def _several_processes() -> bool:
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()
