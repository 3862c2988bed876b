"""How likely the policy finds the reference answer after its own reasoning, as a reward.

No verifier is needed: a reasoning is as good as it makes the known answer likely.  The log-probs of
the answer's tokens come from `scorers.answers.answer_logp` or the rollout `reference.spliced`.
"""

from __future__ import annotations

import typing as tp

import chex
import jax
import jax.numpy as jnp

from rlpt import masks
from rlpt.columns import Transform

FORMS = ("mean_prob", "prob", "geometric", "log_prob", "mean_log_prob")


def of_answer(
    answer_logp: jax.Array,
    answer_scored: jax.Array,
    answer_slot: jax.Array | None = None,
    row_mask: jax.Array | None = None,
    *,
    form: str = "mean_prob",
    floor: float = -50.0,
    penalty: float = 1.0,
) -> jax.Array:
    """One number a row from the log-probs l_a of its n answer tokens.

        mean_prob      (1/n) sum exp l_a     RLPR: one unlikely token does not undo the others
        prob           exp(sum l_a)          VeriFree: the chance to answer right
        geometric      exp((1/n) sum l_a)
        log_prob       sum l_a               still has a slope where prob is 0 in float32
        mean_log_prob  (1/n) sum l_a

    Args:
      answer_logp: [P,G,A] float32, nats.
      answer_scored: [P,A] bool, the tokens that count; none: the prompt has no reference.
      answer_slot: [P,G] bool; False: the row has no place for an answer, and gets 0 as a
        probability, and in log form `penalty` nats a token less than the worst live row of its
        group that has one (all tokens at the floor where none has): with the floor for every such
        row, they alone would be the gradient.
      row_mask: [P,G] bool.
      form: as above.
      floor: least l_a that counts, nats; one token at -inf would drown all others.

    Returns: [P,G] float32; 0 where the prompt has no reference.

    Raises: ValueError for an unknown form.

    Reference: Yu et al., "RLPR", arXiv:2506.18254; Zhou et al., "VeriFree", arXiv:2505.21493; the
    log forms: "Likelihood-based reward designs", arXiv:2602.03979.
    """
    chex.assert_equal_shape_prefix([answer_logp, answer_scored], 1)
    if form not in FORMS:
        raise ValueError(f"of_answer form: got {form!r}, expected one of {', '.join(FORMS)}")
    scored = answer_scored[:, None, :]
    count = jnp.sum(scored, axis=-1)
    slot = masks.live(answer_logp, answer_slot)
    logp = jnp.where(slot[..., None], jnp.maximum(answer_logp, floor), floor)
    total = jnp.sum(jnp.where(scored, logp, 0.0), axis=-1)
    mean = total / jnp.maximum(count, 1)
    if form in ("log_prob", "mean_log_prob"):
        value, tokens = (total, count) if form == "log_prob" else (mean, jnp.minimum(count, 1))
        with_place = masks.live(value, row_mask) & slot
        worst = jnp.min(jnp.where(with_place, value, jnp.inf), axis=1, keepdims=True)
        worst = jnp.where(jnp.isfinite(worst), worst - penalty * tokens, floor * tokens)
        return jnp.where(slot, value, worst)
    if form == "mean_prob":
        prob = jnp.sum(jnp.where(scored, jnp.exp(logp), 0.0), axis=-1) / jnp.maximum(count, 1)
    else:
        prob = jnp.exp(total if form == "prob" else mean)
    return jnp.where(slot & (count > 0), prob, 0.0)


