"""A run's workdir as the report reads it, whatever state it is in.

Nothing is locked and nothing is written.  A file that is missing, still being written or
damaged costs what it would have told, and is named in `Run.problems`.  Runs whose config.json
differs in nothing but the seed, and in what they leave behind, are one setting.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
import re
import typing as tp

from rlpt import metrics
from rlpt.report.text import short

Row = metrics.Row

_EVAL = re.compile(r"eval_(\d+)\.json")
_NO_MATTER = re.compile(r"seed|export|debug|(log|checkpoint)\..+|pool\.workers")  # of one curve
_SHOWN_VALUE = 300  # characters of a setting
UNKNOWN = "not known"


@dataclasses.dataclass
class Run:
    """What a workdir tells.

    Attributes:
      name: for people; the directory's, longer where two would be equal.
      metrics: rows of metrics.jsonl in order of their steps, the last one of each step.
      evals: step -> eval_<step>.json.
      config, summary: config.json and summary.json, {} where there is none.
      changed: {setting: (value, default)}, of config_diff.json; None: it could not be read.
      problems: a line for each thing that could not be read.
    """

    name: str
    path: pathlib.Path
    metrics: list[Row] = dataclasses.field(default_factory=list)
    evals: dict[int, Row] = dataclasses.field(default_factory=dict)
    config: Row = dataclasses.field(default_factory=dict)
    summary: Row = dataclasses.field(default_factory=dict)
    changed: dict[str, tuple[str, str]] | None = None
    problems: list[str] = dataclasses.field(default_factory=list)

    @property
    def steps(self) -> int:
        """The last step in the metrics, 0 for none."""
        return self.metrics[-1]["step"] if self.metrics else 0

    @property
    def state(self) -> str:
        planned = self.config.get("steps")
        if self.summary:
            return "finished"
        return f"no summary: running or stopped, step {self.steps} of {planned or '?'}"

    def series(self, name: str) -> dict[int, float]:
        """step -> value of a metric, without rows where it is missing or not a number."""
        return {r["step"]: float(r[name]) for r in self.metrics if is_number(r.get(name))}


@dataclasses.dataclass
class Setting:
    """Runs that differ in nothing but their seed, and in what they leave behind."""

    label: str
    runs: list[Run]


def is_number(value: tp.Any) -> bool:
    """A finite int or float; True and False are none."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) < 2**1000 and not math.isnan(value)


def read(path: str | os.PathLike[str], name: str = "") -> Run:
    """Reads a workdir. Raises: FileNotFoundError when it is no directory, or not that of a run."""
    where = pathlib.Path(path).expanduser().resolve()
    if not where.is_dir():
        raise FileNotFoundError(
            f"report: {path} is not a directory; give the --workdir of a run of `rlpt train`"
        )
    names = {file.name for file in where.iterdir() if not file.name.startswith(".")}
    if names and not names & {metrics.METRICS_FILE, "config.json"}:  # empty: a run that begins
        raise FileNotFoundError(
            f"report: {path} has neither {metrics.METRICS_FILE} nor config.json; give the "
            "--workdir of a run of `rlpt train`"
        )
    run = Run(name or where.name, where)
    rows: dict[int, Row] = {}
    for row in _lines(where / metrics.METRICS_FILE, run.problems):
        rows[row["step"]] = row
    run.metrics = [rows[step] for step in sorted(rows)]
    run.config = _object(where / "config.json", run.problems)
    run.summary = _object(where / "summary.json", [])  # a run that goes on has none
    before = len(run.problems)
    pairs = _object(where / "config_diff.json", run.problems)
    if len(run.problems) == before:
        run.changed = {
            key: (str(pair.get("value", "?")), str(pair.get("default", "?")))
            for key, pair in pairs.items()
            if isinstance(pair, dict)
        }
    for file in sorted(where.iterdir()):
        match = _EVAL.fullmatch(file.name)
        if match and (found := _object(file, run.problems)):
            run.evals[int(match[1])] = found
    run.evals = dict(sorted(run.evals.items()))
    return run


def read_all(paths: tp.Sequence[str | os.PathLike[str]]) -> list[Run]:
    """Reads workdirs, each once, and gives them names that differ."""
    found = [read(p) for p in dict.fromkeys(pathlib.Path(p).expanduser().resolve() for p in paths)]
    names = [run.name for run in found]
    for run in found:
        if names.count(run.name) > 1:
            run.name = f"{run.path.parent.name}/{run.name}"
    names = [run.name for run in found]
    for run in found:
        if names.count(run.name) > 1:
            run.name = str(run.path)
    return found


