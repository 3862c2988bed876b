"""PRIME: an implicit reward learnt from outcomes tells right replies from wrong ones.

Cui et al., arXiv 2502.01456. One-digit products, 30 steps of 64 rows; the reward model is updated
after it has rewarded, so that it has not seen the rows of which it is asked. Quantity: the share of
pairs of a right and a wrong reply of a batch in which the right one has the higher sum of rewards,
mean over the last 20 steps; units of the interval are steps. Registered: that of the arm prime is
above 0.5, chance. The arm outcome leaves the process reward out of the advantage; pass@1 of both is
reported.
"""

from benchmarks.evidence import arms

CLAIM = "PRIME's implicit reward tells right replies from wrong ones"
QUANTITY = "AUC of the implicit reward, last 20 steps"
AGAINST = 0.5
EXPECTED = {"prime": "above"}
FOUND = (
    "steps are the units of the interval, as registered: batches of fresh prompts of one run, "
    "which do not say how much another seed would differ."
)
STEPS = False
TASKS = (dict(fn="arithmetic.products"),)


def units(run: dict) -> dict[str, float]:
    """{step: AUC}, of steps with both right and wrong replies."""
    pairs = dict(run["curves"]["steps/pairs"])
    return {str(step): auc for step, auc in run["curves"]["steps/auc"][-20:] if pairs[step]}


def get_sweep(arg: str | None = None) -> dict:
    """arg: short."""
    found = {name: arms.arm("prime", source, tasks=TASKS) for name, source in ARMS.items()}
    for own in found.values():
        own["rollout"].options.max_batches = 1  # equal samples
    return arms.sweep(arg, found, "outcome")


ARMS = {"outcome": "outcome", "prime": "after"}
