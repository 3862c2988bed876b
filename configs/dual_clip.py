"""Dual clip: the loss of a bad token is bounded however large its ratio.

  rlpt train --config configs/dual_clip.py --workdir runs/dual_clip
  rlpt train --config configs/dual_clip.py:runlocal --workdir /tmp/dual_clip

Ye et al., "Mastering Complex Control in MOBA Games with Deep Reinforcement Learning", arXiv
1912.09729. c = 3 is the paper's and verl's default. Two epochs, so that ratios leave 1. The
job here is that of configs/quickstart.py: SmolLM2 and one-digit sums on a laptop.
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
    c.advantage = (dict(fn="group.grpo"),)
    c.loss = (dict(surrogate=dict(fn="surrogates.dual_clip", low=0.2, high=0.2, c=3.0)),)
    c.learner.epochs = 2
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
