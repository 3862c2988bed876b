"""What the policy thinks of its own tokens: entropy, surprise, certainty.

`entropy` and `logp` are of softmax(logits / temperature), the law that was sampled from; the
certainty is of the untempered law, as in its paper.  Logits are made for `chunk` positions at a
time, so that [P,G,T,V] never exists.
"""

from __future__ import annotations

import math
import typing as tp

import chex
import jax
import jax.numpy as jnp

from rlpt import scoring


def _row_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean of [P,G,T] over the tokens in a mask, [P,G]; 0 where there are none."""
    total = jnp.sum(jnp.where(mask, values, 0.0), axis=-1)
    return total / jnp.maximum(jnp.sum(mask, axis=-1), 1)


def policy_entropy(entropy: jax.Array) -> jax.Array:
    """Entropy of the law that each token was drawn from, nats; 0 outside completion_mask.

    Args:
      entropy: [P,G,T] float32, the model's output.

    Returns: [P,G,T] float32.
    """
    return entropy


def mean_entropy(entropy: jax.Array, loss_mask: jax.Array) -> jax.Array:
    """Mean entropy of a row's trained tokens, nats: the metric of `advantages.group.canon`.

    Args:
      entropy: [P,G,T] float32, the model's output.  loss_mask: [P,G,T] bool.

    Returns: [P,G] float32; 0 in a row without trained tokens.
    """
    chex.assert_equal_shape([entropy, loss_mask])
    return _row_mean(entropy, loss_mask)


def surprise(logp: jax.Array) -> jax.Array:
    """-log pi of the token that was sampled, nats, >= 0; 0 outside completion_mask.

    Args:
      logp: [P,G,T] float32, the model's output.

    Returns: [P,G,T] float32.  Its mean over draws is the entropy.
    """
    return -logp


def token_certainty(
    hidden: jax.Array,
    completion_mask: jax.Array,
    head: tp.Callable[[jax.Array], jax.Array],
    *,
    chunk: int = 1024,
) -> jax.Array:
    """KL(U || p_t) from the uniform law to the one that predicts token t.

    logsumexp(z) - mean_v z_v - log V, z untempered logits: 0 for a uniform law, no upper bound.

    Args:
      hidden: [P,G,T,D], the state that predicts token t.  completion_mask: [P,G,T] bool.
      head: from hidden states [...,D] to logits [...,V] float32.
      chunk: positions whose logits exist at once, over all devices, at least P.

    Returns: [P,G,T] float32, nats; 0 outside completion_mask.

    Reference: Zhao et al., "Learning to Reason without External Rewards" (Intuitor),
    arXiv:2505.19590.
    """
    chex.assert_equal_shape_prefix([hidden, completion_mask], 3)

    def certainty(_: None, h: jax.Array) -> tuple[None, jax.Array]:
        z = head(h)
        return None, jax.nn.logsumexp(z, -1) - jnp.mean(z, -1) - math.log(z.shape[-1])

    p, g, t, d = hidden.shape
    chunks = -(-g * t // max(chunk // p, 1))
    _, out = scoring.over_chunks(certainty, chunks, None, hidden.reshape(p, g * t, d))
    return jnp.where(completion_mask, out.reshape(p, g, t), 0.0)


def self_certainty(
    hidden: jax.Array,
    loss_mask: jax.Array,
    head: tp.Callable[[jax.Array], jax.Array],
    *,
    chunk: int = 1024,
) -> jax.Array:
    """Mean of `token_certainty` over a row's trained tokens: the reward of Intuitor.

    Args: as `token_certainty`, with loss_mask [P,G,T] bool.

    Returns: [P,G] float32, nats; 0 in a row without trained tokens.

    Reference: as `token_certainty`.  Differs from the paper in: log V is subtracted, which a group
    statistic does not see and which makes values of other vocabularies comparable.
    """
    return _row_mean(token_certainty(hidden, loss_mask, head, chunk=chunk), loss_mask)
