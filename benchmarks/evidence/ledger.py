"""docs/evidence.md, from benchmarks/results/evidence/ alone.

python -m benchmarks.evidence.ledger
"""

from __future__ import annotations

import collections.abc
import json
import runpy
import typing as tp

import numpy as np

from benchmarks import gradient_noise
from benchmarks.evidence import figures
from benchmarks.evidence.queue import CLAIMS, RESULTS, ROOT, source
from rlpt import statistics

PAGE = ROOT / "docs/evidence.md"
DRAWS = 10_000
SAME = 0.10  # a difference within it counts as none
NOT_RUN = ("Not run yet.",)
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


Quantity = collections.abc.Mapping[str, Units]  # {seed: units}


def layers(arm: Quantity, base: Quantity, paired: bool = True) -> list[tuple[float, np.ndarray]]:
    """[(weight, [seeds, units])], whose weighted means, added, are arm - base of the common seeds.

    Units are those that all these runs have: held-out prompts are the same in all seeds.

    Args:
      paired: an arm's units with the base's; False: those of each arm are drawn by themselves.
    Raises: ValueError for runs without a common unit.
    """
    seeds = sorted(set(arm) & set(base))
    own, other = [strata(arm[seed]) for seed in seeds], [strata(base[seed]) for seed in seeds]
    share = 1.0 / len(own[0])
    found = []
    for part, against in zip(
        zip(*own, strict=True), zip(*other, strict=True), strict=True
    ):  # by stratum: a quantity of each seed
        if paired:
            units = sorted(set.intersection(*map(set, (*part, *against))))
            rows = [[a[u] - b[u] for u in units] for a, b in zip(part, against, strict=True)]
            found.append((share, np.array(rows)))
            continue
        for sign, side in ((share, part), (-share, against)):
            units = [u for u in side[0] if all(u in of_seed for of_seed in side)]
            found.append((sign, np.array([[of_seed[u] for u in units] for of_seed in side])))
    if not all(values.size for _, values in found):
        raise ValueError("difference: got runs without a common unit, expected the same prompts")
    return found


def difference(
    arm: Quantity, base: Quantity, paired: bool = True, seed: int = 0
) -> tuple[float, float, float]:
    """Mean and 95 % percentile bootstrap of arm - base, over seeds and over units.

    A draw takes the same units of all the seeds that it took: drawn afresh within each, what makes
    a prompt easy would average out over seeds, and the interval would be too narrow.

    Args:
      arm, base: {seed: units}; seeds that both have are paired.
      paired: units too; False: those of each arm are drawn by themselves.
    """
    parts = layers(arm, base, paired)
    seeds = len(parts[0][1])
    draws = np.random.default_rng(seed)
    means = np.empty(DRAWS)
    for i in range(DRAWS):
        chosen, total = draws.integers(seeds, size=seeds), 0.0
        for weight, values in parts:
            units = values.shape[1]
            total += weight * values[chosen].mean(0)[draws.integers(units, size=units)].mean()
        means[i] = total
    low, high = np.quantile(means, (0.025, 0.975))
    mean = np.mean(sum(weight * values.mean(1) for weight, values in parts))
    return float(mean), float(low), float(high)


def over_runs(arm: Quantity, base: Quantity, paired: bool = True) -> tuple[float, float, float]:
    """The same with Student's interval over seeds, of a run's mean each; NaN for one seed."""
    means = []
    for seed in sorted(set(arm) & set(base)):
        parts = layers({seed: arm[seed]}, {seed: base[seed]}, paired)
        means.append(sum(weight * float(values.mean()) for weight, values in parts))
    nan = float("nan")
    return float(np.mean(means)), *(statistics.t_interval(np.array(means)) or (nan, nan))


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
    "policy/entropy": ("entropy of updated rows, last 5 steps", "last"),
    "sampled_nll": ("nats a sampled token, last 5 logged steps", "last"),
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


def solved_at(run: Json) -> tuple[np.ndarray, np.ndarray]:
    """Steps and what was right there: held out where it was evaluated on its way, else in training.

    Of training it is the mean of five steps.
    """
    points = np.array(run["curves"].get("eval/pass@1", []), float).reshape(-1, 2)
    if len(points) <= 2:
        seen = values(run, "verdict/number")
        if len(seen) < 5:
            return np.zeros(0), np.zeros(0)
        mean = np.convolve(seen, np.ones(5) / 5, "valid")
        points = np.array([[0, run["before"]["pass@1"]], *enumerate(mean, 5)], float)
    return points[:, 0], points[:, 1]


def half_way(run: Json, gain: float) -> float:
    """The step at which half of `gain` above the start is reached, between evaluations linearly."""
    steps, right = solved_at(run)
    there = np.flatnonzero(right >= run["before"]["pass@1"] + gain / 2)
    if not len(there) or not there[0]:
        return float("nan")
    i = there[0]
    wanted = (run["before"]["pass@1"] + gain / 2 - right[i - 1]) / (right[i] - right[i - 1])
    return float(steps[i - 1] + wanted * (steps[i] - steps[i - 1]))


def seconds(run: Json) -> float:
    """Of a step, the median: compilations are left out."""
    return float(np.median(sum(values(run, t) for t in TIMES)))


def right_by(run: Json, budget: float) -> float | None:
    """What is right after `budget` seconds of steps, between evaluations linearly."""
    steps, right = solved_at(run)
    return float(np.interp(budget / seconds(run), steps, right)) if len(steps) else None


