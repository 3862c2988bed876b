"""CISPO: importance weights are clipped and no token loses its gradient.

  rlpt train --config configs/cispo.py --workdir runs/cispo
  rlpt train --config configs/cispo.py:runlocal --workdir /tmp/cispo

MiniMax, "MiniMax-M1", arXiv 2506.13585. There: only the upper bound, token mean, no KL. The
bound of 5 is a choice made here, on the ratio itself (not 1 + eps). Two epochs, so that
ratios leave 1. The job here is that of configs/quickstart.py: SmolLM2 and one-digit sums on
a laptop.
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
            surrogate=dict(fn="surrogates.cispo", cap_low=0.0, cap_high=5.0),
            aggregate="aggregate.token_mean",
        ),
    )
    c.learner.epochs = 2
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
