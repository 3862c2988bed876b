"""GRPO with an entropy bonus that is on only while the entropy is below a target.

  rlpt train --config configs/adaptive_entropy.py --workdir runs/adaptive_entropy
  rlpt train --config configs/adaptive_entropy.py:runlocal --workdir /tmp/adaptive_entropy

He et al., "Skywork Open Reasoner 1 Technical Report", arXiv 2505.22312. There: target 0.2
nats, steps of 0.005, coefficient 0 at the start, no KL. Here the target is 1 nat:
in this job SmolLM2 begins at 2.3, and GRPO alone brings it below 0.5. The entropy is that of
the policy before the update, which a scorer writes. The job here is that of
configs/quickstart.py: SmolLM2 and one-digit sums on a laptop.
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
    c.scorers = ("policy.policy_entropy",)
    target = 10.0 if arg == "runlocal" else 1.0  # runlocal: on from the second step
    c.shaping = (
        dict(fn="controllers.adaptive_entropy", target=target, coef=0.0, delta=0.005, high=0.05),
    )
    c.advantage = (dict(fn="group.grpo"),)
    c.loss = (
        dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),
        dict(fn="penalties.scaled_entropy_bonus"),
    )
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
