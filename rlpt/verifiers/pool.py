"""Runs verifiers in processes that may hang, crash or lie.

Whatever a verifier does costs only its own row (or all, where it compares them):
a call past its deadline or a dead process becomes the outcome "timeout" or "crash"
of that row, the process group is killed and replaced, and the other rows go on.  Verification never
raises for what a completion holds, so hosts cannot part ways over it.
"""

from __future__ import annotations

import collections
import collections.abc
import dataclasses
import json
import logging
import selectors
import threading
import time
import typing as tp

from rlpt import config
from rlpt.tasks import base as tasks_base
from rlpt.verifiers import _processes, base

START_DEADLINE = 120.0  # seconds for a worker to import its verifiers
MAX_CHUNK = 32  # calls sent to a worker at once

Verdicts = list[dict[str, base.Verdict]]


class VerifierError(RuntimeError):
    """The workers cannot start; the message holds their traceback."""


@dataclasses.dataclass(frozen=True)
class _Spec:
    """A verifier of the config, checked."""

    name: str
    fn: str
    settings: dict[str, tp.Any]
    low: float
    high: float
    batch: int  # rows a call; 0: all
    pure: bool
    on_request: bool
    coupled: bool  # rows are compared with each other: a call is judged as a whole or not at all


@dataclasses.dataclass(eq=False)
class _Call:
    """Some rows for one verifier; most verifiers take one row a call."""

    spec: int
    rows: tuple[str, ...]  # JSON of [trajectory, prompt]
    keys: tuple[tuple[int, tp.Any], ...]  # where the verdicts go
    gold: bool


@dataclasses.dataclass(eq=False)
class _Worker:
    """A process and what it has to do. state: starting, idle, busy or dead."""

    process: _processes.Process
    deadline: float
    state: str = "starting"
    calls: collections.deque[_Call] = dataclasses.field(default_factory=collections.deque)
    served: int = 0


