"""Several settings and seeds of one config: run, resumed, and one table of them all.

A sweep is a Python file with `get_sweep(arg)`, which returns a dict of plain values:

  config     a config, FILE.py[:ARG]
  settings   [(name, {dotted key: value}), ...]: what each setting changes in the config; a
             number in a key is a place in a tuple, as in advantage.0.td_coef
  baseline   the name of the setting that the others are compared with
  seeds      config.seed of the runs of each setting
  measures   what the table shows of summary.json (default: pass@1 and greedy)

A run is called <setting>-seed<seed> and has the workdir of that name; it is finished when its
summary is there.  Runs are processes of their own, so one that fails stops no other.
"""

from __future__ import annotations

import collections
import collections.abc
import contextlib
import dataclasses
import json
import os
import pathlib
import re
import runpy
import shlex
import signal
import subprocess
import sys
import threading
import time
import typing as tp

import numpy as np

from rlpt import build, metrics, records, statistics
from rlpt import config as config_lib
from rlpt.settings import ConfigError, suggest

KEYS = ("config", "settings", "baseline", "seeds", "measures")
MEASURES = ("pass@1", "greedy")  # those of a sweep that names none
LOG = "sweep.log"  # what a run printed, in its workdir
GRACE = 120.0  # seconds for runs to write a checkpoint when the sweep is stopped


