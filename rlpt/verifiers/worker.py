"""The process that runs verifiers: `python -m rlpt.verifiers.worker FD`.

Length-prefixed JSON over one socket, whose number is the argument.  The first
message holds the verifiers and the limits, later ones some calls each; every
call is answered on its own, so that the parent sees which one hangs.
"""

from __future__ import annotations

import importlib
import json
import resource
import signal
import socket
import struct
import sys
import traceback
import typing as tp

from rlpt import config
from rlpt.tasks import base as tasks_base
from rlpt.verifiers import base

HEADER = struct.Struct(">I")


def pack(body: str) -> bytes:
    """A JSON text as a message: its length in four bytes, then the text."""
    data = body.encode("ascii")
    return HEADER.pack(len(data)) + data


def serve(channel: socket.socket) -> None:
    """Answers calls until the parent closes the channel."""
    stream = channel.makefile("rb")

    def receive() -> tp.Any:
        header = stream.read(HEADER.size)
        return json.loads(stream.read(HEADER.unpack(header)[0])) if header else None

    try:
        setup = receive()
        _limit(setup["memory_mb"])
        verifiers = [_Verifier(**spec) for spec in setup["specs"]]
    except BaseException:
        channel.sendall(pack(json.dumps({"failed": traceback.format_exc()[-4000:]})))
        return
    channel.sendall(pack(json.dumps({"ready": [verifier.noted for verifier in verifiers]})))
    while (message := receive()) is not None:
        for call in message["calls"]:
            _alarm(setup["deadline"])
            verdicts = verifiers[call["spec"]].judge(call["rows"], call["gold"])
            _alarm(None)
            channel.sendall(pack(json.dumps({"verdicts": verdicts})))


class _Verifier:
    """One verifier with its settings; turns whatever happens into [score, outcome, detail]."""

    def __init__(
        self, fn: str, settings: dict[str, tp.Any], low: float, high: float, coupled: bool
    ):
        self.fn = config.find("verifiers", fn)
        self.settings = settings
        self.low, self.high, self.coupled = low, high, coupled
        # Slow imports belong to the start, not to the deadline of the first call.
        prepare = getattr(importlib.import_module(self.fn.__module__), "_prepare", None)
        # What `_prepare` returns, a dict or None, is for the record of the run.
        self.noted: dict[str, tp.Any] = (prepare(**settings) if prepare else None) or {}

    def judge(self, rows: list[tp.Any], gold: bool) -> list[tuple[float | None, str, str]]:
        """Verdicts of some rows, each [trajectory, prompt]; gold: only read the references."""
        try:
            trajectories = [base.Trajectory(**trajectory) for trajectory, _ in rows]
            prompts = [
                tasks_base.Prompt(**{**prompt, "messages": tuple(prompt["messages"])})
                for _, prompt in rows
            ]
            if gold:
                verdicts = [self._read_gold(prompt) for prompt in prompts]
            elif base.is_batched(self.fn):
                verdicts = list(self.fn(trajectories, prompts, **self.settings))
            else:
                verdicts = [
                    self.fn(trajectory, prompt, **self.settings)
                    for trajectory, prompt in zip(trajectories, prompts, strict=True)
                ]
            if len(verdicts) != len(rows):
                raise ValueError(f"{len(verdicts)} verdicts for {len(rows)} rows")
            return [self._plain(verdict) for verdict in verdicts]
        except BaseException as e:  # SystemExit, KeyboardInterrupt and MemoryError too
            if len(rows) > 1 and (gold or not self.coupled):  # one of many rows is to blame
                return [verdict for row in rows for verdict in self.judge([row], gold)]
            return [(None, "crash", f"{type(e).__name__}: {e}"[:500])] * len(rows)

    def _read_gold(self, prompt: tasks_base.Prompt) -> base.Verdict:
        gold = base.traits_of(self.fn).gold
        try:
            if gold:
                gold(prompt, **self.settings)
        except ValueError as e:
            return base.unparsable(str(e))
        return base.judged(True)

    def _plain(self, verdict: tp.Any) -> tuple[float | None, str, str]:
        if not isinstance(verdict, base.Verdict):
            return (None, "invalid", f"returned {type(verdict).__name__}, expected a Verdict")
        score = verdict.score
        score = score.item() if type(score).__module__ == "numpy" else score  # type: ignore
        checked = base.validated(score, verdict.outcome, verdict.detail, self.low, self.high)
        return (checked.score, checked.outcome, checked.detail)


def _limit(memory_mb: int) -> None:
    for what, size in ((resource.RLIMIT_AS, memory_mb << 20), (resource.RLIMIT_CORE, 0)):
        size = _capped(size, what)
        resource.setrlimit(what, (size, size))


def _capped(limit: int, what: int) -> int:
    hard = resource.getrlimit(what)[1]
    return limit if hard == resource.RLIM_INFINITY else min(limit, hard)


def _alarm(deadline: float | None) -> None:
    """Has the kernel end this process a little after the deadline, should the parent be gone."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, deadline + 1.0 if deadline else 0.0)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    usage = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(usage.ru_utime + usage.ru_stime + deadline) + 2 if deadline else hard
    resource.setrlimit(resource.RLIMIT_CPU, (_capped(seconds, resource.RLIMIT_CPU), hard))


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as _channel:
        _channel.set_inheritable(False)  # not for the children of a verifier
        serve(_channel)
