"""BroRL: hundreds of completions a prompt, as groups that span blocks.

  rlpt train --config configs/brorl.py --workdir runs/brorl
  rlpt train --config configs/brorl.py:runlocal --workdir /tmp/brorl

Hu et al., "BroRL: Scaling Reinforcement Learning via Broadened Exploration", arXiv
2510.01180. There: 512 completions a prompt. Here 64 = 8 blocks x 8, the statistics over all
64, and 16 of them drawn at random for the update (512 would be group 16 and group_blocks
32). The job here is that of configs/quickstart.py: SmolLM2 and one-digit sums on a laptop.
"""

import rlpt.config


def get_config(arg: str | None = None):
    """arg: runlocal shrinks the run to the toy model."""
    keep = 4 if arg == "runlocal" else 16  # completions of a prompt that train
    c = rlpt.config.default()
    c.steps = 30
    c.tasks = (dict(fn="arithmetic.sums", digits=1),)
    c.verifiers = (dict(fn="number.number", name="number"),)
    c.rollout.prompts, c.rollout.group = 4, 8
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (32,), (12,)
    c.rollout.group_blocks = 8
    c.shaping = (dict(fn="selection.subsample", keep=keep),)
    c.advantage = (dict(fn="group.grpo"),)
    c.loss = (dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),)
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
