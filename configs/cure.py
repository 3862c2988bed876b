"""CURE, first stage: replies are begun again at a critical token, as prompts of their own.

  rlpt train --config configs/cure.py --workdir runs/cure
  rlpt train --config configs/cure.py:runlocal --workdir /tmp/cure

Li et al., "CURE: Critical-Token-Guided Re-Concatenation for Entropy-Collapse Prevention", arXiv
2508.11016. There: 4 replies a prompt and 3 more from inside each, at one of the 20 tokens of
highest entropy; these 16 are one group under the loss of DAPO (clip 0.2/0.28, dual clip 10, token
mean, soft overlong punishment, dynamic sampling), lr 1e-6; the second stage is configs/dapo.py from
the checkpoint of the first. Here prompts without a signal do not train, and are not replaced. The
job here is that of configs/quickstart.py: SmolLM2 and one-digit sums on a laptop.
"""

import rlpt.config


def get_config(arg: str | None = None):
    """arg: runlocal shrinks the run to the toy model."""
    small = arg == "runlocal"
    budget = 8 if small else 12  # tokens of a completion
    c = rlpt.config.default()
    c.steps = 30
    c.tasks = (dict(fn="arithmetic.sums", digits=1),)
    c.verifiers = (dict(fn="number.number", name="number"),)
    c.rollout.prompts, c.rollout.group, c.rollout.group_blocks = 8, 4, 5
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (32,), (budget,)
    c.rollout.fn = "cure.critical"
    # the tokens of the toy model are single characters
    c.rollout.options = dict(children=3, top=20, min_chars=1 if small else 2)
    c.shaping = (
        dict(fn="shaping.affine", scale=2.0, shift=-1.0),
        "shaping.zero_variance_filter",  # else their lengths would be what they learn from
        dict(fn="shaping.soft_overlong", max_length=budget, cache=4, factor=1.0),
    )
    c.advantage = (dict(fn="group.grpo"),)
    c.loss = (
        dict(
            surrogate=dict(fn="surrogates.dual_clip", low=0.2, high=0.28, c=10.0),
            aggregate="aggregate.token_mean",
        ),
    )
    c.learner.minibatches, c.learner.micro_blocks = 4, 5  # in the first the ratio is 1
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if small else c
