"""The pictures of docs/evidence.md: one of all effects, and one of each claim's curves.

`python -m benchmarks.evidence.ledger` draws them.  Bands are from the lowest to the highest seed.
"""

from __future__ import annotations

import collections.abc
import pathlib
import typing as tp

import numpy as np

from rlpt.report.curves import COLOURS, REWARD, band

if tp.TYPE_CHECKING:
    from benchmarks.evidence.claims import Claim, Effect
    from benchmarks.evidence.effects import Json
SMOOTH = 5  # steps
HINTS = ("one seed", "one run", "bootstrap alone", "an identity")  # of verdicts
HOLLOW = "hollow: one seed, or a hint"
PANELS = 3  # of verdicts, at most
STYLES = ("-", "--", ":")
DECIDED = {"not reproduced": "#D55E00", "reproduced": "#009E73", "undecided": "#E69F00"}
NEITHER = "0.5"  # too few seeds, one run of which steps are the units, clean rewards teach little


def draw(claims: collections.abc.Iterable[Claim], out: pathlib.Path) -> None:
    """Writes all.png and one NAME.png for each claim that has a run."""
    out.mkdir(exist_ok=True)
    claims = [claim for claim in claims if claim.found]
    _save(every_effect(claims), out / "all.png")
    for claim in claims:
        _save(one(claim), out / f"{claim.name}.png")


def every_effect(claims: collections.abc.Sequence[Claim]) -> tp.Any:
    """Effects of which something was registered, with their intervals: a panel for each unit."""
    rows: dict[str, list[tuple[str, Effect]]] = {}
    for claim in claims:
        for arm, effect in claim.effects.items():
            if effect.verdict:
                rows.setdefault(claim.unit, []).append(
                    (_against(f"{claim.name}: {arm}", effect), effect)
                )
    heights = [len(own) + 2 for own in rows.values()]
    height = 0.8 + 0.26 * sum(map(len, rows.values())) + 0.6 * max(len(rows) - 1, 0)
    figure, every = _figure(max(len(rows), 1), width=8.0, height=height, down=heights or [1])
    for axes, (unit, own) in zip(every, rows.items(), strict=False):
        _intervals(axes, own)
        what = "shares" if unit == "share" else unit
        axes.set_title(f"difference from the baseline, {what}", fontsize=10)
    for word, colour in [*DECIDED.items(), ("not judged", NEITHER)]:
        every[0].plot([], [], "o", color=colour, label=word)
    every[0].plot([], [], "o", color=NEITHER, markerfacecolor="white", label=HOLLOW)
    figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    return figure


def one(claim: Claim) -> tp.Any:
    """How the arms of a claim got there, and how far from each other they ended."""
    assert claim.found
    arms = {name: list(runs.values()) for name, runs in claim.found["arms"].items() if runs}
    every = [run for runs in arms.values() for run in runs]
    training = verdicts(every)[:PANELS] or [REWARD]
    rates = any(_rates(run) for run in every)
    many = claim.measure not in ("pass@1", "pass@8")
    panels = len(training) + 2 + rates
    figure, axes = _figure(panels, width=4.1 * panels, height=3.4 + 0.6 * rates)
    for own, curve in zip(axes, training, strict=False):
        _training(own, arms, curve)
    (_solved if many else _held_out)(axes[len(training)], arms)
    if rates:
        _error_rates(axes[-2], arms, claim.registered.get("INJECT", {}))
    axes[-1].set_title(
        f"{claim.registered.get('QUANTITY', claim.measure)}\nminus {claim.against}", fontsize=10
    )
    _intervals(
        axes[-1], [(_against(name, effect), effect) for name, effect in claim.effects.items()]
    )
    lines = {}
    for own in axes[: len(training) + 1]:  # an arm may lack the curve of a panel
        for line, name in zip(*own.get_legend_handles_labels(), strict=True):
            if name in arms:
                lines.setdefault(name, line)
    named = {name: lines[name] for name in arms if name in lines}
    figure.legend(named.values(), named, loc="outside lower center", ncols=8, frameon=False)
    return figure


def verdicts(runs: collections.abc.Iterable[Json]) -> list[str]:
    """The curves of verdicts that any of the runs has, that of the verifier `number` first."""
    names = {name for run in runs for name in run["curves"] if name.startswith("verdict/")}
    return sorted(names, key=lambda name: (name != "verdict/number", name))


def judged(curve: str) -> str:
    """A heading for a curve of verdicts."""
    name = curve.removeprefix("verdict/")
    return f"{'right' if name == 'number' else name} while training"


def _against(name: str, effect: Effect) -> str:
    return f"{name} - {effect.against}" if effect.against != "" else name


