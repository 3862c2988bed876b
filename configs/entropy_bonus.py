"""GRPO with an entropy bonus, from the full distribution of every trained token.

  rlpt train --config configs/entropy_bonus.py --workdir runs/entropy_bonus
  rlpt train --config configs/entropy_bonus.py:runlocal --workdir /tmp/entropy_bonus

Mnih et al., "Asynchronous Methods for Deep Reinforcement Learning", arXiv 1602.01783 (the
bonus, 0.01 there); GRPO: arXiv 2402.03300. The coefficient here is small and falls to 0: a
constant one of 0.01 can win over the reward in a large vocabulary. The job here is that of
configs/quickstart.py: SmolLM2 and one-digit sums on a laptop.
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
    c.loss = (
        dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),
        dict(
            fn="penalties.entropy_bonus",
            coef=dict(schedule="linear", init=0.001, end=0.0, steps=30),
        ),
    )
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
