"""Absolute Zero: a model that makes up its own tasks gets better at solving them.

Zhao et al., arXiv 2505.03335. Tasks about arithmetic programs. Both arms imitate proposals and
solutions for 10 steps, the same ones, and then play for 20 steps of 32 rows, and as many
solutions again as measure new tasks; the arm random has random rewards. Quantity: the share of
right samples on 48 held-out tasks for solvers, about functions that the imitation did not show.
Registered: self_play minus random is above 0. Baseline: random.
"""

from benchmarks.evidence import arms

CLAIM = "self-play on tasks of one's own raises the share that is solved"
QUANTITY = "right samples on solvers' held-out tasks"
EXPECTED = {"self_play": "above"}


def units(run: dict) -> dict[str, float]:
    """{held-out task of a solver: share of right samples}."""
    after = run["after"]
    correct = {p: n for p, n in after["correct"].items() if p.startswith("solve:")}
    return {p: n / after["samples"] for p, n in correct.items()}


def get_sweep(arg: str | None = None) -> dict:
    """arg: short."""
    found = {name: arms.arm("absolute_zero", "warm") for name in ("random", "self_play")}
    own = found["random"]
    own["shaping"] = (
        dict(fn="shaping.affine", scale=0.0, shift=0.0),  # forget the verdict
        dict(fn="noise.inject", fp_rate=0.5, fn_rate=0.0, unit="sample"),
    )
    return arms.sweep(arg, found, "random")
