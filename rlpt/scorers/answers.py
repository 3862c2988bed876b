"""What the policy thinks of a reference answer after its own reasoning, or a part of it.

The answer's tokens come tokenised by themselves and are appended to the context, so that they are
the same after every completion of a block and no token spans the seam.
"""

from __future__ import annotations

import typing as tp

import chex
import jax
import jax.numpy as jnp

Model = tp.Callable[[dict[str, jax.Array]], dict[str, jax.Array]]


def _after(
    model: Model,
    table: dict[str, jax.Array],
    context: jax.Array,
    answer_tokens: jax.Array,
    answer_mask: jax.Array,
) -> jax.Array:
    """log pi(answer token a | the first `context` [P,G] tokens of the completion), [P,G,A]."""
    tokens = table["completion_tokens"]
    p, g, t = tokens.shape
    a = answer_tokens.shape[-1]
    place = jnp.broadcast_to(jnp.arange(t + a), (p, g, t + a))
    of_answer = place - context[..., None]
    answer = jnp.broadcast_to(answer_tokens[:, None], (p, g, a))
    appended = jnp.take_along_axis(answer, of_answer, axis=-1, mode="clip")
    own = jnp.pad(tokens, ((0, 0), (0, 0), (0, a)))
    length = context + jnp.sum(answer_mask, axis=-1)[:, None]
    out = model(
        {
            **table,
            "completion_tokens": jnp.where(of_answer < 0, own, appended),
            "completion_mask": place < length[..., None],
        }
    )
    logp = jnp.take_along_axis(out["logp"], context[..., None] + jnp.arange(a), axis=-1)
    return jnp.where(answer_mask[:, None], logp, 0.0)


def answer_logp(
    models: dict[str, Model],
    prompt_tokens: jax.Array,
    prompt_mask: jax.Array,
    completion_tokens: jax.Array,
    completion_mask: jax.Array,
    temperature: jax.Array,
    answer_tokens: jax.Array,
    answer_mask: jax.Array,
    context_mask: jax.Array | None = None,
    *,
    model: str = "policy",
    context: str = "completion",
) -> jax.Array:
    """Log-probs of the reference answer's tokens after each completion, teacher-forced.

    exp of the row's sum is the probability that the policy answers correctly after this reasoning
    (VeriFree), the mean of exp the reward of RLPR, exp of the mean the belief of IGPO.

    Args:
      models: name -> function from a table to its outputs.
      prompt_tokens, prompt_mask: [P,L].  completion_tokens, completion_mask: [P,G,T].
      temperature: [P,G] > 0, of the law that is asked.
      answer_tokens: [P,A] int32, right-padded.  answer_mask: [P,A] bool, contiguous from the left.
      context_mask: [P,G,T] bool, the tokens before the answer, contiguous from the left (a
        completion up to its answer tag, say); None: completion_mask.
      model: which of `models` is asked.
      context: 'completion'; 'prompt': the answer follows the prompt at once, for a baseline.

    Returns: answer_logp [P,G,A] float32, nats; 0 outside answer_mask.

    Raises: ValueError for an unknown context.

    Reference: Yu et al., "RLPR", arXiv:2506.18254; Zhou et al., "VeriFree", arXiv:2505.21493.
    """
    chex.assert_equal_shape([answer_tokens, answer_mask])
    chex.assert_equal_shape([completion_tokens, completion_mask])
    if context not in ("completion", "prompt"):
        raise ValueError(f"answer_logp context: got {context!r}, expected 'completion' or 'prompt'")
    table = {
        "prompt_tokens": prompt_tokens,
        "prompt_mask": prompt_mask,
        "completion_tokens": completion_tokens,
        "temperature": temperature,
    }
    length = jnp.sum(completion_mask if context_mask is None else context_mask, axis=-1)
    if context == "prompt":
        table["completion_tokens"], length = completion_tokens[..., :0], jnp.zeros_like(length)
    return _after(models[model], table, length, answer_tokens, answer_mask)


def information_gain(
    models: dict[str, Model],
    prompt_tokens: jax.Array,
    prompt_mask: jax.Array,
    completion_tokens: jax.Array,
    completion_mask: jax.Array,
    loss_mask: jax.Array,
    temperature: jax.Array,
    step_id: jax.Array,
    answer_tokens: jax.Array,
    answer_mask: jax.Array,
    *,
    turns: int,
    model: str = "policy",
) -> dict[str, jax.Array]:
    """Rewards a turn with what it adds to the belief in the reference answer.

    b_k = exp(mean_a log pi(answer token a | everything before turn k)); every turn k but a row's
    last gets b_{k+1} - b_k, which includes what its tool answered.

    Args:
      loss_mask: [P,G,T] bool.
      step_id: [P,G,T] int32, the turn 0, 1, … of a trained token, not decreasing along a row.
      turns: how many turns a row has at most, the answering one included (tool calls + 1), >= 1;
        so many forward passes are made.  The last of them and those behind it get 0.
      The others as `answer_logp`.

    Returns: step_rewards [P,G,T] float32, nonzero on the last trained token of a turn only.  The
      outcome of the last turn is the row's reward; `advantages.turns.igpo` reads both.

    Raises: ValueError for turns < 1.

    Reference: Wang et al., "Information Gain-based Policy Optimization", arXiv:2510.14967.
    """
    chex.assert_equal_shape([completion_tokens, completion_mask, loss_mask, step_id])
    if turns < 1:
        raise ValueError(f"information_gain turns: got {turns}, expected at least 1")
    table = {
        "prompt_tokens": prompt_tokens,
        "prompt_mask": prompt_mask,
        "completion_tokens": completion_tokens,
        "temperature": temperature,
    }
    turn = jax.lax.cummax(jnp.where(loss_mask, step_id, -1), axis=2)  # tool output: of its turn
    count = jnp.maximum(jnp.sum(answer_mask, axis=-1), 1)[:, None]

    def belief(k: jax.Array) -> jax.Array:
        before = jnp.sum(completion_mask & (turn < k), axis=-1)
        logp = _after(models[model], table, before, answer_tokens, answer_mask)
        return jnp.exp(jnp.sum(logp, axis=-1) / count)

    beliefs = jnp.moveaxis(jax.lax.map(belief, jnp.arange(turns)), 0, -1)  # [P,G,turns]
    gains = jnp.pad(jnp.diff(beliefs, axis=-1), ((0, 0), (0, 0), (0, 1)))
    gain = jnp.take_along_axis(gains, step_id, axis=-1, mode="clip")
    none = jnp.iinfo(step_id.dtype).max
    after = jax.lax.cummin(jnp.where(loss_mask, step_id, none), axis=2, reverse=True)
    after = jnp.concatenate([after[..., 1:], jnp.full_like(after[..., :1], none)], axis=-1)
    ends = loss_mask & (step_id >= 0) & (step_id < after)
    return {"step_rewards": jnp.where(ends & (after < none), gain, 0.0)}  # none after the last
