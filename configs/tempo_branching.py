"""TEMPO on a tree that is grown on purpose: branches at the least expected tokens.

  rlpt train --config configs/tempo_branching.py --workdir runs/tempo_branching
  rlpt train --config configs/tempo_branching.py:runlocal --workdir /tmp/tempo_branching

Tran, Yao and Yu, "TEMPO", arXiv 2509.18314, whose own trees come from independent samples;
those of long replies part early, and few tokens are branches. Here two replies a prompt are
sampled and the others start inside them, before the tokens with the largest -log-prob, as in
Hou et al., "TreeRL", arXiv 2506.11902. A copied token trains once, in the row that drew it.
The job here is that of configs/quickstart.py: SmolLM2 and one-digit sums on a laptop.
"""

import rlpt.config


def get_config(arg: str | None = None):
    """arg: runlocal shrinks the run to the toy model."""
    c = rlpt.config.default()
    c.steps = 30
    c.tasks = (dict(fn="arithmetic.sums", digits=1),)
    c.verifiers = (dict(fn="number.number", name="number"),)
    c.rollout.prompts, c.rollout.group = 8, 8
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (32,), (12,)
    c.rollout.fn = "branch.branching"
    c.rollout.options = dict(first=2, children=1, by="surprise", train_prefix=False)
    c.advantage = (
        dict(fn="tree.tempo", td_coef=1.0, scale="std", ddof=0, eps=1e-6),
        "tree.tree_metrics",
    )
    c.loss = (dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),)
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
