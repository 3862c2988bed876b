"""KL in the reward, with a coefficient that holds the policy at a distance from its reference.

  rlpt train --config configs/adaptive_kl.py --workdir runs/adaptive_kl
  rlpt train --config configs/adaptive_kl.py:runlocal --workdir /tmp/adaptive_kl

Ziegler et al., "Fine-Tuning Language Models from Human Preferences", arXiv 1909.08593. There:
PPO; the coefficient grows by at most a fifth of n / horizon a batch of n completions. verl:
coefficient 0.001, target 0.1 nats a token, horizon 10000. Here the horizon is 640 rows, 10
batches, so that it acts within the run, and it starts at 0.05: choices made here. The
estimator is REINFORCE++, whose returns carry a token's KL to the tokens before it. The job
here is that of configs/quickstart.py: SmolLM2 and one-digit sums on a laptop.
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
    c.shaping = (
        dict(
            fn="controllers.adaptive_kl",
            coef=0.05,
            target=0.1,
            horizon=640.0,
            bound=0.2,
            unit="token",
        ),
        "controllers.kl_in_reward",
    )
    c.advantage = (dict(fn="batch.reinforce_pp", gamma=1.0),)
    c.loss = (dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),)
    c.learner.old_logp = "recompute"  # the reward needs it before the update
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
