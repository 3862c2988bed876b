"""Claim 4a, second part: a score of the reasoning calibrates a noisy grader.

Lv et al., arXiv 2505.22653: rewards below 0.5 are lifted by the share of reasoning phrases. Sums
of three numbers in at most 48 tokens, temperature 0.6, 40 % of the groups flipped; in the arm
calibrated a reply with at least one of the phrases counts 0.5 more where the grader says wrong.
Few replies have one at the start, some 6 %. Quantity: held-out pass@1, mean over the evaluations
after 10, 20 and 30 steps. Registered: calibrated minus group_40 is above 0. Baseline: group_40.
"""

from benchmarks.evidence import arms

CLAIM = "reasoning phrases calibrate a grader that flips"
QUANTITY = "held-out pass@1, mean over the run"
EXPECTED = {"calibrated": "above"}
FOUND = (
    "neither arm learns in 30 steps, so that this does not test the claim: the lift has its way "
    "(99 % of the replies have a phrase, 4 % without it), and they fill all of the 48 tokens "
    "with 'To solve this equation, we need to isolate the variable'. What would decide: a task "
    "on which the noisy arm learns, and room behind the phrases."
)
FLIPS = dict(fn="noise.inject", fp_rate=0.4, fn_rate=0.4, unit="group")
LIFT = dict(fn="noise.calibrate", threshold=0.5, alpha=0.5, reads=dict(pattern="verdict/reasoning"))
PATTERNS = dict(fn="reasoning.patterns", name="reasoning", weight=0.0, full_count=1)
units = arms.over_the_run


def get_sweep(arg: str | None = None) -> dict:
    """arg: short."""
    found = {}
    for name, shaping in (("group_40", (FLIPS,)), ("calibrated", (FLIPS, LIFT))):
        own = arms.arm(
            "small_tasks", "three_sums", sampling__completion_buckets=(48,), eval__every=10,
            sampling__temperature=0.6, advantage=(dict(fn="group.rloo"),), shaping=shaping,
            **arms.FAST,
        )  # fmt: skip
        own["verifiers"] += (PATTERNS,)
        found[name] = own
    return arms.sweep(arg, found, "group_40")
