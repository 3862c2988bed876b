"""A worker's process as the pool sees it: its start, its channel and its end."""

from __future__ import annotations

import collections.abc
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

from rlpt.verifiers import worker

MAX_REPLY = 16 << 20  # bytes; a longer message is no verdict
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH")


class Broken(Exception):
    """The process is of no more use. outcome, detail: for the call that it was at."""

    def __init__(self, outcome: str, detail: str):
        super().__init__(detail)
        self.outcome, self.detail = outcome, detail


class Process:
    """`python -m rlpt.verifiers.worker` with the setup sent to it; nothing it says is trusted.

    Attributes:
      channel: not blocking; readable when there is a message or the end, and to be watched for
        room to write while there is something `unsent`.
      unsent: bytes that the channel had no room for.
    """

    def __init__(self, setup: str, secrets: collections.abc.Iterable[str]):
        """Starts it. secrets: variables of the environment that it gets beside a few harmless."""
        self.channel, theirs = socket.socketpair()
        passed = {*_PASSED_ON, *secrets}
        environment = {k: os.environ[k] for k in passed if k in os.environ}
        environment["PYTHONPATH"] = os.pathsep.join(p or os.getcwd() for p in sys.path)
        # One thread: numpy's pool would take address space and cores.
        environment |= {"OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "rlpt.verifiers.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
        self.pid = self._process.pid
        self.channel.setblocking(False)
        self.unsent = bytearray(worker.pack(setup))
        self._received = bytearray()
        with contextlib.suppress(Broken):  # then its end can be read
            self.flush()

    def send(self, body: str) -> None:
        """Sends a message, or what there is room for. Raises: Broken."""
        self.unsent += worker.pack(body)
        self.flush()

    def flush(self) -> None:
        """Sends what there is room for. Raises: Broken."""
        try:
            del self.unsent[: self.channel.send(self.unsent) if self.unsent else 0]
        except BlockingIOError:
            return
        except OSError as e:
            raise Broken("crash", f"worker: {e}") from e

    def messages(self) -> collections.abc.Iterator[bytes]:
        """The whole messages that have come. Raises: Broken at its end, or for one too long."""
        try:
            data = self.channel.recv(1 << 20)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._received += data
        while len(self._received) >= worker.HEADER.size:
            (size,) = worker.HEADER.unpack_from(self._received)
            end = worker.HEADER.size + size
            if size > MAX_REPLY:
                raise Broken("invalid", f"a reply of {size} bytes")
            if len(self._received) < end:
                break
            body = bytes(self._received[worker.HEADER.size : end])
            del self._received[:end]
            yield body
        if not data:
            for _ in range(50):  # lets it end by itself, for the true exit code
                if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                    break
                time.sleep(0.01)
            raise Broken("crash", "")

    def stop(self) -> int:
        """Kills it with all its children; its exit code. It leaves no zombie."""
        self.channel.close()
        # Until it is reaped below, its id cannot have passed to another group.
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        return self._process.wait()
