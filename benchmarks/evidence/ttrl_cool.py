"""Votes, at the temperature of the paper, at which the majority is more often right.

Zuo et al. (TTRL), arXiv 2504.16084 (votes at 0.6), and Zhang et al. (EMPO), arXiv 2504.05812.
Registered after verifier_free (votes at temperature 1 from a start of 5 %, where greedy decoding
has 55 %: the wrong majority was taught) and after ttrl_warm (imitation of bare answers left 12 %,
with and without votes). Here nothing is imitated; samples of training and of the evaluation are
drawn at 0.6, 20 steps of 64 rows, one-digit sums. Quantity: held-out pass@1 at 0.6 by the verifier.
Registered: ttrl and empo minus random rewards are above 0. Baseline: random.
"""

from benchmarks.evidence import arms

CLAIM = "votes at temperature 0.6 raise accuracy"
EXPECTED = {"ttrl": "above", "empo": "above"}
FOUND = (
    "random rewards lost 0.09 of where they began; against its own start TTRL lost 0.03 [-0.13, "
    "+0.09], EMPO gained 0.70 [+0.59, +0.81]."
)
ARMS = {"random": "spurious_random", "ttrl": "ttrl", "empo": "empo"}


def get_sweep(arg: str | None = None) -> dict:
    """arg: short."""
    cool = dict(steps=20, eval__prompts=0, eval__temperature=0.6, sampling__temperature=0.6)
    found = {name: arms.arm(file, **cool) for name, file in ARMS.items()}
    return arms.sweep(arg, found, "random")
