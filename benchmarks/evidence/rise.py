"""RISE: the policy learns to judge its replies while it learns to answer.

Liu et al., arXiv 2505.13445. One-digit products, 30 steps of 6 prompts and 2 questions about
replies to them, 8 rows each; in the arm read the judgements are sampled and not trained. Quantity:
balanced accuracy of the judgements of right and of wrong replies over the last 15 steps, the mean
over steps of each kind and then of both; the interval draws steps within a kind. Registered: rise
minus read is above 0; pass@1 is reported. Baseline: read.
"""

from benchmarks.evidence import arms

CLAIM = "RISE's judgements of its own replies get better"
QUANTITY = "balanced accuracy of judgements, last 15 steps"
EXPECTED = {"rise": "above"}
FOUND = (
    "steps are the units of the interval, as registered: batches of fresh prompts of one run, "
    "which do not say how much another seed would differ. Of the judgements of wrong replies "
    "there are 24 in each arm, 2 and 0 of them right: the difference is one of the judgements "
    "of right replies. Both arms are below the 0.5 that a judge without any opinion has."
)
STEPS = False
PAIRED = False  # each arm judges replies of its own
TASKS = (dict(fn="arithmetic.products"),)


def units(run: dict) -> list[dict[str, float]]:
    """[{step: share of right judgements} of right replies, the same of wrong ones]."""
    found = []
    for kind in ("correct", "incorrect"):
        rows = run["curves"][f"verify/rise/{kind}/rows"][-15:]
        right = dict(run["curves"][f"verify/rise/{kind}/right"])
        found.append({str(step): right[step] / n for step, n in rows if n})
    return found


def get_sweep(arg: str | None = None) -> dict:
    """arg: short."""
    found = {name: arms.arm("rise", tasks=TASKS) for name in ("read", "rise")}
    found["read"]["rollout"].options.train = False
    return arms.sweep(arg, found, "read")
