"""A claim as its file registers it, with what was found, and the verdicts on its arms."""

from __future__ import annotations

import json
import runpy
import typing as tp

import numpy as np

from benchmarks.evidence import arms
from benchmarks.evidence.effects import (
    Json,
    Units,
    difference,
    mean_of,
    over_runs,
    solved,
    strata,
    verdict,
)
from benchmarks.evidence.queue import RESULTS, ROOT, source

GAIN = 0.20  # what the clean arm must gain for a claim to count
WIDE = 0.15  # an interval that contains 0 and reaches farther owes two seeds more
ONE_RUN = "one run: shown, not tested"


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
            student = claim.student(arm)[1:]
            if said != "undecided" and not np.isnan(student[0]) and not claim.steps:
                said += ", by the bootstrap alone" * (verdict(expected, *student) != said)
            if note := registered.get("NOTES", {}).get(arm):
                said += f", {note}"
    return f"{expected}: {said}{of_one}"


def check(name: str, registered: Json, found: Json) -> None:
    """Raises: ValueError where a claim's file names an arm that its figures do not have."""
    against = registered.get("AGAINST", {})
    against = against if isinstance(against, dict) else {}
    named = {*against, *against.values(), *registered.get("ALARM", {})}
    named |= {arm for name, _, *other in registered.get("REPORTED", ()) for arm in (name, *other)}
    named |= set(registered.get("NOTES", ()))
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