class VerifierPool:
    """Workers that judge rows; a context manager.

    Make it before jax is used: workers are fresh processes, not forks, but they
    are started while the trainer is still small.
    """

    def __init__(
        self,
        specs: collections.abc.Iterable[collections.abc.Mapping[str, tp.Any]],
        workers: int = 2,
        deadline: float = 5.0,
        batch_deadline: float = 60.0,
        memory_mb: int = 2048,
        recycle: int = 2000,
    ):
        """Starts the workers and waits until they have imported the verifiers.

        Args:
          specs: one mapping a verifier: fn "module.function" or "my_pkg.mod:fn",
            name (default: the function's), range=(low, high) of its scores, batch
            (rows a call, for verifiers over many rows), and its settings; weight is
            the trainer's and not looked at.
          workers: processes.
          deadline: seconds for a call.
          batch_deadline: seconds for one `verify`; rows left then are "timeout".
          memory_mb: address space of a worker.
          recycle: calls after which a worker is replaced (caches grow).
        Raises: config.ConfigError for a bad spec; VerifierError if they cannot start.
        """
        self.specs = _checked_specs(specs)
        for name, value in (
            ("workers", workers),
            ("deadline", deadline),
            ("batch_deadline", batch_deadline),
            ("memory_mb", memory_mb),
            ("recycle", recycle),
        ):
            if not value > 0:
                raise config.ConfigError(f"verifier pool: {name}: got {value}, expected > 0")
        self._deadline, self._batch_deadline = deadline, batch_deadline
        self._recycle = recycle
        self._setup = json.dumps(
            {
                "specs": [
                    {
                        "fn": s.fn,
                        "settings": s.settings,
                        "low": s.low,
                        "high": s.high,
                        "coupled": s.coupled,
                    }
                    for s in self.specs
                ],
                "deadline": deadline,
                "memory_mb": memory_mb,
            }
        )
        self._lock = threading.Lock()
        self._selector = selectors.DefaultSelector()
        self._pending: collections.deque[_Call] = collections.deque()
        self._results: dict[tuple[int, tp.Any], base.Verdict] = {}
        self._failed_starts = 0
        self._start_error = ""
        self._noted: list[dict[str, tp.Any]] | None = None
        self._workers: list[_Worker] = []
        try:
            for _ in range(workers):
                self._workers.append(self._start())
            while any(w.state == "starting" for w in self._workers) and not self._failed_starts:
                self._wait(time.monotonic() + START_DEADLINE)
            if self._failed_starts:
                raise VerifierError(f"a verifier worker cannot start: {self._start_error}")
        except BaseException:
            self.close()
            raise

    def verify(
        self,
        trajectories: collections.abc.Sequence[base.Trajectory],
        prompts: collections.abc.Sequence[tasks_base.Prompt],
    ) -> Verdicts:
        """Judges rows.

        Args:
          trajectories: completions.
          prompts: the prompt of each; one with `verifier` set is judged by that alone.
        Returns: for each row a dict from verifier name to Verdict.
        Raises: ConfigError where a prompt names a verifier that the pool lacks.
        """
        if len(trajectories) != len(prompts):
            raise ValueError(f"got {len(trajectories)} trajectories, {len(prompts)} prompts")
        return self._judge(trajectories, prompts, gold=False)

    def coupled(self, prompts: collections.abc.Iterable[tasks_base.Prompt]) -> bool:
        """Whether a verifier compares the rows of these prompts: they are to be one call.

        Raises: ConfigError, as `verify`.
        """
        return any(self.specs[i].coupled for p in prompts for i in self._specs_for(p))

    def report(self) -> dict[str, dict[str, tp.Any]]:
        """What the verifiers noted of the machine at their start, by name: JSON, for the record.

        {"code": {"sandbox": "bwrap", ...}}; those with nothing to say are left out.  A worker that
        is replaced later has to note the same, or does not start.
        """
        noted = zip(self.specs, self._noted or [], strict=True)
        return {spec.name: dict(found) for spec, found in noted if found}

    def check_gold(
        self,
        prompts: collections.abc.Sequence[tasks_base.Prompt],
        skip: collections.abc.Collection[str] = (),
    ) -> list[tasks_base.Prompt]:
        """The prompts whose reference every verifier can read.

        The batch deadline applies to every 256 references.

        Args:
          skip: tasks (Prompt.task) whose other prompts are left out, with a warning that counts
            them; not those on which a verifier failed, for which another machine might find
            something else.
        Raises: TaskError naming the prompts that cannot be read; for none left of some.
        """
        empty = base.Trajectory("")
        kept: list[tasks_base.Prompt] = []
        bad: list[str] = []
        skipped: list[str] = []
        for start in range(0, len(prompts), 256):
            part = prompts[start : start + 256]
            for prompt, verdicts in zip(
                part, self._judge([empty] * len(part), part, gold=True), strict=True
            ):
                wrong = {n: v for n, v in verdicts.items() if v.outcome != "correct"}
                if not wrong:
                    kept.append(prompt)
                    continue
                failed = any(v.outcome != "unparsable" for v in wrong.values())
                reasons = "; ".join(f"{n}: {v.detail or v.outcome}" for n, v in wrong.items())
                where = skipped if prompt.task in skip and not failed else bad
                where.append(f"{prompt.id} ({reasons})")
        if bad or (skipped and not kept):
            raise tasks_base.TaskError(
                f"{len(bad or skipped)} references cannot be read:{_listed(bad or skipped)}\n"
                "Correct or drop these rows, set on_bad_row='skip' in the task to leave such rows "
                "out, or use another verifier for them."
            )
        if skipped:
            logging.getLogger(__name__).warning(
                "skipped %d prompts whose reference cannot be read:%s",
                len(skipped), _listed(skipped),
            )  # fmt: skip
        return kept

    def close(self) -> None:
        """Kills the workers. Further calls fail."""
        for w in self._workers:
            self._stop(w)
        self._workers = []
        self._selector.close()

    def __enter__(self) -> VerifierPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _judge(
        self,
        trajectories: collections.abc.Sequence[base.Trajectory],
        prompts: collections.abc.Sequence[tasks_base.Prompt],
        gold: bool,
    ) -> Verdicts:
        if not self._workers:
            raise VerifierError("the verifier pool is closed")
        wanted = [self._specs_for(prompt) for prompt in prompts]
        with self._lock:
            self._results = {}
            places = self._enqueue(trajectories, prompts, wanted, gold)
            self._run(time.monotonic() + self._batch_deadline)
            return [
                {self.specs[spec].name: self._results[spec, key] for spec, key in row}
                for row in places
            ]

    def _specs_for(self, prompt: tasks_base.Prompt) -> list[int]:
        if not prompt.verifier:
            return [i for i, spec in enumerate(self.specs) if not spec.on_request]
        found = [i for i, spec in enumerate(self.specs) if spec.name == prompt.verifier]
        if not found:
            raise config.ConfigError(
                f"prompt {prompt.id!r} asks for the verifier {prompt.verifier!r}; "
                f"the config has: {', '.join(spec.name for spec in self.specs)}"
            )
        return found

    def _enqueue(
        self,
        trajectories: collections.abc.Sequence[base.Trajectory],
        prompts: collections.abc.Sequence[tasks_base.Prompt],
        wanted: list[list[int]],
        gold: bool,
    ) -> list[list[tuple[int, tp.Any]]]:
        """Fills `_pending`, equal rows of pure verifiers once; the keys of each row's results."""
        queues: list[dict[tp.Any, str]] = [{} for _ in self.specs]
        places: list[list[tuple[int, tp.Any]]] = []
        for i, (trajectory, prompt) in enumerate(zip(trajectories, prompts, strict=True)):
            places.append([])
            try:
                row = json.dumps([vars(trajectory), vars(prompt)])
            except (TypeError, ValueError) as e:
                row, error = "", base.Verdict(None, "invalid", f"row is not JSON: {e}")
            for spec in wanted[i]:
                key = row if self.specs[spec].pure and row else i
                places[-1].append((spec, key))
                if row:
                    queues[spec].setdefault(key, row)
                else:
                    self._results[spec, key] = error
        for spec, queue in enumerate(queues):
            keys = list(queue)
            size = self.specs[spec].batch or max(len(keys), 1)
            for start in range(0, len(keys), size):
                part = keys[start : start + size]
                self._pending.append(
                    _Call(spec, tuple(queue[k] for k in part), tuple((spec, k) for k in part), gold)
                )
        return places

    def _run(self, end: float) -> None:
        """Works until every pending call has a result or `end` has come."""
        self._failed_starts = 0
        self._wait(0.0)  # notices workers that died since the last call
        try:
            while self._pending or any(w.state == "busy" for w in self._workers):
                if time.monotonic() >= end:
                    self._give_up("timeout", f"batch deadline of {self._batch_deadline} s")
                    break
                for i, w in enumerate(self._workers):
                    if w.state == "dead" and self._failed_starts < 3:
                        self._workers[i] = self._start()
                    elif w.state == "idle" and self._pending:
                        self._feed(i)
                if all(w.state == "dead" for w in self._workers):
                    self._give_up("crash", f"no worker can start: {self._start_error}"[:500])
                    break
                self._wait(end)
        finally:  # after an interrupt too, no worker may answer a later call with these rows
            self._pending.clear()
            for i, w in enumerate(self._workers):
                if w.state == "busy":
                    self._stop(w)
                    self._workers[i] = self._start()

    def _feed(self, i: int) -> None:
        """Gives an idle worker some calls, or replaces it if it has served long enough."""
        w = self._workers[i]
        if w.served >= self._recycle:
            self._stop(w)
            self._workers[i] = self._start()
            return
        share = -(-len(self._pending) // (2 * len(self._workers)))
        for _ in range(min(share, MAX_CHUNK)):
            w.calls.append(self._pending.popleft())
        calls = ",".join(
            f'{{"spec":{c.spec},"gold":{json.dumps(c.gold)},"rows":[{",".join(c.rows)}]}}'
            for c in w.calls
        )
        w.state, w.deadline = "busy", time.monotonic() + self._deadline
        self._send(w, f'{{"calls":[{calls}]}}')

    def _wait(self, end: float) -> None:
        """Handles what workers say until something happens or a deadline has come."""
        waiting = [w.deadline for w in self._workers if w.state in ("starting", "busy")]
        pause = min([end, *waiting]) - time.monotonic()
        for key, events in self._selector.select(max(pause, 0.0)):
            w = key.data
            if w.state != "dead" and events & selectors.EVENT_WRITE:
                self._send(w)
            if w.state != "dead" and events & selectors.EVENT_READ:
                self._receive(w)
        now = time.monotonic()
        for w in self._workers:
            if w.state == "busy" and now >= w.deadline:
                self._fail(w, "timeout", f"no verdict within {self._deadline} s")
            elif w.state == "starting" and now >= w.deadline:
                self._fail(w, "crash", f"not ready within {START_DEADLINE} s")

    def _send(self, w: _Worker, body: str = "") -> None:
        """Sends a message, or what is left of the last."""
        try:
            if body:
                w.process.send(body)
            else:
                w.process.flush()
        except _processes.Broken as e:
            self._fail(w, e.outcome, e.detail)
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if w.process.unsent else 0)
        self._selector.modify(w.process.channel, events, w)

    def _receive(self, w: _Worker) -> None:
        try:
            for body in w.process.messages():
                self._handle(w, body)
                if w.state == "dead":
                    break
        except _processes.Broken as e:
            self._fail(w, e.outcome, e.detail)

    def _handle(self, w: _Worker, body: bytes) -> None:
        """One message of a worker, which is not to be trusted."""
        try:
            message = json.loads(body)
            if w.state == "starting" and "failed" in message:
                self._fail(w, "crash", str(message["failed"]))
            elif w.state == "starting":
                self._ready(w, message["ready"])
            else:
                call = w.calls[0]
                spec = self.specs[call.spec]
                verdicts = [
                    base.validated(score, outcome, detail, spec.low, spec.high)
                    for score, outcome, detail in message["verdicts"]
                ]
                if len(verdicts) != len(call.keys):
                    raise ValueError(f"{len(verdicts)} verdicts for {len(call.keys)} rows")
                self._results.update(zip(call.keys, verdicts, strict=True))
                w.calls.popleft()
                w.served += 1
                w.deadline = time.monotonic() + self._deadline
                w.state = "busy" if w.calls else "idle"
        except (ValueError, TypeError, KeyError, IndexError, RecursionError) as e:
            self._fail(w, "invalid", f"not a reply: {type(e).__name__}: {e}")

    def _ready(self, w: _Worker, noted: list[dict[str, tp.Any]]) -> None:
        """A worker that replaces another has to run under the same conditions."""
        if self._noted is None:
            self._noted = noted
        if noted != self._noted:
            self._fail(w, "crash", f"a worker starts with {noted}, the first had {self._noted}")
            return
        w.state = "idle"
        self._failed_starts = 0

    def _fail(self, w: _Worker, outcome: str, detail: str) -> None:
        """Ends a worker; its current call gets the outcome, its other calls wait again."""
        starting = w.state == "starting"
        code = self._stop(w)
        detail = detail or f"worker ended with code {code}"
        if starting:
            self._failed_starts += 1
            self._start_error = detail
            return
        if w.calls:
            call = w.calls.popleft()
            coupled = self.specs[call.spec].coupled and not call.gold
            if len(call.keys) > 1 and not coupled:  # one row is to blame: judge them one by one
                for row, key in zip(reversed(call.rows), reversed(call.keys), strict=True):
                    w.calls.appendleft(_Call(call.spec, (row,), (key,), call.gold))
            else:
                verdict = base.Verdict(None, outcome, detail[:500])
                self._results.update(dict.fromkeys(call.keys, verdict))
        self._pending.extendleft(reversed(w.calls))
        w.calls.clear()

    def _give_up(self, outcome: str, detail: str) -> None:
        for call in [*self._pending, *(c for w in self._workers for c in w.calls)]:
            for key in call.keys:
                self._results[key] = base.Verdict(None, outcome, detail)

    def _start(self) -> _Worker:
        keys = [str(s.settings.get("api_key_env", "")) for s in self.specs]  # judges' own
        process = _processes.Process(self._setup, keys)
        w = _Worker(process, time.monotonic() + START_DEADLINE)
        self._selector.register(process.channel, selectors.EVENT_READ, w)
        self._send(w)
        return w

    def _stop(self, w: _Worker) -> int:
        """Kills a worker with all its children; its exit code."""
        if w.state != "dead":
            w.state = "dead"
            self._selector.unregister(w.process.channel)
        return w.process.stop()


