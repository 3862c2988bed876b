"""CANON: a completion is compared with the half of its group that was less, or more, certain.

  rlpt train --config configs/canon.py --workdir runs/canon
  rlpt train --config configs/canon.py:runlocal --workdir /tmp/canon

"Conditional Advantage Estimation for Reinforcement Learning in Large Reasoning Models" (CANON),
arXiv 2509.23962. There: groups sorted by mean token entropy or by length, alpha 1 and mu 1 (only
the comparison between halves), 512 prompts x 16 completions, clip 0.2/0.28, no KL, no std, token
sums divided by the largest length. Here: entropy. For length, in the authors' form, set
discounted="high" and reads=dict(metric=...) to a column of lengths, which a scorer of your own
writes. The job here is that of configs/quickstart.py: SmolLM2 and one-digit sums on a laptop.
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
    c.scorers = ("policy.mean_entropy",)
    c.advantage = (
        dict(
            fn="group.canon",
            reads=dict(metric="mean_entropy"),
            alpha=1.0,
            mu=1.0,
            discounted="low",
            mu_from="setting",
        ),
    )
    c.loss = (
        dict(
            surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.28),
            aggregate=dict(fn="aggregate.constant_length", length=12),  # the completion budget
        ),
    )
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
