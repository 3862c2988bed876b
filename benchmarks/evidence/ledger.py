"""docs/evidence.md, from benchmarks/results/evidence/ alone.

python -m benchmarks.evidence.ledger
"""

from __future__ import annotations

import collections.abc
import json
import runpy
import typing as tp

import numpy as np

from benchmarks.evidence.queue import CLAIMS, RESULTS, ROOT, source

PAGE = ROOT / "docs/evidence.md"
DRAWS = 10_000
SAME = 0.10  # a difference within it counts as none
GAIN = 0.20  # what the clean arm must gain for a claim to count
Json = dict[str, tp.Any]


def solved(run: Json, measure: str) -> dict[str, float]:
    """{prompt: unbiased pass@k} after a run. measure: pass@k."""
    k, n = int(measure.removeprefix("pass@")), run["after"]["samples"]
    tail = lambda c: np.prod([1 - k / i for i in range(n - c + 1, n + 1)]) if n - c >= k else 0.0
    return {name: 1.0 - float(tail(c)) for name, c in run["after"]["correct"].items()}


# A quantity by unit, such as a prompt; or several such, of which the mean of the means counts.
Units = collections.abc.Mapping[str, float] | list[collections.abc.Mapping[str, float]]


def strata(units: Units) -> list[collections.abc.Mapping[str, float]]:
    """The parts of a quantity. Raises: ValueError for one without units."""
    parts = units if isinstance(units, list) else [units]
    if not all(parts):
        raise ValueError("a quantity without units, such as judgements of which there are none")
    return parts


def mean_of(units: Units) -> float:
    """The mean over parts of the mean over their units."""
    return float(np.mean([np.mean(list(part.values())) for part in strata(units)]))


