"""Votes where most replies have room to end.

Zuo et al. (TTRL), arXiv 2504.16084. Registered after verifier_free, ttrl_warm and ttrl_cool, in
which three replies of four were cut off at 12 tokens, so that the last number of many was an
operand of the question: the majority of 16 was right for 39 % of the held-out prompts before
training. With 24 tokens it is right for 62 %, one reply for 31 % (greedy: 55 %); both were
measured before this was registered. One-digit sums, temperature 0.6, 20 steps of 64 rows.
Quantity: held-out pass@1 at 0.6 by the verifier. Registered: ttrl minus random rewards is above
0. Baseline: random.
"""

from benchmarks.evidence import arms

CLAIM = "votes raise accuracy where replies have room"
EXPECTED = {"ttrl": "above"}
FOUND = (
    "random rewards lost 0.15 of where they began; against its own start TTRL gained 0.26 "
    "[+0.18, +0.35]."
)
ARMS = {"random": "spurious_random", "ttrl": "ttrl"}


def get_sweep(arg: str | None = None) -> dict:
    """arg: short."""
    room = dict(
        steps=20, eval__prompts=0, eval__temperature=0.6, sampling__temperature=0.6,
        sampling__completion_buckets=(24,),
    )  # fmt: skip
    found = {name: arms.arm(file, **room) for name, file in ARMS.items()}
    return arms.sweep(arg, found, "random")
