"""LaSeR: the likelihood of one token behind a completion becomes the policy's verdict on it.

  rlpt train --config configs/laser.py --workdir runs/laser
  rlpt train --config configs/laser.py:runlocal --workdir /tmp/laser

Yang et al., "LaSeR: Reinforcement Learning with Last-Token Self-Rewarding", arXiv 2510.14943.
There: beta 0.1, weight 0.1 of the squared error and, after 200 steps, of the self-reward in the
advantage, groups of 8, lr 1e-6; the reference log-prob of the token is -23 for Qwen2.5; its F1 as a
verifier goes from 49 to 80 %. Here the first batch measures the reference, and the self-reward
enters the advantage after 10 steps. self/... in the log has accuracy and F1 of the verdicts.
The job here is that of configs/quickstart.py: SmolLM2 and one-digit sums on a laptop.
"""

import rlpt.config


def get_config(arg: str | None = None):
    """arg: runlocal shrinks the run to the toy model; the arm: grpo, the verdicts are only read."""
    small, learns = arg == "runlocal", arg != "grpo"
    c = rlpt.config.default()
    c.steps = 40
    c.tasks = (dict(fn="arithmetic.sums", digits=1),)
    c.verifiers = (dict(fn="number.number", name="number"),)
    c.rollout.prompts, c.rollout.group = 8, 8
    c.rollout.fn = "laser.marked"
    c.rollout.options = dict(token="<unk>" if small else "<empty_output>")
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (32,), (12,)
    c.scorers = ("verification.self_logp",)
    c.shaping = (dict(fn="verification.self_reward", beta=0.1), "verification.agreement")
    c.advantage = (
        dict(fn="group.grpo"),
        dict(
            fn="verification.self_mixed",
            share=dict(schedule="step", init=0.0, end=0.1 * learns, steps=1 if small else 10),
            min_std=0.1,
        ),
    )
    c.loss = (
        dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),
        dict(
            fn="verification.self_reward_mse", beta=0.1, coef=0.1 * learns,
            aggregate="verification.class_balanced",
        ),
    )  # fmt: skip
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if small else c
