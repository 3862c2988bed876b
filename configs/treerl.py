"""TreeRL: rewards of the segments of a tree that is searched at uncertain tokens.

  rlpt train --config configs/treerl.py --workdir runs/treerl
  rlpt train --config configs/treerl.py:runlocal --workdir /tmp/treerl

Hou et al., "TreeRL: LLM Reinforcement Learning with On-Policy Tree Search", arXiv 2506.11902.
There: 16 prompts, EPTree(M, N, L, T) = (6, 2, 1, 2), so 30 leaves of which 16 are kept,
temperature 1.2, top-p 0.95, lr 1.5e-6, no KL; forks where the sampled token has the largest
-log-prob, not behind the words of the answer. Here the tree is (2, 2, 1, 2), all 10 leaves
train, and temperature is 1. The job here is that of configs/quickstart.py: SmolLM2 and
one-digit sums on a laptop.
"""

import rlpt.config


def get_config(arg: str | None = None):
    """arg: runlocal shrinks the run to the toy model."""
    c = rlpt.config.default()
    c.steps = 30
    c.tasks = (dict(fn="arithmetic.sums", digits=1),)
    c.verifiers = (dict(fn="number.number", name="number"),)
    c.rollout.prompts, c.rollout.group = 8, 10
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (32,), (12,)
    c.rollout.fn = "branch.branching"
    c.rollout.options = dict(
        first=2, children=2, rounds=1, by="surprise",
        train_prefix=True,  # 1 / sqrt(leaves below) makes up for the repetition
        until=("answer", "conclusion"),
    )  # fmt: skip
    c.shaping = (dict(fn="nodes.leaf_rewards"),)
    c.advantage = ("tree.treerl", "tree.tree_metrics")
    c.loss = (dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),)
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
