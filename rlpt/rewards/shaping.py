"""Transforms of rewards and of which rows train, between verdicts and estimator."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from rlpt import masks


def _range(x: jax.Array, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Smallest and largest x of the live rows of each group, [P,1]; inf, -inf if there are none."""
    low = jnp.min(jnp.where(rows, x, jnp.inf), axis=1, keepdims=True)
    return low, jnp.max(jnp.where(rows, x, -jnp.inf), axis=1, keepdims=True)


def affine(rewards: jax.Array, *, scale: float = 1.0, shift: float = 0.0) -> jax.Array:
    """scale r + shift, [P,G]; levels (a, b) become (0, 1) with 1/(b-a) and -a/(b-a)."""
    return scale * rewards + shift


def clip(rewards: jax.Array, *, low: float = -1.0, high: float = 1.0) -> jax.Array:
    """r bounded to [low, high], [P,G]."""
    return jnp.clip(rewards, low, high)


def min_shift(rewards: jax.Array, row_mask: jax.Array | None = None) -> jax.Array:
    """r minus the group's smallest live r, [P,G]: reward model scores made >= 0 (DARLING)."""
    rows = masks.live(rewards, row_mask)
    return jnp.where(rows, rewards - _range(rewards, rows)[0], 0.0)


def soft_overlong(
    rewards: jax.Array,
    completion_mask: jax.Array,
    prefix_length: jax.Array | None = None,
    *,
    max_length: int,
    cache: int,
    factor: float = 1.0,
) -> jax.Array:
    """Lowers the reward linearly over the last `cache` tokens of the budget.

    r + factor clip((max_length - cache - length) / cache, -1, 0).

    Args:
      rewards: [P,G] float32.  completion_mask: [P,G,T] bool.
      prefix_length: [P,G] int32, tokens of the completion that stand in the row's context.
      max_length: the budget, tokens.  cache: width of the slope, tokens, in [1, max_length].
      factor: the penalty at and beyond max_length.

    Returns: [P,G] float32.

    Raises: ValueError for a cache outside [1, max_length].

    Reference: Yu et al., "DAPO", arXiv:2503.14476, eq. 13 (20480 and 4096 there).
    """
    if not 1 <= cache <= max_length:
        raise ValueError(f"soft_overlong: got cache={cache}, expected 1..max_length={max_length}")
    length = jnp.sum(completion_mask, axis=-1) + _prefix(prefix_length)
    return rewards + factor * jnp.clip((max_length - cache - length) / cache, -1.0, 0.0)


def length_cost(
    rewards: jax.Array,
    loss_mask: jax.Array,
    prefix_length: jax.Array | None = None,
    branch_at: jax.Array | None = None,
    *,
    coef: float,
    budget: int = 0,
) -> jax.Array:
    """r - coef max(0, tokens - budget): of the policy's tokens, also those of a branch's parent.

    Args:
      rewards: [P,G] float32.  loss_mask: [P,G,T] bool.
      prefix_length: as `soft_overlong`.  branch_at: as `group_length`.
      coef: reward per token.  budget: free tokens.

    Returns: [P,G] float32.
    """
    over = jnp.maximum(_length(loss_mask, prefix_length, branch_at) - budget, 0)
    return rewards - coef * over


def _prefix(prefix_length: jax.Array | None) -> jax.Array | int:
    """Tokens that stand in the context; none in rows of another stage, which have -1 there."""
    return 0 if prefix_length is None else jnp.maximum(prefix_length, 0)


def _length(
    loss_mask: jax.Array, prefix_length: jax.Array | None, branch_at: jax.Array | None
) -> jax.Array:
    """Tokens that the policy wrote, [P,G] int32: trained, or copied from the parent of a branch."""
    if branch_at is not None:
        loss_mask = loss_mask | (jnp.arange(loss_mask.shape[-1]) < branch_at[..., None])
    return jnp.sum(loss_mask, axis=-1) + _prefix(prefix_length)


