"""Claim 5e: truncated importance sampling where the sampler computes in bfloat16.

Yao et al., "Your efficient RL framework secretly brings you off-policy RL training", 2025. One-
digit products; the sampler has bfloat16 weights, with the correction and without. Quantity: held-
out pass@1. Registered: bf16 and bf16_tis end no different from exact; were the gap to hurt, it
would show in the arm without correction. Each arm is evaluated by its own sampler. Under top-p:
tis_top_p. Baseline: exact.
"""

from benchmarks.evidence import arms

CLAIM = "a sampler with bfloat16 weights costs nothing here"
EXPECTED = {"bf16": "same", "bf16_tis": "same"}
CLEAN = "exact"


def get_sweep(arg: str | None = None) -> dict:
    """arg: short."""
    found = {"exact": arms.arm("small_tasks", "products")}
    (term,) = found["exact"]["loss"]
    fixed = (dict(term, corrections=(dict(fn="corrections.token_tis", cap=2.0),)),)
    low = dict(sampling__dtype="bfloat16")
    found["bf16"] = arms.arm("small_tasks", "products", **low)
    found["bf16_tis"] = arms.arm("small_tasks", "products", loss=fixed, **low)
    return arms.sweep(arg, found, "exact")
