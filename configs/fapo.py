"""FAPO: a right answer that flawed steps led to is worth less than one without flaws.

  rlpt train --config configs/fapo.py --workdir runs/fapo
  rlpt train --config configs/fapo.py:runlocal --workdir /tmp/fapo

Ding et al., "FAPO: Flawed-Aware Policy Optimization for Efficient and Reliable Reasoning",
arXiv 2510.22543. There: +1, -1, and lambda 1 less for flawed positives, so that they help at
first and stop to as clean ones catch up; clip-higher, token mean, overlong punishment; a
trained judge finds the flaws. Differs in: a rule does (verifiers.equations), which sees false
equations and no other flaw. pass@k counts right answers without one. The job here is
one-digit sums on a laptop with a prompt that asks for the equation.
"""

import rlpt.config


def get_config(arg: str | None = None):
    """arg: runlocal shrinks the run to the toy model."""
    budget = 8 if arg == "runlocal" else 16  # tokens of a completion
    c = rlpt.config.default()
    c.steps = 30
    system = "Write the sum as an equation, such as 2 + 2 = 4."
    c.tasks = (dict(fn="arithmetic.sums", digits=1, system=system),)
    c.verifiers = (
        dict(fn="number.number", name="number"),
        dict(fn="equations.equations", name="flawed"),
    )
    c.rollout.prompts, c.rollout.group = 8, 8
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (48,), (budget,)
    c.shaping = (
        dict(
            fn="outcomes.fapo",
            reads=dict(correct="verdict/number", flawed="verdict/flawed"),
            coef=1.0,
        ),
        dict(fn="shaping.soft_overlong", max_length=budget, cache=4, factor=1.0),
    )
    c.advantage = (dict(fn="group.grpo"),)
    c.loss = (
        dict(
            surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.28),
            aggregate="aggregate.token_mean",
        ),
    )
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
