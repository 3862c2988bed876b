"""Absolute Zero: one model makes up tasks and solves them; a program says what is right.

  rlpt train --config configs/absolute_zero.py --workdir runs/absolute_zero
  rlpt train --config configs/absolute_zero.py:warm --workdir runs/absolute_zero_warm
  rlpt train --config configs/absolute_zero.py:python --workdir runs/absolute_zero_python
  rlpt train --config configs/absolute_zero.py:runlocal --workdir /tmp/absolute_zero

Zhao et al., "Absolute Zero: Reinforced Self-play Reasoning with Zero Data", arXiv 2505.03335.
There: Qwen2.5-7B and 14B, Python, 64 proposals and 64 solutions of each of three types a step, the
solve rate of 8 samples, rewards 1 - rate, -0.5 and -1 in the code, one update at lr 1e-6, no KL,
advantages by role and type. Here a program is an arithmetic expression of x, or with ":python" a
function, run in the sandbox (docs/sandbox.md). Nothing is trained on config.tasks, which are held
out: sums that nobody proposes in this form. SmolLM2 hardly ever finds the form of a proposal by
itself: ":warm" has it imitate some for 10 steps of the run, held-out programs of which are asked
for beside the sums.
"""

import rlpt.config


def get_config(arg: str | None = None):
    """arg: python; warm: imitation first; runlocal shrinks the run to the toy model."""
    language = "python" if arg == "python" else "arithmetic"
    c = rlpt.config.default()
    c.steps = 30
    c.tasks = (dict(fn="arithmetic.sums", digits=1, verifier="number"),)
    c.verifiers = (
        dict(fn="number.number", name="number"),
        dict(fn="executor.executor", name="executor", language=language),
    )
    c.rollout.fn = "propose.self_play"
    c.rollout.options = dict(executor="executor", language=language, proposers=3, references=2)
    c.rollout.prompts, c.rollout.group = 8, 4
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (192, 320), (64,)
    if language == "python":
        c.pool.deadline = 10.0
        c.sampling.prompt_buckets, c.sampling.completion_buckets = (512,), (128,)
    c.shaping = (dict(fn="selfplay.absolute_zero", no_signal=-0.5, wrong=-0.5, malformed=-1.0),)
    c.advantage = (dict(fn="cells.task_relative", cells=6),)
    c.loss = (dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),)
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    if arg == "warm":
        steps = 10
        c.tasks += (dict(fn="triplets.taught", label="taught"),)
        # as many rows in both stages
        texts = dict(fn="pairs.demonstrations", task="taught", prompts=32, group=1, steps=steps)
        c.rollout.options = dict(
            stages=(
                dict(**texts, completion="{reply}"),
                dict(fn=c.rollout.fn, **c.rollout.options),
            )
        )
        c.rollout.fn = "stages.by_step"
        since = dict(schedule="step", init=0.0, end=1.0, steps=steps)
        c.loss = (
            dict(fn="preference.nll", coef=since | dict(init=1.0, end=0.0)),
            *(dict(term, coef=since) for term in c.loss),
        )
        c.learner.micro_blocks = 8
    if arg == "runlocal":
        c = rlpt.config.runlocal(c)
        c.sampling.prompt_buckets = (64, 640)  # its tokens are characters
        c.rollout.options.proposers = 2
    return c
