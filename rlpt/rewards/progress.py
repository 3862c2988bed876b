"""Dense credit for episodes of a thought, by the success of ending it there.

J_j is the chance of a right answer if the thought is ended behind episode j, and J_0 without
any.  Progress is the change of J that an episode makes, regret how far J stays from the best.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from rlpt import masks


def progress(start_value: jax.Array, episode_value: jax.Array) -> jax.Array:
    """J_j - J_{j-1} where J_j stands; over a gap the change since the last J that is known.

    Args:
      start_value: [...] float32, J_0.
      episode_value: [...,T] float32, the others in order, NaN: unknown or none here.

    Returns: [...,T] float32; 0 where no J stands or none is known before.  The sum is the last
      known J minus the first.
    """
    chex.assert_equal_shape([start_value, episode_value[..., 0]])
    value = jnp.concatenate([start_value[..., None], episode_value], axis=-1)
    known = ~jnp.isnan(value)
    index = jnp.where(known, jnp.arange(value.shape[-1]), -1)
    before = jax.lax.cummax(index, axis=index.ndim - 1)[..., :-1]
    value = jnp.where(known, value, 0.0)
    earlier = jnp.take_along_axis(value, jnp.maximum(before, 0), axis=-1)
    return jnp.where(known[..., 1:] & (before >= 0), value[..., 1:] - earlier, 0.0)


def regret(episode_value: jax.Array, *, best: float = 1.0) -> jax.Array:
    """Sum over the episodes j >= 1 whose J is known of best - J_j.

    Args: episode_value: [...,T] float32, as `progress`.  best: the J* of the best policy.

    Returns: [...] float32; 0 without a known J.
    """
    return jnp.sum(jnp.where(jnp.isnan(episode_value), 0.0, best - episode_value), axis=-1)


def progress_bonus(
    rewards: jax.Array,
    start_value: jax.Array,
    episode_value: jax.Array,
    row_mask: jax.Array | None = None,
    *,
    alpha: float = 1.0,
    best: float = 1.0,
) -> dict[str, jax.Array]:
    """r + alpha sum_j (J_j - J_{j-1}): the outcome and the progress of the episodes.

    Args:
      rewards, start_value: [P,G] float32.  episode_value: [P,G,T] float32, as `progress`.
      row_mask: [P,G] bool, of the metrics.
      alpha: weight of the progress; the paper's was not confirmed.
      best: J* of the regret, which is a metric only.

    Returns: rewards [P,G], and means over the live rows: metrics/progress/bonus (before alpha),
      metrics/progress/regret and metrics/progress/episodes (measured ones a row).

    Reference: Qu et al., "Optimizing Test-Time Compute via Meta Reinforcement Fine-Tuning",
    arXiv:2503.07572.
    """
    chex.assert_equal_shape([rewards, start_value])
    live = masks.live(rewards, row_mask)
    bonus = progress(start_value, episode_value).sum(-1)

    def mean(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(live, x, 0.0)) / jnp.maximum(jnp.sum(live), 1)

    return {
        "rewards": rewards + alpha * bonus,
        "metrics/progress/bonus": mean(bonus),
        "metrics/progress/regret": mean(regret(episode_value, best=best)),
        "metrics/progress/episodes": mean(jnp.sum(~jnp.isnan(episode_value), axis=-1)),
    }


def progress_steps(
    start_value: jax.Array,
    episode_value: jax.Array,
    step_rewards: jax.Array | None = None,
    *,
    alpha: float = 1.0,
) -> dict[str, jax.Array]:
    """The progress of each episode at its last token, for estimators that read step_rewards.

    Args: as `progress_bonus`; step_rewards: [P,G,T] float32, of methods before, to which it adds.

    Returns: step_rewards [P,G,T] float32, alpha (J_j - J_{j-1}).

    Reference: as `progress_bonus`.
    """
    own = alpha * progress(start_value, episode_value)
    return {"step_rewards": own if step_rewards is None else step_rewards + own}
