"""Guidance where plain GRPO is farther from a first success, and replies have room for it.

Nath et al. (Guide), arXiv 2506.13923. Registered after guide_terms, in which neither arm solved a
sum of three: a reply that says the question again was cut off at 12 tokens, before its answer,
and nearly all did. Here replies have 24 tokens; all else is as in guide_terms: half of the
prompts are two-digit sums, half are sums of three two-digit numbers, whose hint is the last step;
50 steps. Quantity: the share of 48 held-out sums of three that at least one of 8 samples without
a hint gets right. The arm guide draws 32 rows a step and more where groups failed, 47 in the mean
of guide_terms: here grpo draws 48, 6 a prompt. Registered: guide minus grpo is above 0. Baseline:
grpo.
"""

from benchmarks.evidence import arms
from benchmarks.evidence.guide_terms import EXPECTED, QUANTITY, TASKS, units

CLAIM = "hints bring prompts into reach that GRPO leaves at zero: sums of three, with room"
FOUND = (
    "under the hint 30 % of the rows are right; the clipped ratio to the law under the hint "
    "leaves little of their gradient where the policy would not have said them, probably. What "
    "would decide: off_policy.shaped in its place, and more prompts at zero that a hint brings "
    "into reach."
)
__all__ = ("CLAIM", "EXPECTED", "QUANTITY", "get_sweep", "units")


def get_sweep(arg: str | None = None) -> dict:
    """arg: short."""
    room = dict(tasks=TASKS, steps=50, sampling__completion_buckets=(24,))
    found = {
        "grpo": arms.arm("guide", "grpo", rollout__group=6, **room),
        "guide": arms.arm("guide", **room),
    }
    return arms.sweep(arg, found, "grpo")
