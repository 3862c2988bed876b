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
from benchmarks.evidence import arms, figures
from benchmarks.evidence.queue import CLAIMS, RESULTS, ROOT, source
from rlpt import statistics

PAGE = ROOT / "docs/evidence.md"
DRAWS = 10_000
SAME = 0.10  # a difference within it counts as none
NOT_RUN = ("Not run yet.",)
GAIN = 0.20  # what the clean arm must gain for a claim to count
WIDE = 0.15  # an interval that contains 0 and reaches farther owes two seeds more
ONE_RUN = "one run: shown, not tested"
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


def shown(runs: collections.abc.Iterable[Json]) -> dict[str, tuple[str, str]]:
    """SHOWN, behind the verdicts that these runs have."""
    verdicts = {name: f"{figures.judged(name)}, last 5 steps" for name in figures.verdicts(runs)}
    return {name: (heading, "last") for name, heading in verdicts.items()} | SHOWN


def solved_at(run: Json) -> tuple[np.ndarray, np.ndarray]:
    """Steps and what was right there: held out where it was evaluated on its way, else in training.

    Of training it is the mean of five steps, by the only verifier or by the one called number.
    """
    points = np.array(run["curves"].get("eval/pass@1", []), float).reshape(-1, 2)
    if len(points) <= 2:
        names = figures.verdicts([run])
        seen = values(run, names[0] if len(names) == 1 else "verdict/number")
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


def numbers_of(run: Json, headings: dict[str, tuple[str, str]]) -> dict[str, float]:
    """What the second table has of a run. Args: headings: as `shown`."""
    numbers = {}
    for curve, (heading, how) in headings.items():
        got = values(run, curve)
        if len(got):
            numbers[heading] = float((got[-5:] if how == "last" else got).mean())
    numbers |= {k: share for k, share in run["after"].items() if k.startswith("pass@")}
    was, now = run["before"]["correct"], run["after"]["correct"]
    numbers["prompts gained"] = float(sum(now[p] > 0 and not was[p] for p in now))
    numbers["lost"] = float(sum(was[p] > 0 and not now[p] for p in now))
    if len(values(run, "eval/pass@1")) > 2:  # evaluated on its way
        numbers["hacking alarm rang"] = float(run["alarm"])
    return numbers


def over_seeds(found: list[float]) -> str:
    """The mean, of how many of the seeds where some have none (NaN)."""
    known = [value for value in found if not np.isnan(value)]
    mean = f"{sum(known) / len(known):.3g}" if known else ""
    if len(known) == len(found):
        return mean
    return f"{len(known)} of {len(found)}" + f": {mean}" * bool(known)


def details(claim: Claim) -> list[str]:
    """A second table: how the arms got there, means over seeds.

    At equal seconds where the claim says TIMED: its runs had the machine in the same way.
    """
    found = claim.found
    assert found is not None
    base = found["arms"][found["baseline"]]
    if not base:
        return []
    gain = gained(base)
    every = [run for runs in found["arms"].values() for run in runs.values()]
    headings, budget = shown(every), min(seconds(r) * len(values(r, TIMES[-1])) for r in every)
    columns: dict[str, dict[str, list[float]]] = {}
    for name, runs in found["arms"].items():
        for run in runs.values():
            numbers = {"s a step": seconds(run)}
            reached = right_by(run, budget) if claim.registered.get("TIMED") else None
            if reached is not None:
                numbers[f"right after {budget:.0f} s of steps"] = reached
            if gain >= GAIN:
                numbers["steps to half of the baseline's gain"] = half_way(run, gain)
            for heading, value in (numbers | numbers_of(run, headings)).items():
                columns.setdefault(heading, {}).setdefault(name, []).append(value)
    names = [name for name, runs in found["arms"].items() if runs]
    lines = ["", "| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    table = {
        heading: {name: over_seeds(of_seeds) for name, of_seeds in cells.items()}
        for heading, cells in columns.items()
    }
    if not claim.steps:  # else the first table has it
        table[f"minus {claim.against}, Student's t over seeds"] = {
            arm: claim.text(effect._replace(low=student[1], high=student[2]))
            for arm, effect in claim.effects.items()
            if not np.isnan((student := claim.student(arm))[1])
        }
    for heading, cells in table.items():
        if cells:
            row = " | ".join(cells.get(name, "") for name in names)
            lines.append(f"| {heading} | {row} |")
    return lines


