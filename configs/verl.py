"""VERL: a bonus for completions whose hidden states open new directions, or do so ever faster.

  rlpt train --config configs/verl.py --workdir runs/verl
  rlpt train --config configs/verl.py:runlocal --workdir /tmp/verl

Huang et al., "Beyond the Exploration-Exploitation Trade-off: A Hidden State Approach for LLM
Reasoning in RLVR", arXiv 2509.23808; the settings are those of its training script, where the
effective rank is taken every 40 tokens and the bonus stands on the last token. Here it is taken
every 2, as completions have 12. The job here is that of configs/quickstart.py: SmolLM2 and
one-digit sums on a laptop.
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
    c.scorers = (dict(fn="trajectory.effective_rank", stride=2, last=512),)
    shape = dict(gain=2.0, weight=1.0, kappa=2.0, rate=0.3, bonus_on="last")
    c.advantage = (dict(fn="group.grpo"), dict(fn="hidden.verl", **shape))
    c.loss = (dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),)
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
