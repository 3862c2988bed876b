"""Claim 2: TEMPO beats GRPO at equal samples.

Tran, Yao and Yu, arXiv 2509.18314 (MATH 87.6 to 91.0 there). Tasks: products (short chains) in
this file, and sums of three numbers by `:three_sums`. Registered: tempo minus grpo is above 0, by
plain sampling and by branching inside replies; the ledger also has the steps to half of grpo's
gain, what was right after equal seconds, the share of tokens at which the tree parts and its
depth. Baseline: grpo, with the same standardisation.
"""

CLAIM = "TEMPO ends higher than GRPO at equal samples"
TIMED = True  # one queue runs them all, in the same way
EXPECTED = {"tempo": "above", "tempo_branching": "above"}


def get_sweep(arg: str | None = None) -> dict:
    """arg: runlocal takes the toy model; three_sums another task."""
    tempo = dict(fn="tree.tempo", td_coef=1.0, scale="std", ddof=0, eps=1e-6)
    trees = dict(first=2, children=1, by="surprise", train_prefix=False)
    branching = {"rollout.fn": "branch.branching", "rollout.options": trees}
    return dict(
        config="benchmarks/evidence/job.py" + (f":{arg}" if arg else ""),
        settings=[
            ("grpo", {"advantage": (tempo | dict(td_coef=0.0), "tree.tree_metrics")}),
            ("tempo", {"advantage": (tempo, "tree.tree_metrics")}),
            ("tempo_branching", branching | {"advantage": (tempo, "tree.tree_metrics")}),
        ],
        baseline="grpo",
        seeds=(0, 1, 2),
    )
