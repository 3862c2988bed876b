"""DAPO: clip-higher, token mean, dynamic sampling, soft overlong punishment, no KL.

  rlpt train --config configs/dapo.py --workdir runs/dapo
  rlpt train --config configs/dapo.py:runlocal --workdir /tmp/dapo

Yu et al., "DAPO: An Open-Source LLM Reinforcement Learning System at Scale", arXiv
2503.14476. There: 512 prompts x 16 completions, minibatches of 512 rows, lr 1e-6 with 20
warm-up steps, weight decay 0.1, 20480 tokens of which the last 4096 are the slope, clip
0.2/0.28, rewards +1 and -1; 50 on AIME 2024 with Qwen2.5-32B. Here the budget is 12 tokens
with a slope of 4; kept prompts that are too many are carried to the next step, with their
own log-probs as the old ones. The job here is that of configs/quickstart.py: SmolLM2 and
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
    c.rollout.fn = "dynamic.refill"
    c.rollout.options = dict(max_batches=10, carry=True)
    c.shaping = (
        dict(fn="shaping.affine", scale=2.0, shift=-1.0),
        dict(fn="shaping.soft_overlong", max_length=budget, cache=4, factor=1.0),
    )
    c.advantage = (dict(fn="group.grpo"),)
    c.loss = (
        dict(
            surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.28),
            aggregate="aggregate.token_mean",
        ),
    )
    c.optim.weight_decay = 0.1
    c.optim.warmup_steps = 2
    c.learner.minibatches, c.learner.micro_blocks = 4, 2  # in the first the ratio is 1
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
