"""Guidance: hints bring prompts into reach that plain GRPO leaves at zero.

Nath et al. (Guide), arXiv 2506.13923; Zhang et al. (Scaf-GRPO), arXiv 2510.19807. Half of the
prompts are sums of one-digit numbers, half of two-digit numbers, which have hints; 40 steps of at
most 64 trained rows in each arm, hinted ones among them (scaf samples one more under each hint that
it tries, scaf/samples of the log). Quantity: the share of 48 held-out two-digit
sums that at least one of 8 samples without a hint gets right. Registered: guide minus grpo and
scaf minus grpo are above 0. Baseline: grpo.
"""

from benchmarks.evidence import arms

CLAIM = "hints bring prompts into reach that GRPO leaves at zero"
QUANTITY = "two-digit sums solved in 8"
EXPECTED = {"guide": "above", "scaf": "above"}
FOUND = (
    "not at equal samples: grpo drew 64 rows a step, guide 41 and scaf 50, hinted ones among "
    "them. What GRPO learns of the one-digit sums carries over, so that hardly a prompt is left "
    "at zero for a hint to win. What would decide: prompts that stay at zero, which are those of "
    "guide_terms and guide_room."
)


def units(run: dict) -> dict[str, float]:
    """{held-out two-digit sum: whether a sample is right}."""
    correct = run["after"]["correct"]
    operands = {p: p.partition(":")[2].split("+") for p in correct}
    return {p: float(n > 0) for p, n in correct.items() if min(map(int, operands[p])) > 9}


def get_sweep(arg: str | None = None) -> dict:
    """arg: short."""
    return arms.sweep(
        arg,
        {
            "grpo": arms.arm("guide", "grpo", steps=40),
            "guide": arms.arm("guide", steps=40),
            "scaf": arms.arm("scaf", steps=40, rollout__group=4),
        },
        "grpo",
    )
