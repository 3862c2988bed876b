"""SFT, DPO and then verifiable rewards: a recipe of stages against GRPO alone.

Lambert et al. (TULU 3), arXiv 2411.15124. One-digit products, 30 steps of 64 rows: 10 of
imitation, 10 of preferences, 10 of GRPO in one run, against 30 of GRPO. The demonstrations are
the bare answers of the training split. Quantity: held-out pass@1. Registered: recipe minus grpo
is above 0. Baseline: grpo.
"""

from benchmarks.evidence import arms

CLAIM = "a recipe of SFT, DPO and RL beats RL alone at equal rows"
EXPECTED = {"recipe": "above"}
FOUND = (
    "at equal rows the two first stages take 20 steps from the one that teaches here; where RL "
    "cannot start at all (tool), imitation is what makes it possible. What would decide: a task "
    "that RL alone does not begin to solve, at equal rows."
)
TASKS = (dict(fn="arithmetic.products"),)


def get_sweep(arg: str | None = None) -> dict:
    """arg: short."""
    found = {
        "grpo": arms.arm("small_tasks", "products"),
        "recipe": arms.arm("sft_dpo_rlvr", tasks=TASKS),
    }
    return arms.sweep(arg, found, "grpo")
