"""MaxRL: centred rewards divided by the pass rate instead of the std.

  rlpt train --config configs/maxrl.py --workdir runs/maxrl
  rlpt train --config configs/maxrl.py:runlocal --workdir /tmp/maxrl

Tajwar et al., "Maximum Likelihood Reinforcement Learning", arXiv 2602.02710. The fewer
completions of a prompt are right, the more each weighs; with many samples the update goes
towards that of maximum likelihood. The job here is that of configs/quickstart.py: SmolLM2
and one-digit sums on a laptop.
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
    c.advantage = (dict(fn="group.maxrl"),)
    c.loss = (dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),)
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