def difference(
    arm: collections.abc.Mapping[str, Units],
    base: collections.abc.Mapping[str, Units],
    paired: bool = True,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Mean and 95 % percentile bootstrap of arm - base, over seeds and within them over units.

    Args:
      arm, base: {seed: units}; seeds that both have are paired.
      paired: units too; False: those of each arm are drawn by themselves.
    """
    samples = []  # by seed: (weight, values), of which the weighted means are added
    for name in sorted(set(arm) & set(base)):
        parts, others = strata(arm[name]), strata(base[name])
        share = 1.0 / len(parts)
        own: list[tuple[float, np.ndarray]] = []
        for a, b in zip(parts, others, strict=True):
            if paired:
                own.append((share, np.array([a[p] - b[p] for p in sorted(set(a) & set(b))])))
            else:
                own += [(share, np.array(list(a.values()))), (-share, np.array(list(b.values())))]
        samples.append(own)
    draws = np.random.default_rng(seed)
    drawn = lambda parts: sum(w * draws.choice(x, len(x)).mean() for w, x in parts)  # noqa: E731
    means = np.empty(DRAWS)
    for i in range(DRAWS):
        chosen = draws.integers(len(samples), size=len(samples))
        means[i] = np.mean([drawn(samples[j]) for j in chosen])
    low, high = np.quantile(means, (0.025, 0.975))
    mean = np.mean([sum(w * x.mean() for w, x in parts) for parts in samples])
    return float(mean), float(low), float(high)


def verdict(expected: str, low: float, high: float) -> str:
    """Of an interval, by the rule in README.md. expected: above, below or same."""
    if expected == "same":
        if low >= -SAME and high <= SAME:
            return "reproduced"
        return "not reproduced" if low > SAME or high < -SAME else "undecided"
    if expected == "below":
        low, high = -high, -low
    return "reproduced" if low > 0 else "not reproduced" if high < 0 else "undecided"


SHOWN = {  # what else is shown of an arm: curve -> (heading, how it becomes one number)
    "verdict/number": ("right while training, last 5 steps", "last"),
    "policy/entropy": ("entropy, last 5 steps", "last"),
    "policy/sampler_gap": ("sampler gap, mean", "mean"),
    "policy/clip_fraction": ("clipped share, mean", "mean"),
    "rollout/length": ("length, last 5 steps", "last"),
    "audit_cosine": ("audit cosine, mean", "mean"),
    "fp_rate": ("estimated fp_rate, last 5", "last"),
    "fn_rate": ("estimated fn_rate, last 5", "last"),
    "tree/branch_fraction": ("tokens where the tree parts", "mean"),
    "tree/depth": ("depth of a row in the tree", "mean"),
}
TIMES = ("time/rollout_and_verify", "time/credit", "time/update")


def values(run: Json, curve: str) -> np.ndarray:
    """Of one curve, by step."""
    return np.array([value for _, value in run["curves"].get(curve, [])])


def half_way(run: Json, gain: float) -> float:
    """The first step whose verdicts (five steps' mean) are half of `gain` above the first ones."""
    seen = values(run, "verdict/number")
    if len(seen) < 5:
        return float("nan")
    mean = np.convolve(seen, np.ones(5) / 5, "valid")
    there = np.flatnonzero(mean >= seen[0] + gain / 2)
    return float(there[0] + 5) if len(there) else float("nan")


def details(found: Json) -> list[str]:
    """A second table: how the arms got there, means over seeds."""
    base = found["arms"][found["baseline"]]
    if not base:
        return []
    gain = np.mean([r["after"]["pass@1"] - r["before"]["pass@1"] for r in base.values()])
    columns: dict[str, dict[str, float]] = {}
    for name, runs in found["arms"].items():
        for run in runs.values():
            numbers = {"s a step": float(np.median(sum(values(run, t) for t in TIMES)))}
            if gain >= GAIN:
                numbers["steps to half of the baseline's gain"] = half_way(run, float(gain))
            for curve, (heading, how) in SHOWN.items():
                got = values(run, curve)
                if len(got):
                    numbers[heading] = float((got[-5:] if how == "last" else got).mean())
            for k in run["after"]:
                if k.startswith("pass@"):
                    numbers[k] = run["after"][k]
            was, now = run["before"]["correct"], run["after"]["correct"]
            numbers["prompts gained"] = float(sum(now[p] > 0 and not was[p] for p in now))
            numbers["lost"] = float(sum(was[p] > 0 and not now[p] for p in now))
            if len(values(run, "eval/pass@1")) > 2:  # evaluated on its way
                numbers["hacking alarm rang"] = float(run["alarm"])
            for heading, value in numbers.items():
                columns.setdefault(heading, {}).setdefault(name, 0.0)
                columns[heading][name] += value / len(runs)
    arms = [name for name, runs in found["arms"].items() if runs]
    lines = ["", "| | " + " | ".join(arms) + " |", "|---" * (len(arms) + 1) + "|"]
    for heading, cells in columns.items():
        row = (f"{cells[name]:.3g}" if name in cells else "" for name in arms)
        lines.append(f"| {heading} | " + " | ".join(row) + " |")
    return lines


def section(claim: str) -> list[str]:
    """The part of the page about one claim."""
    registered = runpy.run_path(str(ROOT / source(claim).partition(":")[0]))
    head = registered["__doc__"].strip().split("\n\n", 1)
    lines = [f"## {registered['CLAIM']}", "", f"`{source(claim)}`. {head[1]}", ""]
    path = RESULTS / f"{claim}.json"
    if not path.exists():
        return [*lines, "Not run yet.", ""]
    found = json.loads(path.read_text())
    measure = registered.get("MEASURE", "pass@1")
    units = registered.get("units", lambda run: solved(run, measure))
    own = "units" in registered  # a quantity that is not the measure
    values_of = {
        name: {seed: units(run) for seed, run in runs.items()}
        for name, runs in found["arms"].items()
    }
    base, against = values_of[found["baseline"]], found["baseline"]
    if "AGAINST" in registered:  # a constant, such as chance
        against = registered["AGAINST"]
    quantity = f" {registered['QUANTITY']} |" if own else ""
    lines += [
        f"| arm | seeds | {measure} before | after |{quantity} minus {against} | verdict | s |",
        "|---|---|---|---|---|---|---|" + "---|" * own,
    ]
    for name, runs in found["arms"].items():
        if not runs:
            lines.append(f"| {name} | none yet | | | | | |" + " |" * own)
            continue
        before, after = (
            " ".join(f"{run[when][measure]:.3f}" for run in runs.values())
            for when in ("before", "after")
        )
        if own:
            after += " | " + " ".join(
                f"{mean_of(by_unit):.3f}" for by_unit in values_of[name].values()
            )
        other, decided = "", ""
        if "AGAINST" in registered:
            base = {
                seed: dict.fromkeys(by_unit, against) for seed, by_unit in values_of[name].items()
            }
        elif name == found["baseline"]:
            other = "baseline"
        if not other and set(runs) & set(base):
            mean, low, high = difference(values_of[name], base, registered.get("PAIRED", True))
            other = f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"
            if name in registered["EXPECTED"]:
                few = len(set(runs) & set(base)) < len(found["seeds"])
                decided = registered["EXPECTED"][name] + ": "
                decided += (
                    "too few seeds" if few else verdict(registered["EXPECTED"][name], low, high)
                )
                decided += ", in one seed" * (len(found["seeds"]) == 1)
        seconds = sum(run["seconds"] for run in runs.values())
        seeds = ", ".join(runs)
        lines.append(
            f"| {name} | {seeds} | {before} | {after} | {other} | {decided} | {seconds:.0f} |"
        )
    return [*lines, *details(found), ""]


def main() -> None:
    rules = (ROOT / "benchmarks/evidence/README.md").read_text()
    lines = [rules.rstrip(), ""]
    for claim in CLAIMS:
        lines += section(claim)
    PAGE.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