def _listed(reasons: list[str]) -> str:
    """The first ten, a line each, and how many more."""
    more = [f"and {len(reasons) - 10} more"] if len(reasons) > 10 else []
    return "".join(f"\n  {reason}" for reason in reasons[:10] + more)


def _checked_specs(
    specs: collections.abc.Iterable[collections.abc.Mapping[str, tp.Any]],
) -> tuple[_Spec, ...]:
    """Raises: config.ConfigError saying what is accepted."""
    checked: list[_Spec] = []
    for spec in specs:
        settings = {k: v.to_dict() if hasattr(v, "to_dict") else v for k, v in dict(spec).items()}
        fn_name = settings.pop("fn", None)
        if not isinstance(fn_name, str):
            raise config.ConfigError(
                f"verifiers: got {dict(spec)!r}, expected dict(fn='module.function', ...)"
            )
        fn = config.find("verifiers", fn_name)
        traits = base.traits_of(fn)
        for of_the_run in ("weight", "missing"):
            settings.pop(of_the_run, None)
        name = settings.pop("name", fn_name.replace(":", ".").rpartition(".")[2])
        low, high = settings.pop("range", (traits.low, traits.high))
        batched = base.is_batched(fn)
        batch = settings.pop("batch", traits.batch) if batched else 1
        config.resolve("verifiers", fn_name, **settings)
        if name in (s.name for s in checked):
            raise config.ConfigError(
                f"verifiers: two are named {name!r}; give each its own name='...'"
            )
        checked.append(
            _Spec(
                name, fn_name, settings, low, high, batch, traits.pure, traits.on_request,
                coupled=traits.couples_rows and batched and batch == 0,
            )
        )  # fmt: skip
    if not checked:
        raise config.ConfigError("verifiers: none given; expected at least one dict(fn=...)")
    return tuple(checked)
