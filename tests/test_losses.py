"""Ratios, surrogates, corrections, aggregation, penalties: settings, masks, gradients.

Their worked numbers are in tests/golden.py, but for those that other code bases pin.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt import config, learner
from rlpt.losses import (
    aggregate,
    corrections,
    off_policy,
    penalties,
    preference,
    ratios,
    surrogates,
    verification,
)
from tests.numeric import both, close


def one_row(x):
    """[n] -> [1,1,n]."""
    return jnp.asarray(x, jnp.float32)[None, None]


def mask(x):
    return jnp.asarray(x, bool)


# --- surrogates ---------------------------------------------------------------------------------


def test_peer_numbers():
    """Values that other code bases pin in their tests."""
    rho, a = np.array([0.5, 1.0, 1.5]), one_row([1, -1, 2])
    log_rho = one_row(np.log(rho))
    close(-both(surrogates.ppo_clip, log_rho, a), [[[-0.5, 1, -2.4]]])
    close(-both(surrogates.reinforce, one_row([-0.5, -1, -1.5]), a), [[[0.5, -1, 3]]])
    logp = one_row([-1.69315, -1, -0.59453])
    got = -both(surrogates.cispo, log_rho, logp, a, cap_low=0.8, cap_high=1.2)
    close(got, [[[1.3545, -1, 1.4269]]], atol=1e-4)
    ones = jnp.ones((1, 1, 3), bool)
    s = both(ratios.sequence, log_rho - 1.0, jnp.full((1, 1, 3), -1.0), ones)
    close(np.exp(s[0, 0, 0]), 0.9086, atol=1e-4)
    close(-surrogates.ppo_clip(jnp.asarray(s), a).mean(), -0.6057, atol=1e-4)
    dual = -both(surrogates.dual_clip, one_row(np.log([0.5, 1, 10])), one_row([1, -1, -4]))
    close(dual, [[[-0.5, 1, 12]]], atol=1e-5)
    slime = -both(surrogates.dual_clip, one_row(np.log([2, 2, 0.5])), one_row([2, -2, 2]), c=1.5)
    close(slime, [[[-2.4, 3, -1]]])
    args = (one_row(np.log([0.5, 1, 10])), one_row([-1.69315, -1, -0.69741]), one_row([1, -1, -4]))
    close(-both(surrogates.cispo, *args, cap_low=0.8, cap_high=1.2).sum(), -2.9930, atol=1e-4)
    clamped = [(0.8, 1.28, [1, 1.14, 1.56, 0.4], [1, 1.14, 1.28, 0.8]),
               (0.0, 5.0, [1, 3, 9, 0.4], [1, 3, 5, 0.4])]  # fmt: skip
    for low, high, rho, want in clamped:
        unit = jnp.ones((1, 1, 4))
        got = both(surrogates.cispo, one_row(np.log(rho)), unit, unit, cap_low=low, cap_high=high)
        close(got, [[want]], what=f"CISPO weights under [{low}, {high}]")


def test_stable_reinforce_is_flat_outside_its_band():
    slope = jax.grad(lambda x: surrogates.stable_reinforce(x, -jnp.ones_like(x), high=1e9).sum())
    got = np.asarray(slope(one_row(np.log([1e4, 1e2, 2.0]))))[0, 0]
    assert got[0] == 0, f"ratio 1e4 is beyond 1e3: {got}"
    close(got[1:], [-100, -2], atol=1e-3)
    value = both(surrogates.stable_reinforce, one_row([50.0]), one_row([-1.0]))
    close(value, [[[-1e3]]], atol=0.1)


def test_rl_plus_slopes_and_bounds():
    a, origin = jnp.ones((1, 2, 1)), jnp.asarray([[3, 0]])
    logp, old = jnp.log(jnp.full((1, 2, 1), 0.3)), jnp.log(jnp.full((1, 2, 1), 0.2))
    slope = jax.grad(lambda lp: surrogates.rl_plus(lp - old, lp, old, a, origin).sum())(logp)
    close(slope[0, :, 0], [0.627495, 1.5], what="the exploration factor has no gradient")
    sure = surrogates.rl_plus(0 * old + 99, 0 * logp, old - 99, a, origin)
    close(sure[0, 0, 0], 0.0, what="a certain external token teaches nothing")
    bound = surrogates.rl_plus(0 * old, logp, old - 99, a, origin, gamma=0.0)
    assert bound[0, 0, 0] <= 4 * 0.3 + 1e-6


def test_extreme_log_ratios_stay_finite():
    x, a = one_row([-1e4, 1e4, 500]), one_row([1, -1, -1])
    for fn in (surrogates.ppo_clip, surrogates.dual_clip, surrogates.stable_reinforce):
        value, slope = jax.value_and_grad(lambda x, fn=fn: fn(x, a).sum())(x)
        assert np.isfinite(value) and np.isfinite(np.asarray(slope)).all(), fn.__name__


def test_clip_metrics():
    a = one_row([1, 1, 1, 1, -1, -1, -1])
    log_ratio = one_row(np.log([0.5, 1.1, 1.5, 9, 0.5, 1.1, 4]))
    tokens = mask([[[1, 1, 1, 0, 1, 1, 1]]])
    got = both(surrogates.clip_metrics, log_ratio, a, tokens, c=3.0)
    close(got["clip_fraction"], 2 / 6), close(got["clip_fraction_low"], 1 / 6)
    close(got["clip_fraction_high"], 1 / 6), close(got["dual_clip_fraction"], 1 / 6)
    raw = np.array([0.5, 1.1, 1.5, 0.5, 1.1, 4])
    close(got["ratio_mean"], raw.mean()), close(got["ratio_max"], 4)
    close(got["ppo_kl"], -np.log(raw).mean())
    others = surrogates.clip_metrics(log_ratio, a, tokens, None, jnp.asarray([[3]]))
    assert others["clip_fraction"] == 0 and others["ratio_max"] == 0, "external rows are left out"


# --- corrections --------------------------------------------------------------------------------

GAP = one_row([0, 0.5, 1.2, -2, 7])
FOUR = mask([[[1, 1, 1, 1, 0]]])
SAMPLER = one_row([-1.0, -2.0, -0.5, -0.1, 3.0])
CORRECTIONS = ("token_tis", "sequence_tis", "token_mask", "sequence_mask", "geometric_rejection")


@pytest.mark.parametrize(
    ("fn", "settings", "want"),
    [
        (corrections.token_tis, {"floor": 0.5}, [1, 1.648721, 2, 0.5]),
        (corrections.token_mask, {"low": 0.1}, [1, 1.648721, 0, 0.135335]),
        (corrections.sequence_tis, {"cap": 0.5}, [0.5] * 4),
        (corrections.sequence_mask, {"low": 0.8}, [0.0] * 4),
        (corrections.geometric_rejection, {"low": 0.93}, [0.0] * 4),
    ],
)
def test_correction_settings_and_origins(fn, settings, want):
    close(both(fn, SAMPLER + GAP, SAMPLER, FOUR, **settings), [[[*want, 0]]])
    external = fn(SAMPLER + GAP, SAMPLER, FOUR, jnp.asarray([[3]]), **settings)
    close(external, [[[1, 1, 1, 1, 0]]], what="no sampler law: neutral, whatever the bounds")
    older = fn(SAMPLER + GAP, SAMPLER, FOUR, jnp.asarray([[2]]), **settings)
    close(older, [[[*want, 0]]], what="rows of older weights are corrected")


@pytest.mark.parametrize("name", CORRECTIONS)
def test_corrections_without_a_gap(name):
    same = both(getattr(corrections, name), SAMPLER, SAMPLER, FOUR)
    assert (same == np.asarray(FOUR)).all(), "equal laws: exactly 1, and 0 at padding"


def test_peer_corrections():
    tokens = jnp.ones((1, 1, 3), bool)
    old, sampler = one_row([-1, -1, -1]), one_row([-0.5, -1.5, -0.8])
    weights = both(corrections.token_tis, old, sampler, tokens)
    close(weights, [[[0.6065, 1.6487, 0.8187]]], atol=1e-4)
    loss = -surrogates.ppo_clip(one_row(np.log([0.5, 1, 1.5])), one_row([1, -1, 2]))
    close((loss * weights).mean(), -0.2065, atol=1e-4)
    capped = corrections.token_tis(old, sampler, tokens, cap=0.8)
    close((loss * capped).mean(), -0.4744, atol=1e-4)
    close(both(corrections.sequence_tis, old, sampler, tokens)[0, 0], [0.8187] * 3, atol=1e-4)
    three = one_row(np.log([0.1, 1, 3]))
    for floor, want in ((0.0, -1.0333), (0.5, -1.1667)):
        weights = corrections.token_tis(three, 0 * three, tokens, cap=2.0, floor=floor)
        close(-weights.mean(), want, atol=1e-4)
    gaps = one_row([0.5, -0.5, 1])
    got = corrections.sequence_tis(gaps, 0 * gaps, tokens, cap=9.0)
    close(got[0, 0, 0], 2.7183, atol=1e-4)
    holed = corrections.sequence_tis(gaps, 0 * gaps, mask([[[1, 0, 1]]]), cap=9.0)
    close(holed, [[[4.4817, 0, 4.4817]]], atol=1e-4)


def test_mismatch_metrics():
    got = both(corrections.mismatch_metrics, SAMPLER + GAP, SAMPLER, FOUR)
    gap = np.array([0, 0.5, 1.2, -2])
    w = np.exp(gap)
    close(got["gap_mean"], np.abs(gap).mean()), close(got["gap_max"], 2)
    close(got["truncated_fraction"], 0.25), close(got["weight_mean"], w.mean())
    close(got["k3"], (w - 1 - gap).mean()), close(got["chi2"], (w**2).mean() - 1, atol=1e-5)
    none = corrections.mismatch_metrics(SAMPLER + GAP, SAMPLER, FOUR, None, jnp.asarray([[1]]))
    assert all(v == 0 for v in none.values()), none


def test_weight_mean_is_the_kept_mass():
    """With top-p the sampler's law is renormalised: E[w] = kept mass, and 1 once it is undone."""
    p = np.array([0.5, 0.3, 0.15, 0.05])
    kept = p[:2].sum()
    draws = np.random.default_rng(0).choice(2, p=p[:2] / kept, size=4000)
    old, sampler = one_row(np.log(p[draws])), one_row(np.log(p[draws] / kept))
    tokens = jnp.ones(old.shape, bool)
    close(corrections.mismatch_metrics(old, sampler, tokens)["weight_mean"], kept, atol=1e-5)
    fixed = corrections.mismatch_metrics(old - jnp.log(kept), sampler, tokens)
    close(fixed["weight_mean"], 1, atol=1e-5)


