"""Which metrics go on which chart: a table, and the few charts that are not lines over steps."""

from __future__ import annotations

import collections
import dataclasses
import re
import typing as tp

import markupsafe
import numpy as np

from rlpt.report import charts, curves
from rlpt.report.runs import Setting, is_number
from rlpt.statistics import bootstrap, pass_at_k

UNIT = (0.0, 1.0)
_REST = 30  # charts of metrics that no panel claims
_STACKS = 6  # runs with stacked charts of their own
_POINTS = 60_000  # points of all lines of a page together


@dataclasses.dataclass(frozen=True)
class Panel:
    """A chart of the metrics that match `pattern` as a whole.

    several: another pattern for several settings, where lines would be too many; "": the same.
    """

    title: str
    pattern: str
    note: str = ""
    y_range: tuple[float, float] | None = None
    several: str = ""


_SCORES = r"pass@\d+|greedy"

# section -> panels; a metric goes to every panel that it matches
PANELS: dict[str, tuple[Panel, ...]] = {
    "Learning": (
        Panel(
            "Training reward and held-out score",
            r"reward/mean|eval/(pass@1|greedy)",
            "what the estimator sees, against prompts that are never trained on",
            several=r"reward/mean|eval/pass@1",
        ),
        Panel(
            "Held-out scores",
            rf"eval/({_SCORES})",
            "unbiased pass@k",
            UNIT,
            several=r"eval/(greedy|pass@8)",
        ),
        Panel("Held-out scores by task", rf"eval/.+/({_SCORES})", "", UNIT),
        Panel(
            "Reward before and after shaping",
            r"verdict/.+|reward/(?!zero_variance).+|clean_rewards?",
            "verdict/*: mean score of a verifier; reward/mean: after corrections and penalties",
        ),
        Panel("Groups with one reward only", r"reward/zero_variance_groups", "share", UNIT),
    ),
    "Policy": (
        Panel("Entropy", r"policy/entropy|.*/entropy", "nats a token"),
        Panel("Clip fractions", r".*clip_fraction.*|.*clipped.*", "share of trained tokens"),
        Panel("Ratio", r".*/ratio(_.*)?", "to the policy before the update"),
        Panel("KL", r".*/kl(_.*)?"),
        Panel("Sampler gap", r".*sampler_gap.*", "|log-prob of the sampler − of the scorer|"),
        Panel("Gradient norm", r".*grad_norm"),
        Panel("Losses", r"(.+/)?loss/.+", several=r"(.+/)?loss/total"),
        Panel("Largest advantage", r"advantage/.+"),
    ),
    "Lengths and outcomes": (
        Panel("Length", r"(rollout|eval)/length", "tokens a completion"),
        Panel("Truncated", r"(rollout|eval)/truncated", "share cut by the length limit", UNIT),
        Panel(
            "Rows",
            r"rollout/(rows|masked_rows|without_verdict)",
            "masked: without a verdict, empty, or left out by shaping",
        ),
    ),
    "Noise of the verifiers": (
        Panel(
            "Estimated and injected error rates",
            r"(.+/)?((fp_rate|fn_rate)(_\d+)?|injected_fp|injected_fn)",
            "fp: wrong answers that passed; fn: right ones that failed",
        ),
        Panel(
            "Noise audit", r"(.+/)?audit_.+", "advantages with the correction against those without"
        ),
        Panel("Appeals", r"(.+/)?appeals_.+", "rows"),
    ),
    "Time": (
        Panel("Tokens a second", r"rollout/tokens_per_second", "while sampling and verifying"),
        Panel("Programs compiled", r"time/compilations", "since the start of the process"),
    ),
}
# outcome -> colour: what is right looks the same on every page
_OUTCOMES = {
    "correct": 2,
    "incorrect": 1,
    "unparsable": 4,
    "timeout": 3,
    "crash": 0,
    "invalid": 5,
}


@dataclasses.dataclass
class Section:
    title: str
    figures: list[markupsafe.Markup]
    note: str = ""


