"""docs/evidence.md, from benchmarks/results/evidence/ alone.

python -m benchmarks.evidence.ledger
"""

from __future__ import annotations

import collections.abc
import json
import re

import numpy as np

from benchmarks import gradient_noise
from benchmarks.evidence import arms, claims, effects, figures
from benchmarks.evidence.claims import Claim, Effect
from benchmarks.evidence.effects import Json
from benchmarks.evidence.queue import CLAIMS, ROOT, source

PAGE = ROOT / "docs/evidence.md"
NOT_RUN = ("Not run yet.",)


SHOWN = {  # what else is shown of an arm: curve -> (heading, how it becomes one number)
    "policy/entropy": ("entropy of updated rows, last 5 steps", "last"),
    "sampled_nll": ("nats a sampled token, last 5 logged steps", "last"),
    "policy/sampler_gap": ("sampler gap, mean", "mean"),
    "policy/clip_fraction": ("clipped share, mean", "mean"),
    "rollout/length": ("length, last 5 steps", "last"),
    "audit_cosine": ("audit cosine, mean", "mean"),
    **{
        f"{kind}_rate{stratum}": (f"estimated {kind}_rate{of}, last 5 steps", "last")
        for stratum, of in (("", ""), ("_0", " of stratum 0"), ("_1", " of stratum 1"))
        for kind in ("fp", "fn")
    },
    "injected_fp": ("share of wrong rows that the noise accepted, last 5 steps", "last"),
    "injected_fn": ("share of right rows that it rejected, last 5 steps", "last"),
    "tree/branch_fraction": ("tokens where the tree parts", "mean"),
    "tree/depth": ("tokens that a row shares with another, mean", "mean"),
    "verify/branch/sampled_tokens": ("tokens that forking sampled a step, mean", "mean"),
    "verify/dynamic/batches": ("batches of prompts sampled a step, mean", "mean"),
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
        curve = run["curves"].get(names[0] if len(names) == 1 else "verdict/number", [])
        if len(curve) < 5 or curve[0][0] != 1:  # judged later on: what was before is not known
            return np.zeros(0), np.zeros(0)
        steps, seen = np.array(curve, float).T
        mean = np.convolve(seen, np.ones(5) / 5, "valid")
        points = np.array([[0, run["before"]["pass@1"]], *zip(steps[4:], mean, strict=True)])
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


def share_by(run: Json, budget: float) -> dict[str, float]:
    """`right_by` of each held-out prompt, of a run that was evaluated on its way."""
    steps, samples = [0, *map(int, run["evals"])], run["after"]["samples"]
    counts = [run["before"]["correct"], *run["evals"].values()]
    return {
        prompt: float(np.interp(budget / seconds(run), steps, [c[prompt] for c in counts]))
        / samples
        for prompt in counts[0]
    }


def budget_of(found: Json) -> float:
    """Seconds of steps that every run of a claim had."""
    every = [run for runs in found["arms"].values() for run in runs.values()]
    return min(seconds(run) * len(values(run, TIMES[-1])) for run in every)


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


def digits(value: float) -> str:
    return f"{value:.3f}" if abs(value) >= 0.001 or not value else f"{value:.2g}"


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
    gain = claims.gained(base)
    every = [run for runs in found["arms"].values() for run in runs.values()]
    headings, budget = shown(every), budget_of(found)
    columns: dict[str, dict[str, list[float]]] = {}
    for name, runs in found["arms"].items():
        for run in runs.values():
            numbers = {"s a step": seconds(run)}
            reached = right_by(run, budget) if claim.registered.get("TIMED") else None
            if reached is not None:
                numbers[f"right after {budget:.0f} s of steps"] = reached
            if gain >= claims.GAIN:
                numbers["steps to half of the baseline's gain"] = half_way(run, gain)
            if claim.measure != "pass@1":
                numbers |= {f"{k} before": run["before"][k] for k in run["after"] if "pass@" in k}
                for first in values(run, "policy/entropy")[:1]:
                    numbers["entropy of updated rows, step 1"] = float(first)
            if since := claim.registered.get("SINCE"):
                for measure in dict.fromkeys((claim.measure, "pass@1", "pass@64")):
                    there = effects.mean_of(effects.solved(run, measure, since))
                    numbers[f"{measure} after {since} steps"] = there
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


def remarks(claim: Claim) -> list[str]:
    """What a claim's file asks for beside its tables, a paragraph each."""
    registered, found, lines = claim.registered, claim.found, []
    if found and "ALARM" in registered:
        rings = {arm: "rings" if on else "is silent" for arm, on in registered["ALARM"].items()}
        wanted = ", ".join(f"{arm} {how}" for arm, how in rings.items())
        missed = ", ".join(claims.unlike_registered(registered, found).values())
        held = "is not known yet" if not all(found["arms"][arm] for arm in rings) else "held"
        lines += [
            f"The alarm as registered ({wanted}): {f'not held, {missed}' if missed else held}.",
            "",
        ]
    for arm, measure, *other in registered.get("REPORTED", ()) if found else ():
        quantity = {
            name: {seed: effects.solved(run, measure) for seed, run in runs.items()}
            for name, runs in found["arms"].items()
        }
        base = quantity[other[0]] if other else claim.base(arm, quantity)
        if set(quantity[arm]) & set(base):
            effect = Effect(*effects.difference(quantity[arm], base), "")
            against = other[0] if other else claim.other(arm)
            said = f"{arm} minus {against} at {measure}: {claim.text(effect)}"
            lines += [f"Reported, without a verdict: {said}.", ""]
    if found and registered.get("TIMED"):
        budget = budget_of(found)
        quantity = {
            name: {seed: share_by(run, budget) for seed, run in runs.items()}
            for name, runs in found["arms"].items()
        }
        for arm in claim.registered["EXPECTED"]:
            base = claim.base(arm, quantity)
            effect = Effect(*effects.difference(quantity[arm], base), "")
            said = f"{arm} minus {claim.other(arm)} after {budget:.0f} s of steps"
            lines += [f"Reported, without a verdict: {said}: {claim.text(effect)}.", ""]
    if more := claims.owed(claim):
        reach = (
            f"its interval of {', '.join(more)} contains 0 and reaches beyond ±{claims.WIDE:.2f}"
        )
        lines += [f"{claim.name} owes seeds {' and '.join(map(str, arms.MORE))}: {reach}.", ""]
    if afterwards := registered.get("FOUND"):
        by_name = isinstance(afterwards, dict)  # of the claims that share a file
        afterwards = afterwards.get(claim.name) if by_name else afterwards
        lines += [f"Found afterwards: {afterwards.strip()}", ""] if afterwards else []
    if found:
        commits: dict[str, list[str]] = {}
        for arm, runs in found["arms"].items():
            for seed, run in runs.items():
                commit = run.get("versions", {}).get("commit", "not recorded")
                commits.setdefault(commit, []).append(f"{arm} {seed}")
        most = max(commits, key=lambda commit: len(commits[commit]), default="none")
        others = [f"{k} ({', '.join(v)})" for k, v in commits.items() if k != most]
        lines += [f"Commit: {'; '.join([most, *others])}.", ""]
    return lines


def heading_of(claim: Claim) -> str:
    return f"{claim.name}: {claim.registered['CLAIM']}"


def summary(found: collections.abc.Iterable[Claim]) -> list[str]:
    """A table of the verdicts, those of several seeds first."""
    lines = [
        "## The verdicts",
        "",
        "| claim | arm | seeds | difference | Student's t over seeds | verdict |",
        "|---|---|---|---|---|---|",
    ]
    rows: dict[bool, list[str]] = {False: [], True: []}
    for claim in found:
        slug = re.sub(r"[^\w\- ]", "", heading_of(claim).lower()).replace(" ", "-")
        link = f"[{claim.name}](#{slug})"
        if not claim.found:
            rows[True].append(f"| {link} | | none yet | | | |")
        for arm, effect in claim.effects.items():
            if not effect.verdict:
                continue
            seeds, student = sorted(claim.common(arm)), claim.student(arm)
            spread = "" if np.isnan(student[1]) else f"[{student[1]:+.3f}, {student[2]:+.3f}]"
            rows[len(claim.found["seeds"]) == 1 if claim.found else True].append(
                f"| {link} | {arm} | {', '.join(seeds)} | {claim.text(effect)} | {spread} "
                f"| {effect.verdict} |"
            )
    return [*lines, *rows[False], *rows[True], ""]


def section(claim: Claim) -> list[str]:
    """The part of the page about one claim."""
    registered, found, measure = claim.registered, claim.found, claim.measure
    head = registered["__doc__"].strip().split("\n\n", 1)
    lines = [f"## {heading_of(claim)}", "", f"`{source(claim.name)}`. {head[1]}", ""]
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
                digits(effects.mean_of(by_unit)) for by_unit in claim.quantity[name].values()
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
    found = [claims.load(name) for name in CLAIMS]
    intro, how = rules.split("\n## ", 1)
    lines = [intro.rstrip(), "", *summary(found)]
    lines += [
        "![all effects, with their intervals](evidence/all.png)",
        "",
        f"## {how.rstrip()}",
        "",
    ]
    for claim in found:
        lines += section(claim)
    noise = gradient_noise.__doc__ or ""
    lines += [
        "## the noise of TEMPO's gradient",
        "",
        *noise.split("\n\n", 2)[2].strip().split("\n"),
    ]
    file = gradient_noise.RESULTS
    known = file.exists()
    lines += ["", *(gradient_noise.table(json.loads(file.read_text())) if known else NOT_RUN), ""]
    lines += [f"Found afterwards: {gradient_noise.FOUND}", ""] * known
    PAGE.write_text("\n".join(lines))
    figures.draw(found, PAGE.with_suffix(""))


if __name__ == "__main__":
    main()
