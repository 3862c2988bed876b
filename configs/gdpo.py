"""GDPO: two rewards, each standardised in its group before they are summed.

  rlpt train --config configs/gdpo.py --workdir runs/gdpo
  rlpt train --config configs/gdpo.py:runlocal --workdir /tmp/gdpo

Liu et al., "GDPO: Group reward-Decoupled Normalization Policy Optimization", arXiv 2601.05242.
Summed first, different pairs of rewards can end as one advantage. Here: the right number, and a
reply that is nothing but a number. Accuracy in the evaluation asks for both. The job here is that
of configs/quickstart.py: SmolLM2 and one-digit sums on a laptop.
"""

import rlpt.config


def get_config(arg: str | None = None):
    """arg: runlocal shrinks the run to the toy model."""
    c = rlpt.config.default()
    c.steps = 30
    c.tasks = (dict(fn="arithmetic.sums", digits=1),)
    c.verifiers = (
        dict(fn="number.number", name="number", weight=1.0),
        dict(fn="pattern.regex", name="format", pattern=r"^\s*-?[0-9]+\s*$", weight=1.0),
    )
    c.rollout.prompts, c.rollout.group = 8, 8
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (32,), (12,)
    c.advantage = (
        dict(fn="group.gdpo", weights=dict(number=1.0, format=1.0), ddof=1, eps=1e-6, whiten=True),
    )
    c.loss = (dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),)
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
