"""GRPO with a bfloat16 rollout, corrected by truncated importance sampling.

  rlpt train --config configs/tis.py --workdir runs/tis
  rlpt train --config configs/tis.py:runlocal --workdir /tmp/tis

Yao et al., "Your efficient RL framework secretly brings you off-policy RL training", 2025;
GRPO: Shao et al., arXiv 2402.03300. The rollout samples with bfloat16 weights, the update
computes in float32; a token weighs min(pi / pi_sampler, 2), 2 being verl's default. The gap
is logged as policy/sampler_gap, the mean weight as policy/correction. Alternatives:
corrections.sequence_tis, corrections.token_mask (IcePop), corrections.geometric_rejection.
The job here is that of configs/quickstart.py: SmolLM2 and one-digit sums on a laptop.
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
    c.sampling.dtype = "bfloat16"
    c.advantage = (dict(fn="group.grpo"),)
    c.loss = (
        dict(
            surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2),
            corrections=(dict(fn="corrections.token_tis", cap=2.0),),
        ),
    )
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
