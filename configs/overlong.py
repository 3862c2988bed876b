"""Long completions two ways: those near the limit lose reward, those cut by it do not train.

  rlpt train --config configs/overlong.py --workdir runs/overlong
  rlpt train --config configs/overlong.py:runlocal --workdir /tmp/overlong

Yu et al., "DAPO: An Open-Source LLM Reinforcement Learning System at Scale", arXiv
2503.14476, sec. 3.4. There: overlong filtering, then soft overlong punishment over the last
4096 of 20480 tokens, each compared with GRPO. Here both at once: a completion that was cut
leaves the loss but stays in the statistics of its group, with its punishment; for one of
them alone leave the other entry of c.shaping out. The job here is that of
configs/quickstart.py, SmolLM2 and one-digit sums on a laptop, with a budget of 32 tokens and
a slope of 8: with 12, nine of ten completions are cut at first.
"""

import rlpt.config


def get_config(arg: str | None = None):
    """arg: runlocal shrinks the run to the toy model."""
    budget = 8 if arg == "runlocal" else 32  # tokens of a completion
    c = rlpt.config.default()
    c.steps = 30
    c.tasks = (dict(fn="arithmetic.sums", digits=1),)
    c.verifiers = (dict(fn="number.number", name="number"),)
    c.rollout.prompts, c.rollout.group = 8, 8
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (32,), (budget,)
    c.shaping = (
        dict(fn="shaping.soft_overlong", max_length=budget, cache=budget // 4, factor=1.0),
        "shaping.overlong_filter",
    )
    c.advantage = (dict(fn="group.grpo"),)
    c.loss = (
        dict(
            surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2),
            aggregate="aggregate.token_mean",
        ),
    )
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
