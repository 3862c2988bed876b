"""Dr.GRPO: no division by the group's std, none by the row's length.

  rlpt train --config configs/dr_grpo.py --workdir runs/dr_grpo
  rlpt train --config configs/dr_grpo.py:runlocal --workdir /tmp/dr_grpo

Liu et al., "Understanding R1-Zero-Like Training: A Critical Perspective", arXiv 2503.20783.
There: Qwen2.5-Math-7B, MATH questions, no KL term, 43.3 on AIME 2024; the constant in the
loss is the generation budget, as in the authors' code. The job here is that of
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
    c.advantage = (dict(fn="group.dr_grpo"),)
    c.loss = (
        dict(
            surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2),
            aggregate=dict(fn="aggregate.constant_length", length=12),  # the completion budget
        ),
    )
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
