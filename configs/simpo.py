"""SimPO: pairs by the mean log-prob of a completion, with a margin and without a reference.

  rlpt train --config configs/simpo.py --workdir runs/simpo
  rlpt train --config configs/simpo.py:runlocal --workdir /tmp/simpo

Meng, Xia and Chen, "SimPO: Simple Preference Optimization with a Reference-Free Reward",
arXiv 2405.14734. There: beta 2 to 2.5, gamma 0.3 to 0.5 of it, learning rate 3e-7 to 1e-6, batches
of 128 pairs. The table is that of configs/dpo.py.
"""

import rlpt.config


def get_config(arg: str | None = None):
    """arg: runlocal shrinks the run to the toy model."""
    c = rlpt.config.default()
    c.steps = 30
    c.tasks = (dict(fn="arithmetic.sums", digits=1),)
    c.verifiers = (dict(fn="number.number", name="number"),)
    c.rollout.fn, c.rollout.prompts, c.rollout.group = "pairs.preferred", 32, 2
    c.rollout.options = dict(chosen="{answer}", rejected="{other}")
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (32,), (12,)
    c.loss = (
        dict(
            fn="preference.simpo", beta=2.0, gamma=1.0,
            aggregate="aggregate.sequence_mean_token_mean",
        ),
    )  # fmt: skip
    c.learner.micro_blocks = 8
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
