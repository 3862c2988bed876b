"""DPO: pairs of completions teach the policy directly, without a reward model.

  rlpt train --config configs/dpo.py --workdir runs/dpo
  rlpt train --config configs/dpo.py:runlocal --workdir /tmp/dpo

Rafailov et al., "Direct Preference Optimization", arXiv 2305.18290. There: beta 0.1, learning rate
1e-6 with 150 steps of warm-up, batches of 64 pairs. Pairs come from the task: of a file, with
dict(fn="files.jsonl", path=..., prompt="prompt", meta=("chosen", "rejected")) and the default
templates. The job here is that of configs/quickstart.py, SmolLM2 and one-digit sums on a laptop:
the right sum is preferred to that of another prompt. In place of preference.dpo, preference.ipo
and preference.orpo (with a term of preference.nll) take the same table.
"""

import rlpt.config


def get_config(arg: str | None = None):
    """arg: runlocal shrinks the run to the toy model."""
    c = rlpt.config.default()
    c.steps = 30
    c.tasks = (dict(fn="arithmetic.sums", digits=1),)
    c.verifiers = (dict(fn="number.number", name="number"),)
    c.rollout.fn, c.rollout.prompts, c.rollout.group = "pairs.preferred", 32, 2
    c.rollout.options = dict(chosen="{answer}", rejected="{other}")
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (32,), (12,)
    c.loss = (dict(fn="preference.dpo", beta=0.1, aggregate="aggregate.sequence_mean_token_mean"),)
    c.learner.micro_blocks = 8
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