# --- aggregation --------------------------------------------------------------------------------

MODES = {
    "token_mean": aggregate.token_mean,
    "sequence_mean_token_mean": aggregate.sequence_mean_token_mean,
    "sequence_mean_token_sum": aggregate.sequence_mean_token_sum,
    "constant_length": functools.partial(aggregate.constant_length, length=4),
    "prompt_mean": aggregate.prompt_mean,
}


def total(value, weights):
    return float(jnp.sum(jnp.where(weights != 0, value * weights, 0.0)))


def test_peer_aggregation():
    def ragged(*prompts):
        """Lists of rows -> values and mask [P,G,T]."""
        width = max(len(r) for p in prompts for r in p)
        pad = [[r + [0.0] * (width - len(r)) for r in p] for p in prompts]
        live = [[[1] * len(r) + [0] * (width - len(r)) for r in p] for p in prompts]
        return jnp.asarray(pad), mask(live)

    v, m = ragged([[1.0, 2], [4.0, 5, 6]])
    close(total(v, aggregate.token_mean(m)), 3.6)
    v, m = ragged([[1.0, 2], [3.0]])
    close(total(v, aggregate.sequence_mean_token_mean(m)), 2.25)
    v, m = ragged([[2.0, 3], [9.0]])
    close(total(v, aggregate.constant_length(m, length=10)), 0.7)
    v, m = ragged([[2.0, 4], [6.0]], [[10.0, 12], [14.0, 16]])
    close(total(v, aggregate.token_mean(m)), 64 / 7, what="global, not mean of means 8.5")
    v, m = ragged([[1.0, 2], [3.0]], [[5.0, 6], [7.0, 8]])
    close(total(v, aggregate.prompt_mean(m)), 4.25)
    joined = aggregate.prompt_mean(m, group=jnp.asarray([0, 0]))
    close(total(v, joined), 32 / 7, atol=1e-5, what="two blocks of one group are one prompt")
    for ids, want in (([5, 9], 4.25), ([1, 6], 4.25), ([7, 7], 32 / 7), ([2, 1], 4.25)):
        part = aggregate.prompt_mean(m, group=jnp.asarray(ids))  # a minibatch: some of the ids
        close(total(v, part), want, atol=1e-5, what=str(ids))
    v, m = ragged([[1.0, 2], [3.0, 4, 5]], [[7.0], [0.0]])
    m = m.at[1, 1].set(False)
    close(total(v, aggregate.token_mean(m)), 22 / 6, atol=1e-5, what="not 5.0, the mean of ranks")


