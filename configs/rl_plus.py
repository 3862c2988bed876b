"""RL-PLUS: one worked solution in every group, under a bounded ratio of its own.

  rlpt train --config configs/rl_plus.py --workdir runs/rl_plus
  rlpt train --config configs/rl_plus.py:runlocal --workdir /tmp/rl_plus

Dong et al., "RL-PLUS: Countering Capability Boundary Collapse of LLMs in Reinforcement Learning
with Hybrid-policy Optimization", arXiv 2508.00222. There: one of 8 rows is external text, its
ratio 2 pi / (pi_old + (pi_old + 1) / 2) and its weight (1 - pi)^0.5; own rows without a clip,
advantages less the mean of the own rows and without a std, sums over tokens by the budget,
entropy 0.001, lr 1e-6. Solutions are read from --config.rollout.options.path=solutions.jsonl,
lines of {"id": ..., "solution": ...}; without it the reference answer is the solution, which
for sums is all there is to write. The job here is that of configs/quickstart.py: SmolLM2 and
one-digit sums on a laptop.
"""

import rlpt.config


def get_config(arg: str | None = None):
    """arg: runlocal shrinks the run to the toy model."""
    budget = 8 if arg == "runlocal" else 12  # tokens of a completion
    c = rlpt.config.default()
    c.steps = 30
    c.tasks = (dict(fn="arithmetic.sums", digits=1),)
    c.verifiers = (dict(fn="number.number", name="number"),)
    c.rollout.prompts, c.rollout.group = 8, 8
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (32,), (budget,)
    c.rollout.fn = "experts.inject"
    c.rollout.options = dict(path="", count=1, template="{answer}")
    c.advantage = (dict(fn="group.rl_plus"),)
    c.loss = (
        dict(
            surrogate=dict(fn="surrogates.rl_plus", gamma=0.5),
            aggregate=dict(fn="aggregate.constant_length", length=budget),
        ),
        dict(fn="penalties.entropy_bonus", coef=0.001),
    )
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
