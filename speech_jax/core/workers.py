"""Map functions over data on all cores, in child processes that import only what the function needs.

`multiprocessing` would import the front door's module, and with it JAX, in every child, and forking a process in which
JAX has threads may deadlock. So each child is a new interpreter that reads (function, arguments) from a pipe.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from speech_jax.core.errors import UserError

T = TypeVar("T")
_MOST = 16  # children; each takes about 60 MB
_CHILD = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from speech_jax.core import workers; workers.serve()"


def num_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parallel_map(function: Callable[..., T], jobs: Iterable[tuple], *, workers: int = 0) -> Iterator[T]:
    """Yield `function(*job)` for every job, in their order, computed by child processes.

    `jobs` is read a few jobs ahead. If a child dies, this process does its job.

    Args:
        function: a function at the top level of a module that is quick to import.
        jobs: tuples of arguments that can be pickled.
        workers: number of child processes; 0 is one per core. With 1, or without POSIX pipes, this process does the
            work.

    Raises:
        UserError: raised by the function.
    """
    workers = workers or min(num_cores(), _MOST)
    if workers < 2 or os.name != "posix":
        yield from (function(*job) for job in jobs)
        return
    children: queue.SimpleQueue[_Child] = queue.SimpleQueue()
    with contextlib.ExitStack() as stack:
        for _ in range(workers):
            children.put(stack.enter_context(_Child()))
        pool = ThreadPoolExecutor(workers)
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)

        def run(job: tuple) -> T:
            child = children.get()
            try:
                return child.call(function, job)
            finally:
                children.put(child)

        waiting: deque[Future[T]] = deque()
        for job in jobs:
            waiting.append(pool.submit(run, job))
            if len(waiting) > workers + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class _Child:
    """One child process."""

    def __init__(self):
        command = [sys.executable, "-c", _CHILD, json.dumps(sys.path)]
        # In a new session, so that an interrupt from the keyboard reaches only the parent.
        self._process: subprocess.Popen | None = None
        with contextlib.suppress(OSError):
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, bufsize=0
            )

    def call(self, function: Callable[..., T], job: tuple) -> T:
        """Return `function(*job)`."""
        if self._process is None:
            return function(*job)
        try:
            self._send((function, job))
            result, error = self._receive()
        except (OSError, EOFError):
            if self._process is None:  # closed meanwhile: the map has ended, and nobody waits for the result
                raise
            self.close()
            return function(*job)
        if error is not None:
            raise error
        return result

    def _send(self, message: Any) -> None:
        assert self._process is not None and self._process.stdin is not None
        connection = Connection(os.dup(self._process.stdin.fileno()), readable=False)
        with connection:
            connection.send(message)

    def _receive(self) -> Any:
        assert self._process is not None and self._process.stdout is not None
        connection = Connection(os.dup(self._process.stdout.fileno()), writable=False)
        with connection:
            return connection.recv()

    def close(self) -> None:
        """End the child."""
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def serve() -> None:
    """Run the loop of a child process: answer calls until the pipe is closed."""
    source, sink = Connection(os.dup(0), writable=False), Connection(os.dup(1), readable=False)
    os.dup2(2, 1)  # keeps libraries' output out of the pipe
    while True:
        try:
            function, job = source.recv()
        except EOFError:
            return
        result = error = None
        try:
            result = function(*job)
        except UserError as caught:
            error = UserError(str(caught))
        except Exception as caught:
            error = RuntimeError(f"{type(caught).__name__}: {caught}")
        sink.send((result, error))
