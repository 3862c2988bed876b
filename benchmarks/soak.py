"""Kills a run a hundred times with SIGKILL: does it end as if it had never been touched?

  python -m benchmarks.soak             # 100 kills, 350 steps; a quarter of an hour on two cores
  python -m benchmarks.soak --out DIR   # where the two runs are; the same command goes on

writes benchmarks/results/soak.json.  The toy model is trained twice with the same config: once
without a break, and once in a hundred lives, each a fresh process that resumes from the newest
checkpoint, makes progress, and is killed.  A life tells through a pipe what its main thread is
about to do: sample (rollout), have the pool judge (verify), update, go on from a line of metrics
to its checkpoint (between), or save; anything else is "other".  For each life the seed has drawn a
phase, a number of batches and a share of that phase's length; when the mark comes, the parent waits
that long and kills.  What counts is the phase that the dead process was in, so a kill that comes
late counts where it hit.  The trainer is the real one: the marks are wrapped round it here, and the
only thing they change is that "between", which takes microseconds, is held open for a moment.

In the end both runs must agree bit for bit: parameters, optimizer, state of the shaping, the order
of the data, carried rollouts, and every line of metrics and rollouts, each step once.
"""

from __future__ import annotations

import argparse
import collections
import collections.abc
import functools
import json
import os
import pathlib
import random
import select
import subprocess
import sys
import time
import typing as tp

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/soak.json"
PHASES = ("rollout", "verify", "update", "between", "save")
HELD_OPEN = 0.02  # seconds for "between"
SILENCE = 300.0  # seconds without a mark after which a life is given up

Json = dict[str, tp.Any]


def make_config(steps: int) -> tp.Any:
    """A tiny run in which everything has a memory: data, rollouts, shaping and optimizer."""
    from rlpt import config as config_lib

    c = config_lib.default()
    c.model.source = "toy"
    c.steps = steps
    c.tasks = (dict(fn="arithmetic.sums", weight=2.0), dict(fn="arithmetic.products", weight=1.0))
    c.curriculum.enabled = True
    c.verifiers = (dict(fn="pattern.regex", name="letter", pattern="[a-m]"),)  # half of the rows
    c.pool.workers = 1
    c.rollout.fn = "dynamic.refill"  # carries rows over to the next step
    c.rollout.prompts, c.rollout.group = 4, 4
    c.rollout.options.max_batches = 2
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (64,), (6,)
    c.shaping = (dict(fn="tests.toy:moving_baseline"),)
    c.advantage = (dict(fn="tests.toy:greedy_advantage"),)  # the baseline reaches the gradient
    c.learner.epochs, c.learner.minibatches = 2, 2
    c.optim.lr = 1e-5  # slow enough that completions still differ in the end
    c.eval.prompts, c.eval.samples = 4, 2
    c.checkpoint.every = 1
    c.log.tensorboard = False
    c.export = False
    return c


def be_killed(workdir: str, steps: int, pipe: int) -> None:
    """One life: trains, and writes "phase batch" to the pipe whenever the phase changes."""
    from rlpt import train
    from rlpt.checkpoint import Checkpointer
    from rlpt.learners import Learners
    from rlpt.metrics import Metrics
    from rlpt.tools import EVALUATE, Tools

    batch = -1  # the one that the loop is at; -1: before the loop

    def mark(phase: str) -> None:
        os.write(pipe, f"{phase} {batch}\n".encode())

    def marked(
        owner: type, name: str, phase: str, then: str = "other"
    ) -> collections.abc.Callable[..., None]:
        """Wraps a method; returns a decorator for what the batch is, from its arguments."""
        method = getattr(owner, name)

        def of(batch_of: collections.abc.Callable[..., int]) -> None:
            @functools.wraps(method)
            def wrapped(self: tp.Any, *args: tp.Any, **kw: tp.Any) -> tp.Any:
                nonlocal batch
                batch = batch_of(*args, **kw)
                mark(phase)
                try:
                    return method(self, *args, **kw)
                finally:
                    mark(then)
                    if then == "between":
                        time.sleep(HELD_OPEN)

            setattr(owner, name, wrapped)

        return of

    marked(Tools, "generate", "rollout")(
        lambda *a, **kw: batch if kw.get("purpose") == EVALUATE else kw["step"]
    )
    marked(Tools, "verify", "verify")(lambda *a, **kw: batch)
    marked(Learners, "update", "update")(lambda when, tables, step: step)
    marked(Metrics, "write", "other", "between")(lambda step, values: step - 1)
    marked(Checkpointer, "save", "save")(lambda step, *a, **kw: step - 1)
    train.train(make_config(steps), workdir)