@pytest.mark.parametrize("name", sorted(MODES))
def test_aggregation_masks_and_cuts(name):
    rng = np.random.default_rng(2)
    tokens = jnp.asarray(rng.random((4, 3, 5)) < 0.7).at[0, 0].set(False)
    rows, train = (jnp.asarray(rng.random((4, 3)) < 0.7) for _ in range(2))
    value = jnp.asarray(rng.normal(size=(4, 3, 5)), jnp.float32)
    mode = jax.jit(MODES[name])
    weights = mode(tokens, rows, train)
    assert weights.dtype == jnp.float32
    close(weights, MODES[name](tokens, rows, train), what="jit")
    kept = tokens & (rows & train)[..., None]
    assert ((weights > 0) == kept).all(), "weight where trained, none elsewhere"
    close(weights, mode(kept), what="a dead row is a row without tokens")
    padded = mode(jnp.pad(kept, ((0, 2), (0, 1), (0, 3))))
    close(padded[:4, :3, :5], weights, what="empty blocks, slots and padding change nothing")
    nothing = mode(tokens, rows & False)
    assert (nothing == 0).all(), "all masked: zeros, not NaN"
    parts = jnp.sum(value * weights, axis=(1, 2))
    close(parts.sum(), total(value, weights), what="micro-batches of any size add up")


