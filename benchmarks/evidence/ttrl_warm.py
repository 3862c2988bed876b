"""Votes, from a start at which the majority is often right.

Zuo et al. (TTRL), arXiv 2504.16084, and Zhang et al. (EMPO), arXiv 2504.05812. Registered after the
run of verifier_free, in which TTRL from a start of 5 % taught the wrong majority (greedy 55 to
10 %): here all arms imitate 8 answers a step for 6 steps, the same ones, and then train without a
verifier for 20 steps of 64 rows. One-digit sums. Quantity: held-out pass@1 by the verifier.
Registered: ttrl and empo minus random rewards are above 0. Baseline: random.
"""

from benchmarks.evidence import arms

CLAIM = "votes raise accuracy where the majority is often right"
EXPECTED = {"ttrl": "above", "empo": "above"}
FOUND = (
    "this is the second run of the arm ttrl; in the first, which ended at 0.12, nothing was "
    "imitated, by a mistake in the code that is told in LOG.md."
)
ARMS = {"random": "spurious_random", "ttrl": "ttrl", "empo": "empo"}


def get_sweep(arg: str | None = None) -> dict:
    """arg: short."""
    found = {
        name: arms.after_imitation(
            arms.arm(file, steps=26, eval__prompts=0), 6, prompts=8, group=16, completion="{answer}"
        )
        for name, file in ARMS.items()
    }
    return arms.sweep(arg, found, "random")
