"""Claim 5f: truncated importance sampling where the sampler leaves out the tail.

Yao et al., "Your efficient RL framework secretly brings you off-policy RL training", 2025. One-
digit products; the sampler keeps the likeliest half of the mass (top-p 0.5), so that the law that
is trained gives what was sampled 0.5 to 1 of what the sampler gave it; the correction weighs a
token by that. Quantity: entropy of the whole law over the last 10 steps, of all rows; the
unit is the run. What top-p leaves out is never punished, and what it keeps gets likelier:
registered is that top_p_tis minus top_p is above 0, as the correction takes weight from the
unlikely. pass@1 is reported, under the sampler's law. Baseline: top_p.
"""

from benchmarks.evidence import arms

CLAIM = "the correction keeps entropy under top-p"
QUANTITY = "entropy, last 10 steps"
EXPECTED = {"top_p_tis": "above"}
CLEAN = "top_p"
UNIT = "nats a token"


def units(run: dict) -> dict[str, float]:
    """{step: nats a token}."""
    return arms.last_steps(run, "policy/entropy", 10)


def get_sweep(arg: str | None = None) -> dict:
    """arg: short."""
    law = dict(sampling__top_p=0.5, learner__skip_zero_advantage=False, **arms.FAST)
    found = {"top_p": arms.arm("small_tasks", "products", **law)}
    (term,) = found["top_p"]["loss"]
    fixed = (dict(term, corrections=(dict(fn="corrections.token_tis", cap=2.0),)),)
    found["top_p_tis"] = arms.arm("small_tasks", "products", loss=fixed, **law)
    return arms.sweep(arg, found, "top_p")
