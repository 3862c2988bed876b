"""Which completions give the same answer: columns for methods that reward variety or agreement.

Who a row agrees with is known best by a verifier that has parsed its answer: `of_verdict`.
`of_completions` takes the whole completion for the answer: right where a reply is nothing but its
answer, and never calls two answers the same that are not; but after a chain of thought hardly any
two rows agree.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from rlpt import masks
from rlpt.columns import Transform
from rlpt.rewards import _draws

_SEED = 0x616E73  # of the hash: coins of noise, which begin with 0, are not to follow from answers
SLOTS = 2**20  # size of the state of `visits`; a power of two up to 2**24


def of_completions(
    prompt_id: jax.Array,
    completion_tokens: jax.Array,
    completion_mask: jax.Array,
    row_mask: jax.Array | None = None,
    context_id: jax.Array | None = None,
) -> dict[str, jax.Array]:
    """A completion as its own answer: rows of a group agree if their tokens are equal.

    Args:
      prompt_id: [P] int32.  completion_tokens: [P,G,T] int32.  completion_mask: [P,G,T] bool.
      row_mask: [P,G] bool.
      context_id: [P,G] int32, of groups with rows under several prompts: those are not equal.

    Returns: answer_id [P,G] int32, the first row of the group with the same tokens;
      answer_key [P,G] int32, a hash of prompt and tokens in [0, 2**24) that is the same in every
      step; both -1 for an empty completion and outside row_mask.
    """
    chex.assert_equal_shape([completion_tokens, completion_mask])
    rows = jnp.any(completion_mask, axis=-1)
    rows = rows & masks.live(rows, row_mask)
    tokens = jnp.where(completion_mask, completion_tokens, -1)
    # Row by row, so that nothing of [P,G,G,T] is made.
    same = jax.lax.map(
        lambda row: jnp.all(tokens == row[:, None], axis=-1), tokens.swapaxes(0, 1)
    )  # [G,P,G]: row g equals row j
    if context_id is not None:
        same = same & (context_id.T[:, :, None] == context_id[None])
    first = jnp.argmax(same & rows[None], axis=-1).T
    hashed = _draws.hashed(_SEED, prompt_id, completion_tokens, completion_mask)
    key = (hashed * 2**24).astype(jnp.int32)
    return {
        "answer_id": jnp.where(rows, first, -1).astype(jnp.int32),
        "answer_key": jnp.where(rows, key, -1),
    }


def of_verdict(
    answer: jax.Array, prompt_id: jax.Array, row_mask: jax.Array | None = None
) -> dict[str, jax.Array]:
    """Answers that a verifier has parsed: rows agree if it gave them the same number.

    Args:
      answer: [P,G] float32, integers in [1, 2**24), as of `verifiers.answer.answer`
        (reads=dict(answer='verdict/<name>')); NaN or less than 1: no answer.
      prompt_id: [P] int32.  row_mask: [P,G] bool.

    Returns: answer_id [P,G] int32, that number, which is the same in every group and step;
      answer_key [P,G] int32, a hash of prompt and answer in [0, 2**24); both -1 without an answer
      and outside row_mask.
    """
    chex.assert_rank([answer, prompt_id], [2, 1])
    rows = answer >= 1
    rows = rows & masks.live(rows, row_mask)
    number = jnp.where(rows, answer, -1).astype(jnp.int32)
    one = number[..., None]
    key = (_draws.hashed(_SEED, prompt_id, one, jnp.ones_like(one, bool)) * 2**24).astype(jnp.int32)
    return {"answer_id": number, "answer_key": jnp.where(rows, key, -1)}


def _visits_init() -> dict[str, jax.Array]:
    return {"counts": jnp.zeros(SLOTS, jnp.int32)}


def _visits_update(
    answer_key: jax.Array, state: dict[str, jax.Array], row_mask: jax.Array | None = None
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """How often each row's answer to its prompt has been given in this run, this batch included.

    Answers are counted in SLOTS slots.  Two answers whose keys share a slot are counted as one:
    with n different answers seen, a new one finds its slot taken with chance n / SLOTS at most.

    Args:
      answer_key: [P,G] int32, identifies prompt and answer, the same in every step; -1: none.
      row_mask: [P,G] bool.

    Returns: answer_visits [P,G] int32, 0 where there is no answer, and
      metrics/answers/new, the share of answers whose slot was empty before; the new counts.
    """
    chex.assert_rank(answer_key, 2)
    rows = answer_key >= 0
    rows = rows & masks.live(rows, row_mask)
    slot = jnp.where(rows, answer_key % SLOTS, SLOTS)  # the last: nowhere
    counts = state["counts"].at[slot].add(1, mode="drop")
    new = rows & (state["counts"].at[slot].get(mode="fill", fill_value=1) == 0)
    out = {
        "answer_visits": jnp.where(rows, counts.at[slot].get(mode="fill", fill_value=0), 0),
        "metrics/answers/new": jnp.sum(new) / jnp.maximum(jnp.sum(rows), 1),
    }
    return out, {"counts": counts}


visits = Transform(_visits_init, _visits_update)
