"""Iterative DPO: pairs of the policy's own completions, best against worst, and their likelihood.

  rlpt train --config configs/iterative_dpo.py --workdir runs/iterative_dpo
  rlpt train --config configs/iterative_dpo.py:runlocal --workdir /tmp/iterative_dpo

Pang et al., "Iterative Reasoning Preference Optimization", arXiv 2404.19733. There: 30 completions
a question, 10 pairs of a right and a wrong one, beta 0.1, alpha 1 for the likelihood of the right
one per token, learning rate 7e-7; four rounds of 5000 steps, each from the model of the round
before, which is also its reference: GSM8K 55.6 to 81.6 with Llama-2-70B-Chat. Here a round is one
batch of two updates, and old_logp, the policy at their start, its reference. Longer rounds: read
ref_logp, which learner.reference_steps sets to the policy at the steps where rounds begin. The job
here is that of configs/quickstart.py: SmolLM2 and one-digit sums on a laptop.
"""

import rlpt.config


def get_config(arg: str | None = None):
    """arg: runlocal shrinks the run to the toy model."""
    c = rlpt.config.default()
    c.steps = 30
    c.tasks = (dict(fn="arithmetic.sums", digits=1),)
    c.verifiers = (dict(fn="number.number", name="number"),)
    c.rollout.fn, c.rollout.prompts, c.rollout.group = "pairs.best_worst", 8, 2
    c.rollout.options = dict(samples=4 if arg == "runlocal" else 8)
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (32,), (12,)
    mean = "aggregate.sequence_mean_token_mean"
    c.loss = (
        dict(fn="preference.dpo", beta=0.1, reads=dict(ref_logp="old_logp"), aggregate=mean),
        dict(fn="preference.nll", coef=2.0, aggregate=mean),  # alpha 1 a pair: half the rows count
    )
    c.learner.minibatches = 2
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
