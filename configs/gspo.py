"""GSPO: one ratio a completion, clipped as a whole.

  rlpt train --config configs/gspo.py --workdir runs/gspo
  rlpt train --config configs/gspo.py:runlocal --workdir /tmp/gspo

Zheng et al., "Group Sequence Policy Optimization", arXiv 2507.18071. There: 4 minibatches a
batch and a clip range of 3e-4/4e-4 on the length-normalised ratio, mean over rows. The job
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
    c.advantage = (dict(fn="group.grpo"),)
    c.loss = (
        dict(
            ratio="ratios.sequence",
            surrogate=dict(fn="surrogates.ppo_clip", low=3e-4, high=4e-4),
            aggregate="aggregate.sequence_mean_token_mean",
        ),
    )
    c.learner.minibatches = 4
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
