"""Supervised fine-tuning: the policy imitates one completion of each prompt.

  rlpt train --config configs/sft.py --workdir runs/sft
  rlpt train --config configs/sft.py:runlocal --workdir /tmp/sft

As in the first stage of Lambert et al., "TULU 3", arXiv 2411.15124. There: learning rate 5e-6 with
linear decay (8B), 2 epochs, batches of 128, sums over tokens in place of a mean. Of a file:
dict(fn="files.jsonl", path=..., prompt="prompt", meta=("completion",)) and the rollout option
completion="{completion}". The job here is that of configs/quickstart.py, SmolLM2 and one-digit sums
on a laptop, and the completion the answer alone.
"""

import rlpt.config


def get_config(arg: str | None = None):
    """arg: runlocal shrinks the run to the toy model."""
    c = rlpt.config.default()
    c.steps = 30
    c.tasks = (dict(fn="arithmetic.sums", digits=1),)
    c.verifiers = (dict(fn="number.number", name="number"),)
    c.rollout.fn, c.rollout.prompts, c.rollout.group = "pairs.demonstrations", 64, 1
    c.rollout.options = dict(completion="{answer}")
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (32,), (12,)
    c.advantage = (dict(fn="group.grpo", allow_singleton=True),)  # of rewards that are all 0
    c.loss = (dict(fn="preference.nll", aggregate="aggregate.token_mean"),)
    c.learner.micro_blocks = 16
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
