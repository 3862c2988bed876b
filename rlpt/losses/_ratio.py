"""The one exponential of a log ratio: clamped to +-20, beyond which its gradient is 0."""

import jax
import jax.numpy as jnp

MAX_LOG_RATIO = 20.0


def ratio(log_ratio: jax.Array) -> jax.Array:
    """exp(clip(log_ratio, -20, 20)), any shape."""
    return jnp.exp(jnp.clip(log_ratio, -MAX_LOG_RATIO, MAX_LOG_RATIO))