class Effect(tp.NamedTuple):
    """An arm against what its claim compares it with, in the claim's quantity."""

    mean: float
    low: float  # NaN: one run, of which there is no interval
    high: float
    verdict: str  # empty where nothing is expected of the arm
    against: str | float = ""  # empty: the claim's


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
        given = self.registered.get("AGAINST", {})
        return self.found["baseline"] if isinstance(given, dict) else given

    @property
    def unit(self) -> str:
        """Of the quantity."""
        return self.registered.get("UNIT", "share")

    @property
    def steps(self) -> bool:
        """Whether the quantity's units are the steps of a run, which are not independent."""
        return stepwise(self.registered, self.quantity)

    def other(self, arm: str) -> str | float:
        """What the arm is compared with: another arm, or a constant."""
        given = self.registered.get("AGAINST", {})
        return given.get(arm, self.against) if isinstance(given, dict) else self.against

    def base(self, arm: str, quantity: dict[str, dict[str, Units]]) -> dict[str, Units]:
        """The quantity of what the arm is compared with. Args: quantity: of all arms."""
        other = self.other(arm)
        if isinstance(other, str):
            return quantity[other]
        return {seed: dict.fromkeys(by_unit, other) for seed, by_unit in quantity[arm].items()}

    def common(self, arm: str) -> set[str]:
        """The seeds of both."""
        return set(self.quantity[arm]) & set(self.base(arm, self.quantity))

    def student(self, arm: str) -> tuple[float, float, float]:
        """`over_runs` of the arm's difference."""
        paired = self.registered.get("PAIRED", True)
        return over_runs(self.quantity[arm], self.base(arm, self.quantity), paired)

    def text(self, effect: Effect) -> str:
        """The effect with its interval, and against what where that is not the claim's."""
        interval = f" [{effect.low:+.3f}, {effect.high:+.3f}]" * (not np.isnan(effect.low))
        other = f" (minus {effect.against})" * (effect.against != "")
        return f"{effect.mean:+.3f}{interval}{other}"


def stepwise(registered: Json, quantity: dict[str, dict[str, Units]]) -> bool:
    """STEPS of a claim's file; without it, whether all units of its own quantity are numbers."""
    if "units" not in registered:
        return False
    every = [
        part for runs in quantity.values() for units in runs.values() for part in strata(units)
    ]
    return registered.get("STEPS", all(name.isdigit() for part in every for name in part))


def gained(runs: Json) -> float:
    """How much pass@1 rose, the mean over the seeds of an arm."""
    return float(np.mean([r["after"]["pass@1"] - r["before"]["pass@1"] for r in runs.values()]))


def uncounted(registered: Json, found: Json) -> str:
    """Why a claim does not count: CLEAN, the arm with clean rewards, gained little."""
    if not (clean := registered.get("CLEAN")):
        return ""
    if not (runs := found["arms"][clean]):
        return f"does not count yet: {clean} was not run"
    gain = gained(runs)
    return f"does not count: {clean} gained {gain:.2f}" if gain < GAIN else ""


def unlike_registered(registered: Json, found: Json) -> dict[str, str]:
    """{arm of ALARM: in how many of its seeds the alarm rang}, where it is not as registered."""
    rang = {
        arm: [run["alarm"] for run in found["arms"][arm].values()]
        for arm in registered.get("ALARM", {})
    }
    return {
        arm: f"{arm} rang in {sum(seeds)} of {len(seeds)}"
        for arm, seeds in rang.items()
        if not all(seed == registered["ALARM"][arm] for seed in seeds)
    }


def decided(claim: Claim, arm: str, seeds: int, low: float, high: float) -> str:
    """The verdict on an arm, empty where nothing is expected of it.

    Args: seeds: that the arm and its baseline have.  low, high: of the interval; NaN: none.
    """
    registered, found = claim.registered, claim.found
    assert found is not None
    expected = registered["EXPECTED"].get(arm)
    if not expected:
        return ""
    of_one = ", in one seed" * (len(found["seeds"]) == 1)
    if not (said := uncounted(registered, found)):
        alarms = [len(found["arms"][other]) for other in registered.get("ALARM", ())]
        if min([seeds, *alarms]) < len(found["seeds"]):
            said = "too few seeds"
        elif missed := unlike_registered(registered, found):
            said = f"not reproduced: the alarm of {', '.join(missed.values())}"
        elif np.isnan(low):
            return f"{expected}: {ONE_RUN}"
        else:
            said = verdict(expected, low, high)
    return f"{expected}: {said}{of_one}"


