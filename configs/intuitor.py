"""Intuitor: the reward is the policy's own certainty; no answer is looked at.

  rlpt train --config configs/intuitor.py --workdir runs/intuitor
  rlpt train --config configs/intuitor.py:runlocal --workdir /tmp/intuitor

Zhao et al., "Learning to Reason without External Rewards", arXiv 2505.19590. There: 128
prompts a batch, lr 3e-6 with a cosine, KL 0.005. The verifier's verdict stays in `rewards` and
so in the log: certainty that grows while accuracy falls is how this method fails. The job here
is that of configs/quickstart.py: SmolLM2 and one-digit sums on a laptop.
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
    c.scorers = (dict(fn="policy.self_certainty"),)
    c.advantage = (dict(fn="group.grpo", reads=dict(rewards="self_certainty")),)
    c.loss = (
        dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),
        dict(fn="penalties.k3", coef=0.005),
    )
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
