"""Absolute Zero: a model that makes up its own tasks gets better at solving them.

Zhao et al., arXiv 2505.03335. Tasks about arithmetic programs. All arms imitate proposals and
solutions for 10 steps, the same ones, and then play for 20 steps of 32 rows, and as many
solutions again as measure new tasks; in the arm still all rewards are 0, so that it stays as the
imitation left it, the arm random has random rewards, which do harm elsewhere. Quantity: the share
of right samples on 48 held-out tasks for solvers, about functions that the imitation did not
show. Registered: self_play minus still is above 0; random is reported. Baseline: still.
"""

from benchmarks.evidence import arms

CLAIM = "self-play on tasks of one's own raises the share that is solved"
QUANTITY = "right samples on solvers' held-out tasks"
EXPECTED = {"self_play": "above"}
FOUND = (
    "in the run the share of right replies rises, but so it does without learning, because of "
    "what is asked: by the end programs are constants such as `15`, valid, new and easy to "
    "solve, and of some 8 valid proposals a step 2 or 3 are neither always nor never solved. "
    "What would decide: a rule that a program has to use its input, and more proposals a step."
)


def units(run: dict) -> dict[str, float]:
    """{held-out task of a solver: share of right samples}."""
    after = run["after"]
    correct = {p: n for p, n in after["correct"].items() if p.startswith("solve:")}
    return {p: n / after["samples"] for p, n in correct.items()}


def get_sweep(arg: str | None = None) -> dict:
    """arg: short."""
    found = {name: arms.arm("absolute_zero", "warm") for name in ("random", "self_play", "still")}
    nothing = dict(fn="shaping.affine", scale=0.0, shift=0.0)  # forget the verdict
    coin = dict(fn="noise.inject", fp_rate=0.5, fn_rate=0.0, unit="sample")
    found["random"]["shaping"], found["still"]["shaping"] = (nothing, coin), (nothing,)
    return arms.sweep(arg, found, "still")