def details(found: Json, timed: bool) -> list[str]:
    """A second table: how the arms got there, means over seeds.

    Args: timed: the runs had the machine to themselves in the same way: compared at equal seconds.
    """
    base = found["arms"][found["baseline"]]
    if not base:
        return []
    gain = np.mean([r["after"]["pass@1"] - r["before"]["pass@1"] for r in base.values()])
    every = [run for runs in found["arms"].values() for run in runs.values()]
    budget = min(seconds(run) * len(values(run, TIMES[-1])) for run in every)
    columns: dict[str, dict[str, float]] = {}
    for name, runs in found["arms"].items():
        for run in runs.values():
            numbers = {"s a step": seconds(run)}
            if timed and (reached := right_by(run, budget)) is not None:
                numbers[f"right after {budget:.0f} s of steps"] = reached
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


class Effect(tp.NamedTuple):
    """An arm against what its claim compares it with, in the claim's quantity."""

    mean: float
    low: float
    high: float
    verdict: str  # empty where nothing is expected of the arm


class Claim(tp.NamedTuple):
    """A claim's registration and what was found."""

    name: str
    registered: Json  # the globals of its file
    found: Json | None  # benchmarks/results/evidence/NAME.json
    quantity: dict[str, dict[str, Units]]  # {arm: {seed: its quantity by unit}}
    effects: dict[str, Effect]  # of the arms that have a difference

    @property
    def measure(self) -> str:
        return self.registered.get("MEASURE", "pass@1")

    @property
    def against(self) -> str | float:
        """The baseline, or a constant such as chance."""
        assert self.found is not None
        return self.registered.get("AGAINST", self.found["baseline"])


def load(name: str) -> Claim:
    registered = runpy.run_path(str(ROOT / source(name).partition(":")[0]))
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return Claim(name, registered, None, {}, {})
    found = json.loads(path.read_text())
    measure = registered.get("MEASURE", "pass@1")
    units = registered.get("units", lambda run: solved(run, measure))
    quantity = {
        arm: {seed: units(run) for seed, run in runs.items()} for arm, runs in found["arms"].items()
    }
    base, effects = quantity[found["baseline"]], {}
    clean = found["arms"].get(registered.get("CLEAN"), {}).values()
    gain = np.mean([r["after"]["pass@1"] - r["before"]["pass@1"] for r in clean] or [1.0])
    for arm, own in quantity.items():
        if "AGAINST" in registered:
            base = {
                seed: dict.fromkeys(by_unit, registered["AGAINST"]) for seed, by_unit in own.items()
            }
        elif arm == found["baseline"]:
            continue
        both = set(own) & set(base)
        if not both:
            continue
        mean, low, high = difference(own, base, registered.get("PAIRED", True))
        expected, decided = registered["EXPECTED"].get(arm), ""
        if expected:
            few = len(both) < len(found["seeds"])
            decided = "too few seeds" if few else verdict(expected, low, high)
            if gain < GAIN:
                decided = f"does not count: {registered['CLEAN']} gained {gain:.2f}"
            decided = f"{expected}: {decided}" + ", in one seed" * (len(found["seeds"]) == 1)
        effects[arm] = Effect(mean, low, high, decided)
    return Claim(name, registered, found, quantity, effects)


def section(claim: Claim) -> list[str]:
    """The part of the page about one claim."""
    registered, found, measure = claim.registered, claim.found, claim.measure
    head = registered["__doc__"].strip().split("\n\n", 1)
    lines = [f"## {registered['CLAIM']}", "", f"`{source(claim.name)}`. {head[1]}", ""]
    if not found:
        return [*lines, *NOT_RUN, ""]
    lines += [f"![the curves and effects of {claim.name}](evidence/{claim.name}.png)", ""]
    own = "units" in registered  # a quantity that is not the measure
    quantity = f" {registered['QUANTITY']} |" if own else ""
    lines += [
        f"| arm | seeds | {measure} before | after |{quantity} minus {claim.against} "
        "| verdict | s |",
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
                f"{mean_of(by_unit):.3f}" for by_unit in claim.quantity[name].values()
            )
        other, decided = "", ""
        if effect := claim.effects.get(name):
            other = f"{effect.mean:+.3f} [{effect.low:+.3f}, {effect.high:+.3f}]"
            decided = effect.verdict
        elif name == claim.against:
            other = "baseline"
        seconds = sum(run["seconds"] for run in runs.values())
        seeds = ", ".join(runs)
        lines.append(
            f"| {name} | {seeds} | {before} | {after} | {other} | {decided} | {seconds:.0f} |"
        )
    return [*lines, *details(found, registered.get("TIMED", False)), ""]


def main() -> None:
    rules = (ROOT / "benchmarks/evidence/README.md").read_text()
    claims = [load(name) for name in CLAIMS]
    lines = [rules.rstrip(), "", "![all effects, with their intervals](evidence/all.png)", ""]
    for claim in claims:
        lines += section(claim)
    noise = gradient_noise.__doc__ or ""
    lines += [
        "## the noise of TEMPO's gradient",
        "",
        *noise.split("\n\n", 2)[2].strip().split("\n"),
    ]
    found = gradient_noise.RESULTS
    known = found.exists()
    lines += ["", *(gradient_noise.table(json.loads(found.read_text())) if known else NOT_RUN), ""]
    PAGE.write_text("\n".join(lines))
    figures.draw(claims, PAGE.with_suffix(""))


if __name__ == "__main__":
    main()
