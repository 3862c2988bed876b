"""IGPO: a turn is worth what it adds to the policy's belief in the right answer.

  rlpt train --config configs/igpo.py --workdir runs/igpo
  rlpt train --config configs/igpo.py:runlocal --workdir /tmp/igpo
  rlpt train --config configs/igpo.py:gated --workdir runs/igpo_gated

Wang et al., "Information Gain-based Policy Optimization", arXiv 2510.14967. There: search agents
on Qwen2.5-7B, up to 10 turns, the belief is exp of the mean log-prob of the answer's tokens, its
changes and the outcome are standardised together in the group. With ":gated" the turns' rewards
count only where the outcome is right (gated accumulation, arXiv 2508.10548). The job is that of
configs/tool_calculator.py, of which the tool and its notation are.
"""

import rlpt.config

SYSTEM = "Answer with a number. Use the calculator for it, as in <<2*3>> = 6."


def get_config(arg: str | None = None):
    """arg: gated; runlocal shrinks the run to the toy model."""
    c = rlpt.config.default()
    c.steps = 30
    c.tasks = (dict(fn="arithmetic.products", low=10, high=99, system=SYSTEM),)
    c.verifiers = (
        dict(fn="number.number", name="number"),
        dict(fn="calculator.calculator", name="calculator", weight=0.0),
    )
    c.rollout.fn = "turns.with_tool"
    c.rollout.options = dict(
        tool="calculator", opening="<<", closing=">>", reply=" = {}", turns=2, answer=" {answer}"
    )
    c.rollout.prompts, c.rollout.group = 8, 8
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (64,), (32,)
    c.scorers = (dict(fn="answers.information_gain", turns=3),)
    if arg == "gated":
        c.shaping = (dict(fn="turns.gate_steps", threshold=1.0),)
    c.advantage = (dict(fn="turns.igpo", norm="pooled", gamma=1.0),)
    c.loss = (dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),)
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    if arg == "runlocal":
        tool = c.verifiers[1]
        c = rlpt.config.runlocal(c)
        c.verifiers = (c.verifiers[0], tool)
        c.rollout.options = dict(
            tool="calculator", opening="", closing="9", reply="{}", turns=1, longest=1
        )
        c.scorers = (dict(fn="answers.information_gain", turns=2),)
    return c