def draw_plan(kills: int, seed: int) -> list[Json]:
    """For each life: the phase to end in, how many batches in, and the share of the phase's length.

    One kill in eleven is at any moment of a batch.  A checkpoint is on disk at the latest when the
    batch behind the next one begins, so a life of four batches has gone at least three steps on.
    """
    draws = random.Random(seed)
    phases = [("any", *PHASES, *PHASES)[i % 11] for i in range(1, kills + 1)]
    draws.shuffle(phases)
    return [
        {"phase": p, "after": draws.choice((4, 5)), "share": round(draws.uniform(0, 0.8), 3)}
        for p in phases
    ]


class Life:
    """A process that trains, and what it has said of its phases."""

    def __init__(self, workdir: pathlib.Path, steps: int, log: pathlib.Path):
        self._read, write = os.pipe()
        self.log = log
        self._output = log.open("a")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.soak", "--be-killed", str(workdir), str(steps),
             str(write)],
            cwd=ROOT, pass_fds=(write,), stdout=self._output, stderr=self._output,
            env={**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_PLATFORMS": "cpu",
                 "JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "jax_cache"),
                 "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"},
        )  # fmt: skip
        os.close(write)
        self.phase, self.batch = "start", -1
        self._since = time.monotonic()
        self._lasted: dict[str, float] = {}  # seconds of each phase when it last ended
        self._batch_began, self._batch_lasted = self._since, 0.05
        self._unread = b""
        self._lines: collections.deque[bytes] = collections.deque()

    def marks(self) -> collections.abc.Iterator[str]:
        """The phases as they begin, until the process ends."""
        while True:
            while self._lines:
                phase, batch = self._lines.popleft().decode().split()
                now = time.monotonic()
                self._lasted[self.phase] = now - self._since
                if phase == "rollout" and int(batch) != self.batch:
                    self._batch_began, self._batch_lasted = now, now - self._batch_began
                self.phase, self.batch, self._since = phase, int(batch), now
                yield phase
            if not select.select([self._read], [], [], SILENCE)[0]:
                self.process.kill()
                raise RuntimeError(f"no mark for {SILENCE} s, last in {self.phase}: see {self.log}")
            got = os.read(self._read, 65536)
            if not got:
                return
            *lines, self._unread = (self._unread + got).split(b"\n")
            self._lines.extend(lines)

    def kill(self, planned: Json) -> None:
        """Kills it as planned; afterwards `phase` is where it was. Raises: if it ended before."""
        first, share = -1, planned["share"]
        for phase in self.marks():
            if first < 0 and phase == "rollout":
                first = self.batch  # -1 in the evaluation before the loop
            if first < 0 or self.batch < first + planned["after"]:
                continue
            if planned["phase"] == "any":
                time.sleep(share * self._batch_lasted)
                break
            if phase == planned["phase"] and not self._lines:
                pause = share * self._lasted.get(phase, 0.01)
                if not select.select([self._read], [], [], pause)[0]:
                    break
                share /= 2  # the phase was shorter than the last time: in the next batch
        self.process.kill()
        for _ in self.marks():  # what it said until it died
            pass
        self.finish(-9)

    def finish(self, status: int) -> None:
        """Waits for its end. Raises: RuntimeError if that is another than `status`."""
        for _ in self.marks():
            pass
        os.close(self._read)
        self._output.close()
        if self.process.wait() != status:
            raise RuntimeError(
                f"a life ended with {self.process.returncode}, expected {status}: see {self.log}"
            )