def check(name: str, registered: Json, found: Json) -> None:
    """Raises: ValueError where a claim's file names an arm that its figures do not have."""
    against = registered.get("AGAINST", {})
    against = against if isinstance(against, dict) else {}
    named = {*against, *against.values(), *registered.get("ALARM", {})}
    named |= {arm for arm, _ in registered.get("REPORTED", ())}
    named |= {registered["CLEAN"]} if "CLEAN" in registered else set()
    if unknown := named - set(found["arms"]):
        has = ", ".join(found["arms"])
        raise ValueError(f"{name}: got arms {', '.join(sorted(unknown))}, expected some of {has}")


def load(name: str) -> Claim:
    registered = runpy.run_path(str(ROOT / source(name).partition(":")[0]))
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return Claim(name, registered, None, {}, {})
    found = json.loads(path.read_text())
    check(name, registered, found)
    measure = registered.get("MEASURE", "pass@1")
    units = registered.get("units", lambda run: solved(run, measure))
    quantity = {
        arm: {seed: units(run) for seed, run in runs.items()} for arm, runs in found["arms"].items()
    }
    claim = Claim(name, registered, found, quantity, {})
    means = [mean_of(of_unit) for own in quantity.values() for of_unit in own.values()]
    if claim.unit == "share" and any(not -1e-6 <= mean <= 1 + 1e-6 for mean in means):
        raise ValueError(f"{name}: got shares to {max(means):.3g}, expected UNIT in its file")
    for arm, own in quantity.items():
        other, seeds = claim.other(arm), len(claim.common(arm))
        if other == arm or not seeds:
            continue
        effect = (
            claim.student(arm)
            if claim.steps
            else difference(own, claim.base(arm, quantity), claim.registered.get("PAIRED", True))
        )
        said = decided(claim, arm, seeds, *effect[1:])
        claim.effects[arm] = Effect(*effect, said, "" if other == claim.against else other)
    return claim


def owed(claim: Claim) -> list[str]:
    """The arms for which two seeds more are owed, by the rule in README.md."""
    if not claim.found or claim.found["seeds"] != list(arms.SEEDS) or claim.unit != "share":
        return []
    both = {arm: claim.common(arm) for arm in claim.effects}
    return [
        arm
        for arm, effect in claim.effects.items()
        if effect.verdict and len(both[arm]) == len(arms.SEEDS)
        if effect.low <= 0 <= effect.high and max(-effect.low, effect.high) > WIDE
    ]


def remarks(claim: Claim) -> list[str]:
    """What a claim's file asks for beside its tables, a paragraph each."""
    registered, found, lines = claim.registered, claim.found, []
    if found and "ALARM" in registered:
        rings = {arm: "rings" if on else "is silent" for arm, on in registered["ALARM"].items()}
        wanted = ", ".join(f"{arm} {how}" for arm, how in rings.items())
        missed = ", ".join(unlike_registered(registered, found).values())
        held = "is not known yet" if not all(found["arms"][arm] for arm in rings) else "held"
        lines += [
            f"The alarm as registered ({wanted}): {f'not held, {missed}' if missed else held}.",
            "",
        ]
    for arm, measure in registered.get("REPORTED", ()) if found else ():
        quantity = {
            name: {seed: solved(run, measure) for seed, run in runs.items()}
            for name, runs in found["arms"].items()
        }
        base = claim.base(arm, quantity)
        if set(quantity[arm]) & set(base):
            effect = Effect(*difference(quantity[arm], base), "")
            said = f"{arm} minus {claim.other(arm)} at {measure}: {claim.text(effect)}"
            lines += [f"Reported, without a verdict: {said}.", ""]
    if more := owed(claim):
        reach = f"its interval of {', '.join(more)} contains 0 and reaches beyond ±{WIDE:.2f}"
        lines += [f"{claim.name} owes seeds {' and '.join(map(str, arms.MORE))}: {reach}.", ""]
    if "FOUND" in registered:
        lines += [f"Found afterwards: {registered['FOUND'].strip()}", ""]
    return lines


def section(claim: Claim) -> list[str]:
    """The part of the page about one claim."""
    registered, found, measure = claim.registered, claim.found, claim.measure
    head = registered["__doc__"].strip().split("\n\n", 1)
    lines = [f"## {registered['CLAIM']}", "", f"`{source(claim.name)}`. {head[1]}", ""]
    if not found:
        return [*lines, *NOT_RUN, "", *remarks(claim)]
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
        other, said = "", ""
        if effect := claim.effects.get(name):
            other, said = claim.text(effect), effect.verdict
        elif name == claim.against:
            other = "baseline"
        seconds = sum(run["seconds"] for run in runs.values())
        seeds = ", ".join(runs)
        lines.append(
            f"| {name} | {seeds} | {before} | {after} | {other} | {said} | {seconds:.0f} |"
        )
    return [*lines, *details(claim), "", *remarks(claim)]


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
