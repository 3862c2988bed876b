"""Losses on completions of which some are preferred to others, and on ones that are right or wrong.

A pair is two rows of a block, one with a higher `preference` than the other; a block of two rows
is one pair, a block of K ranked rows holds up to K (K - 1) / 2, over which its loss is the mean.
Every row of a pair has this mean on each of its trained tokens, so that with
`aggregate.prompt_mean` the loss is the mean over blocks that have trained rows, and with
`aggregate.sequence_mean_token_mean` too where all have equally many, as in a table of pairs.  Rows
without a preference (NaN), or that do not train, are in no pair and have the value 0, but in `nll`.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from rlpt import masks


def _sum(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Sum over a row's masked tokens, [P,G]."""
    return jnp.sum(jnp.where(mask, values, 0.0), axis=-1)


def _mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean over a row's masked tokens, [P,G]; 0 where there are none."""
    return _sum(values, mask) / jnp.maximum(jnp.sum(mask, axis=-1), 1)


def _spread(of_row: jax.Array, mask: jax.Array) -> jax.Array:
    """A row's number on each of its masked tokens, 0 elsewhere; [P,G] to [P,G,T]."""
    return jnp.where(mask, of_row[..., None], 0.0)


def _difference(of_row: jax.Array) -> jax.Array:
    """x_i - x_j of the rows of a block, [P,G,G]."""
    return of_row[:, :, None] - of_row[:, None, :]


def _over_pairs(loss: jax.Array, preference: jax.Array, mask: jax.Array) -> jax.Array:
    """[P,G,T] from the loss [P,G,G] of calling row i better than row j."""
    chex.assert_shape(preference, mask.shape[:2])
    rows = jnp.any(mask, axis=-1)
    better = rows[:, :, None] & rows[:, None, :] & (_difference(preference) > 0)  # NaN: no
    mean = jnp.sum(jnp.where(better, loss, 0.0), axis=(1, 2))
    mean = mean / jnp.maximum(jnp.sum(better, axis=(1, 2)), 1)
    paired = jnp.any(better, axis=2) | jnp.any(better, axis=1)
    return _spread(jnp.where(paired, mean[:, None], 0.0), mask)


def _logistic(margin: jax.Array, smoothing: jax.Array | float = 0.0) -> jax.Array:
    """-(1 - smoothing) log sigma(margin) - smoothing log sigma(-margin)."""
    return (1.0 - smoothing) * jax.nn.softplus(-margin) + smoothing * jax.nn.softplus(margin)


def nll(logp: jax.Array, preference: jax.Array | None = None) -> jax.Array:
    """-log pi of each token: supervised fine-tuning on what the table holds.

    With `aggregate.token_mean` every token weighs the same, with
    `aggregate.sequence_mean_token_mean` every row.

    Args:
      logp: [P,G,T] float32.
      preference: [P,G] float32; rows that are dispreferred (0 or less) get 0.  Beside `dpo` on
        pairs, a coefficient of 2 alpha makes this alpha NLL / length of the preferred row a pair.

    Returns: [P,G,T], nats.

    Reference: Pang et al., "Iterative Reasoning Preference Optimization", arXiv:2404.19733, of the
    form on pairs.
    """
    chex.assert_rank(logp, 3)
    if preference is None:
        return -logp
    return jnp.where((preference <= 0)[..., None], 0.0, -logp)


def dpo(
    logp: jax.Array,
    ref_logp: jax.Array,
    loss_mask: jax.Array,
    preference: jax.Array,
    row_mask: jax.Array | None = None,
    train_mask: jax.Array | None = None,
    *,
    beta: float = 0.1,
    smoothing: float = 0.0,
    per_token: bool = False,
) -> jax.Array:
    """Direct preference optimisation: -log sigma(beta h), h = l_i - l_j for i preferred to j.

    l = sum_t (log pi - log ref) of a row.  At pi = ref the loss is ln 2.  For the reference of a
    round of iterative DPO, the policy at the start of the batch's updates, set
    reads=dict(ref_logp="old_logp").

    Args:
      logp, ref_logp: [P,G,T] float32.  loss_mask: [P,G,T] bool.
      preference: [P,G] float32, the higher the better; NaN: in no pair.
      row_mask, train_mask: [P,G] bool.
      beta: > 0.  smoothing: the chance, in [0, 0.5), that a pair is the wrong way round.
      per_token: l is the mean over the row's tokens; TULU 3 does this, with beta 5.

    Returns: [P,G,T], see the module.  The gradient couples the rows of a block.

    Reference: Rafailov et al., "Direct Preference Optimization", arXiv:2305.18290, eq. 7; per token
    Lambert et al., "TULU 3", arXiv:2411.15124.
    """
    chex.assert_equal_shape([logp, ref_logp, loss_mask])
    mask, reduce = masks.trained(loss_mask, row_mask, train_mask), _mean if per_token else _sum
    margin = beta * _difference(reduce(logp - ref_logp, mask))
    return _over_pairs(_logistic(margin, smoothing), preference, mask)