def sections(
    settings: tp.Sequence[Setting], trees: tp.Mapping[str, tp.Mapping[str, charts.Series]]
) -> list[Section]:
    """All charts of the page; a section without a chart is left out.

    Args:
      settings: what is drawn in one colour each.
      trees: run name -> {name of a statistic: step -> value}.
    """
    runs = [run for setting in settings for run in setting.runs]
    names = sorted(
        {
            k
            for run in runs
            for row in run.metrics
            for k, v in row.items()
            if k not in ("step", "time") and is_number(v)
        }
    )
    claimed = {n for n in names if _stacked(n, "verify/") or _stacked(n, "time/")}
    chosen: dict[str, list[tuple[Panel, list[str]]]] = {}
    for title, panels in PANELS.items():
        chosen[title] = []
        for panel in panels:
            matching = [n for n in names if re.fullmatch(panel.pattern, n)]
            claimed.update(matching)
            if panel.several and len(settings) > 1:
                matching = [n for n in matching if re.fullmatch(panel.several, n)]
            chosen[title].append((panel, matching))
    rest = [n for n in names if n not in claimed]
    drawn = sum(len(m) for pairs in chosen.values() for _, m in pairs) + min(len(rest), _REST)
    points = min(max(_POINTS // max(drawn * len(settings), 1), 12), 200)

    out = []
    for title, pairs in chosen.items():
        figures = [_panel(settings, panel, matching, points) for panel, matching in pairs]
        if title == "Learning":
            figures.insert(2, _pass_at_k(settings))
        if title == "Lengths and outcomes":
            figures += _stacks(settings, "verify/", "Outcomes of the verifiers", "verdicts a step")
        if title == "Time":
            figures += _stacks(settings, "time/", "Time by stage", "seconds a step")
        out.append(Section(title, figures))
        if title == "Lengths and outcomes":
            note = "Of the groups in the inspector below; V is the mean reward below a prefix."
            out.append(Section("Trees of prefixes", _trees(settings, trees, points), note))
    figures = [_panel(settings, Panel(n, re.escape(n)), [n], points) for n in rest[:_REST]]
    left = len(rest) - _REST
    note = f"{left} more are in metrics.jsonl." if left > 0 else ""
    out.append(Section("Other metrics", figures, note))
    for section in out:
        section.figures = [figure for figure in section.figures if figure]
    return [section for section in out if section.figures]


def _lines(
    settings: tp.Sequence[Setting], series: tp.Mapping[str, tp.Sequence[tp.Sequence[curves.Series]]]
) -> list[charts.Line]:
    """series: metric -> by setting -> by seed.

    One setting: a colour for each metric, and a dash where there are few, which may coincide.
    Several: a colour for each setting, a dash for each metric.
    """
    lines = []
    for m, (metric, by_setting) in enumerate(series.items()):
        for s, (setting, seeds) in enumerate(zip(settings, by_setting, strict=True)):
            seeds = [one for one in seeds if one]
            if not seeds:
                continue
            steps, mean, low, high = (a.tolist() for a in curves.band(seeds))
            label = metric
            if len(settings) > 1:
                label = setting.label + (f", {metric}" if len(series) > 1 else "")
            line = charts.Line(label, dict(zip(steps, mean, strict=True)))
            few = len(series) < charts.DASHES
            line.colour, line.dash = (s, m) if len(settings) > 1 else (m, m if few else 0)
            if len(seeds) > 1:
                line.low = dict(zip(steps, low, strict=True))
                line.high = dict(zip(steps, high, strict=True))
            lines.append(line)
    return lines


def _panel(
    settings: tp.Sequence[Setting], panel: Panel, names: tp.Sequence[str], points: int
) -> markupsafe.Markup:
    series = {n: [[run.series(n) for run in s.runs] for s in settings] for n in names}
    return charts.line_chart(
        panel.title, _lines(settings, series), note=panel.note, y_range=panel.y_range, points=points
    )


def _trees(
    settings: tp.Sequence[Setting],
    trees: tp.Mapping[str, tp.Mapping[str, tp.Any]],
    points: int,
) -> list[markupsafe.Markup]:
    panels = {
        "distinct": Panel("Distinct completions", "", "leaves / rows of a group", UNIT),
        "forks": Panel("Forks", "", "a group"),
        "shared_tokens": Panel("Tokens before the first fork", "", "a group"),
        "credited": Panel(
            "Tokens that change V", "", "share of tokens with a term of TEMPO's that is not 0", UNIT
        ),
    }
    out = []
    for name, panel in panels.items():
        by_setting = [[trees.get(run.name, {}).get(name, {}) for run in s.runs] for s in settings]
        lines = _lines(settings, {name: by_setting})
        out.append(
            charts.line_chart(
                panel.title, lines, note=panel.note, y_range=panel.y_range, points=points
            )
        )
    return out


def _stacked(name: str, prefix: str) -> bool:
    """Whether a metric is a part of the stacked chart of a prefix: a verdict, or a stage's time."""
    outcome = prefix != "verify/" or name.rpartition("/")[2] in _OUTCOMES
    return name.startswith(prefix) and outcome and name != "time/compilations"


def _stacks(
    settings: tp.Sequence[Setting], prefix: str, title: str, note: str
) -> list[markupsafe.Markup]:
    runs = [run for setting in settings for run in setting.runs]
    out = []
    for run in runs[:_STACKS]:
        names = sorted({k for row in run.metrics for k in row if _stacked(k, prefix)})
        every = {n.removeprefix(prefix): run.series(n) for n in names}
        parts = {name: series for name, series in every.items() if series}
        colours = [
            _OUTCOMES[n.rpartition("/")[2]] if prefix == "verify/" else i
            for i, n in enumerate(parts)
        ]
        small = f"{run.name}, {note}" if len(runs) > 1 else note
        if len(runs) > _STACKS:
            small += f"; the first {_STACKS} runs are drawn"
        out.append(charts.stack_chart(title, parts, note=small, colours=colours))
    return out


def _pass_at_k(settings: tp.Sequence[Setting]) -> markupsafe.Markup:
    """pass@k over k, of the first and the last evaluation of each setting's first run."""
    lines = []
    for s, setting in enumerate(settings):
        run = setting.runs[0]
        usable = {step: counts for step in run.evals if (counts := _counts(run.evals[step]))}
        for nth, step in enumerate(dict.fromkeys([*list(usable)[:1], *list(usable)[-1:]])):
            samples = min(n for n, _ in usable[step])
            line = charts.Line(f"{run.name}, step {step}", {}, {}, {})
            line.colour, line.dash = (s, 1 - nth) if len(settings) > 1 else (nth, 0)
            for k in sorted({2**i for i in range(samples.bit_length())} | {samples}):
                values = np.array([pass_at_k(n, np.array(c), k) for n, c in usable[step]])
                line.mean[k] = float(np.mean(values))  # type: ignore[index]
                line.low[k], line.high[k] = bootstrap(values)  # type: ignore[index]
            lines.append(line)
    note = "over k, first and last evaluation; band: 95 % by bootstrap over the prompts"
    return charts.line_chart(
        "Held-out pass@k", lines, note=note, x_label="k", log_x=True, y_range=UNIT
    )


def _counts(result: tp.Mapping[str, tp.Any]) -> list[tuple[int, int]]:
    """(samples, correct) of each prompt of an evaluation that has both."""
    found = []
    prompts = result.get("per_prompt")
    for row in prompts.values() if isinstance(prompts, dict) else ():
        if isinstance(row, dict) and isinstance(row.get("samples"), int):
            n, c = row["samples"], row.get("correct")
            if n > 0 and isinstance(c, int) and 0 <= c <= n:
                found.append((n, c))
    return found


def tree_means(
    found: tp.Iterable[tuple[str, int, tp.Mapping[str, float]]],
) -> dict[str, dict[str, dict[int, float]]]:
    """(run, step, statistics of a group) -> run -> statistic -> step -> mean over the groups."""
    values: dict[tuple[str, str, int], list[float]] = collections.defaultdict(list)
    for run, step, numbers in found:
        for name, value in numbers.items():
            values[run, name, step].append(value)
    out: dict[str, dict[str, dict[int, float]]] = {}
    for (run, name, step), many in sorted(values.items()):
        out.setdefault(run, {}).setdefault(name, {})[step] = float(np.mean(many))
    return out