def _figure(
    panels: int, width: float, height: float, down: list[int] | None = None
) -> tuple[tp.Any, tp.Any]:
    """Panels side by side. Args: down: below each other, with heights in these proportions."""
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(width, height), dpi=80, layout="constrained")
    shape = (panels, 1) if down else (1, panels)
    every = figure.subplots(*shape, squeeze=False, height_ratios=down).ravel()
    for axes in every:
        axes.grid(True, color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.locator_params("x", nbins=6)
    return figure, every


def _save(figure: tp.Any, path: pathlib.Path) -> None:
    figure.savefig(path, metadata={"Software": None})  # the version of matplotlib


def _style(number: int) -> dict[str, tp.Any]:
    colour = COLOURS[number % len(COLOURS)]
    return {"color": colour, "linestyle": STYLES[number // len(COLOURS)]}


def _curve(run: Json, name: str, smooth: int = 1) -> dict[int, float]:
    """{step: the mean of the last `smooth` values}."""
    points = run["curves"].get(name, [])
    return {
        step: float(np.mean([v for _, v in points[max(0, i + 1 - smooth) : i + 1]]))
        for i, (step, _) in enumerate(points)
    }


def _lines(axes: tp.Any, label: str, seeds: list[dict[int, float]], **style: tp.Any) -> None:
    if not all(seeds):
        return
    steps, mean, low, high = band(seeds)
    axes.plot(steps, mean, label=label, **style)
    if len(seeds) > 1:
        axes.fill_between(steps, low, high, color=style["color"], alpha=0.15, linewidth=0)


def _training(axes: tp.Any, arms: dict[str, list[Json]], curve: str) -> None:
    for number, (name, runs) in enumerate(arms.items()):
        seeds = [_curve(run, curve, SMOOTH) for run in runs]
        _lines(axes, name, seeds, **_style(number))
    what = "reward" if curve == REWARD else judged(curve)
    axes.set_title(f"{what}, mean of {SMOOTH} steps", fontsize=10)
    axes.set_xlabel("step", fontsize=9)


def _held_out(axes: tp.Any, arms: dict[str, list[Json]]) -> None:
    for number, (name, runs) in enumerate(arms.items()):
        seeds = [_curve(run, "eval/pass@1") for run in runs]
        _lines(axes, name, seeds, marker="o", markersize=4, **_style(number))
    axes.set_title("held-out pass@1", fontsize=10)
    axes.set_xlabel("step", fontsize=9)


def _solved(axes: tp.Any, arms: dict[str, list[Json]]) -> None:
    """pass@k by k, after the runs and, in grey, before them."""

    def by_k(run: Json) -> dict[int, float]:
        return {int(k[5:]): v for k, v in run.items() if k.startswith("pass@")}

    before = [by_k(run["before"]) for runs in arms.values() for run in runs]
    _lines(axes, "before", before, color="0.5", linestyle="-")
    for number, (name, runs) in enumerate(arms.items()):
        _lines(axes, name, [by_k(run["after"]) for run in runs], **_style(number))
    axes.set_xscale("log", base=2)
    axes.set_title("held-out pass@k; grey: before", fontsize=10)
    axes.set_xlabel("k", fontsize=9)


def _rates(run: Json) -> list[str]:
    """Curves of estimated error rates: by stratum where they are known, else pooled."""
    names = [n for n in run["curves"] if n.startswith(("fp_rate", "fn_rate"))]
    return [n for n in names if n[-1].isdigit()] or names


def _error_rates(axes: tp.Any, arms: dict[str, list[Json]], injected: dict[str, tp.Any]) -> None:
    """A colour for each rate, a style of line for each arm.

    Args: injected: settings of noise.inject, of which a tuple is by stratum.
    """
    every = {name: rates for name, runs in arms.items() if (rates := _rates(runs[0]))}
    colours = {
        rate: COLOURS[i % len(COLOURS)]
        for i, rate in enumerate(dict.fromkeys(sum(every.values(), [])))
    }
    for number, (name, rates) in enumerate(every.items()):
        for rate in rates:
            runs = arms[name]
            style = {"color": colours[rate], "linestyle": STYLES[number % len(STYLES)]}
            _lines(axes, f"{name} {rate}", [_curve(run, rate) for run in runs], **style)
            kind, _, stratum = rate.rpartition("_")
            if stratum.isdigit():
                true = injected[kind][int(stratum)]
                axes.axhline(true, color=style["color"], alpha=0.4, linewidth=3)
            else:  # what was drawn, of which the pooled rate is one of the whole batch
                seen = [_curve(run, f"injected_{rate[:2]}", SMOOTH) for run in runs]
                _lines(axes, "", seen, **style | {"alpha": 0.4, "linewidth": 3})
    axes.set_ylim(-0.03, 1.03)
    axes.set_title("error rates: estimated (thin), true (thick)", fontsize=10)
    axes.set_xlabel("step", fontsize=9)
    if every:
        axes.legend(
            frameon=False, fontsize=7, ncols=len(every), loc="lower center",
            bbox_to_anchor=(0.5, 1.08),
        )  # fmt: skip


def _intervals(axes: tp.Any, effects: list[tuple[str, tp.Any]]) -> None:
    """One line each, from above: the interval, its mean, the verdict as the colour."""
    for i, (_, effect) in enumerate(effects):
        said = next((c for word, c in DECIDED.items() if word in effect.verdict), NEITHER)
        axes.plot([effect.low, effect.high], [i, i], color=said, linewidth=2)
        fill = "white" if any(word in effect.verdict for word in HINTS) else said
        axes.plot([effect.mean], [i], "o", color=said, markerfacecolor=fill, markersize=5)
    axes.axvline(0.0, color="0.3", linewidth=1)
    axes.set_yticks(range(len(effects)), [name for name, _ in effects], fontsize=8)
    axes.set_ylim(len(effects) - 0.5, -0.5)