def test_constant_length_needs_a_budget():
    with pytest.raises(ValueError, match="got length=0"):
        aggregate.constant_length(FOUR, length=0)


def test_top_entropy():
    entropy = one_row([0.1, 0.9, 0.5, 0.7, 99.0])
    got = both(aggregate.top_entropy, FOUR, entropy, fraction=0.5)
    close(got, [[[0, 0.25, 0, 0.25, 0]]], what="two of four; the denominator keeps all four")
    close(both(aggregate.top_entropy, FOUR, entropy, fraction=1.0), aggregate.token_mean(FOUR))
    close(both(aggregate.top_entropy, FOUR, entropy, fraction=0.26), [[[0, 0.25, 0, 0.25, 0]]])
    assert (aggregate.top_entropy(FOUR & False, entropy) == 0).all()


# --- penalties ----------------------------------------------------------------------------------


def test_kl_clamps():
    for ref, want in [(0, (-1, 0.5, 0.7183)), (-15, (14, 98, 13)), (-30, (29, 420.5, 28))]:
        args = (one_row([-1.0]), one_row([ref]))
        got = [float(fn(*args)[0, 0, 0]) for fn in (penalties.k1, penalties.k2, penalties.k3)]
        close(got, want, atol=1e-4, what=f"logp -1, ref {ref}")
    got = penalties.k3(one_row([0, -1, -2]), one_row([-1, -1, -1]))
    close(got, [[[0.3679, 0, 0.7183]]], atol=1e-4)
    assert np.isfinite(np.asarray(penalties.k3(one_row([-1e4]), one_row([0.0])))).all()


def test_k3_with_a_ratio():
    logp, ref = one_row([-1.0, -2.0]), one_row([-1.5, -0.3])
    close(both(penalties.k3_ratio, 0 * logp, logp, ref), penalties.k3(logp, ref))
    log_ratio = one_row([0.4, -0.2])
    want = np.exp(log_ratio) * np.asarray(penalties.k3(logp, ref))
    close(both(penalties.k3_ratio, log_ratio, logp, ref), want)


def test_value_losses():
    value, old, target = one_row([0.9, 0.2]), one_row([0.5, 0.5]), one_row([1.0, 1.0])
    close(both(penalties.value_mse, value, target), [[[0.005, 0.32]]])
    wide = penalties.value_clip(value, target, old, clip=9.0)
    close(wide, penalties.value_mse(value, target))


def test_pacs_settings():
    u = jnp.asarray([0.3, -0.2, 0.1, 0.0])[None, :, None]
    ones, rewards = jnp.ones(u.shape, bool), jnp.asarray([[1.0, 0, 0, 0]])
    plain = both(penalties.pacs, 0 * u, 0 * u, ones, rewards, class_weights=False)
    close(plain, np.full(u.shape, np.log(2)))
    doubled = both(penalties.pacs, u, 0 * u, ones, rewards, beta=2.0)
    close(doubled, penalties.pacs(2 * u, 0 * u, ones, rewards), what="beta")
    assert penalties.pacs.couples_rows


