"""PURE: credit by the worst step beats credit by the sum of steps.

Cheng et al., arXiv 2504.15275, where summed steps collapse. Sums of three numbers, 20 steps of 64
rows of at most 32 tokens, of which every word is a step: by lines, as first registered, nearly
all replies are one step, and both forms are the same (its arm sum was stopped after 10 of 30
steps, before an evaluation). The process reward model is a second learner that starts as the
policy and learns in the run, in both arms. Quantity: held-out pass@1. Registered: min minus sum
is above 0. Baseline: sum.
"""

from benchmarks.evidence import arms

CLAIM = "credit by the worst step beats credit by the sum"
EXPECTED = {"min": "above"}
FOUND = (
    "no sum collapsed in these 20 steps, which is what the paper holds against it: both arms "
    "learn to write the sum at once, of one word that can be wrong. In the last five steps of "
    "training the order is the other way round (0.31 with the sum, 0.40 with the worst word), "
    "which says how far one seed carries. What would decide: seeds, chains of steps that can "
    "each be wrong, and runs long enough for a collapse."
)


def get_sweep(arg: str | None = None) -> dict:
    """arg: short."""
    short = dict(steps=20, sampling__completion_buckets=(32,), sampling__prompt_buckets=(32,))
    found = {
        name: arms.arm("pure", source, rollout__options__separator=" ", **short)
        for name, source in ARMS.items()
    }
    return arms.sweep(arg, found, "sum")


ARMS = {"sum": "sum", "min": None}
