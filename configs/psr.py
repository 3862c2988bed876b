"""PSR: only correct completions train, with advantage 1.

  rlpt train --config configs/psr.py --workdir runs/psr
  rlpt train --config configs/psr.py:runlocal --workdir /tmp/psr

Zhu et al., "The Surprising Effectiveness of Negative Reinforcement in LLM Reasoning", arXiv
2506.01347. There: 1024 prompts x 8 completions, minibatches of 256, lr 1e-6, clip 0.2,
token mean over the rows that train, no KL. The job here is that of configs/quickstart.py:
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
    c.advantage = (dict(fn="group.psr"),)
    c.loss = (dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),)
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
