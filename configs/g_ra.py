"""G-RA: a reward of lower priority counts only once those above it are passed.

  rlpt train --config configs/g_ra.py --workdir runs/g_ra
  rlpt train --config configs/g_ra.py:runlocal --workdir /tmp/g_ra

"Stabilizing Long-Term Multi-Turn Reinforcement Learning with Gated Rewards", arXiv 2508.10548.
There: step rewards of a software agent behind the outcome; completion on SWE-bench Verified 47.6 to
93.8. Here: the form of the reply counts only where the number is right, so that form alone earns
nothing. Accuracy in the evaluation asks for both. The job here is that of configs/quickstart.py:
SmolLM2 and one-digit sums on a laptop.
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
    c.shaping = (
        dict(fn="combine.gated_sum", order=("number", "format"), thresholds=dict(number=0.0)),
    )
    c.advantage = (dict(fn="group.grpo"),)
    c.loss = (dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),)
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
