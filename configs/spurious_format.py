"""Control: the reward is the form of the reply, its content does not count.

  rlpt train --config configs/spurious_format.py --workdir runs/spurious_format
  rlpt train --config configs/spurious_format.py:runlocal --workdir /tmp/spurious_format

Shao et al., "Spurious Rewards: Rethinking Training Signals in RLVR", arXiv 2506.10947. A
control: where it improves the held-out numbers as the real reward does, the gain is not
from the reward. The evaluation and verdict/number in the log stay the truth. There the form is a
\\boxed{}; here, exactly one number, among words or alone. The job here is that of
configs/quickstart.py: SmolLM2 and one-digit sums on a laptop.
"""

import rlpt.config


def get_config(arg: str | None = None):
    """arg: runlocal shrinks the run to the toy model."""
    c = rlpt.config.default()
    c.steps = 30
    c.tasks = (dict(fn="arithmetic.sums", digits=1),)
    c.verifiers = (
        dict(fn="number.number", name="number"),
        dict(fn="pattern.regex", name="format", pattern=r"^\D*[0-9]+\D*$", weight=0.0),
    )
    c.rollout.prompts, c.rollout.group = 8, 8
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (32,), (12,)
    c.shaping = (dict(fn="combine.weighted_sum", weights=dict(format=1.0)),)
    c.advantage = (dict(fn="group.grpo"),)
    c.loss = (dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),)
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