def ipo(
    logp: jax.Array,
    ref_logp: jax.Array,
    loss_mask: jax.Array,
    preference: jax.Array,
    row_mask: jax.Array | None = None,
    train_mask: jax.Array | None = None,
    *,
    beta: float = 0.1,
    per_token: bool = False,
) -> jax.Array:
    """Identity preference optimisation: (h - 1 / (2 beta))^2 with the h of `dpo`.

    Args, Returns: as `dpo`.  At pi = ref the loss is 1 / (4 beta^2).  per_token: as TRL does; the
      paper sums.

    Reference: Azar et al., "A General Theoretical Paradigm to Understand Learning from Human
    Preferences", arXiv:2310.12036, eq. 17.
    """
    chex.assert_equal_shape([logp, ref_logp, loss_mask])
    mask, reduce = masks.trained(loss_mask, row_mask, train_mask), _mean if per_token else _sum
    gap = _difference(reduce(logp - ref_logp, mask)) - 0.5 / beta
    return _over_pairs(jnp.square(gap), preference, mask)


def simpo(
    logp: jax.Array,
    loss_mask: jax.Array,
    preference: jax.Array,
    row_mask: jax.Array | None = None,
    train_mask: jax.Array | None = None,
    *,
    beta: float = 2.0,
    gamma: float = 1.0,
) -> jax.Array:
    """SimPO: -log sigma(beta m_i - beta m_j - gamma), m = mean_t log pi; no reference.

    Args:
      logp, loss_mask, preference, row_mask, train_mask: as `dpo`.
      beta: 2 to 2.5 in the paper.  gamma: the margin that is asked for, 0.3 to 0.5 beta.

    Returns: as `dpo`.

    Reference: Meng, Xia and Chen, "SimPO", arXiv:2405.14734, eq. 6.
    """
    chex.assert_equal_shape([logp, loss_mask])
    mask = masks.trained(loss_mask, row_mask, train_mask)
    margin = beta * _difference(_mean(logp, mask)) - gamma
    return _over_pairs(_logistic(margin), preference, mask)


def orpo(
    logp: jax.Array,
    loss_mask: jax.Array,
    preference: jax.Array,
    row_mask: jax.Array | None = None,
    train_mask: jax.Array | None = None,
) -> jax.Array:
    """The odds ratio term of ORPO: -log sigma(log odds_i - log odds_j), no reference.

    odds = p / (1 - p), p = exp(mean_t log pi), kept off 1 by 1e-6.  ORPO is
    NLL / length of the preferred row and 0.1 times this, a pair: with
    `aggregate.sequence_mean_token_mean`, `nll` with a coefficient of 2 and this with 0.1.

    Args, Returns: as `simpo`.

    Reference: Hong, Lee and Thorne, "ORPO", arXiv:2403.07691, eq. 6.
    """
    chex.assert_equal_shape([logp, loss_mask])
    mask = masks.trained(loss_mask, row_mask, train_mask)
    mean = jnp.minimum(_mean(logp, mask), -1e-6)
    odds = mean - jnp.log(-jnp.expm1(mean))
    return _over_pairs(_logistic(_difference(odds)), preference, mask)


def kto(
    logp: jax.Array,
    ref_logp: jax.Array,
    loss_mask: jax.Array,
    preference: jax.Array,
    kl_baseline: jax.Array | None = None,
    row_mask: jax.Array | None = None,
    *,
    beta: float = 0.1,
    desirable: float = 1.0,
    undesirable: float = 1.0,
) -> jax.Array:
    """KTO: rows that are good or bad by themselves, against the KL from the reference.

    l = sum_t (log pi - log ref); a desirable row has desirable (1 - sigma(beta (l - z))), another
    undesirable (1 - sigma(beta (z - l))).

    Args:
      logp, ref_logp, loss_mask, row_mask: as `dpo`.
      preference: [P,G] float32, > 0: desirable; NaN: neither, and the value 0.
      kl_baseline: [P,G] float32, z >= 0, of `rewards.models.kl_baseline`; None: 0.
      beta: > 0.
      desirable, undesirable: weights; times the numbers of such rows, their ratio should be in
        [1, 4/3].

    Returns: [P,G,T], a row's value on each of its trained tokens.

    Reference: Ethayarajh et al., "KTO", arXiv:2402.01306, eq. 8.
    """
    chex.assert_equal_shape([logp, ref_logp, loss_mask])
    chex.assert_shape(preference, loss_mask.shape[:2])
    mask = masks.trained(loss_mask, row_mask) & ~jnp.isnan(preference)[..., None]
    gain = _sum(logp - ref_logp, mask)
    if kl_baseline is not None:
        gain = gain - kl_baseline
    good = preference > 0
    value = jnp.where(good, desirable, undesirable) * jax.nn.sigmoid(
        jnp.where(good, -beta, beta) * gain
    )
    return _spread(value, mask)


