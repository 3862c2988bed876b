"""A noisy verifier without a correction: what corrected runs are compared with.

  rlpt train --config configs/noisy_control.py --workdir runs/noisy_control
  rlpt train --config configs/noisy_control.py:runlocal --workdir /tmp/noisy_control

Cai et al., "Reinforcement Learning with Verifiable yet Noisy Rewards under Imperfect
Verifiers", arXiv 2510.00915. There: false positives 0.1 and false negatives 0.2 injected,
DeepScaleR, 8 completions a prompt, batch 128, lr 3e-6, KL 0.001, 3072 tokens. Noise is
injected into training only: verdict/number in the log and the evaluation stay clean. The
estimator has the leave-one-out baseline and the fixed scale of the corrected ones. The job
here is that of configs/quickstart.py: SmolLM2 and one-digit sums on a laptop.

noisy_backward, noisy_forward, noisy_appeals and noisy_stratified start from this file.
"""

import rlpt.config

RATES = dict(fp_rate=0.1, fn_rate=0.2)
CONTROL = dict(fn="noise.control", scale=1.0)


def get_config(arg: str | None = None):
    """arg: runlocal shrinks the run to the toy model."""
    c = rlpt.config.default()
    c.steps = 30
    c.tasks = (dict(fn="arithmetic.sums", digits=1),)
    c.verifiers = (dict(fn="number.number", name="number"),)
    c.rollout.prompts, c.rollout.group = 8, 8
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (32,), (12,)
    c.shaping = (dict(fn="noise.inject", unit="sample", **RATES),)
    c.advantage = (CONTROL,)
    c.loss = (
        dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),
        dict(fn="penalties.k3", coef=0.001),
    )
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c


def audited(correction: dict):
    """An advantage that logs what a correction changed against the control (audit_*)."""
    return (CONTROL | dict(writes="control_advantages"), correction, "noise.audit")
