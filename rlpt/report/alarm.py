"""What a person should look at first: rules over a run's numbers, each stated where it is used."""

from __future__ import annotations

import dataclasses
import itertools
import math
import typing as tp

import numpy as np

from rlpt.report.runs import Run, is_number

Series = tp.Mapping[int, float]

WINDOW = 10  # training steps whose mean reward is compared
ERRORS = 3.0  # standard errors that a change must exceed
SMALLEST = 0.02  # a smaller fall of the held-out score is no alarm, however certain

RULE = (
    f"The alarm rings when, between two evaluations of a run, the held-out score falls by more "
    f"than {ERRORS:.0f} standard errors (of the differences over the same prompts) and by more "
    f"than {SMALLEST}, while the training reward, a mean over the {WINDOW} steps up to each of "
    f"them (fewer where they are closer; the first steps for the one before training), rises by "
    f"more than {ERRORS:.0f} standard errors (from the spread over those steps)."
)

# (metric, share that a mean over the last WINDOW steps must exceed, what it means)
_REMARKS = (
    ("rollout/truncated", 0.5, "most completions hit the length limit: lengthen the bucket"),
    ("reward/zero_variance_groups", 0.9, "most groups have one reward: nothing to learn from"),
    ("policy/sampler_gap", 0.01, "sampler and scorer disagree about log-probs"),
    (
        "policy/unchanged",
        0.5,
        "most batches had no gradient: solved, or shaping leaves out all rows",
    ),
    ("policy/skipped", 0.0, "optimizer steps were skipped, or nothing was left to train on"),
    ("rollout/without_verdict", 0.0, "rows a step had no verdict and were left out"),
)


@dataclasses.dataclass(frozen=True)
class Alarm:
    """Between steps `start` and `end` the held-out score fell and the training reward rose.

    fall, rise: how much, both positive; fall_error, rise_error: their standard errors.
    """

    start: int
    end: int
    fall: float
    fall_error: float
    rise: float
    rise_error: float


def hacking(rewards: Series, held_out: tp.Mapping[int, tp.Mapping[str, float]]) -> Alarm | None:
    """The hacking alarm: RULE, over all pairs of evaluations.

    Args:
      rewards: mean training reward by step.
      held_out: step of an evaluation -> {prompt id: score}.
    Returns: the alarm with the largest fall, None for none.  Two evaluations with fewer than
      two prompts in common, or fewer than two training steps on a side, decide nothing.
    """
    found = []
    for start, end in itertools.combinations(sorted(held_out), 2):
        shared = held_out[start].keys() & held_out[end].keys()
        fall, fall_error = _mean([held_out[start][p] - held_out[end][p] for p in sorted(shared)])
        width = min(WINDOW, end - start)
        before = [rewards[s] for s in rewards if start - width < s <= start]
        if len(before) < 2:
            before = [rewards[s] for s in rewards if start < s <= start + width]
        after = [rewards[s] for s in rewards if end - width < s <= end]
        (first, first_error), (last, last_error) = _mean(before), _mean(after)
        rise, rise_error = last - first, math.hypot(first_error, last_error)
        if fall > max(ERRORS * fall_error, SMALLEST) and rise > ERRORS * rise_error:
            found.append(Alarm(start, end, fall, fall_error, rise, rise_error))
    return max(found, key=lambda alarm: alarm.fall, default=None)


def held_out(run: Run) -> dict[int, dict[str, float]]:
    """step -> {prompt id: share of its samples that were correct, or else the greedy one}."""
    found: dict[int, dict[str, float]] = {}
    for step, result in run.evals.items():
        scores = {}
        prompts = result.get("per_prompt")
        for name, row in prompts.items() if isinstance(prompts, dict) else ():
            score = prompt_score(row)
            if score is not None:
                scores[name] = score
        if scores:
            found[step] = scores
    return found


def prompt_score(row: tp.Any) -> float | None:
    """Of an entry of `per_prompt` of an evaluation; None where it has no numbers."""
    if not isinstance(row, dict):
        return None
    correct, samples = row.get("correct"), row.get("samples")
    if is_number(correct) and is_number(samples) and samples:
        return correct / samples
    return float(row["greedy"]) if isinstance(row.get("greedy"), bool) else None


def remarks(run: Run) -> list[str]:
    """A line for each number of the run's last steps that is out of the ordinary."""
    out = []
    for metric, limit, meaning in _REMARKS:
        recent = list(run.series(metric).values())[-WINDOW:]
        if recent and (mean := float(np.mean(recent))) > limit:
            out.append(f"{metric} is {mean:.3g} over the last {len(recent)} steps: {meaning}")
    return out


def _mean(values: tp.Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error; (0, inf), which decides nothing, for fewer than two."""
    if len(values) < 2:
        return 0.0, math.inf
    return float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values)))