def bradley_terry(
    value: jax.Array,
    loss_mask: jax.Array,
    preference: jax.Array,
    row_mask: jax.Array | None = None,
    strength: jax.Array | None = None,
    train_mask: jax.Array | None = None,
    *,
    margin: float = 0.0,
    scaled: bool = False,
    smoothing: float = 0.0,
    centre: float = 0.0,
    length_cost: float = 0.0,
) -> jax.Array:
    """A reward model from pairs: -log sigma(r_i - r_j) for i preferred to j.

    r is the value at a row's last trained token, which has seen all before that token: the whole
    answer where this is its end token.

    Args:
      value: [P,G,T] float32, of a learner with output="value".
      loss_mask, preference, row_mask, train_mask: as `dpo`.
      strength: [P] float32, how clear the preference is; None: 1.
      margin: times strength, is taken off r_i - r_j (Llama 2: 1, 2/3, 1/3 or 0 a pair).
      scaled: multiply the loss of a pair by its strength (HelpSteer2-Preference: 1, 2 or 3).
      smoothing: as `dpo`.
      centre: adds centre (r_i + r_j)^2, for scores around 0; without it, they may be shifted by
        any number a prompt.
      length_cost: reward per token that a longer preferred row has to be ahead by.

    Returns: as `dpo`.

    Reference: Ouyang et al., "InstructGPT", arXiv:2203.02155, eq. 1; margin: Touvron et al.,
    "Llama 2", arXiv:2307.09288; scaled: Wang et al., arXiv:2410.01257.  length_cost is derived.
    """
    chex.assert_equal_shape([value, loss_mask])
    mask = masks.trained(loss_mask, row_mask, train_mask)
    last = masks.last_token(mask)
    reward = _sum(value, last)
    clear = jnp.ones(value.shape[0]) if strength is None else strength
    clear = jnp.where(jnp.isnan(clear), 1.0, clear)  # of a block without pairs
    clear = clear[:, None, None]
    length = jnp.sum(mask, axis=-1).astype(jnp.float32)
    ahead = _difference(reward) - margin * clear - length_cost * _difference(length)
    loss = _logistic(ahead, smoothing) * (clear if scaled else 1.0)
    loss = loss + centre * jnp.square(reward[:, :, None] + reward[:, None, :])
    return _over_pairs(loss, preference, mask)


for _loss in (dpo, ipo, simpo, orpo, bradley_terry):
    setattr(_loss, "couples_rows", True)  # noqa: B010


def value_bce(value: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy of sigma(value) with the label: a value model as a classifier.

    With labels of rows every prefix learns the chance that its row is right, with labels of steps
    it is a process reward model.  What a step is worth is read at the token behind it
    (`rewards.steps.value_scores`), which is where the label of a step belongs.

    Args:
      value: [P,G,T] float32, a log-odds.
      labels: [P,G] or [P,G,T] float32 in [0, 1]; NaN: none, and the value 0.

    Returns: [P,G,T], nats.

    Reference: Lightman et al., "Let's Verify Step by Step", arXiv:2305.20050, of steps; Yu et al.,
    "OVM", arXiv:2311.09724, of rows (there a squared error).
    """
    chex.assert_equal_shape_prefix([value, labels], 2)
    labels = labels[..., None] if labels.ndim == 2 else labels
    known = ~jnp.isnan(labels)
    target = jnp.where(known, labels, 0.0)
    return jnp.where(known, jax.nn.softplus(value) - target * value, 0.0)


def implicit_bce(
    logp: jax.Array,
    ref_logp: jax.Array,
    loss_mask: jax.Array,
    labels: jax.Array,
    row_mask: jax.Array | None = None,
    *,
    beta: float = 0.05,
) -> jax.Array:
    """An implicit reward model from outcomes: BCE(sigma(beta sum_t (log pi - log ref)), label).

    Trained on whole rows, its log ratios are rewards of tokens (`rewards.steps.implicit`).  At
    pi = ref the loss is ln 2.

    Args:
      logp: [P,G,T] float32, of the reward model, a learner with output="logp".
      ref_logp, loss_mask, row_mask: as `dpo`.
      labels: [P,G] float32 in [0, 1], such as a verdict; NaN: none, and the value 0.
      beta: > 0.

    Returns: [P,G,T], a row's value on each of its trained tokens; with
      `aggregate.sequence_mean_token_mean` the loss is the mean over rows.

    Reference: Yuan et al., "Free Process Rewards without Process Labels", arXiv:2412.01981; Cui et
    al., "PRIME", arXiv:2502.01456.
    """
    chex.assert_equal_shape([logp, ref_logp, loss_mask])
    chex.assert_shape(labels, loss_mask.shape[:2])
    mask = masks.trained(loss_mask, row_mask)
    score = beta * _sum(logp - ref_logp, mask)
    return _spread(value_bce(score[..., None], labels)[..., 0], mask)