def test_pacs_masks():
    rng = np.random.default_rng(0)
    logp = jnp.asarray(rng.normal(size=(1, 4, 3)), jnp.float32)
    tokens = mask([[[1, 1, 0], [1, 1, 1], [0, 0, 0], [1, 0, 0]]])
    rewards = jnp.asarray([[1.0, 0, 1, jnp.nan]])
    rows = mask([[1, 1, 1, 0]])
    got = both(penalties.pacs, logp, 0 * logp, tokens, rewards, rows)
    two = both(penalties.pacs, logp[:, :2], 0 * logp[:, :2], tokens[:, :2], rewards[:, :2])
    close(got[:, :2], two, what="empty and dead rows are as if absent")
    assert (got[:, 2:] == 0).all() and np.isfinite(got).all()


# --- gradients against finite differences, in float64 -------------------------------------------

X = np.array([[[-0.95, -0.9, -1.3], [-0.8, -1.05, -1.5]]])  # clips some tokens, off the kinks
OLD = np.array([[[-1.0, -0.7, -2.0], [-0.4, -1.1, -0.9]]])
A = np.array([[[1.0, -2.0, 0.5], [-1.0, 3.0, 2.0]]])
ALL = np.ones(A.shape, bool)
COEFFICIENT = np.array([[0.5, 2.0]])
BETTER = np.array([[1.0, 0.0]])  # the first row
OWN, FOREIGN = np.array([[0, 0]]), np.array([[3, 3]])


def of_token(surrogate, **settings):
    return lambda x: surrogate(ratios.token(x, OLD, ALL), A, **settings)


def coefficient_of_external(x):
    """What the exploration factor of RL-PLUS is at x."""
    return np.sqrt(1.0 - np.exp(np.asarray(x)))


def token_entropy(x):
    """Of a law with two symbols, one of which has log-prob x."""
    p = jnp.exp(x)
    return -p * x - (1 - p) * jnp.log1p(-p)


