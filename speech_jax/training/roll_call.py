"""Roll call of the processes of a run, before JAX joins them and as long as they run.

JAX aborts a process, with a stack trace and a core dump, when another is missing, and does not say which. So process
0 first listens at the coordinator's port itself until all have called. The connections then stay open: each end sends a
byte now and then, and a process that ends or falls silent is named by all others, which stop.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterable
from typing import Any, NoReturn

from speech_jax.core.errors import GRACE, UserError

_BEAT, _BYE, _GO, _LOST = b".\n", b"bye\n", b"go\n", b"lost "


class RollCall:
    """Connections to the other processes of a run: from process 0 to each, from the others to process 0.

    Args:
        coordinator: HOST:PORT of process 0.
        count: Number of processes.
        index: Index of this process.
        timeout: Seconds within which all have to call, and without a sign of life after which one counts as lost.

    Raises:
        UserError: If a process does not call in time, by its index; if the port is taken; or if two processes have the
            same index or another count.
    """

    def __init__(self, coordinator: str, count: int, index: int, timeout: float):
        host, _, port = coordinator.rpartition(":")
        self._count, self._index, self._timeout = count, index, timeout
        self._deadline = time.monotonic() + timeout
        self._peers: dict[int, socket.socket] = {}
        self._words: dict[int, bytes] = {}  # received, up to the last line's end
        try:
            self._listen(int(port)) if index == 0 else self._call(host.strip("[]"), int(port))
        except UserError:
            self.close()
            raise
        self._seen = dict.fromkeys(self._peers, time.monotonic())
        for peer in self._peers.values():
            peer.settimeout(timeout)

    # --- before JAX starts ---

    def _listen(self, port: int) -> None:
        two_stacks = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if two_stacks else socket.AF_INET
        try:
            server = socket.create_server(("", port), family=family, dualstack_ipv6=two_stacks, backlog=self._count)
        except OSError as error:
            raise UserError(
                f"hosts.coordinator: port {port} cannot be used ({os.strerror(error.errno or 0)}), expected a free one"
            ) from error
        with server:
            while missing := sorted({*range(1, self._count)} - {*self._peers}):
                server.settimeout(max(self._deadline - time.monotonic(), 0.01))
                try:
                    peer, _ = server.accept()
                except TimeoutError:
                    self._tell(self._peers, _LOST + ",".join(map(str, missing)).encode() + b"\n")
                    raise UserError(self._missing(missing)) from None
                self._register(peer)
        self._tell(self._peers, _GO)

    def _register(self, peer: socket.socket) -> None:
        """Take the call of a process; what is no process of this program is hung up on."""
        peer.settimeout(5)
        with contextlib.suppress(OSError, ValueError):
            name, index, count = peer.recv(64).split()
            if name == b"speech_jax":
                if int(count) != self._count or not 0 < int(index) < self._count or int(index) in self._peers:
                    found = f"process {int(index)} of {int(count)}" + (" twice" if int(index) in self._peers else "")
                    text = f"hosts: found {found}, expected each of {self._count} processes once"
                    self._tell({0: peer}, text.encode() + b"\n")
                    self._tell(self._peers, text.encode() + b"\n")
                    raise UserError(text)
                self._peers[int(index)] = peer
                return
        peer.close()

    def _call(self, host: str, port: int) -> None:
        reason = ""
        while not self._peers:
            try:
                left = max(self._deadline - time.monotonic(), 0.01)
                self._peers[0] = socket.create_connection((host, port), timeout=left)
            except OSError as error:  # not started yet, or its name is not known yet
                reason = error.strerror or str(error)
                if time.monotonic() >= self._deadline:
                    raise UserError(f"{self._missing([0])}; {host}:{port}: {reason}") from None
                time.sleep(0.2)
        self._tell(self._peers, b"speech_jax %d %d" % (self._index, self._count))
        self._peers[0].settimeout(self._timeout + 5)
        answer = b""
        with contextlib.suppress(OSError):
            answer = self._peers[0].recv(300)
        if answer.startswith(_LOST):
            raise UserError(self._missing([int(i) for i in answer.split()[1].split(b",")]))
        if not answer.startswith(_GO):
            said = answer.decode(errors="replace").strip()
            raise UserError(said or f"hosts: {host}:{port} gave no answer, expected process 0 of this run")

    def _missing(self, indices: Iterable[int]) -> str:
        names = ", ".join(map(str, indices))
        return f"hosts: found no process {names} of {self._count} within {self._timeout:g} s (hosts.timeout)"

    # --- while the run goes on ---

    def watch(self) -> None:
        """Watch the other processes from now on; end this one with exit code 2 if one of them is lost."""
        atexit.register(self._say_bye)
        handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(self._on_abort)
        self._handler = handler  # must live as long as the process
        libc = ctypes.CDLL(None)
        libc.signal(signal.SIGABRT, handler)
        threading.Thread(target=self._run, name="roll-call", daemon=True).start()

    def _run(self) -> None:
        while self._peers:
            for index, line in self._read(min(self._timeout / 6, 5.0)):
                if index not in self._peers:  # it has said bye, or this process has
                    continue
                if line == _BYE:
                    self._peers.pop(index, None)
                elif line is None:
                    self._end(index, f"process {index} of {self._count} has ended")
                elif line.startswith(_LOST):
                    _, lost, reason = line.decode().split(maxsplit=2)
                    self._end(int(lost), reason.strip())
            self._tell(self._peers, _BEAT)
            for index in [*self._peers]:
                silent = time.monotonic() - self._seen[index]
                if silent > self._timeout:
                    seconds = f"{self._timeout:g} s (hosts.timeout)"
                    self._end(index, f"process {index} of {self._count} has given no sign of life for {seconds}")

    def _read(self, seconds: float) -> Iterable[tuple[int, bytes | None]]:
        """Return (process, line) of what came within some seconds; a line of None is the end of the connection."""
        by_socket = {peer: index for index, peer in self._peers.items()}
        lines: list[tuple[int, bytes | None]] = []
        for peer in select.select([*by_socket], [], [], seconds)[0]:
            index = by_socket[peer]
            try:
                received = peer.recv(4096)
            except OSError:
                received = b""
            self._seen[index] = time.monotonic()
            *whole, self._words[index] = (self._words.get(index, b"") + received).split(b"\n")
            lines += [(index, line + b"\n") for line in whole]
            if not received:
                lines.append((index, None))
        return [pair for pair in lines if pair[1] != _BEAT]

    def _end(self, lost: int, reason: str) -> NoReturn:
        others = {index: peer for index, peer in self._peers.items() if index != lost}
        self._tell(others, _LOST + f"{lost} {reason}\n".encode())
        time.sleep(0 if "sign of life" in reason else GRACE)
        self._report(reason)

    def _report(self, reason: str) -> NoReturn:
        text = f"error: hosts: {reason}; this process stops, and the same command resumes from the last checkpoint\n"
        with contextlib.suppress(OSError):
            os.write(2, text.encode())
        os._exit(2)

    def _on_abort(self, number: int) -> None:
        """End with a line if JAX aborts because another process is lost; otherwise let it abort."""
        peers = dict(self._peers)
        ended = select.select([*peers.values()], [], [], 1.0)[0] if peers else []
        for index, peer in peers.items():
            with contextlib.suppress(OSError):
                if peer in ended and not peer.recv(1, socket.MSG_PEEK):
                    time.sleep(1.0)  # this process may be about to end with its own error
                    self._report(f"process {index} of {self._count} has ended")
        ctypes.CDLL(None).signal(number, None)  # SIG_DFL

    def _say_bye(self) -> None:
        peers, self._peers = self._peers, {}
        self._tell(peers, _BYE)

    def close(self) -> None:
        """Hang up."""
        for peer in self._peers.values():
            peer.close()

    @staticmethod
    def _tell(peers: dict[int, Any], words: bytes) -> None:
        for peer in list(peers.values()):
            with contextlib.suppress(OSError):
                peer.sendall(words)
