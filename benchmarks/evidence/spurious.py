"""Claim 4b: what rewards that have nothing to do with the answer do to this model.

Shao et al., "Spurious Rewards", arXiv 2506.10947: they raise Qwen2.5-Math nearly as much as real
ones, and other models hardly or not. One-digit products. Registered: random, format (exactly one
number in the reply) and inverted minus grpo are below 0, as for the models that are no Qwen. With
one update a batch the ratio is 1, so that what clipping adds to random rewards, their
explanation, cannot act here. Baseline: grpo.
"""

from benchmarks.evidence import arms

CLAIM = "spurious rewards do not teach what real ones do"
EXPECTED = {name: "below" for name in ("random", "format", "inverted")}
CLEAN = "grpo"
FOUND = (
    "format is right almost only where the product is one of its operands (9 x 1, 0 x 0, 1 x 8; of "
    "the nine products that it ever gets right 9 x 5 alone is none)."
)
TASKS = (dict(fn="arithmetic.products"),)


def get_sweep(arg: str | None = None) -> dict:
    """arg: short."""
    found = {"grpo": arms.arm("small_tasks", "products", **arms.FAST)}
    found |= {name: arms.arm(f"spurious_{name}", tasks=TASKS, **arms.FAST) for name in EXPECTED}
    return arms.sweep(arg, found, "grpo")
