"""Judgements of completions by a model: of their end, and in another context."""

from __future__ import annotations

import typing as tp

import chex
import jax
import jax.numpy as jnp

Model = tp.Callable[[dict[str, jax.Array]], dict[str, jax.Array]]


def self_logp(logp: jax.Array, completion_mask: jax.Array) -> jax.Array:
    """Log-prob of the last token of each completion, such as the one that `rollouts.laser` appends.

    Args:
      logp: [P,G,T] float32, the model's output.  completion_mask: [P,G,T] bool.

    Returns: [P,G] float32, nats; 0 in an empty row.

    Reference: Yang et al., "LaSeR", arXiv:2510.14943.
    """
    chex.assert_equal_shape([logp, completion_mask])
    last = jnp.maximum(jnp.sum(completion_mask, axis=-1, keepdims=True) - 1, 0)
    return jnp.take_along_axis(logp, last, axis=-1)[..., 0]


def in_context(
    models: dict[str, Model],
    judge_tokens: jax.Array,
    judge_mask: jax.Array,
    completion_tokens: jax.Array,
    completion_mask: jax.Array,
    temperature: jax.Array,
    *,
    model: str,
    output: str = "value",
) -> jax.Array:
    """What a model says of the completions under another context than their prompt.

    A reward model that sees the reference answer, for one: the context is the question with it.
    Name the column with writes=.

    Args:
      models: name -> function from a table to its outputs.
      judge_tokens: [P,C] int32, left-padded.  judge_mask: [P,C] bool.
      completion_tokens, completion_mask: [P,G,T].  temperature: [P,G] > 0, of a log-prob's law.
      model: which of `models` is asked.  output: 'value' of a value model; 'logp'.

    Returns: [P,G,T] float32; 0 outside completion_mask.

    Raises: ValueError for an output that the model does not have.
    """
    chex.assert_equal_shape([judge_tokens, judge_mask])
    chex.assert_equal_shape([completion_tokens, completion_mask])
    out = models[model](
        {
            "prompt_tokens": judge_tokens,
            "prompt_mask": judge_mask,
            "completion_tokens": completion_tokens,
            "completion_mask": completion_mask,
            "temperature": temperature,
        }
    )
    if output not in ("value", "logp") or output not in out:
        known = ", ".join(k for k in ("value", "logp") if k in out)
        raise ValueError(f"in_context output: got {output!r}, expected of {model!r}: {known}")
    return out[output]


def end_value(
    models: dict[str, Model],
    prompt_tokens: jax.Array,
    prompt_mask: jax.Array,
    completion_tokens: jax.Array,
    completion_mask: jax.Array,
    temperature: jax.Array,
    *,
    model: str = "critic",
) -> dict[str, jax.Array]:
    """What a critic says of the state behind the last token, for what was cut off there.

    `advantages.gae.gae` with bootstrap_truncated=True ends truncated rows in it. It takes one more
    forward pass of the critic.

    Args:
      models: name -> function from a table to its outputs.
      model: which of `models` is asked, a learner with output='value'.
      The others are columns of the rollout, which `rlpt.columns` describes.

    Returns: last_value [P,G] float32; in an empty row that of the prompt.

    Raises: ValueError for a model that is no value model.

    Reference: Pardo et al., "Time Limits in Reinforcement Learning", arXiv:1712.00378.
    """
    chex.assert_equal_shape([completion_tokens, completion_mask])
    one = ((0, 0), (0, 0), (0, 1))
    out = models[model](
        {
            "prompt_tokens": prompt_tokens,
            "prompt_mask": prompt_mask,
            "completion_tokens": jnp.pad(completion_tokens, one),
            "completion_mask": jnp.pad(completion_mask, one[:2] + ((1, 0),), constant_values=True),
            "temperature": temperature,
        }
    )
    if "value" not in out:
        raise ValueError(
            f"end_value model: got {model!r}, a language model; expected a learner of "
            "config.learners with output='value'"
        )
    length = jnp.sum(completion_mask, axis=-1, keepdims=True)
    return {"last_value": jnp.take_along_axis(out["value"], length, axis=-1)[..., 0]}
