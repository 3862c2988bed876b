"""Advantages shaped by the path of a completion's hidden states."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from rlpt import masks
from rlpt.advantages import _stats
from rlpt.columns import Transform

Arrays = dict[str, jax.Array]


def _verl_init() -> Arrays:
    return {"means": jnp.zeros(3), "updates": jnp.int32(0)}


def _verl_update(
    advantages: jax.Array,
    effective_rank: jax.Array,
    rank_velocity: jax.Array,
    rank_acceleration: jax.Array,
    loss_mask: jax.Array,
    state: Arrays,
    row_mask: jax.Array | None = None,
    *,
    gain: float = 2.0,
    weight: float = 1.0,
    kappa: float = 2.0,
    rate: float = 0.3,
    bonus_on: str = "all",
) -> tuple[Arrays, Arrays]:
    """VERL: a bonus for rows whose hidden states explore or speed up more than usual.

    With dev(x) = clip((x - mu) / |mu|, -5, 5) and mu the running mean of the batches before,

        share = sigmoid(gain dev(acceleration))
        phi   = share tanh(dev(rank)) + (1 - share) tanh(dev(velocity))
        A'    = A + min(max(0, weight phi), |A| / kappa)

    mu <- (1 - rate) mu + rate (mean of the batch), after its use; the first batch gets no bonus.
    With kappa > 1 no advantage changes its sign.

    Args:
      advantages: [P,G] or [P,G,T] float32, of the estimator before.
      effective_rank, rank_velocity, rank_acceleration: [P,G] float32, of
        `scorers.trajectory.effective_rank`.
      loss_mask: [P,G,T] bool.  row_mask: [P,G] bool; other rows do not count in mu.
      gain: of the acceleration.  weight: of phi.  kappa: bounds the bonus, >= 1.
      rate: of the running means, in (0, 1].
      bonus_on: 'all': every trained token; 'last': the last one, as in the code.

    Returns: advantages [P,G,T] float32, scalars metrics/effective_rank, metrics/rank_velocity,
      metrics/rank_acceleration (means of the batch) and metrics/verl_phi; and the new state.

    Raises: ValueError for an unknown bonus_on.

    Reference: Huang et al., "Beyond the Exploration-Exploitation Trade-off" (VERL),
    arXiv:2509.23808.  The code puts the bonus on the last token; one for the whole row is how the
    paper reads.
    """
    chex.assert_equal_shape([effective_rank, rank_velocity, rank_acceleration])
    if bonus_on not in ("all", "last"):
        raise ValueError(f"verl bonus_on: got {bonus_on!r}, expected 'all' or 'last'")
    base = advantages if advantages.ndim == 3 else advantages[..., None]
    rows = masks.live(effective_rank, row_mask)
    motion = jnp.stack([effective_rank, rank_velocity, rank_acceleration])
    means = _stats.mean(motion, jnp.broadcast_to(rows, motion.shape), axis=(1, 2))[:, 0, 0]
    usual = state["means"][:, None, None]
    rank, velocity, acceleration = jnp.clip((motion - usual) / (jnp.abs(usual) + 1e-8), -5.0, 5.0)
    share = jax.nn.sigmoid(gain * acceleration)
    phi = share * jnp.tanh(rank) + (1.0 - share) * jnp.tanh(velocity)
    phi = jnp.where(rows & (state["updates"] > 0), phi, 0.0)
    trained = masks.trained(loss_mask, row_mask)
    where = trained if bonus_on == "all" else masks.last_token(trained)
    bonus = jnp.minimum(jnp.maximum(weight * phi, 0.0)[..., None], jnp.abs(base) / kappa)
    blended = jnp.where(state["updates"] > 0, (1.0 - rate) * state["means"] + rate * means, means)
    seen = jnp.any(rows)
    new = {
        "means": jnp.where(seen, blended, state["means"]),
        "updates": state["updates"] + seen.astype(jnp.int32),
    }
    names = ("metrics/effective_rank", "metrics/rank_velocity", "metrics/rank_acceleration")
    out = {
        "advantages": base + jnp.where(where, bonus, 0.0),
        **dict(zip(names, means, strict=True)),
        "metrics/verl_phi": jnp.sum(phi) / jnp.maximum(jnp.sum(rows), 1),
    }
    return out, new


verl = Transform(init=_verl_init, update=_verl_update)
