"""Dense rewards learnt by splitting outcomes over steps: latent reward, LaRe.

A step has K factors, numbers that interpretable functions of a user's own give it (is it on
topic, does it repeat, …).  A small model of the factors is fitted so that its sum over the steps
of a row is the row's outcome, and stands for the reward of each step.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import optax

from rlpt import masks
from rlpt.columns import Transform

MAX_FACTORS = 32  # size of the state


def proxy(factors: jax.Array, weights: jax.Array) -> jax.Array:
    """f = factors . weights where a step ends, 0 elsewhere (NaN factors); [...,T,K] to [...,T]."""
    known = ~jnp.isnan(factors).any(-1)
    return jnp.where(known, jnp.nan_to_num(factors) @ weights, 0.0)


def decomposition_loss(
    factors: jax.Array, weights: jax.Array, rewards: jax.Array, row_mask: jax.Array | None = None
) -> jax.Array:
    """Mean over rows with a step of (sum_t f_t / n - R / n)^2, n the row's steps.

    Args:
      factors: [P,G,T,K] float32 at the token where a step ends, NaN elsewhere.
      weights: [K].  rewards: [P,G] float32, R.  row_mask: [P,G] bool.

    Returns: scalar; 0 without a row.
    """
    chex.assert_rank([factors, weights, rewards], [4, 1, 2])
    steps = jnp.sum(~jnp.isnan(factors).any(-1), axis=-1)
    rows = steps > 0 if row_mask is None else row_mask & (steps > 0)
    error = (jnp.sum(proxy(factors, weights), axis=-1) - rewards) / jnp.maximum(steps, 1)
    error = jnp.where(rows, error, 0.0)  # before the square, whose gradient at NaN is NaN
    return jnp.sum(jnp.square(error)) / jnp.maximum(jnp.sum(rows), 1)


def _init() -> dict[str, jax.Array]:
    zeros = jnp.zeros(MAX_FACTORS, jnp.float32)
    return {"weights": zeros, "mean": zeros, "square": zeros, "count": jnp.int32(0)}


def _update(
    factors: jax.Array,
    rewards: jax.Array,
    state: dict[str, jax.Array],
    row_mask: jax.Array | None = None,
    *,
    lr: float = 3e-4,
    fits: int = 1,
    preserve: bool = True,
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Fits the model of the factors to this batch's outcomes, then rewards steps by it.

    Args:
      factors, rewards, row_mask: as `decomposition_loss`; K <= 32.
      lr: of Adam.  fits: steps of Adam a batch.
      preserve: add (R - sum f) / n to each step, so that steps still sum to the outcome.

    Returns: step_rewards [P,G,T] float32, non-zero where steps end, for `advantages.returns` or
      `advantages.gae` with outcome_coef=0, since they stand for the outcome; scalar
      metrics/lare/loss, before the fit; the new state.

    Raises: ValueError for more factors than the state has room for.

    Reference: "Latent Reward" (LaRe), arXiv:2412.11120.  Differs from the authors' code in: the
    model is linear in the factors instead of a small network, and `preserve` is ours.
    """
    k = factors.shape[-1]
    if k > MAX_FACTORS:
        raise ValueError(f"lare: got {k} factors, expected at most {MAX_FACTORS}")
    adam = optax.adam(lr)
    weights = state["weights"][:k]
    moments = optax.ScaleByAdamState(state["count"], state["mean"][:k], state["square"][:k])
    fitted = (moments, optax.EmptyState())
    loss = jax.value_and_grad(lambda w: decomposition_loss(factors, w, rewards, row_mask))
    first = jnp.float32(0.0)
    for i in range(fits):
        value, gradient = loss(weights)
        first = value if i == 0 else first
        change, fitted = adam.update(gradient, fitted)
        weights = weights + change
    steps = ~jnp.isnan(factors).any(-1)
    dense = proxy(factors, weights)
    if preserve:
        rest = rewards - jnp.sum(dense, axis=-1)
        dense = dense + (rest / jnp.maximum(jnp.sum(steps, axis=-1), 1))[..., None]
    rows = masks.live(rewards, row_mask)
    seen = jnp.any(steps & rows[..., None])  # else the momentum alone would move it
    new = {
        "weights": state["weights"].at[:k].set(weights),
        "mean": state["mean"].at[:k].set(fitted[0].mu),
        "square": state["square"].at[:k].set(fitted[0].nu),
        "count": fitted[0].count,
    }
    new = {k: jnp.where(seen, v, state[k]) for k, v in new.items()}
    dense = jnp.where(steps & rows[..., None], dense, 0.0)
    return {"step_rewards": dense, "metrics/lare/loss": first}, new


lare = Transform(_init, _update)
