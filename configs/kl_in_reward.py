"""REINFORCE++ with the KL penalty inside the token rewards (k1), none in the loss.

  rlpt train --config configs/kl_in_reward.py --workdir runs/kl_in_reward
  rlpt train --config configs/kl_in_reward.py:runlocal --workdir /tmp/kl_in_reward

Ziegler et al., "Fine-Tuning Language Models from Human Preferences", arXiv 1909.08593 (KL
in the reward); Hu et al., "REINFORCE++", arXiv 2501.03262. Each token pays 0.05
(log pi_old - log pi_ref), and the returns carry that to the tokens before it; the 0.05 is a
choice made here. The job here is that of configs/quickstart.py: SmolLM2 and one-digit sums
on a laptop.
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
    c.shaping = (dict(fn="shaping.kl_in_reward", coef=0.05),)
    c.advantage = (dict(fn="batch.reinforce_pp", gamma=1.0),)
    c.loss = (dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),)
    c.learner.old_logp = "recompute"  # the reward needs it before the update
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
