"""Backward correction of noisy verdicts: rewards that are right in the mean.

  rlpt train --config configs/noisy_backward.py --workdir runs/noisy_backward
  rlpt train --config configs/noisy_backward.py:runlocal --workdir /tmp/noisy_backward

Cai et al., "Reinforcement Learning with Verifiable yet Noisy Rewards under Imperfect
Verifiers", arXiv 2510.00915. There: false positives 0.1 and false negatives 0.2 injected,
DeepScaleR, 8 completions a prompt, batch 128, lr 3e-6, KL 0.001, 3072 tokens. The
uncorrected advantages are kept beside the corrected ones, and metrics audit_* say how far
these are from them; noise is injected into training only, verdict/number stays clean. The
job here is that of configs/quickstart.py: SmolLM2 and one-digit sums on a laptop.
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
    c.shaping = (dict(fn="noise.inject", fp_rate=0.1, fn_rate=0.2, unit="sample"),)
    c.advantage = (
        dict(fn="noise.control", scale=1.0, writes="control_advantages"),
        dict(fn="noise.backward", fp_rate=0.1, fn_rate=0.2, scale=1.0),
        "noise.audit",
    )
    c.loss = (
        dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),
        dict(fn="penalties.k3", coef=0.001),
    )
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
