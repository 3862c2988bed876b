"""How token values become one number, as weights: loss = sum(value * weights).

The weights are made once for all rows of an optimizer step, before anything is
cut into micro-batches, so that layouts cannot change the gradient.  Tokens
outside loss_mask, and rows with row_mask or train_mask False, have weight 0 and
do not count in a denominator; rows without a trained token do not count as
rows.  A batch with nothing to train has all weights 0.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from rlpt import masks


def _weights(mask: jax.Array, denominator: jax.Array) -> jax.Array:
    return jnp.where(mask, 1.0 / jnp.maximum(denominator, 1), 0.0).astype(jnp.float32)


def token_mean(
    loss_mask: jax.Array, row_mask: jax.Array | None = None, train_mask: jax.Array | None = None
) -> jax.Array:
    """Every trained token weighs the same: sum(value) / number of tokens.

    Args:
      loss_mask: [P,G,T] bool.  row_mask, train_mask: [P,G] bool.

    Returns: [P,G,T] float32.

    Reference: Yu et al., "DAPO", arXiv:2503.14476.
    """
    mask = masks.trained(loss_mask, row_mask, train_mask)
    return _weights(mask, jnp.sum(mask))


def sequence_mean_token_mean(
    loss_mask: jax.Array, row_mask: jax.Array | None = None, train_mask: jax.Array | None = None
) -> jax.Array:
    """Every row weighs the same: mean over rows of the mean over the row's tokens.

    Args, Returns: as `token_mean`.

    Reference: Shao et al., "DeepSeekMath", arXiv:2402.03300, eq. 3.
    """
    mask = masks.trained(loss_mask, row_mask, train_mask)
    rows = jnp.sum(jnp.any(mask, axis=-1))
    return _weights(mask, rows * jnp.sum(mask, axis=-1, keepdims=True).astype(jnp.float32))


def sequence_mean_token_sum(
    loss_mask: jax.Array, row_mask: jax.Array | None = None, train_mask: jax.Array | None = None
) -> jax.Array:
    """Mean over rows of the sum over the row's tokens.

    Args, Returns: as `token_mean`.
    """
    mask = masks.trained(loss_mask, row_mask, train_mask)
    return _weights(mask, jnp.sum(jnp.any(mask, axis=-1)))


def constant_length(
    loss_mask: jax.Array,
    row_mask: jax.Array | None = None,
    train_mask: jax.Array | None = None,
    *,
    length: int,
) -> jax.Array:
    """Sum over tokens divided by rows times a constant: a token weighs the same in any row.

    sum(value) / (B L_max), as in TRL; older verl's mode of similar name left out B.

    Args:
      loss_mask, row_mask, train_mask: as `token_mean`.
      length: L_max > 0, the generation budget in tokens; not the padded width.

    Returns: [P,G,T] float32.

    Raises: ValueError for a length below 1.

    Reference: Liu et al., "Understanding R1-Zero-Like Training", arXiv:2503.20783.
    """
    if length < 1:
        raise ValueError(f"constant_length: got length={length}, expected the token budget, >= 1")
    return sequence_mean_token_sum(loss_mask, row_mask, train_mask) / length


def prompt_mean(
    loss_mask: jax.Array,
    row_mask: jax.Array | None = None,
    train_mask: jax.Array | None = None,
    group: jax.Array | None = None,
) -> jax.Array:
    """Every prompt weighs the same: mean over prompts of the mean over the prompt's tokens.

    Args:
      loss_mask, row_mask, train_mask: as `token_mean`.
      group: [P] int32, the group of each block, any ids, -1 for an empty block; None: a block is a
        group.

    Returns: [P,G,T] float32.
    """
    mask = masks.trained(loss_mask, row_mask, train_mask)
    block = jnp.arange(mask.shape[0])
    group = block if group is None else group
    own = jnp.sum(mask, axis=(1, 2))
    same = group[:, None] == group[None, :]  # ids are those of the batch: a minibatch has some
    tokens = jnp.where(same, own[None, :], 0).sum(1)
    earlier = same & (own > 0)[None, :] & (block[None, :] < block[:, None])
    prompts = jnp.sum((own > 0) & ~jnp.any(earlier, axis=1))
    return _weights(mask, (prompts * tokens.astype(jnp.float32))[:, None, None])


def top_entropy(
    loss_mask: jax.Array,
    old_entropy: jax.Array,
    row_mask: jax.Array | None = None,
    train_mask: jax.Array | None = None,
    *,
    fraction: float = 0.2,
) -> jax.Array:
    """`token_mean` in which only the tokens of highest entropy keep their weight.

    The denominator stays the number of all trained tokens.

    Args:
      loss_mask, row_mask, train_mask: as `token_mean`.
      old_entropy: [P,G,T] float32, nats, of the policy at the start of the update.
      fraction: share of the batch's trained tokens kept, in (0, 1]; ties are all kept.

    Returns: [P,G,T] float32.

    Reference: Wang et al., "Beyond the 80/20 Rule", arXiv:2506.01939.
    """
    mask = masks.trained(loss_mask, row_mask, train_mask)
    chex.assert_equal_shape([loss_mask, old_entropy])
    descending = -jnp.sort(-jnp.where(mask, old_entropy, -jnp.inf).ravel())
    kept = jnp.ceil(fraction * jnp.sum(mask) - 1e-3).astype(jnp.int32)
    threshold = descending[jnp.maximum(kept, 1) - 1]
    return jnp.where(old_entropy >= threshold, token_mean(loss_mask, row_mask, train_mask), 0.0)