def rlpr(
    likelihood: jax.Array,
    base_likelihood: jax.Array,
    well_formed: jax.Array,
    *,
    weight: float = 0.1,
    strict: bool = False,
) -> jax.Array:
    """What the reasoning adds to the likelihood of the answer, and a little for its form.

    (1 - weight) max(likelihood - base_likelihood, 0) + weight well_formed

    Args:
      likelihood: [P,G] float32 in [0, 1], `of_answer` after the row's reasoning.
      base_likelihood: [P,G] float32, the same without any reasoning.
      well_formed: [P,G] float32, 1 or 0, a verdict on the form.
      weight: of the form.  strict: a row that is not well formed gets -1.

    Returns: [P,G] float32.

    Reference: Yu et al., "RLPR", arXiv:2506.18254, and its code.
    """
    chex.assert_equal_shape([likelihood, base_likelihood, well_formed])
    gain = jnp.maximum(likelihood - base_likelihood, 0.0)
    reward = (1.0 - weight) * gain + weight * well_formed
    return jnp.where(well_formed > 0.5, reward, -1.0) if strict else reward


def _filter_init() -> dict[str, jax.Array]:
    return {"batches": jnp.int32(0), "mean": jnp.float32(0.0)}


def _filter_update(
    rewards: jax.Array,
    state: dict[str, jax.Array],
    row_mask: jax.Array | None = None,
    train_mask: jax.Array | None = None,
    *,
    beta: float = 0.5,
    decay: float = 0.99,
    ignore: int = 5,
    collect: int = 5,
    ddof: int = 1,
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Prompts whose rewards hardly differ do not train.

    A prompt trains if the std of its rewards is at least beta m.  m is the mean std of the prompts
    of `collect` batches, after `ignore` that are not looked at; from then on each batch moves it,
    m <- decay m + (1 - decay) (mean std of the batch), for the batches after it.  Until m is known
    everything trains.

    Args:
      rewards: [P,G] float32.  row_mask, train_mask: [P,G] bool.
      beta: >= 0; 0.5 for Qwen, 0.9 for Llama, 1 for Gemma in the paper's code.
      decay: in [0, 1].  ignore: batches, >= 0.  collect: batches, >= 1.
      ddof: of the std.  Prompts with fewer than 2 live rows have none and do not move m.

    Returns: train_mask [P,G] bool; scalars metrics/std_filter/threshold and
      metrics/std_filter/kept (share of the prompts with live rows); the new state.

    Raises: ValueError for ignore < 0 or collect < 1.

    Reference: Yu et al., "RLPR", arXiv:2506.18254; numbers of its code.
    """
    chex.assert_rank(rewards, 2)
    if ignore < 0 or collect < 1:
        raise ValueError(
            f"std_filter: got ignore={ignore}, collect={collect}, expected >= 0 and >= 1 batches"
        )
    rows = masks.live(rewards, row_mask)
    rows = rows & jnp.isfinite(rewards)
    count = jnp.sum(rows, axis=1)
    mean = jnp.sum(jnp.where(rows, rewards, 0.0), axis=1) / jnp.maximum(count, 1)
    squares = jnp.square(jnp.where(rows, rewards - mean[:, None], 0.0))
    std = jnp.sqrt(jnp.sum(squares, axis=1) / jnp.maximum(count - ddof, 1))
    known = count > 1
    batch = jnp.sum(jnp.where(known, std, 0.0)) / jnp.maximum(jnp.sum(known), 1)

    seen = state["batches"] - ignore  # batches that were collected, or used
    threshold = jnp.where(seen >= collect, beta * state["mean"], 0.0)
    keep = std >= threshold
    moved = jnp.where(
        seen >= collect,
        decay * state["mean"] + (1.0 - decay) * batch,
        state["mean"] + (batch - state["mean"]) / jnp.maximum(seen + 1, 1),
    )
    new = {
        "batches": state["batches"] + 1,
        "mean": jnp.where(seen >= 0, moved, 0.0),
    }
    new = jax.tree.map(lambda a, b: jnp.where(jnp.any(known), a, b), new, state)
    trains = masks.live(rewards, train_mask)
    out: dict[str, tp.Any] = {
        "train_mask": trains & keep[:, None],
        "metrics/std_filter/threshold": threshold,
        "metrics/std_filter/kept": jnp.sum(keep & (count > 0)) / jnp.maximum(jnp.sum(count > 0), 1),
    }
    return out, new


std_filter = Transform(_filter_init, _filter_update)