def group_length(
    rewards: jax.Array,
    loss_mask: jax.Array,
    row_mask: jax.Array | None = None,
    prefix_length: jax.Array | None = None,
    branch_at: jax.Array | None = None,
    *,
    coef: float = 1.0,
    threshold: float = 0.5,
) -> jax.Array:
    """Shorter than the group is better: r + coef (b if correct else min(0, b)).

    b = 0.5 - (length - shortest) / (longest - shortest) over the live rows of the group; 0 where
    all have one length.

    Args:
      rewards: [P,G] float32; correct if above `threshold`.  loss_mask: [P,G,T] bool.
      row_mask: [P,G] bool.  prefix_length: as `soft_overlong`.  coef: weight.
      branch_at: [P,G] int32, of `rollouts.branch`: tokens that a row has from its parent, which are
        not trained there and are of its length all the same.

    Returns: [P,G] float32.

    Reference: Kimi Team, "Kimi k1.5", arXiv:2501.12599, sec. 2.3.3.
    """
    rows = masks.live(rewards, row_mask)
    length = _length(loss_mask, prefix_length, branch_at).astype(jnp.float32)
    low, high = _range(length, rows)
    vary = high > low
    bonus = 0.5 - (length - low) / jnp.where(vary, high - low, 1.0)
    bonus = jnp.where(rewards > threshold, bonus, jnp.minimum(bonus, 0.0))
    return rewards + coef * jnp.where(vary & rows, bonus, 0.0)


def kl_in_reward(
    old_logp: jax.Array,
    ref_logp: jax.Array,
    loss_mask: jax.Array,
    step_rewards: jax.Array | None = None,
    origin: jax.Array | None = None,
    *,
    coef: float = 0.05,
) -> dict[str, jax.Array]:
    """Subtracts coef (log pi_old - log ref) from the reward of every trained token.

    An estimator that sums token rewards (`batch.reinforce_pp`, `gae.gae`, `returns.suffix`) then
    follows the gradient of the sequence's reverse KL, its effect on later states included.

    Args:
      old_logp, ref_logp: [P,G,T] float32.  loss_mask: [P,G,T] bool.
      step_rewards: [P,G,T] float32, added to.
      origin: [P,G] int32; rows of origin 1 and 3 cost nothing: their old_logp is not that of the
        policy in this context.
      coef: reward per nat.

    Returns: step_rewards [P,G,T] float32.
    """
    chex.assert_equal_shape([old_logp, ref_logp, loss_mask])
    own = masks.own_law(loss_mask, origin)
    cost = jnp.where(own, -coef * (old_logp - ref_logp), 0.0)
    return {"step_rewards": cost if step_rewards is None else step_rewards + cost}


def overlong_filter(
    truncated: jax.Array, train_mask: jax.Array | None = None
) -> dict[str, jax.Array]:
    """Rows that the length limit stopped do not train; they stay in group statistics.

    Args: truncated, train_mask: [P,G] bool.

    Returns: train_mask [P,G] bool.

    Reference: Yu et al., "DAPO", arXiv:2503.14476, sec. 3.4.
    """
    return {"train_mask": masks.live(truncated, train_mask) & ~truncated}


def zero_variance_filter(
    rewards: jax.Array, row_mask: jax.Array | None = None, train_mask: jax.Array | None = None
) -> dict[str, jax.Array]:
    """Groups whose live rewards are all equal do not train, in any term of the loss.

    An advantage that is centred in the group is 0 there anyway, and what changes is the
    denominator, and that a KL or entropy term no longer sees them; others, such as that of
    `group.w_reinforce`, are not.  Groups of one row (G=1) stay.

    Args: rewards: [P,G] float32.  row_mask, train_mask: [P,G] bool.

    Returns: train_mask [P,G] bool.
    """
    low, high = _range(rewards, masks.live(rewards, row_mask))
    keep = (high > low) | (rewards.shape[1] == 1)
    return {"train_mask": masks.live(rewards, train_mask) & keep}
