"""Control: inverted rewards, 1 for a wrong reply and 0 for a right one.

  rlpt train --config configs/spurious_inverted.py --workdir runs/spurious_inverted
  rlpt train --config configs/spurious_inverted.py:runlocal --workdir /tmp/spurious_inverted

Shao et al., "Spurious Rewards: Rethinking Training Signals in RLVR", arXiv 2506.10947. A
control: where it improves the held-out numbers as the real reward does, the gain is not
from the reward. verdict/number in the log stays the truth. There wrong answers that a
majority gives are rewarded; here any. The job here is that of configs/quickstart.py:
SmolLM2 and one-digit sums on a laptop.
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
    c.shaping = (dict(fn="shaping.affine", scale=-1.0, shift=1.0),)
    c.advantage = (dict(fn="group.grpo"),)
    c.loss = (dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),)
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
