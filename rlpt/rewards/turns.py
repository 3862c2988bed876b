"""Rewards of turns and steps that count only where something of higher rank is right."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp


def gate_steps(
    rewards: jax.Array, step_rewards: jax.Array, *, threshold: float = 1.0
) -> dict[str, jax.Array]:
    """G-RA: the rewards of a row's turns count only if its outcome reaches the threshold.

    R = r + 1[r >= threshold] sum_t x_t, for estimators that add step rewards to the row's reward.

    Args:
      rewards: [P,G] float32, of the outcome.
      step_rewards: [P,G,T] float32, such as those of `scorers.answers.information_gain`.
      threshold: lowest outcome that opens the gate.

    Returns: step_rewards [P,G,T] float32, 0 behind a closed gate.

    Reference: "Stabilizing Long-term Multi-turn RL with Gated Rewards", arXiv:2508.10548.
    """
    chex.assert_equal_shape_prefix([rewards, step_rewards], 2)
    return {"step_rewards": jnp.where((rewards >= threshold)[..., None], step_rewards, 0.0)}
