"""Claim 5e: truncated importance sampling where the sampler's law is not the policy's.

Yao et al., "Your efficient RL framework secretly brings you off-policy RL training", 2025. One-
digit products; the sampler has bfloat16 weights, or leaves out the tail beyond 0.9 of the mass,
each with the correction and without. Quantity: held-out pass@1. Registered: bf16 and bf16_tis end
no different from exact; were the gap to hurt, it would show in the arm without correction. The
arms of top-p are evaluated under their own law, which by itself gets more right, and so are only
reported, beside each other. Baseline: exact.
"""

from benchmarks.evidence import arms

CLAIM = "a sampler with bfloat16 weights costs nothing here"
LAWS = {"bf16": dict(sampling__dtype="bfloat16"), "top_p": dict(sampling__top_p=0.9)}
EXPECTED = {"bf16": "same", "bf16_tis": "same"}


def get_sweep(arg: str | None = None) -> dict:
    """arg: short."""
    found = {"exact": arms.arm("small_tasks", "products")}
    (term,) = found["exact"]["loss"]
    fixed = (dict(term, corrections=(dict(fn="corrections.token_tis", cap=2.0),)),)
    for law, change in LAWS.items():
        found[law] = arms.arm("small_tasks", "products", **change)
        found[f"{law}_tis"] = arms.arm("small_tasks", "products", loss=fixed, **change)
    return arms.sweep(arg, found, "exact")
