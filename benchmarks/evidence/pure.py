"""PURE: credit by the worst step beats credit by the sum of steps.

Cheng et al., arXiv 2504.15275, where summed steps collapse. Sums of three numbers, 30 steps of 64
rows of at most 48 tokens; the process reward model is a second learner that starts as the policy
and learns in the run, in both arms. Quantity: held-out pass@1. Registered: min minus sum is above
0. Baseline: sum.
"""

from benchmarks.evidence import arms

CLAIM = "credit by the worst step beats credit by the sum"
EXPECTED = {"min": "above"}


def get_sweep(arg: str | None = None) -> dict:
    """arg: short."""
    found = {name: arms.arm("pure", source) for name, source in ARMS.items()}
    return arms.sweep(arg, found, "sum")


ARMS = {"sum": "sum", "min": None}
