"""A policy that judges its own completions: what that earns, and how often it is right."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from rlpt.rewards import _ranking


def graded(
    rewards: jax.Array,
    *,
    correct: float = 1.0,
    wrong: float = -0.5,
    unanswered: float = -1.0,
) -> jax.Array:
    """Three levels: an answer that is right, one that is wrong, and none.

    Args:
      rewards: [P,G] float32: 1 right, 0 wrong, below 0 none.  A verifier's unparsable replies count
        as -1 with `missing=dict(unparsable="-1")` in its entry.
      correct, wrong, unanswered: the levels.

    Returns: [P,G] float32.

    Reference: Liu et al., "Trust, But Verify" (RISE), arXiv:2505.13445.
    """
    return jnp.where(rewards < 0, unanswered, jnp.where(rewards > 0.5, correct, wrong))


def self_reward(
    self_logp: jax.Array, self_reference: jax.Array, *, beta: float = 0.1
) -> dict[str, jax.Array]:
    """What the policy says of a completion by how likely it finds one token behind it.

    r_s = beta (log pi(token | x, y) - c), c its mean log-prob before training; trained towards 1
    for right and 0 for wrong completions by `losses.verification.self_reward_mse`.

    Args:
      self_logp: [P,G] float32, nats, of `scorers.verification.self_logp`.
      self_reference: [P,G] float32, nats.  beta: reward per nat.

    Returns: self_rewards [P,G] float32.

    Reference: Yang et al., "LaSeR", arXiv:2510.14943.
    """
    chex.assert_equal_shape([self_logp, self_reference])
    return {"self_rewards": beta * (self_logp - self_reference)}


def agreement(
    self_rewards: jax.Array,
    rewards: jax.Array,
    truncated: jax.Array,
    row_mask: jax.Array | None = None,
    *,
    threshold: float = 0.5,
) -> dict[str, jax.Array]:
    """How often the policy's verdict on a completion, r_s > threshold, is the verifier's.

    Args:
      self_rewards: [P,G] float32.  rewards: [P,G] float32, right if above 0.5.
      truncated, row_mask: [P,G] bool; completions that were cut off are not looked at.

    Returns: scalars metrics/self/on_correct and metrics/self/on_wrong (share of right verdicts on
      right and on wrong completions), metrics/self/accuracy, metrics/self/f1 (of calling a
      completion right) and metrics/self/error (mean |r_s - r|); 0 where there are no such rows.
      metrics/self/auc: the share of pairs of a right and a wrong completion of the batch in which
      the right one has the higher r_s, whatever the threshold; 0.5 where there is no pair.
      metrics/self/pairs: how many pairs.
    """
    chex.assert_equal_shape([self_rewards, rewards, truncated])
    rows = ~truncated if row_mask is None else ~truncated & row_mask
    right, said = rewards > 0.5, self_rewards > threshold

    def share(of: jax.Array, among: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(among, of, 0.0)) / jnp.maximum(jnp.sum(among), 1)

    auc, pairs = _ranking.auc(*_ranking.whole(self_rewards, rows & right, rows & ~right))
    named = jnp.sum(rows & said) + jnp.sum(rows & right)
    return {
        "metrics/self/on_correct": share(said, rows & right),
        "metrics/self/on_wrong": share(~said, rows & ~right),
        "metrics/self/accuracy": share(said == right, rows),
        "metrics/self/f1": 2.0 * jnp.sum(rows & said & right) / jnp.maximum(named, 1),
        "metrics/self/error": share(jnp.abs(self_rewards - right), rows),
        "metrics/self/auc": auc,
        "metrics/self/pairs": pairs,
    }
