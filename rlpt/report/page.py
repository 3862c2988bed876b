"""`rlpt report`: runs as one HTML page that needs nothing else and fetches nothing.

The page is under LIMIT bytes whatever the runs are: curves are thinned, rollouts sampled.
Its policy names the hashes of its own script and style, so that nothing which a model wrote
could run even if it came through as markup.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import os
import pathlib
import tempfile
import time
import typing as tp

import jinja2
import markupsafe

from rlpt.report import alarm, panels, rollouts, runs
from rlpt.report.runs import Run
from rlpt.report.text import safe_json, short, visible

LIMIT = 5_000_000  # bytes of a page
MOST_RUNS = 24
_ROLLOUTS = 3_000_000  # bytes of the inspector's data, where the rest of the page leaves as much
_SLACK = 50_000
_SETTINGS = 150  # rows of the table of settings
_PROBLEMS = 20  # shown of a run


def report(
    workdirs: tp.Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str] | None = None,
) -> pathlib.Path:
    """Writes the page.

    Args:
      workdirs: of runs that are finished, running or broken off; runs that differ in nothing
        but config.seed are drawn as one curve with a band.
      out: the page, or a directory for report.html; None: the workdir if there is one, here if
        there are more.
    Returns: where it is.
    Raises: ValueError for no or too many workdirs, FileNotFoundError for one that is not
      there, OSError when the page cannot be written.
    """
    if not 1 <= len(workdirs) <= MOST_RUNS:
        raise ValueError(
            f"report: got {len(workdirs)} workdirs, expected 1 to {MOST_RUNS} on a page"
        )
    found = runs.read_all(workdirs)
    if out is None:
        out = found[0].path / "report.html" if len(found) == 1 else "report.html"
    page = render(found)
    target = pathlib.Path(out).expanduser().resolve()
    target = target / "report.html" if target.is_dir() else target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("wb", dir=target.parent, delete=False) as file:
        file.write(page)
    os.chmod(file.name, 0o644)
    os.replace(file.name, target)
    return target


def render(found: tp.Sequence[Run]) -> bytes:
    """The page of runs that are read already, at most LIMIT bytes of UTF-8."""
    sample = rollouts.sample(found, _ROLLOUTS)
    page = _fill(found, sample)
    if len(page) > LIMIT:  # very many curves: they stay, rollouts make room
        used = len(safe_json(sample.data).encode())
        room = max(LIMIT - _SLACK - (len(page) - used), 0)
        page = _fill(found, rollouts.sample(found, room))
    if len(page) > LIMIT:
        raise ValueError(
            f"report: the page takes {len(page):,} bytes without rollouts, expected at most "
            f"{LIMIT:,}; give fewer workdirs"
        )
    return page


def _fill(found: tp.Sequence[Run], sample: rollouts.Sample) -> bytes:
    settings = runs.settings(found)
    changed = runs.differences(found)
    folder = importlib.resources.files(__package__) / "templates"
    style, script = (
        (folder / name).read_text(encoding="utf-8") for name in ("report.css", "inspector.js")
    )
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )  # fmt: skip
    environment.filters["digits"] = lambda v: f"{v:.3f}" if runs.is_number(v) else "–"
    template = environment.from_string((folder / "report.html").read_text(encoding="utf-8"))
    text = template.render(
        runs=[_summary(run) for run in found],
        changed=changed[:_SETTINGS],
        more_changed=max(len(changed) - _SETTINGS, 0),
        rule=alarm.RULE,
        window=alarm.WINDOW,
        sections=panels.sections(settings, panels.tree_means(sample.statistics)),
        seeds=any(len(setting.runs) > 1 for setting in settings),
        sample=sample,
        data=markupsafe.Markup(safe_json(sample.data)),
        style=markupsafe.Markup(style),
        script=markupsafe.Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
        written=time.strftime("%Y-%m-%d %H:%M"),
    )
    return text.encode("utf-8", "backslashreplace")


def _summary(run: Run) -> dict[str, tp.Any]:
    """What the table of runs and the list of warnings show of a run."""
    held_out = [s for name in ("eval/pass@1", "eval/greedy") if (s := run.series(name))]
    evaluations = alarm.held_out(run)
    problems = list(dict.fromkeys(run.problems))
    scores = list(held_out[0].values()) if held_out else []
    rewards = list(run.series("reward/mean").values())
    model = run.config.get("model")
    seconds = run.summary.get("seconds")
    versions = run.summary.get("versions")
    return {
        "name": run.name,
        "state": run.state,
        "steps": run.steps,
        "seed": run.config.get("seed", "–"),
        "model": short(str(model.get("source", "–")) if isinstance(model, dict) else "–", 80),
        "reward": rewards[-alarm.WINDOW :],
        "before": scores[0] if scores else None,
        "after": scores[-1] if len(scores) > 1 else None,
        "seconds": seconds.get("all") if isinstance(seconds, dict) else None,
        "versions": ", ".join(f"{k} {v}" for k, v in versions.items())
        if isinstance(versions, dict)
        else "",
        "alarm": alarm.hacking(run.series("reward/mean"), evaluations),
        "evaluations": len(evaluations),
        "remarks": alarm.remarks(run),
        "problems": problems[:_PROBLEMS],
        "more_problems": max(len(problems) - _PROBLEMS, 0),
    }


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
