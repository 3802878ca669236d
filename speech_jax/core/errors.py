"""`UserError`, the error that users read, and the wrapper with which a front door reports it."""

from __future__ import annotations

import difflib
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType

from speech_jax.core.compile_cache import use_compile_cache
from speech_jax.core.log import escape_controls
from speech_jax.core.memory import keep_freed_memory
from speech_jax.core.passwords import mask_address, mask_passwords

_LONG, _MAX_MESSAGE = 20_000, 700  # characters of a message that are masked, and that are shown


GRACE = 3.0
"""Seconds between the end of another process of a run and that of this one, which may end with its own error."""


class UserError(Exception):
    """Bad input. The message is one line: file and line, what was found, what was expected.

    Passwords in addresses are masked in it, control characters are escaped, and a long message loses its middle.

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
        text = mask_passwords(_without_middle(str(message), _LONG))
        super().__init__(_without_middle(escape_controls(text, lines=False), _MAX_MESSAGE))


def _without_middle(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit // 2 - 2]} … {text[2 - limit // 2 :]}"


def nearest(word: str, words: Iterable[str]) -> str:
    """Return the nearest spelling of `word` among `words`, or "" if none is near."""
    spelled = {each.casefold(): each for each in words}
    return "".join(spelled[near] for near in difflib.get_close_matches(word.casefold(), list(spelled), n=1))


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """Return the end of an error about an unknown word: "; did you mean 'dev/wer'?", or "" if no word is near."""
    near = nearest(word, words)
    return f"; did you mean {near!r}?" if near else ""


def install_extra(name: str) -> str:
    """Return the end of an error about a missing package: the command that installs an extra of this one."""
    return f"the extra {name!r}: pip install -e '.[{name}]' in the repository, or 'FILE.whl[{name}]' for a wheel"


def run_front_door(main: Callable[[Sequence[str]], int | None]) -> None:
    """Call `main(argv)` and exit with its code; on a UserError, print one line on stderr and exit with 2.

    `--debug` anywhere on the command line is removed from argv; errors then show their traceback. Passwords in
    addresses reach `main` alone: they are masked in tracebacks, and in `sys.argv`, which libraries record.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")  # of doors that do not set up more
    keep_freed_memory()
    use_compile_cache()
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
        time.sleep(2 * GRACE)  # if it comes of the end of another process, the roll call ends this one and names that
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
