"""Claim 2: TEMPO beats GRPO at equal samples.

Tran, Yao and Yu, arXiv 2509.18314 (MATH 87.6 to 91.0 there). Tasks: products (short chains) in this
file, and sums of three numbers with replies of up to 32 tokens and 45 steps by `:three_sums`.
Registered: tempo minus grpo is above 0 by plain sampling; tempo_branching minus grpo_branching, the
same rollout with GRPO's advantages, is above 0. That rollout draws two rows of a group in full and
forks the others from them, so that it samples fewer tokens than the plain one. The ledger also has
the steps to half of grpo's gain and what is right after equal seconds (held-out), the share of
tokens at which the tree parts and its depth. Baseline: grpo, with the same standardisation.
"""

from benchmarks.evidence import arms

CLAIM = "TEMPO ends higher than GRPO at equal samples"
QUANTITY = "held-out pass@1, mean over the run"
TIMED = True  # one queue runs them all, in the same way
EXPECTED = {"tempo": "above", "tempo_branching": "above"}
AGAINST = {"tempo_branching": "grpo_branching"}  # what forking alone does is in both
FOUND = (
    "tempo minus grpo is of the mean over the run, as registered; at the end it is +0.027 "
    "[-0.013, +0.065] on products, so that the title is shown of the way there and not of the "
    "end. The baseline of the forked arms is itself 0.37 below plain sampling there."
)
CLEAN = "grpo"
units = arms.over_the_run


def get_sweep(arg: str | None = None) -> dict:
    """arg: runlocal takes the toy model; three_sums another task."""
    tempo = dict(fn="tree.tempo", td_coef=1.0, scale="std", ddof=0, eps=1e-6)
    grpo = {"advantage": (tempo | dict(td_coef=0.0), "tree.tree_metrics")}
    tempo = {"advantage": (tempo, "tree.tree_metrics")}
    trees = dict(first=2, children=1, by="surprise", train_prefix=False)
    branching = {"rollout.fn": "branch.branching", "rollout.options": trees}
    found = {
        "grpo": grpo,
        "tempo": tempo,
        "grpo_branching": branching | grpo,
        "tempo_branching": branching | tempo,
    }
    if arg == "three_sums":
        room = {"sampling.completion_buckets": (32,), "steps": 45}
        found = {name: room | own for name, own in found.items()}
    return dict(
        config="benchmarks/evidence/job.py" + (f":{arg}" if arg else ""),
        settings=list(found.items()),
        baseline="grpo",
        seeds=arms.seeds("tempo_three_sums" if arg == "three_sums" else "tempo"),
    )