def settings(runs: tp.Sequence[Run]) -> list[Setting]:
    """The runs by setting, in the order given; a run whose settings are not known is its own."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        own = {k: v for k, v in flat(run.config).items() if not _NO_MATTER.fullmatch(k)}
        key = repr(sorted(own.items())) if run.config else str(run.path)
        found.setdefault(key, []).append(run)
    out = []
    for same in found.values():
        label = same[0].name
        if len(same) > 1:
            start = _begin([run.name for run in same])
            seeds = len({repr(run.config.get("seed")) for run in same})
            runs_of = f"{len(same)} runs of " if seeds < len(same) else ""
            label = f"{start or label} ({runs_of}{seeds} seed{'s' * (seeds > 1)})"
        out.append(Setting(label, same))
    labels = [setting.label for setting in out]
    for number, setting in enumerate(out, 1):
        if labels.count(setting.label) > 1:
            setting.label += f" #{number}"
    return out


def _begin(names: tp.Sequence[str]) -> str:
    """What the names of runs have in common, without a word for the seed and half a number."""
    start = os.path.commonprefix(list(names))
    if any(name[len(start) :][:1].isdigit() for name in names):
        start = start.rstrip("0123456789")
    return re.sub(r"[-_./ ]*(seed)?[-_./ ]*$", "", start)


def flat(value: tp.Any, at: str = "") -> dict[str, str]:
    """A config, as JSON data, as {setting: its value in JSON}."""
    if not isinstance(value, dict) or (at and not value):
        return {at: json.dumps(value)}
    parts = (flat(child, f"{at}.{key}" if at else key) for key, child in value.items())
    return {name: text for part in parts for name, text in part.items()}


def differences(runs: tp.Sequence[Run]) -> list[tuple[str, str, list[str | None]]]:
    """(setting, default, value by run; None: the default) of all that any run changed.

    Settings in which the runs differ come first.  Long values are shortened, those that differ so
    that each is seen from shortly before where they part.  A run whose config_diff.json could not
    be read has UNKNOWN.
    """
    known = [run.changed for run in runs if run.changed is not None]
    keys = sorted({key for changed in known for key in changed})
    rows = []
    for key in keys:
        values = [
            UNKNOWN if run.changed is None else run.changed[key][0] if key in run.changed else None
            for run in runs
        ]
        default = next(changed[key][1] for changed in known if key in changed)
        rows.append((key, default, values))
    rows.sort(key=lambda row: len(set(row[2])) == 1)
    return [(key, short(default, _SHOWN_VALUE), _shown(values)) for key, default, values in rows]


def _shown(values: tp.Sequence[str | None]) -> list[str | None]:
    """The values shortened; those that differ late, from a little before where they do."""
    texts = [v for v in values if v is not None]
    start = len(os.path.commonprefix(texts)) - _SHOWN_VALUE // 3
    late = len(set(texts)) > 1 and start > _SHOWN_VALUE // 3
    cut = lambda v: f"… {v[start:]}" if late else v  # noqa: E731
    return [None if v is None else short(cut(v), _SHOWN_VALUE) for v in values]


def _lines(path: pathlib.Path, problems: list[str]) -> tp.Iterator[Row]:
    """The rows of a JSON Lines file that are whole; what is not is counted in problems."""
    damaged = []
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    row = json.loads(line)
                    if isinstance(row["step"], bool) or not isinstance(row["step"], int):
                        raise TypeError
                except (ValueError, KeyError, TypeError, RecursionError):
                    damaged.append(number)
                    continue
                yield row
    except OSError as e:
        problems.append(f"{path.name}: {e.strerror}")
    if damaged:
        problems.append(
            f"{path.name}: {len(damaged)} damaged or unfinished line(s) left out, "
            f"first line {damaged[0]}"
        )


def _object(path: pathlib.Path, problems: list[str]) -> Row:
    """The JSON object of a file, {} where there is none."""
    try:
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict):
            raise ValueError("not a JSON object")
        return found
    except OSError as e:
        problems.append(f"{path.name}: {e.strerror}")
    except (ValueError, RecursionError) as e:
        problems.append(f"{path.name}: damaged ({short(str(e), 80)})")
    return {}
