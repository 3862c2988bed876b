"""Rubrics as Rewards: what a rubric asks for besides the answer is learnt.

Gunjal et al., arXiv 2507.17746. One-digit sums, 20 steps of 64 rows; a rubric of three criteria
that programs judge: the sum is right, the reply begins with a number, and does not repeat the
question. In the arm number the rubric is read and the answer alone rewarded. Quantity: the mean
share of the rubric over the last 10 steps; units of the interval are steps. Registered: rubrics
minus number is above 0; the share of right answers is in the second table (pass@1 is by the
verifier that is rewarded). Baseline: number.
"""

from benchmarks.evidence import arms

CLAIM = "a rubric teaches what it asks for besides the answer"
QUANTITY = "share of the rubric, last 10 steps"
EXPECTED = {"rubrics": "above"}
FOUND = (
    "steps are the units of the interval, as registered: batches of fresh prompts of one run, "
    "which do not say how much another seed would differ. The rubric's arm gives up right "
    "answers (54 against 90 % in the last 5 steps) for replies that do not repeat the question "
    "(45 against 1 %): with equal weights one buys the other. What would decide: more steps, or "
    "a greater weight of the answer."
)
STEPS = False


def units(run: dict) -> dict[str, float]:
    """{step: share}."""
    return {str(step): value for step, value in run["curves"]["verdict/rubric"][-10:]}


def get_sweep(arg: str | None = None) -> dict:
    """arg: short."""
    names = ("number", "rubrics")
    found = {name: arms.arm("rubrics_explicit", steps=20, eval__prompts=0) for name in names}
    own = found["number"]
    weights = dict(number=1.0, rubric=0.0)
    own["verifiers"] = tuple(dict(v, weight=weights[v["name"]]) for v in own["verifiers"])
    return arms.sweep(arg, found, "number")
