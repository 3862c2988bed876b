"""Random numbers that belong to a row or a prompt, whatever the layout of the batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def per_prompt(key: jax.Array, prompt_id: jax.Array) -> jax.Array:
    """Uniform [0, 1) numbers [P], a function of (key, prompt_id)."""
    return jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(key, i)))(prompt_id)


def per_row(key: jax.Array, prompt_id: jax.Array, row_id: jax.Array) -> jax.Array:
    """Uniform [0, 1) numbers [P,G], a function of (key, prompt_id, row_id)."""

    def one(prompt: jax.Array, row: jax.Array) -> jax.Array:
        return jax.random.uniform(jax.random.fold_in(jax.random.fold_in(key, prompt), row))

    prompts = jnp.broadcast_to(prompt_id[:, None], row_id.shape)
    return jax.vmap(jax.vmap(one))(prompts, row_id)


def _mix(x: jax.Array) -> jax.Array:
    """A bijection of uint32 that spreads every bit (the `lowbias32` finaliser)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def hashed(seed: int, prompt_id: jax.Array, tokens: jax.Array, mask: jax.Array) -> jax.Array:
    """Uniform [0, 1) numbers [P,G], a function of (seed, prompt_id, the row's tokens).

    Args:
      prompt_id: [P] int32.  tokens: [P,G,T] int32.  mask: [P,G,T] bool; padding does not matter.
    """
    place = _mix(jnp.arange(1, tokens.shape[-1] + 1, dtype=jnp.uint32))
    each = _mix(tokens.astype(jnp.uint32) * jnp.uint32(0x9E3779B1) ^ place)
    response = jnp.sum(jnp.where(mask, each, 0), axis=-1, dtype=jnp.uint32)
    context = _mix(prompt_id.astype(jnp.uint32) + _mix(jnp.uint32(seed)))
    bits = _mix(response ^ context[:, None])
    return (bits >> 8).astype(jnp.float32) * 2.0**-24
