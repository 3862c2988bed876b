"""Differences between arms: their units, their intervals, and the verdict on an interval."""

from __future__ import annotations

import collections.abc
import typing as tp

import numpy as np

from rlpt import statistics

DRAWS = 10_000
SAME = 0.10  # a difference within it counts as none
Json = dict[str, tp.Any]


def solved(run: Json, measure: str, step: int | None = None) -> dict[str, float]:
    """{prompt: unbiased pass@k} after a run, or on its way. measure: pass@k."""
    k, n = int(measure.removeprefix("pass@")), run["after"]["samples"]
    correct = run["after"]["correct"] if step is None else run["evals"][str(step)]
    tail = lambda c: np.prod([1 - k / i for i in range(n - c + 1, n + 1)]) if n - c >= k else 0.0
    return {name: 1.0 - float(tail(c)) for name, c in correct.items()}


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
