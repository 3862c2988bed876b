"""Cooper: a reward model that learns along with the policy serves as well as the rules.

Hong et al., arXiv 2508.05613 (58.0 with it, 57.5 with rules, 38.9 with a fixed one). One-digit
sums, 30 steps of 64 rows, in the first 5 of which only the reward model learns, in both arms.
Quantity: held-out pass@1. Registered: cooper minus rules is no difference. Baseline: rules.
"""

from benchmarks.evidence import arms

CLAIM = "a reward model trained along with the policy serves as well as rules"
EXPECTED = {"cooper": "same"}
FOUND = (
    "the reward model begins with a head of zeros and has seen 40 prompts when the policy "
    "starts; the paper's is a trained one. What would decide: a longer start of the reward model "
    "alone."
)


def get_sweep(arg: str | None = None) -> dict:
    """arg: short."""
    found = {name: arms.arm("cooper", source, eval__prompts=0) for name, source in ARMS.items()}
    return arms.sweep(arg, found, "rules")


ARMS = {"rules": "rules", "cooper": None}