# name -> (loss, a loss that is differentiated numerically in its place: the same, unless a part of
# the first carries no gradient, which is then held fixed at X)
GRADIENTS = {
    "surrogates.reinforce": lambda x: surrogates.reinforce(x, A),
    "surrogates.ppo_clip": of_token(surrogates.ppo_clip),
    "surrogates.dual_clip": of_token(surrogates.dual_clip, c=1.4),
    "surrogates.stable_reinforce": of_token(
        surrogates.stable_reinforce, floor=0.7, ceiling=1.2, low=0.9, high=0.9
    ),
    "surrogates.cispo": (
        lambda x: surrogates.cispo(x - OLD, x, A, cap_high=1.3),
        lambda x: np.minimum(np.exp(X - OLD), 1.3) * A * x,
    ),
    "surrogates.rl_plus": lambda x: surrogates.rl_plus(x - OLD, x, OLD, A, OWN),
    "surrogates.rl_plus, external text": (
        lambda x: surrogates.rl_plus(x - OLD, x, OLD, A, FOREIGN),
        lambda x: (
            coefficient_of_external(X) * surrogates.rl_plus(x - OLD, x, OLD, A, FOREIGN, gamma=0.0)
        ),
    ),
    "ratios.token": lambda x: ratios.token(x, OLD, ALL),
    "ratios.sequence": lambda x: surrogates.ppo_clip(ratios.sequence(x, OLD, ALL), A),
    "ratios.sequence_token": (
        lambda x: surrogates.ppo_clip(ratios.sequence_token(x, OLD, ALL), A, low=0.1, high=0.1),
        lambda x: surrogates.ppo_clip(
            np.mean(X - OLD, axis=-1, keepdims=True) + x - X, A, low=0.1, high=0.1
        ),
    ),
    "off_policy.product": lambda x: surrogates.ppo_clip(off_policy.product(x, OLD, ALL), A),
    "off_policy.shaped": lambda x: off_policy.shaped(x - OLD, A, OWN),
    "off_policy.shaped, another context": lambda x: off_policy.shaped(x - OLD, A, OWN + 1),
    "verification.self_reward_mse": lambda x: verification.self_reward_mse(
        x, jnp.asarray([[-2.0, -1.5]]), ALL, jnp.asarray([[1.0, 0.0]])
    ),
    "penalties.k1": lambda x: penalties.k1(x, OLD),
    "penalties.k2": lambda x: penalties.k2(x, OLD),
    "penalties.k3": lambda x: penalties.k3(x, OLD),
    "penalties.k3_straight_through": (
        lambda x: penalties.k3_straight_through(x, OLD),
        lambda x: penalties.k2(x, OLD),
    ),
    "penalties.k3_ratio": lambda x: penalties.k3_ratio(x - OLD + 0.1, x, OLD),
    "penalties.scaled_k3": lambda x: penalties.scaled_k3(x, OLD, COEFFICIENT),
    "penalties.entropy_bonus": lambda x: penalties.entropy_bonus(token_entropy(x)),
    "penalties.scaled_entropy_bonus": lambda x: penalties.scaled_entropy_bonus(
        token_entropy(x), COEFFICIENT
    ),
    "penalties.value_mse": lambda x: penalties.value_mse(x, A),
    "penalties.value_clip": lambda x: penalties.value_clip(x, A, OLD, clip=0.17),
    "penalties.pacs": lambda x: penalties.pacs(x, OLD, ALL, jnp.asarray([[1.0, 0.0]]), beta=1.3),
    "preference.nll": lambda x: preference.nll(x, BETTER),
    "preference.dpo": lambda x: preference.dpo(x, OLD, ALL, BETTER, beta=0.7, smoothing=0.2),
    "preference.ipo": lambda x: preference.ipo(x, OLD, ALL, BETTER, beta=0.7, per_token=True),
    "preference.simpo": lambda x: preference.simpo(x, ALL, BETTER),
    "preference.orpo": lambda x: preference.orpo(x, ALL, BETTER),
    "preference.kto": lambda x: preference.kto(x, OLD, ALL, BETTER, COEFFICIENT, desirable=1.2),
    "preference.bradley_terry": lambda x: preference.bradley_terry(
        x, ALL, BETTER, None, COEFFICIENT[:, 0], margin=0.3, scaled=True, centre=0.1
    ),
    "preference.value_bce": lambda x: preference.value_bce(x, BETTER),
    "preference.implicit_bce": lambda x: preference.implicit_bce(x, OLD, ALL, BETTER, beta=0.7),
}
# made from the batch, or from weights of the batch: no gradient passes through
WITHOUT = {
    "corrections", "aggregate", "surrogates.clip_metrics", "verification.class_balanced",
}  # fmt: skip


def test_every_loss_has_its_gradient_checked():
    checked = {name.partition(",")[0] for name in GRADIENTS}
    known = set(config.accepted_names("losses"))
    left_out = {n for n in known if {n, n.partition(".")[0]} & WITHOUT}
    assert known - left_out == checked, f"differ: {(known - left_out) ^ checked}"


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_match_finite_differences(name):
    term, fixed = GRADIENTS[name] if isinstance(GRADIENTS[name], tuple) else [GRADIENTS[name]] * 2
    weights = np.array([[[0.2, 0.1, 0.3], [0.15, 0.05, 0.2]]])
    with jax.enable_x64(True):
        x = jnp.asarray(X)
        eager = jax.grad(lambda x: jnp.sum(term(x) * weights))(x)
        slope = np.asarray(jax.jit(jax.grad(lambda x: jnp.sum(term(x) * weights)))(x))
        moved = jnp.asarray(1e-6 * np.eye(6).reshape(6, 1, 2, 3))
        value = jax.jit(jax.vmap(lambda x: jnp.sum(fixed(x) * weights)))
        numeric = np.asarray(value(x + moved) - value(x - moved)) / 2e-6
    assert slope.dtype == np.float64 and np.abs(slope).max() > 1e-3, "the check must see a slope"
    close(eager, slope, atol=1e-12, what=f"{name}: eager and jit")
    close(slope.ravel(), numeric, atol=1e-8, what=name)