def on_disk(workdir: pathlib.Path) -> tuple[int, bool, int]:
    """(newest checkpoint or 0, whether a half-written one lies there, last step of the metrics)."""
    names = [p.name for p in (workdir / "checkpoints").iterdir()]
    lines = (workdir / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    whole = [json.loads(x) for x in lines if x.endswith(b"\n")]
    newest = max((int(n) for n in names if n.isdigit()), default=0)
    return newest, any("tmp" in n for n in names), whole[-1]["step"] if whole else 0


def differences(whole: pathlib.Path, broken: pathlib.Path, steps: int) -> list[str]:
    """What the two runs do not agree on; times aside, this must be nothing."""
    from rlpt import metrics, policy

    def lines(path: pathlib.Path) -> list[Json]:
        return [
            {k: v for k, v in row.items() if not k.startswith("time") and "per_second" not in k}
            for row in metrics.read_jsonl(path)
        ]

    def saved(workdir: pathlib.Path, item: str) -> Json:
        path = workdir / "checkpoints" / str(steps) / item / "metadata"
        found: Json = json.loads(path.read_text())
        return found

    found = []
    for name in ("metrics.jsonl", "rollouts.jsonl"):
        a, b = lines(whole / name), lines(broken / name)
        if a != b:
            at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), "the end")
            found.append(f"{name}: {len(a)} and {len(b)} lines, the first that differs: {at}")
    each = [row["step"] for row in lines(broken / "metrics.jsonl")]
    if each != list(range(steps + 1)):
        found.append(f"metrics.jsonl has the steps {each}, expected 0 to {steps}, each once")
    x, y = saved(whole, "manifest")["leaves"], saved(broken, "manifest")["leaves"]
    found += [f"{k} of the checkpoint" for k in sorted({*x, *y}) if x.get(k) != y.get(k)]
    x, y = saved(whole, "host"), saved(broken, "host")
    found += [f"{k} of the host state" for k in sorted({*x, *y} - {"seconds"}) if x[k] != y[k]]
    # Reading them back proves that the bytes are those of the hashes compared above.
    for workdir in (whole, broken):
        if f"at step {steps}" not in policy.load_policy(str(workdir)).source:
            found.append(f"{workdir.name}: the last checkpoint is not good")
    return found


def soak(out: pathlib.Path, kills: int, seed: int) -> Json:
    """Makes both runs in `out`, or goes on with them, and returns the figures.

    Raises: RuntimeError when a life ends by itself, or gets no further than the one before.
    """
    from rlpt import build

    out.mkdir(parents=True, exist_ok=True)
    whole, broken, journal = out / "whole", out / "broken", out / "kills.jsonl"
    done = [json.loads(x) for x in journal.read_text().splitlines()] if journal.exists() else []
    for number, planned in enumerate(draw_plan(kills, seed)[len(done) :], len(done) + 1):
        began = time.monotonic()
        life = Life(broken, 10 * kills, out / "broken.log")
        life.kill(planned)
        newest, torn, logged = on_disk(broken)
        record = {
            "planned": planned["phase"], "phase": life.phase, "batch": life.batch,
            "checkpoint": newest, "progress": newest - (done[-1]["checkpoint"] if done else 0),
            "half_written": torn, "lines_ahead": logged - newest,
            "seconds": round(time.monotonic() - began, 1),
        }  # fmt: skip
        if record["progress"] < 1:
            raise RuntimeError(f"kill {number}: no new checkpoint since the one before: {record}")
        done.append(record)
        with journal.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(f"kill {number}/{kills}", json.dumps(record), flush=True)
    ended = (broken / "summary.json").exists()
    steps = on_disk(broken)[0] + (0 if ended else 3)
    for workdir in (broken, whole):
        if not (workdir / "summary.json").exists():
            Life(workdir, steps, out / f"{workdir.name}.log").finish(0)
    counts = collections.Counter(r["phase"] for r in done)
    return {
        "kills": len(done),
        "steps": steps,
        "seed": seed,
        "phases": {p: counts.pop(p, 0) for p in PHASES} | dict(sorted(counts.items())),
        "while_a_checkpoint_was_being_written": sum(r["half_written"] for r in done),
        "while_metrics_were_ahead_of_the_checkpoint": sum(r["lines_ahead"] > 0 for r in done),
        "steps_of_progress_of_a_life": [f(r["progress"] for r in done) for f in (min, max)],
        "lines_done_again": sum(r["lines_ahead"] for r in done),
        "seconds_of_all_lives": round(sum(r["seconds"] for r in done)),
        "differences": differences(whole, broken, steps),
        "versions": build.versions(),
        "log": done,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "runs/soak")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--be-killed", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.be_killed:
        workdir, steps, pipe = args.be_killed
        be_killed(workdir, int(steps), int(pipe))
        return
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    result = soak(args.out, args.kills, args.seed)
    log = ",\n".join(json.dumps(r) for r in result.pop("log"))
    print(json.dumps(result, indent=1))
    if args.kills == 100:
        RESULTS.write_text(json.dumps(result, indent=1)[:-2] + f',\n "log": [\n{log}\n]}}\n')
    few = [p for p in PHASES if result["phases"][p] < args.kills // 10]
    if result["differences"] or few:
        raise SystemExit(f"failed: differences {result['differences']}, too few kills in {few}")


if __name__ == "__main__":
    main()
