"""Length reward: among the completions of a prompt the shorter ones are better.

  rlpt train --config configs/length_penalty.py --workdir runs/length_penalty
  rlpt train --config configs/length_penalty.py:runlocal --workdir /tmp/length_penalty

Kimi Team, "Kimi k1.5: Scaling Reinforcement Learning with LLMs", arXiv 2501.12599, sec. 2.3.3:
between +0.5 for the shortest and -0.5 for the longest, wrong ones never above 0. There it is
switched on after a while; the coefficient here rises over the first 10 steps. Differs in: the
estimator is Dr.GRPO's; the standard deviation of GRPO would cancel the coefficient where all of a
group are right, or wrong. The job here is that of configs/quickstart.py: SmolLM2 and one-digit sums
on a laptop.
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
        dict(
            fn="shaping.group_length",
            coef=dict(schedule="linear", init=0.0, end=0.5, steps=10),
            threshold=0.5,
        ),
    )
    c.advantage = ("group.dr_grpo",)
    c.loss = (dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),)
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