@pytest.mark.parametrize("name", CORRECTIONS)
def test_no_gradient_passes_through_a_correction(name):
    """The learner stops it: the gradient is the factor times that of the surrogate."""
    table = {
        "loss_mask": ALL, "advantages": A, "old_logp": OLD, "origin": OWN,
        "sampler_logp": OLD - np.array([[[0.1, 0.5, -0.2], [0.05, -0.02, 0.0]]]),
    }  # fmt: skip
    table = jax.tree.map(lambda x: jnp.asarray(x) if x.dtype == bool else jnp.float32(x), table)
    policy = dict(surrogate=dict(fn="surrogates.ppo_clip"), corrections=(f"corrections.{name}",))

    def slope(spec):
        term = learner.make_term(spec)
        numbers = term.numbers(0)
        loss = lambda x: term.evaluate(table, {"logp": x}, numbers)[0].sum()
        return jax.grad(loss)(jnp.float32(X))

    factor = getattr(corrections, name)(*(table[k] for k in ("old_logp", "sampler_logp")), ALL)
    assert np.abs(factor - 1).max() > 0.1, "the case must be corrected"
    close(slope(policy), factor * slope({"surrogate": policy["surrogate"]}), what=name)


def test_padding_cannot_leak_into_gradients():
    """Garbage behind loss_mask changes neither value nor gradient of what sees the mask."""
    tokens, a = mask([[[1, 1, 0, 0]]]), jnp.ones((1, 1, 4))
    clean = one_row([-1.0, -0.5, 0.0, 0.0])
    wild = one_row([-1.0, -0.5, -1e30, jnp.inf])
    for ratio in (ratios.token, ratios.sequence, ratios.sequence_token):

        def loss(x, ratio=ratio):
            value = -surrogates.ppo_clip(ratio(x, clean - 0.1, tokens), a)
            return jnp.sum(value * aggregate.token_mean(tokens))

        for got, want in zip(
            jax.value_and_grad(loss)(wild), jax.value_and_grad(loss)(clean), strict=True
        ):
            close(got, want, what=ratio.__name__)
        assert (ratio(wild, clean - 0.1, tokens)[..., 2:] == 0).all(), "0 at padding"


def test_k3_beyond_its_clamp():
    """There its gradient is 0, not that of the part that is not clamped."""
    ref = one_row([-1.0] * 3)
    logp = one_row([-24.0, -1.5, 24.0])
    slope = jax.grad(lambda x: jnp.sum(penalties.k3(x, ref)))(logp)
    close(slope, [[[0.0, 1 - np.exp(0.5), 1.0]]], atol=1e-5)
    slope = jax.grad(lambda x: jnp.sum(penalties.k3_ratio(x - logp, x, ref)))(logp)
    close(slope[0, 0, 0], 0.0, what="and so that of a ratio")
    assert (np.asarray(penalties.k3(logp, ref)) >= 0).all()


def test_pacs_leaves_rows_alone_that_do_not_train():
    logp, rewards = jnp.zeros((1, 2, 1)), jnp.zeros((1, 2))
    every, train = jnp.ones((1, 2, 1), bool), mask([[0, 1]])

    def loss(x):
        weights = aggregate.sequence_mean_token_mean(every, None, train)
        return jnp.sum(weights * penalties.pacs(x, 0 * x, every, rewards, None, train))

    close(jax.grad(loss)(logp)[0, :, 0], [0.0, 0.5])


def test_prompts_times_tokens_do_not_overflow():
    p, t = 1024, 8192
    tokens = np.ones((p, 1, t), bool)
    group = np.where(np.arange(p) < p // 2, 0, np.arange(p))
    weights = aggregate.prompt_mean(jnp.asarray(tokens), group=jnp.asarray(group))
    assert float(weights.sum()) == pytest.approx(1.0, rel=1e-4)


def test_a_verdict_on_oneself_has_no_gradient_in_a_row_that_is_out():
    reference, rewards = jnp.zeros((1, 2)), jnp.asarray([[1.0, jnp.nan]])
    every, rows = jnp.ones((1, 2, 3), bool), mask([[1, 0]])
    weights = verification.class_balanced(every, rewards, jnp.zeros((1, 2), bool), rows)

    def loss(x):
        value = verification.self_reward_mse(x, reference, every, rewards, rows)
        return jnp.sum(jnp.where(weights != 0, weights * value, 0.0))

    slope = np.asarray(jax.grad(loss)(-jnp.ones((1, 2, 3))))
    assert (slope[0, 1] == 0).all() and slope[0, 0, 2] != 0
    loud = verification.self_reward_mse(-jnp.ones((1, 2, 3)), reference, every, rewards)
    assert np.isnan(loud[0, 1, 2]), "a live row without a reward is not a wrong one"
