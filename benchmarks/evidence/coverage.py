"""How often the intervals of the ledger hold what is true, by simulation.

  python -m benchmarks.evidence.coverage    # ten seconds; prints a table

Each trial draws the effect of a change on every prompt, on every seed and on every sample, with no
effect on the whole, and makes the interval of `effects.difference` and Student's over the seeds.
"""

from __future__ import annotations

import typing as tp
import unittest.mock

import numpy as np

from benchmarks.evidence import effects

SETTINGS = {  # prompts, seeds, and how much the effect spreads over prompts, seeds and samples
    "48 prompts, seeds alike": (48, 3, 0.15, 0.04, 0.12),
    "29 prompts, seeds alike, as tempo": (29, 3, 0.10, 0.02, 0.10),
    "32 prompts, seeds differ by 0.1, as pass_at_k": (32, 3, 0.20, 0.10, 0.10),
    "19 prompts, seeds differ by 0.2, as noise_form": (19, 3, 0.15, 0.20, 0.12),
    "the same with five seeds": (19, 5, 0.15, 0.20, 0.12),
}


def coverage(
    prompts: int,
    seeds: int,
    of_prompt: float,
    of_seed: float,
    of_sample: float,
    trials: int = 400,
    draws: int = 300,
) -> dict[str, float]:
    """Shares of trials.

    Args:
      of_prompt, of_seed, of_sample: standard deviations of the effect.
      draws: of the bootstrap of a trial.
    Returns: bootstrap, student: intervals that hold 0; above: bootstrap intervals above it, which
      would be called reproduced.
    """
    rng = np.random.default_rng(1)
    found = {"bootstrap": 0, "student": 0, "above": 0}
    with unittest.mock.patch.object(effects, "DRAWS", draws):
        for _ in range(trials):
            effect = rng.normal(0, of_prompt, prompts) + rng.normal(0, of_seed, (seeds, 1))
            effect = effect + rng.normal(0, of_sample, (seeds, prompts))
            arm = {str(s): {str(p): x for p, x in enumerate(row)} for s, row in enumerate(effect)}
            base = {s: dict.fromkeys(own, 0.0) for s, own in arm.items()}
            mean, low, high = effects.difference(arm, base)
            assert abs(mean - effect.mean()) < 1e-9
            _, least, most = effects.over_runs(arm, base)
            found["bootstrap"] += low <= 0 <= high
            found["student"] += least <= 0 <= most
            found["above"] += low > 0
    return {name: count / trials for name, count in found.items()}


def table() -> tp.Iterator[str]:
    yield "| | bootstrap holds it | Student's t holds it | bootstrap lies above (0.025) |"
    yield "|---|---|---|---|"
    for name, setting in SETTINGS.items():
        got = coverage(*setting)
        yield f"| {name} | {got['bootstrap']:.2f} | {got['student']:.2f} | {got['above']:.3f} |"


if __name__ == "__main__":
    for line in table():
        print(line, flush=True)