@dataclasses.dataclass(frozen=True)
class Run:
    """One setting with one seed. index: its place in the sweep."""

    index: int
    setting: str
    seed: int
    overrides: dict[str, tp.Any]

    @property
    def name(self) -> str:
        return f"{self.setting}-seed{self.seed}"


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep as its file describes it, checked. source: FILE.py[:ARG] of the sweep."""

    source: str
    config: str
    runs: tuple[Run, ...]
    baseline: str
    measures: tuple[str, ...]

    @property
    def settings(self) -> list[str]:
        return list(dict.fromkeys(run.setting for run in self.runs))


def _call(source: str, function: str) -> tp.Any:
    """function(arg) of FILE.py:arg; without :arg function()."""
    config_lib.check_source(source, function)
    path, _, arg = source.partition(":")
    found = runpy.run_path(path).get(function)
    if found is None:
        raise ConfigError(f"{path}: has no {function}(arg)")
    return found(arg) if arg else found()


def load_sweep(source: str) -> Sweep:
    """The sweep of FILE.py[:ARG].

    Raises: FileNotFoundError; ConfigError for what does not fit.
    """
    given = dict(_call(source, "get_sweep"))
    for key in given:
        if key not in KEYS:
            raise ConfigError(f"{source}: unknown key {key!r}.{suggest(key, KEYS)}")
    for key in ("config", "settings", "baseline", "seeds"):
        if not given.get(key):
            raise ConfigError(f"{source}: {key} is missing or empty")
    seeds = list(given["seeds"])
    if len(set(seeds)) != len(seeds) or any(type(s) is not int for s in seeds):
        raise ConfigError(f"{source}: seeds: got {seeds}, expected different integers")
    names = [name for name, _ in given["settings"]]
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ConfigError(f"{source}: the name {name!r} is no file name: use a-z, 0-9 . _ -")
        if names.count(name) > 1:
            raise ConfigError(f"{source}: two settings are called {name!r}")
    if given["baseline"] not in names:
        raise ConfigError(
            f"{source}: no setting is called {given['baseline']!r}, the baseline."
            + suggest(given["baseline"], names)
        )
    for name, changes in given["settings"]:
        if "seed" in dict(changes):
            raise ConfigError(f"{source}, {name}: the seed is not a setting: write it into seeds")
    pairs = [(name, dict(changes), seed) for name, changes in given["settings"] for seed in seeds]
    runs = tuple(Run(i, name, seed, changes) for i, (name, changes, seed) in enumerate(pairs))
    measures = tuple(given.get("measures") or MEASURES)
    return Sweep(source, given["config"], runs, given["baseline"], measures)


def changed(value: tp.Any, path: collections.abc.Sequence[str], new: tp.Any, where: str) -> tp.Any:
    """`value` with `new` at a path: a config in place, tuples and plain dicts as copies.

    Raises: ConfigError for a key that a config does not have or a place that a tuple lacks.
    """
    if not path:
        return new
    key, rest = path[0], path[1:]
    if isinstance(value, tuple | list):
        if not key.isdecimal() or int(key) >= len(value):
            raise ConfigError(f"{where}: got {key!r}, expected a place below {len(value)}")
        place = int(key)
        entries = list(value)
        entries[place] = changed(entries[place], rest, new, where)
        return tuple(entries)
    if isinstance(value, str) and rest == [] and value.count("."):  # a name stands for dict(fn=)
        return {"fn": value, key: new}
    if not hasattr(value, "keys"):
        raise ConfigError(f"{where}: {value!r} has no keys such as {key!r}")
    if isinstance(value, dict):
        return value | {key: changed(value.get(key), rest, new, where)}
    if key not in value and value.is_locked:
        raise ConfigError(f"{where}: no key {key!r}.{suggest(key, value.keys())}")
    value[key] = changed(value.get(key), rest, new, where)
    return value


def config_of(sweep: Sweep, run: Run) -> tp.Any:
    """The config of a run. Raises: ConfigError naming the override that does not fit."""
    config = _call(sweep.config, "get_config")
    for key, value in [*run.overrides.items(), ("seed", run.seed)]:
        try:
            changed(config, key.split("."), value, f"{sweep.source}, {run.setting}: {key}")
        except TypeError as e:
            raise ConfigError(f"{sweep.source}, {run.setting}: {key}: {e}") from e
    return config


# ---- what is on disk


def summary_of(out: pathlib.Path, run: Run) -> dict[str, tp.Any] | None:
    """summary.json of a finished run; None: it is not finished."""
    file = out / run.name / "summary.json"
    return json.loads(file.read_text()) if file.is_file() else None


def measures_of(config: tp.Any) -> list[str]:
    """The measures that every evaluation of a config has."""
    n = config.eval.samples
    names = {f"pass@{k}" for k in (*(2**i for i in range(n.bit_length())), n) if 0 < k <= n}
    return [*sorted(names, key=lambda name: int(name[5:])), "greedy", "length", "truncated"]


def check(
    sweep: Sweep, out: pathlib.Path, only: collections.abc.Collection[int] | None = None
) -> None:
    """Checks every config before anything runs.

    Args: only: the indices of the runs to check; None: all.

    Raises: ConfigError for a setting that cannot work or a measure that no evaluation has, and
      where a workdir under `out` is of another config: the name of a run says only what it is
      called in its sweep.
    """
    checked: set[str] = set()
    for run in sweep.runs if only is None else [sweep.runs[i] for i in only]:
        config = config_of(sweep, run)
        try:
            if run.setting not in checked:  # seeds change nothing that can be checked
                build.check(config)
        except ValueError as e:
            raise ConfigError(f"{sweep.source}, {run.setting}: {e}") from e
        checked.add(run.setting)
        known = measures_of(config)
        for m in sweep.measures:
            if m not in (*known, *MEASURES):
                raise ConfigError(
                    f"{sweep.source}, {run.setting}: measures: got {m!r}, expected some of "
                    f"{', '.join(known)}.{suggest(m, known)}"
                )
        file = out / run.name / "config.json"
        if file.is_file():
            old, new = json.loads(file.read_text()), json.loads(config.to_json_best_effort())
            other = sorted(k for k in {*old, *new} if old.get(k) != new.get(k))
            if other:
                raise ConfigError(
                    f"{file.parent} is of a run with another config ({', '.join(other)}): choose "
                    "another --out, or delete that directory"
                )


def _last_line(log: pathlib.Path) -> str:
    """The last line of a log that is not empty, which of a traceback says what happened."""
    text = log.read_text(errors="replace") if log.is_file() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing"


# ---- running


def run_one(sweep: Sweep, index: int, out: pathlib.Path) -> None:
    """Runs one run in this process, or resumes it; a finished one stays as it is.

    Raises: ValueError for an index outside the sweep; what `train.train` raises.
    """
    from rlpt import train

    if not 0 <= index < len(sweep.runs):
        raise ValueError(f"--index: got {index}, expected 0 to {len(sweep.runs) - 1}")
    check(sweep, out, [index])
    run = sweep.runs[index]
    if summary_of(out, run):
        records.say(f"{run.name} is finished")
        return
    train.train(config_of(sweep, run), out / run.name)


def command(sweep: Sweep, run: Run, out: pathlib.Path) -> list[str]:
    """Arguments of `rlpt` for one run."""
    return ["sweep", sweep.source, "--out", str(out), "--index", str(run.index)]


@contextlib.contextmanager
def sigterm_interrupts() -> tp.Iterator[None]:
    """SIGTERM and a hang-up stop the sweep as Ctrl-C does; under nohup a hang-up does nothing."""

    def interrupt(number: int, frame: tp.Any) -> None:
        if number == signal.SIGHUP:  # shells pass it on, so that it comes twice
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = [s for s in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) != signal.SIG_IGN]
    old = {s: signal.signal(s, interrupt) for s in asked}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def run_local(sweep: Sweep, out: pathlib.Path, workers: int = 1) -> dict[str, str]:
    """Runs what is not finished in processes of this machine, `workers` at a time.

    All of them see all of its devices: on one accelerator use one worker.
    Returns: {name of a failed run: the last line that it printed}.
    Raises: KeyboardInterrupt after SIGINT, SIGTERM or SIGHUP, when the runs have a checkpoint.
    """
    if workers < 1:
        raise ValueError(f"--workers: got {workers}, expected at least 1")
    pending = collections.deque(run for run in sweep.runs if not summary_of(out, run))
    running: dict[subprocess.Popen[bytes], Run] = {}
    failed: dict[str, str] = {}
    if done := len(sweep.runs) - len(pending):
        records.say(f"{done} of {len(sweep.runs)} runs are finished")
    with sigterm_interrupts(), metrics.progress("sweep", len(pending)) as advance:
        try:
            while pending or running:
                while pending and len(running) < workers:
                    run = pending.popleft()
                    running[_start(sweep, run, out)] = run
                for process in [p for p in running if p.poll() is not None]:
                    run = running.pop(process)
                    if process.returncode or not summary_of(out, run):
                        line = _last_line(out / run.name / LOG)
                        if process.returncode < 0:
                            line = f"killed by signal {-process.returncode}, after: {line}"
                        failed[run.name] = line
                    records.say(f"{'FAILED' if run.name in failed else 'finished'}  {run.name}")
                    advance(1)
                time.sleep(0.1)
        except BaseException:
            _stop(running)
            raise
    return failed


def _start(sweep: Sweep, run: Run, out: pathlib.Path) -> subprocess.Popen[bytes]:
    work = out / run.name
    work.mkdir(parents=True, exist_ok=True)
    with (work / LOG).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "rlpt.cli", *command(sweep, run, out)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches the sweep only, which passes it on once
        )


def _stop(running: collections.abc.Iterable[subprocess.Popen[bytes]]) -> None:
    """Asks the processes to write a checkpoint and stop, and kills those that do not."""
    for process in running:
        process.terminate()
    end = time.monotonic() + GRACE
    for process in running:
        try:
            process.wait(max(end - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# ---- the table


def collect(
    sweep: Sweep, out: pathlib.Path, failed: collections.abc.Mapping[str, str] | None = None
) -> dict[str, tp.Any]:
    """What the finished runs came to.

    Returns: baseline; settings {name: {measure: {"seeds": {seed: value}, "mean", "low", "high",
      and but for the baseline "difference": {"seeds" (number of pairs), "mean", "low", "high"}}}};
      unfinished {run: why}, with those whose evaluation lacks a measure.  Intervals are Student's
      over seeds, those of differences over pairs of equal seeds; None with fewer than two.
    """
    values: dict[str, dict[str, dict[int, float]]] = {
        name: {m: {} for m in sweep.measures} for name in sweep.settings
    }
    unfinished: dict[str, str] = {}
    for run in sweep.runs:
        summary = summary_of(out, run)
        if summary is None:
            unfinished[run.name] = (failed or {}).get(run.name, "not finished")
            continue
        after = summary["eval_after"] or {}
        for m in sweep.measures:
            if m in after:
                values[run.setting][m][run.seed] = after[m]
        if lacking := [m for m in sweep.measures if m not in after]:
            unfinished[run.name] = f"finished; its evaluation has no {' and no '.join(lacking)}"
    settings: dict[str, tp.Any] = {}
    for name, by_measure in values.items():
        settings[name] = {}
        for m, of_seed in by_measure.items():
            cell: dict[str, tp.Any] = {"seeds": of_seed, **_mean(list(of_seed.values()))}
            if name != sweep.baseline:
                base = values[sweep.baseline][m]
                pairs = [v - base[seed] for seed, v in of_seed.items() if seed in base]
                cell["difference"] = {"seeds": len(pairs), **_mean(pairs)}
            settings[name][m] = cell
    return {"baseline": sweep.baseline, "settings": settings, "unfinished": unfinished}


def _mean(values: list[float]) -> dict[str, float | None]:
    interval = statistics.t_interval(np.array(values))
    low, high = interval or (None, None)
    return {"mean": float(np.mean(values)) if values else None, "low": low, "high": high}


def table(found: dict[str, tp.Any]) -> str:
    """What `collect` found, for people: a block a measure, a line a setting."""

    def text(cell: dict[str, tp.Any], sign: str = "") -> str:
        if cell["mean"] is None:
            return "-"
        interval = (
            "" if cell["low"] is None else f" [{cell['low']:{sign}.3f}, {cell['high']:{sign}.3f}]"
        )
        return f"{cell['mean']:{sign}.3f}{interval}"

    settings, base = found["settings"], found["baseline"]
    width = max(len(name) for name in settings)
    lines = []
    for m in next(iter(settings.values())):
        lines.append(f"{m:<{width}}  {'seeds':>5}  {'mean':<22}  difference from {base}")
        for name, cells in settings.items():
            cell = cells[m]
            other = "baseline" if name == base else text(cell["difference"], "+")
            lines.append(f"{name:<{width}}  {len(cell['seeds']):>5}  {text(cell):<22}  {other}")
        lines.append("")
    lines.append(
        "[95% intervals]: Student's t over seeds; differences are of equal seeds"
        if max(len(cell["seeds"]) for cells in settings.values() for cell in cells.values()) > 1
        else "one seed: no intervals; two or more say how far to trust a difference"
    )
    lines += [f"{name}: {why}" for name, why in found["unfinished"].items()]
    return "\n".join(lines)


def plan(sweep: Sweep, out: pathlib.Path) -> str:
    """What --dry-run prints: the runs, and the commands that would run what is not finished."""
    lines = []
    missing = [run for run in sweep.runs if not summary_of(out, run)]
    for run in sweep.runs:
        changes = "  ".join(f"{k}={v!r}" for k, v in run.overrides.items())
        state = "to do" if run in missing else "finished"
        lines.append(f"{run.index:>3}  {state:<8}  {run.name}  {changes}".rstrip())
    if not missing:
        return "\n".join([*lines, "", "nothing is left to do"])
    name = re.sub(r"[^a-z0-9]+", "-", pathlib.Path(sweep.source.partition(":")[0]).stem.lower())
    every = ["sweep", sweep.source, "--out", str(out)]
    places = ",".join(str(run.index) for run in missing)
    lines += ["", "# on this machine", shlex.join(["rlpt", *every, "--workers", "1"])]
    lines += ["# Slurm", shlex.join(["sbatch", f"--array={places}", "launch/slurm.sbatch", *every])]
    lines.append("# TPUs, one a run; --bucket gs://... keeps what is under runs/")
    for run in missing:
        tpu = ["bash", "launch/tpu_pod.sh", "--name", f"{name}-{run.index}", "--"]
        lines.append(shlex.join([*tpu, *command(sweep, run, out)]))
    return "\n".join(lines)


def main(
    source: str,
    out: str | os.PathLike[str] = "",
    workers: int = 1,
    index: int | None = None,
    dry_run: bool = False,
    only_table: bool = False,
) -> dict[str, str]:
    """`rlpt sweep`: checks, runs what is not finished, prints the table and writes sweep.json.

    Args:
      out: where the workdirs go; "": runs/<name of the file>.  index: runs only this one.
    Returns: {failed run: why}.
    """
    sweep = load_sweep(source)
    stem = pathlib.Path(source.partition(":")[0]).stem
    path = pathlib.Path(out or f"runs/{stem}")
    if index is not None:
        if dry_run or only_table:
            raise ConfigError("--index runs a run: give it without --dry-run and --table")
        run_one(sweep, index, path)
        return {}
    check(sweep, path)
    if dry_run:
        records.say(plan(sweep, path))
        return {}
    failed = {} if only_table else run_local(sweep, path, workers)
    found = collect(sweep, path, failed)
    path.mkdir(parents=True, exist_ok=True)
    (path / "sweep.json").write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
    records.say(table(found))
    return failed
