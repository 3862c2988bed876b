"""Numbers of whole rows from models: the score of a reward model, the KL that KTO compares with."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from rlpt import masks


def last_value(
    values: jax.Array,
    loss_mask: jax.Array,
    row_mask: jax.Array | None = None,
    *,
    squash: bool = False,
) -> jax.Array:
    """The score of a reward model: the value at a row's last trained token.

    Args:
      values: [P,G,T] float32, of a learner with output="value", as
        `losses.preference.bradley_terry` trains it.
      loss_mask: [P,G,T] bool.  row_mask: [P,G] bool.
      squash: the logistic function of it, in (0, 1).

    Returns: rewards [P,G] float32; 0 in rows that are out or have no trained token.
    """
    chex.assert_equal_shape([values, loss_mask])
    last = masks.last_token(loss_mask)
    rows = jnp.any(loss_mask, axis=-1)
    rows = rows & masks.live(rows, row_mask)
    score = jnp.sum(jnp.where(last, values, 0.0), axis=-1)
    return jnp.where(rows, jax.nn.sigmoid(score) if squash else score, 0.0)


def kl_baseline(
    old_logp: jax.Array,
    ref_logp: jax.Array,
    loss_mask: jax.Array,
    preference: jax.Array,
    row_mask: jax.Array | None = None,
) -> dict[str, jax.Array]:
    """The reference point of KTO: how far the policy is from the reference, on foreign completions.

    z = max(0, mean over the rows without a preference of sum_t (log pi - log ref)); these hold
    completions of other prompts (`rollouts.pairs.unpaired`).

    Args:
      old_logp: [P,G,T] float32, made before the update with config.learner.old_logp="recompute".
      ref_logp: [P,G,T] float32.  loss_mask: [P,G,T] bool.
      preference: [P,G] float32, NaN: none.  row_mask: [P,G] bool.

    Returns: kl_baseline [P,G] float32, the same in all rows, and scalar metrics/kl_baseline; 0
      where there is no such row.

    Reference: Ethayarajh et al., "KTO", arXiv:2402.01306, sec. 4.1.
    """
    chex.assert_equal_shape([old_logp, ref_logp, loss_mask])
    rows = jnp.any(loss_mask, axis=-1) & jnp.isnan(preference)
    rows = rows & masks.live(rows, row_mask)
    total = jnp.sum(jnp.where(loss_mask & rows[..., None], old_logp - ref_logp, 0.0))
    z = jnp.maximum(total / jnp.maximum(jnp.sum(rows), 1), 0.0)
    return {"kl_baseline": jnp.full(rows.shape, z), "metrics/kl_baseline": z}
