"""Advantages reweighted by what a token does to the likelihood of correct completions."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from rlpt import masks


def thr(
    advantages: jax.Array,
    influence: jax.Array,
    loss_mask: jax.Array,
    row_mask: jax.Array | None = None,
    influence_known: jax.Array | None = None,
    *,
    p: float,
    keep: float = 0.5,
    tau: float = 0.0,
) -> dict[str, jax.Array]:
    """Token hidden reward steers between exploitation and exploration.

    THR_t = A_t influence_t is how much token t's update raises the log-likelihood of the group's
    correct completions.  A'_t = A_t (1 + p sign(THR_t)) for tokens with |THR| > tau among the
    `keep` largest |THR| of the group, 0 for the others.  Rows of a block without a correct row,
    whose influence is not known, keep their advantages and do not count.

    Args:
      advantages: [P,G] or [P,G,T] float32, of the estimator before.
      influence: [P,G,T] float32, of `scorers.influence.on_correct`.
      loss_mask: [P,G,T] bool.  row_mask: [P,G] bool.
      influence_known: [P,G] bool, of the scorer; None: of groups with any influence.
      p: > 0 sharpens what is known (greedy accuracy), < 0 explores (pass@k); 0 only selects.
      keep: share of the group's trained tokens, in (0, 1]; ties at the edge stay.
      tau: smallest |THR|, exclusive; below 0: no bound.

    Returns: advantages [P,G,T] float32; scalar metrics/thr_positive, the share of the tokens kept
      whose THR is positive.

    Reference: Deng et al., "Token Hidden Reward", arXiv:2510.03669.  The paper's rule for tau was
    not confirmed: keep and tau = 0 were chosen here.
    """
    chex.assert_equal_shape([influence, loss_mask])
    base = advantages if advantages.ndim == 3 else advantages[..., None]
    if influence_known is None:
        some = jnp.any(masks.trained(loss_mask, row_mask) & (influence != 0), axis=(1, 2))
        influence_known = jnp.broadcast_to(some[:, None], loss_mask.shape[:2])
    known = influence_known[..., None]
    trained = masks.trained(loss_mask, row_mask) & known
    reward = jnp.where(trained, base * influence, 0.0)
    size = jnp.abs(reward)
    falling = -jnp.sort(-jnp.where(trained, size, -jnp.inf).reshape(len(size), -1), axis=-1)
    count = jnp.sum(trained, axis=(1, 2))
    edge = jnp.clip(jnp.ceil(keep * count - 1e-3).astype(jnp.int32), 1, falling.shape[-1]) - 1
    cut = jnp.take_along_axis(falling, edge[:, None], axis=-1)[..., None]
    kept = trained & (size >= cut) & (size > tau)
    shaped = jnp.where(kept, base * (1.0 + p * jnp.sign(reward)), 0.0)
    positive = jnp.sum(kept & (reward > 0)) / jnp.maximum(jnp.sum(kept), 1)
    return {"advantages": jnp.where(known, shaped, base), "metrics/thr_positive": positive}
