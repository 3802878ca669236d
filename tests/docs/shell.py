"""Run the shell commands of a page in a real bash, with the front doors in this process, where JAX is loaded.

Every program that a page may call is a link to one small client. It hands its words, folder, environment and open files
to this process, which runs the door in them, or answers which real program is to run instead. A program that is not
linked is not found, so that no command passes unseen.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import runpy
import select
import shutil
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

CLIENT = """#!{python} -IS
import json, os, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect({address!r})
socket.send_fds(connection, [b"x"], [0, 1, 2])
connection.sendall(json.dumps([sys.argv, os.getcwd(), dict(os.environ)]).encode())
connection.shutdown(socket.SHUT_WR)
answer = json.loads(connection.makefile().read())
if isinstance(answer, list):
    os.execv(answer[0], answer)
sys.exit(answer)
"""
REAL = (
    "awk basename bash cat cp cut date dirname env find grep head ls mkdir mktemp mv rm sed sleep sort tail tar touch "
    "tr uname wc zcat"
).split()


class Call(NamedTuple):
    """One command as the shell gives it: the words after the program's name, and the folder it runs in."""

    words: list[str]
    folder: Path


Program = Callable[[Call], "int | list[str]"]
"""Returns the exit code, or the words of the real program that is to run instead."""


def door(name: str, words: list[str], ends: type[Exception] | tuple = ()) -> int:
    """Run `python -m speech_jax.NAME` in this process, as `speech_jax.__main__` does.

    Args:
        name: the door; "" for the list of them.
        words: its flags.
        ends: an exception that is a good end.

    Returns:
        The exit code.
    """
    module = f"speech_jax.{name}" if name else "speech_jax.__main__"
    before, sys.argv = sys.argv, [module, *words]
    hook, handlers, level = sys.excepthook, logging.root.handlers[:], logging.root.level
    logging.root.handlers.clear()
    loaded = sys.modules.pop(module, None)  # runpy warns of a module that is there
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        return 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except ends:
        return 0
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        if loaded is not None:  # other tests compare its functions with those they imported
            sys.modules[module] = loaded
        sys.argv, sys.excepthook = before, hook
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)


class Shell:
    """A bash whose programs are `programs` and a few real ones.

    Those in `silent` only read what a pipe brings.

    Attributes:
        programs: name -> function.
        bin: the folder of the links; the PATH of every command.
        client: the file that they lead to.
    """

    def __init__(self, folder: Path, programs: dict[str, Program], silent: Sequence[str] = ()):
        self.programs = programs
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        address = folder / "socket"
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(address))
        self._listening.listen()
        self.client = client = folder / "client"
        client.write_text(CLIENT.format(python=sys.executable, address=str(address)))
        client.chmod(0o755)
        for name in programs:
            (self.bin / name).symlink_to(client)
        for name in silent:  # not by this process, which may be at the other end of the pipe
            (self.bin / name).write_text("#!/bin/sh\nexec cat >/dev/null\n")
            (self.bin / name).chmod(0o755)
        for name in REAL:
            if found := shutil.which(name):
                (self.bin / name).symlink_to(found)

    def run(self, script: str, folder: Path, state: Path | None = None) -> tuple[int, str]:
        """Run a script in `folder`, until a command of it fails.

        Args:
            script: the commands.
            folder: where they begin.
            state: file that hands the folder and the variables on from one script to the next.

        Returns:
            The exit code, and all output.
        """
        if state is not None:
            script = f"[[ ! -f '{state}' ]] || source '{state}'\n{script}\n"
            script += f"{{ export -p; echo \"cd '$PWD'\"; }} >'{state}'\n"
        output = folder.parent / f"{folder.name}.output"
        with open(output, "wb") as file:
            bash = subprocess.Popen(
                [str(self.bin / "bash"), "-euo", "pipefail", "-c", script],
                cwd=folder, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                env={"PATH": str(self.bin), "HOME": str(folder), "LANG": "C.UTF-8"},
            )  # fmt: skip
            while bash.poll() is None:
                if select.select([self._listening], [], [], 0.05)[0]:
                    self._answer(self._listening.accept()[0])
        return bash.returncode, output.read_text(encoding="utf-8", errors="replace")

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            _, files, _, _ = socket.recv_fds(connection, 1, 3)
            argv, folder, environment = json.loads(connection.makefile().read())
            with _in_place(files, Path(folder), environment):
                answer = self.programs[Path(argv[0]).name](Call(argv[1:], Path(folder)))
            connection.sendall(json.dumps(answer).encode())


@contextlib.contextmanager
def _in_place(files: list[int], folder: Path, environment: dict[str, str]) -> Iterator[None]:
    """Put another process's open files, folder and environment in the place of our own."""
    own = [os.dup(number) for number in range(3)]
    streams, before, variables = (sys.stdin, sys.stdout, sys.stderr), Path.cwd(), dict(os.environ)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdin, sys.stdout, sys.stderr = (
        io.TextIOWrapper(open(number, mode, closefd=False), encoding="utf-8", line_buffering=number > 0)  # noqa: SIM115
        for number, mode in ((0, "rb"), (1, "wb"), (2, "wb"))
    )
    os.environ.update({name: value for name, value in environment.items() if name not in ("PATH", "HOME", "PWD")})
    os.chdir(folder)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        sys.stdin, sys.stdout, sys.stderr = streams
        for number, file in enumerate(own):
            os.dup2(file, number)
            os.close(file)
        os.chdir(before)
        os.environ.clear()
        os.environ.update(variables)
