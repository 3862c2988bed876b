"""The path of hidden states that a completion takes: how many directions it has explored.

The effective rank of a set of vectors is exp of the entropy of their normalised singular values
(Roy and Vetterli, 2007); its change along the completion tells whether the path still opens new
directions.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

_EPS = 1e-8


def _rank(singular: jax.Array) -> jax.Array:
    """exp H(s / sum s) over the last axis; 1 where all are 0."""
    share = singular / (jnp.sum(singular, axis=-1, keepdims=True) + _EPS)
    return jnp.exp(-jnp.sum(share * jnp.log(share + _EPS), axis=-1))


def _motion(ranks: jax.Array, count: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean velocity and mean acceleration of series of ranks.

    d_j = m_j - mean(m_1 .. m_{j-1}); velocity: mean of d_j, j >= 2; acceleration: mean of
    d_j - d_{j-1}, j >= 3.

    Args: ranks: [...,J] float32, of which the first `count` [...] are there.

    Returns: two arrays [...]; 0 where too few are there.
    """
    index = jnp.arange(1, ranks.shape[-1] + 1)
    there = index <= count[..., None]
    before = jnp.cumsum(ranks, axis=-1) - ranks
    change = ranks - before / jnp.maximum(index - 1, 1)
    turn = jnp.diff(change, axis=-1)

    def mean(values: jax.Array, mask: jax.Array) -> jax.Array:
        total = jnp.sum(jnp.where(mask, values, 0.0), axis=-1)
        return total / jnp.maximum(jnp.sum(mask, axis=-1), 1)

    return mean(change, there & (index >= 2)), mean(turn, (there & (index >= 3))[..., 1:])


def effective_rank(
    hidden: jax.Array, completion_mask: jax.Array, *, stride: int = 20, last: int = 512
) -> dict[str, jax.Array]:
    """Effective rank of a completion's hidden states, its velocity and its acceleration.

    Z are the states of the row's last `last` tokens, m_j the effective rank of the centred first
    stride j + 1 of them:

        rank          m of all of Z
        velocity      mean over j >= 2 of d_j = m_j - mean(m_1 .. m_{j-1})
        acceleration  mean over j >= 3 of d_j - d_{j-1}

    Args:
      hidden: [P,G,T,D], final layer; position t is the state that predicts token t.
      completion_mask: [P,G,T] bool.
      stride: tokens between two m_j, >= 1.
      last: tokens that are looked at, from the end of the row; 0: all.  The work, a singular
        value decomposition of every prefix, grows with last^4 / stride.

    Returns: effective_rank (0 in rows of fewer than 2 tokens), rank_velocity (0 with fewer than
      2 m_j) and rank_acceleration (0 with fewer than 3), [P,G] float32.

    Raises: ValueError for a stride < 1 or last < 0.

    Reference: Huang et al., "Beyond the Exploration-Exploitation Trade-off: A Hidden State
    Approach for LLM Reasoning in RLVR" (VERL), arXiv:2509.23808, and its code.  Differs from the
    code in: there the rank itself is of all tokens whatever `last`, and singular values are roots
    of a Gram matrix's eigenvalues, of which float32 loses the small ones.
    """
    chex.assert_equal_shape_prefix([hidden, completion_mask], 3)
    if stride < 1 or last < 0:
        raise ValueError(
            f"effective_rank: got stride={stride}, last={last}, expected stride >= 1 and last >= 0"
        )
    t = completion_mask.shape[-1]
    width = min(last or t, t)
    length = jnp.sum(completion_mask, axis=-1)
    size = jnp.minimum(length, width)
    places = (length - size)[..., None] + jnp.arange(width)
    z = jnp.take_along_axis(hidden, places[..., None], axis=2, mode="clip").astype(jnp.float32)

    def centred(x: jax.Array, tokens: jax.Array) -> jax.Array:
        """The first `tokens` [P,G] rows of x [P,G,·,·] minus their mean; 0 behind them."""
        mask = (jnp.arange(x.shape[-2]) < tokens[..., None])[..., None]
        total = jnp.sum(jnp.where(mask, x, 0.0), axis=-2, keepdims=True)
        return jnp.where(mask, x - total / jnp.maximum(tokens, 1)[..., None, None], 0.0)

    # z = R^T Q^T: the rows of the lower triangle R^T have the inner products of those of z, and
    # its first n rows need n columns.
    z = jnp.linalg.qr(jnp.swapaxes(centred(z, size), -1, -2), mode="r")
    z = jnp.swapaxes(z, -1, -2)

    def rank(n: int) -> jax.Array:
        prefix = centred(z[..., :n, :n], jnp.minimum(n, size))
        return _rank(jnp.linalg.svd(prefix, compute_uv=False))

    whole = rank(width)
    ranks = [rank(n) for n in range(stride + 1, width + 1, stride)]
    there = jnp.maximum(size - 1, 0) // stride
    series = jnp.stack(ranks, axis=-1) if ranks else jnp.zeros((*size.shape, 0))
    velocity, acceleration = _motion(series, there)
    return {
        "effective_rank": jnp.where(size > 1, whole, 0.0),
        "rank_velocity": velocity,
        "rank_acceleration": acceleration,
    }
