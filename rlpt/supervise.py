"""`rlpt supervise`: starts the processes of a run here, and all of them again when one dies.

An error that rlpt explains (status 1 or 2) comes back each time, so it ends the run; so does a stop
by the user (130).  What ends a process otherwise (a signal, a crash of the driver, a peer that is
gone) has the rest stopped and all of them started again, which resumes at the newest checkpoint.
"""

from __future__ import annotations

import collections.abc
import os
import signal
import socket
import subprocess
import sys
import time
import types

GRACE = 60.0  # seconds that the others have to end by themselves once one has
_FINAL = (1, 2, 130)
_KILLED = (134, 137, 139)  # aborted, killed, crashed, as a shell has it


def supervise(
    command: collections.abc.Sequence[str],
    processes: int = 1,
    restarts: int = 0,
    grace: float = GRACE,
) -> int:
    """Runs a command of rlpt until it ends well or with an error that would come back.

    SIGINT, SIGTERM and a hang-up go on to the processes, which write a checkpoint; after them
    nothing is started again.

    Args:
      command: arguments of rlpt, such as ["train", "--config", ...].
      processes: at a time; more than one are one run (`rlpt.distributed`).
      restarts: how often all of them are started again at most.
      grace: seconds between the end of one and the killing of the rest.
    Returns: 0, or the status that ended it; -N after signal N.
    """
    if processes < 1 or restarts < 0:
        raise ValueError(
            f"supervise: got processes={processes}, restarts={restarts}; expected >= 1 and >= 0"
        )
    signals: list[int] = []
    running: list[subprocess.Popen[bytes]] = []

    def forward(number: int, frame: types.FrameType | None) -> None:
        signals.append(number)
        for process in running:
            if process.poll() is None:
                process.send_signal(number)

    asked = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as under nohup
        asked.append(signal.SIGHUP)  # the processes have sessions of their own, and never get it
    old = {s: signal.signal(s, forward) for s in asked}
    try:
        for start in range(restarts + 1):
            running[:] = _start(command, processes)
            for number in tuple(signals):  # that came while they were started
                forward(number, None)
            status = _watch(running, grace)
            if status == 0 or status in _FINAL or signals:
                return status
            text = f"rlpt supervise: a process ended with status {status}"
            if start < restarts:
                print(f"{text}: start {start + 2} of {restarts + 1}", file=sys.stderr, flush=True)
        print(f"{text}; --restarts {restarts + 1} would start it again", file=sys.stderr)
        return status
    finally:
        for process in running:
            process.kill()
            process.wait()
        for number, handler in old.items():
            signal.signal(number, handler)


def _start(command: collections.abc.Sequence[str], processes: int) -> list[subprocess.Popen[bytes]]:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    out = []
    for i in range(processes):
        env = dict(os.environ)
        if processes > 1:
            env |= {
                "RLPT_COORDINATOR": f"127.0.0.1:{port}",
                "RLPT_PROCESSES": str(processes),
                "RLPT_PROCESS": str(i),
            }
        # a session of its own: a signal of the terminal comes once, from here
        argv = [sys.executable, "-m", "rlpt.cli", *command]
        out.append(subprocess.Popen(argv, env=env, start_new_session=True))
    return out


def _watch(running: collections.abc.Sequence[subprocess.Popen[bytes]], grace: float) -> int:
    """Waits for all; kills what is left `grace` seconds after the first failure.

    Returns: 0 if all ended so, otherwise the most telling status: one that is final, then one
      that is of the process that began it.  Where that one was killed, a status 1 of another is
      the runtime's, for the loss of its peer.
    """
    first, deadline = 0, float("inf")
    while None in [p.poll() for p in running]:  # of all: one that is gone is not behind another
        time.sleep(0.1)
        if not first and (codes := [p.returncode for p in running if p.returncode]):
            first, deadline = codes[0], time.monotonic() + grace
        if time.monotonic() > deadline:
            for p in running:
                p.kill()
    codes = [p.returncode for p in running if p.returncode]
    began = first or next((c for c in codes if c < 0 or c in _KILLED), 0)
    killed = began < 0 or began in _KILLED
    final = [c for c in codes if c in _FINAL and not (killed and c == 1)]
    return (final + [began] * bool(began) + codes + [0])[0]
