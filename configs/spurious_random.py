"""Control: random rewards, 1 with probability 0.5 whatever the reply.

  rlpt train --config configs/spurious_random.py --workdir runs/spurious_random
  rlpt train --config configs/spurious_random.py:runlocal --workdir /tmp/spurious_random

Shao et al., "Spurious Rewards: Rethinking Training Signals in RLVR", arXiv 2506.10947. A control:
where it improves the held-out numbers as the real reward does, the gain is not from the reward.
verdict/number in the log stays the truth. The paper explains gains by the clipping; here, with one
update a batch, no ratio is clipped: set learner.minibatches for that. The job here is that of
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
    c.shaping = (
        dict(fn="shaping.affine", scale=0.0, shift=0.0),  # forget the verdict
        dict(fn="noise.inject", fp_rate=0.5, fn_rate=0.0, unit="sample"),
    )
    c.advantage = (dict(fn="group.grpo"),)
    c.loss = (dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),)
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
