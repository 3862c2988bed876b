"""Claim 5d: GSPO clips far more tokens than GRPO, and learns as well.

Zheng et al., arXiv 2507.18071 (two orders of magnitude more). One-digit products, four optimizer
steps a batch; the ranges are theirs (0.2 and 0.27 for GRPO). Quantity: the clipped share of
tokens over the last 20 steps; the unit is the run. Registered: gspo minus grpo is
above 0; pass@1 is reported. Baseline: grpo.
"""

from benchmarks.evidence import arms

CLAIM = "GSPO clips far more tokens than GRPO"
QUANTITY = "clipped share, last 20 steps"
EXPECTED = {"gspo": "above"}
CLEAN = "grpo"
FOUND = "three orders of magnitude where the paper has two, and it learns as well, if later."
TASKS = (dict(fn="arithmetic.products"),)
CLIP = dict(fn="surrogates.ppo_clip", low=0.2, high=0.27)
MEAN = "aggregate.sequence_mean_token_mean"


def units(run: dict) -> dict[str, float]:
    """{step: share}."""
    return arms.last_steps(run, "policy/clip_fraction", 20)


def get_sweep(arg: str | None = None) -> dict:
    """arg: short."""
    every = dict(
        tasks=TASKS, learner__skip_zero_advantage=False, **arms.FAST
    )  # the share is of all rows
    found = {
        "grpo": arms.arm("gspo", loss=(dict(surrogate=CLIP, aggregate=MEAN),), **every),
        "gspo": arms.arm("gspo", **every),
    }
    return arms.sweep(arg, found, "grpo")
