"""Claim 5b: a higher upper clip keeps entropy.

Yu et al. (DAPO), arXiv 2503.14476: 0.28 in place of 0.2. One-digit products, four optimizer steps
a batch and twice over it, so that ratios leave 1. Quantity: entropy over the last 20 steps, of
all rows; the unit is the run. Registered: higher minus equal is above 0; pass@1 is
reported. Baseline: equal.
"""

from benchmarks.evidence import arms

CLAIM = "a higher upper clip keeps entropy"
QUANTITY = "entropy, last 20 steps"
EXPECTED = {"higher": "above"}
CLEAN = "equal"
UNIT = "nats a token"
FOUND = (
    "entropy is above that of equal in the mean of the last 20 steps and below it in the last "
    "5; higher ended lower, 0.914 and 0.966."
)


def units(run: dict) -> dict[str, float]:
    """{step: nats a token}."""
    return arms.last_steps(run, "policy/entropy", 20)


def get_sweep(arg: str | None = None) -> dict:
    """arg: short."""
    found = {
        name: arms.arm(
            "small_tasks", "products", learner__minibatches=4, learner__epochs=2,
            learner__skip_zero_advantage=False,
            loss=(dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=high)),),
            **arms.FAST,
        )
        for name, high in (("equal", 0.2), ("higher", 0.28))
    }  # fmt: skip
    return arms.sweep(arg, found, "equal")
