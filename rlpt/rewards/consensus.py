"""Rewards from agreement: no reference answer is looked at, only which rows say the same.

`answers.of_verdict` or `answers.of_completions` says who agrees.  The transforms write the column
`vote`, so that `rewards` keeps the verdicts: agreement that grows while accuracy falls is how these
methods fail, and the log has to show it.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from rlpt import masks


def _counts(answer_id: jax.Array, rows: jax.Array) -> jax.Array:
    """How many live rows of the group have this row's answer, itself included; [P,G] int32.

    0 for rows that are out or have no answer.
    """
    answered = rows & (answer_id >= 0)
    same = (answer_id[:, :, None] == answer_id[:, None, :]) & answered[:, None, :]
    return jnp.where(answered, jnp.sum(same, axis=-1), 0)


def _label(answer_id: jax.Array, counts: jax.Array) -> jax.Array:
    """The answer that most rows have, [P,1]; of several the one that comes first, -1: none."""
    first = jnp.argmax(counts, axis=1)[:, None]
    label = jnp.take_along_axis(answer_id, first, axis=1)
    return jnp.where(jnp.max(counts, axis=1, keepdims=True) > 0, label, -1)


def _share(counts: jax.Array) -> jax.Array:
    """Share of the rows with an answer that have the most frequent one, [P,1]; 0: no answer."""
    answered = jnp.sum(counts > 0, axis=1, keepdims=True)
    return jnp.max(counts, axis=1, keepdims=True) / jnp.maximum(answered, 1)


def majority(
    answer_id: jax.Array,
    rewards: jax.Array,
    row_mask: jax.Array | None = None,
    train_mask: jax.Array | None = None,
    *,
    threshold: float = 0.0,
    soft: bool = False,
    keep: int = 0,
) -> dict[str, jax.Array]:
    """1 for the answer that most rows of the group have, 0 for others.

    Rows without an answer do not vote and get 0.  With a threshold (SRT), a group in which the
    label has a smaller share of the votes has none: it gets 0 and does not train.

    Args:
      answer_id: [P,G] int32; -1: no answer.
      rewards: [P,G] float32, what the verifiers say: for the metrics alone.
      row_mask, train_mask: [P,G] bool.
      threshold: least share of the votes.
      soft: the reward is the share of the votes that the row's answer has.
      keep: only the first so many rows of a group go on, the others have just voted; 0: all.

    Returns: vote [P,G] float32; row_mask, train_mask [P,G] bool; and scalars, over the groups that
      have a label:
        metrics/vote/share           of the votes for the label
        metrics/vote/label_accuracy  how often the label is right
        metrics/vote/accuracy        share of rows on which label and verifiers agree; often larger,
                                     since a wrong answer is another one than a wrong label
        metrics/vote/label_entropy   of the labels over the groups, nats; where it falls, one answer
                                     is given to every prompt (ids have to be comparable between
                                     groups, as those of `answers.of_verdict`)

    Raises: ValueError for a keep outside [0, G].

    Reference: Zuo et al., "TTRL", arXiv:2504.16084 (64 votes, of which 32 rows train); Shafayat et
    al., "Can Large Reasoning Models Self-Train?" (SRT), arXiv:2505.21444.
    """
    chex.assert_equal_shape([answer_id, rewards])
    if not 0 <= keep <= answer_id.shape[1]:
        raise ValueError(f"majority keep: got {keep}, expected 0 to G = {answer_id.shape[1]}")
    rows = masks.live(answer_id, row_mask)
    counts = _counts(answer_id, rows)
    label, share = _label(answer_id, counts), _share(counts)
    known = (label >= 0) & (share >= threshold)
    chosen = known & (counts > 0) & (answer_id == label)
    votes = jnp.sum(counts > 0, axis=1, keepdims=True)
    vote = jnp.where(known, counts / jnp.maximum(votes, 1), 0.0) if soft else chosen
    going_on = rows & (jnp.arange(rows.shape[1]) < (keep or rows.shape[1]))

    right = rewards > 0.5
    groups = jnp.maximum(jnp.sum(known), 1)
    said = known & rows
    label_right = jnp.any(chosen & right, axis=1, keepdims=True)
    other = (label == label.T) & known.T
    chance = jnp.sum(other, axis=1, keepdims=True) / groups
    return {
        "vote": vote.astype(jnp.float32),
        "row_mask": going_on,
        "train_mask": masks.live(answer_id, train_mask) & known,
        "metrics/vote/share": jnp.sum(jnp.where(known, share, 0.0)) / groups,
        "metrics/vote/label_accuracy": jnp.sum(known & label_right) / groups,
        "metrics/vote/accuracy": jnp.sum(said & (chosen == right)) / jnp.maximum(jnp.sum(said), 1),
        "metrics/vote/label_entropy": -jnp.sum(
            jnp.where(known, jnp.log(jnp.where(known, chance, 1.0)), 0.0)
        )
        / groups,
    }


def most_agreed(
    answer_id: jax.Array,
    row_mask: jax.Array | None = None,
    train_mask: jax.Array | None = None,
    *,
    fraction: float = 0.5,
) -> dict[str, jax.Array]:
    """The prompts whose majority has the largest share of the votes train: the easy ones first.

    Args:
      answer_id: [P,G] int32; -1: no answer.  row_mask, train_mask: [P,G] bool.
      fraction: of the batch's prompts with a live row, rounded up; of equal ones the first.

    Returns: train_mask [P,G] bool.

    Reference: Shafayat et al., "Can Large Reasoning Models Self-Train?" (SRT), arXiv:2505.21444.
    """
    chex.assert_rank(answer_id, 2)
    rows = masks.live(answer_id, row_mask)
    groups = jnp.any(rows, axis=1)
    share = jnp.where(groups, _share(_counts(answer_id, rows))[:, 0], -1.0)
    place = jnp.argsort(jnp.argsort(-share, stable=True), stable=True)
    kept = groups & (place < jnp.ceil(fraction * jnp.sum(groups) - 1e-3))
    return {"train_mask": masks.live(answer_id, train_mask) & kept[:, None]}


def empo(
    answer_id: jax.Array,
    row_mask: jax.Array | None = None,
    train_mask: jax.Array | None = None,
    *,
    low: float = 0.0,
    high: float = 1.0,
) -> dict[str, jax.Array]:
    """The share of the group that gives the row's answer: the less semantic entropy, the more.

    r_i = n(answer of i) / n; 0 for a row without an answer, and for all where no two rows agree
    (then H = log n).  H = -sum p log p over the answers, each row without one standing for itself.

    Args:
      answer_id: [P,G] int32; -1: no answer.  row_mask, train_mask: [P,G] bool.
      low, high: a group trains if low <= H / log n <= high.

    Returns: vote [P,G] float32; train_mask [P,G] bool; scalar metrics/vote/entropy, the mean of H,
      nats.

    Reference: Zhang et al., "Right Question is Already Half the Answer" (EMPO), arXiv:2504.05812.
      Its bounds of H are given here as shares of the largest H.
    """
    chex.assert_rank(answer_id, 2)
    rows = masks.live(answer_id, row_mask)
    counts = _counts(answer_id, rows)
    n = jnp.sum(rows, axis=1, keepdims=True)
    share = counts / jnp.maximum(n, 1)
    own = jnp.where(rows, jnp.maximum(counts, 1), 1) / jnp.maximum(n, 1)
    # over rows: each of an answer's n_c rows adds log(p_c) / n
    entropy = -jnp.sum(jnp.where(rows, jnp.log(own), 0.0), axis=1, keepdims=True)
    entropy = jnp.abs(entropy) / jnp.maximum(n, 1)
    agree = jnp.max(counts, axis=1, keepdims=True) > 1
    relative = entropy / jnp.log(jnp.maximum(n, 2))
    inside = (relative >= low - 1e-6) & (relative <= high + 1e-6)
    groups = n > 0
    return {
        "vote": jnp.where(agree, share, 0.0),
        "train_mask": masks.live(answer_id, train_mask) & inside & groups,
        "metrics/vote/entropy": jnp.sum(jnp.where(groups, entropy, 0.0))
        / jnp.maximum(jnp.sum(groups), 1),
    }


def co_reward(
    answer_id: jax.Array, other_view: jax.Array, row_mask: jax.Array | None = None
) -> dict[str, jax.Array]:
    """1 for the answer that most rows give to the same question in other words.

    Args:
      answer_id: [P,G] int32, comparable between blocks (`answers.of_verdict`); -1: no answer.
      other_view: [P] int32, the block that holds the other wording; -1: none, all rows get 0.
      row_mask: [P,G] bool.

    Returns: vote [P,G] float32.

    Reference: Zhang et al., "Co-Reward", arXiv:2508.00410.
    """
    chex.assert_rank([answer_id, other_view], [2, 1])
    counts = _counts(answer_id, masks.live(answer_id, row_mask))
    label = _label(answer_id, counts)[other_view]
    known = (other_view >= 0)[:, None] & (label >= 0)
    return {"vote": (known & (counts > 0) & (answer_id == label)).astype(jnp.float32)}
