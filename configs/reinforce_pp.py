"""REINFORCE++: returns whitened over all tokens of the batch, no group needed.

  rlpt train --config configs/reinforce_pp.py --workdir runs/reinforce_pp
  rlpt train --config configs/reinforce_pp.py:runlocal --workdir /tmp/reinforce_pp

Hu et al., "REINFORCE++", arXiv 2501.03262. The estimator is that of the paper as verl has
it (variance with n - 1, eps 1e-8 inside the root). There the token rewards hold a KL
penalty too: configs/kl_in_reward.py adds it. The job here is that of configs/quickstart.py:
SmolLM2 and one-digit sums on a laptop.
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
    c.advantage = (dict(fn="batch.reinforce_pp", gamma=1.0, eps=1e-8),)
    c.loss = (dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),)
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
