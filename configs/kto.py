"""KTO: completions that are good or bad by themselves, not in pairs.

  rlpt train --config configs/kto.py --workdir runs/kto
  rlpt train --config configs/kto.py:runlocal --workdir /tmp/kto

Ethayarajh et al., "KTO: Model Alignment as Prospect Theoretic Optimization", arXiv 2402.01306.
There: beta 0.1, learning rate 5e-7, weights such that those of good rows are 1 to 4/3 of those of
bad ones. The KL that gains are compared with is measured before each update on the completions of
other prompts, in the second slot of a block; with rollout.group 1 it is taken as 0. A file of
labelled completions: dict(fn="files.jsonl", path=..., prompt="prompt", meta=("completion",
"label")) and rollout options chosen="{completion}", rejected="{completion}", label="label".
The job here is that of configs/dpo.py: the right sum, or that of another prompt, in turn.
"""

import rlpt.config


def get_config(arg: str | None = None):
    """arg: runlocal shrinks the run to the toy model."""
    c = rlpt.config.default()
    c.steps = 30
    c.tasks = (dict(fn="arithmetic.sums", digits=1),)
    c.verifiers = (dict(fn="number.number", name="number"),)
    c.rollout.fn, c.rollout.prompts, c.rollout.group = "pairs.unpaired", 64, 2
    c.rollout.options = dict(chosen="{answer}", rejected="{other}")
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (32,), (12,)
    c.shaping = ("models.kl_baseline",)
    c.advantage = (dict(fn="group.grpo", allow_singleton=True),)  # of rewards that are all 0
    c.loss = (
        dict(
            fn="preference.kto", beta=0.1, desirable=1.0, undesirable=1.0,
            aggregate="aggregate.sequence_mean_token_mean",
        ),
    )  # fmt: skip
    c.learner.old_logp = "recompute"  # for the KL
    c.learner.micro_blocks = 8
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
