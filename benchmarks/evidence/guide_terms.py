"""Guidance where plain GRPO is farther from a first success.

Nath et al. (Guide), arXiv 2506.13923. Registered after the run of guide, in which GRPO solved
nearly all two-digit sums by itself: here half of the prompts are two-digit sums, half are sums of
three two-digit numbers, whose hint is the last step, a sum like those of the first half. 50 steps
of at most 64 trained rows. Quantity: the share of 48 held-out sums of three that at least one of
8 samples without a hint gets right. Registered: guide minus grpo is above 0. Baseline: grpo.
"""

from benchmarks.evidence import arms

CLAIM = "hints bring prompts into reach that GRPO leaves at zero: sums of three"
QUANTITY = "sums of three solved in 8"
EXPECTED = {"guide": "above"}
FOUND = (
    "not at equal samples: grpo drew 64 rows a step, guide 47, hinted ones among them. Both arms "
    "learn to say the question again, which leaves no room for an answer in 12 tokens: "
    "guide_room has 24."
)
TASKS = (
    dict(fn="arithmetic.sums", low=10, high=99, label="small"),
    dict(fn="arithmetic.sums", terms=3, low=10, high=99, hints=True, label="large"),
)
ARMS = {"grpo": "grpo", "guide": None}


def units(run: dict) -> dict[str, float]:
    """{held-out sum of three: whether a sample is right}."""
    return {p: float(n > 0) for p, n in run["after"]["correct"].items() if p.count("+") == 2}


def get_sweep(arg: str | None = None) -> dict:
    """arg: short."""
    found = {n: arms.arm("guide", source, tasks=TASKS, steps=50) for n, source in ARMS.items()}
    return arms.sweep(arg, found, "grpo")
