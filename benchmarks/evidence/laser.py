"""LaSeR: the likelihood of one token behind a reply becomes the policy's verdict on it.

Yang et al., arXiv 2510.14943. One-digit products, 30 steps of 64 rows; in the arm grpo the token is
read and not trained. Quantity: the share of pairs of a right and a wrong completed reply of a batch
in which the right one has the higher self-reward, mean over the last 10 steps; units of the
interval are steps. Registered: laser minus grpo is above 0; pass@1 is reported. Baseline: grpo.
"""

from benchmarks.evidence import arms

CLAIM = "LaSeR's last token tells right replies from wrong ones"
QUANTITY = "AUC of the self-reward, last 10 steps"
EXPECTED = {"laser": "above"}
FOUND = (
    "steps are the units of the interval, as registered: batches of fresh prompts of one run, "
    "which do not say how much another seed would differ. Difference and interval are of the 5 "
    "steps in which both arms have pairs, the means in the columns of 5 and 7."
)
STEPS = False
TASKS = (dict(fn="arithmetic.products"),)


def units(run: dict) -> dict[str, float]:
    """{step: AUC}, of steps with both right and wrong replies."""
    pairs = dict(run["curves"]["self/pairs"])
    return {str(step): auc for step, auc in run["curves"]["self/auc"][-10:] if pairs[step]}


def get_sweep(arg: str | None = None) -> dict:
    """arg: short."""
    found = {name: arms.arm("laser", arg, tasks=TASKS) for name, arg in ARMS.items()}
    return arms.sweep(arg, found, "grpo")


ARMS = {"grpo": "grpo", "laser": None}
