"""Dense credit for episodes of a thought, by the success of ending it there.

J_j is the chance of a right answer if the thought is ended behind episode j, and J_0 without
any.  Progress is the change of J that an episode makes, regret how far J stays from the best.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp


def progress(episode_value: jax.Array) -> jax.Array:
    """J_j - J_{j-1} of every episode; over a gap the change since the last J that is known.

    Args: episode_value: [..., E+1] float32 with J_0 to J_E, NaN: unknown.

    Returns: [..., E] float32; 0 where J_j, or every J before it, is unknown.  The sum is the last
      known J minus the first.
    """
    known = ~jnp.isnan(episode_value)
    index = jnp.where(known, jnp.arange(episode_value.shape[-1]), -1)
    before = jax.lax.cummax(index, axis=index.ndim - 1)[..., :-1]
    value = jnp.where(known, episode_value, 0.0)
    earlier = jnp.take_along_axis(value, jnp.maximum(before, 0), axis=-1)
    return jnp.where(known[..., 1:] & (before >= 0), value[..., 1:] - earlier, 0.0)


def regret(episode_value: jax.Array, *, best: float = 1.0) -> jax.Array:
    """Sum over the episodes j >= 1 whose J is known of best - J_j.

    Args: episode_value: as `progress`.  best: the J* of the best policy.

    Returns: [...] float32; 0 without a known J.
    """
    later = episode_value[..., 1:]
    return jnp.sum(jnp.where(jnp.isnan(later), 0.0, best - later), axis=-1)


def progress_bonus(
    rewards: jax.Array,
    row_mask: jax.Array | None = None,
    episode_value: jax.Array | None = None,
    *,
    alpha: float = 1.0,
    best: float = 1.0,
) -> dict[str, jax.Array]:
    """r + alpha sum_j (J_j - J_{j-1}): the outcome and the progress of the episodes.

    Args:
      rewards: [P,G] float32.  row_mask: [P,G] bool, of the metrics.
      episode_value: [P,G,E+1] float32, as a rollout with forced endings writes it; None: nothing
        is added.
      alpha: weight of the progress; the paper's was not confirmed.
      best: J* of the regret, which is a metric only.

    Returns: rewards [P,G], and means over the live rows: metrics/progress/bonus (before alpha),
      metrics/progress/regret and metrics/progress/episodes (measured ones a row).

    Reference: Qu et al., "Optimizing Test-Time Compute via Meta Reinforcement Fine-Tuning",
    arXiv:2503.07572.
    """
    live = jnp.ones(rewards.shape, bool) if row_mask is None else row_mask
    if episode_value is None:
        episode_value = jnp.full((*rewards.shape, 1), jnp.nan)
    chex.assert_equal_shape_prefix([rewards, episode_value], 2)
    bonus = progress(episode_value).sum(-1)
    measured = jnp.sum(~jnp.isnan(episode_value[..., 1:]), axis=-1)

    def mean(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(live, x, 0.0)) / jnp.maximum(jnp.sum(live), 1)

    return {
        "rewards": rewards + alpha * bonus,
        "metrics/progress/bonus": mean(bonus),
        "metrics/progress/regret": mean(regret(episode_value, best=best)),
        "metrics/progress/episodes": mean(measured),
    }
