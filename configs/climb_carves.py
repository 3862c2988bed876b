"""Rewards flipped by whole groups, and wrong-looking replies lifted by how they reason.

  rlpt train --config configs/climb_carves.py --workdir runs/climb_carves
  rlpt train --config configs/climb_carves.py:runlocal --workdir /tmp/climb_carves

Lv et al., "The Climb Carves Wisdom Deeper Than the Summit: On the Noisy Rewards in Learning to
Reason", arXiv 2505.22653. There: PPO with a critic, 4 completions a prompt, temperature 1, actor lr
1e-6; with probability p (up to 0.4) the rewards of all completions of a prompt are flipped, by one
coin as in its code; at 0.4 the result is 72% against 75% without noise. A reward model's score s
below 0.5 becomes s + 0.1 times the reasoning-pattern reward. Here: RLOO in place of the critic, and
the flipped verdict in place of the score. The verifier of patterns has weight 0, so it is in the
reward by that lift alone, and says nothing about correctness: the evaluation is that of
verdict/number, which stays clean. Metrics audit_* compare with the advantages of the flipped
rewards before the lift. In 12 tokens there is hardly room for phrases beside an answer, so that the
lift is small here: benchmarks/evidence/flips.py has 48. The job here is that of
configs/quickstart.py: SmolLM2 and one-digit sums on a laptop.
"""

import rlpt.config


def get_config(arg: str | None = None):
    """arg: runlocal shrinks the run to the toy model."""
    c = rlpt.config.default()
    c.steps = 30
    c.tasks = (dict(fn="arithmetic.sums", digits=1),)
    c.verifiers = (
        dict(fn="number.number", name="number"),
        dict(fn="reasoning.patterns", name="reasoning", weight=0.0),
    )
    c.rollout.prompts, c.rollout.group = 8, 8
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (32,), (12,)
    c.shaping = (
        dict(fn="noise.inject", fp_rate=0.4, fn_rate=0.4, unit="group"),
        dict(
            fn="noise.calibrate",
            threshold=0.5,
            alpha=0.1,
            reads=dict(pattern="verdict/reasoning"),
            writes="calibrated",
        ),
    )
    c.advantage = (
        dict(fn="group.rloo", writes="control_advantages"),
        dict(fn="group.rloo", reads=dict(rewards="calibrated")),
        "noise.audit",
    )
    c.loss = (dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),)
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
