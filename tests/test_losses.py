"""Ratios, surrogates, corrections, aggregation, penalties: worked numbers and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt.losses import aggregate, corrections, penalties, ratios, surrogates
from tests.numeric import both, close


def one_row(x):
    """[n] -> [1,1,n]."""
    return jnp.asarray(x, jnp.float32)[None, None]


def mask(x):
    return jnp.asarray(x, bool)


RHO = np.array([0.5, 0.79, 0.9, 1.1, 1.25, 1.5, 4.0])
LOG_RHO = one_row(np.log(RHO))


# --- surrogates ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fn", "advantage", "settings", "loss"),
    [
        (surrogates.ppo_clip, 1, {}, [-0.5, -0.79, -0.9, -1.1, -1.2, -1.2, -1.2]),
        (surrogates.ppo_clip, -1, {}, [0.8, 0.8, 0.9, 1.1, 1.25, 1.5, 4]),
        (surrogates.ppo_clip, 1, {"high": 0.28}, [-0.5, -0.79, -0.9, -1.1, -1.25, -1.28, -1.28]),
        (surrogates.dual_clip, -1, {"c": 3.0}, [0.8, 0.8, 0.9, 1.1, 1.25, 1.5, 3]),
        (surrogates.dual_clip, 1, {"c": 3.0}, [-0.5, -0.79, -0.9, -1.1, -1.2, -1.2, -1.2]),
    ],
)
def test_clip_numbers(fn, advantage, settings, loss):
    got = both(fn, LOG_RHO, jnp.full(LOG_RHO.shape, float(advantage)), **settings)
    close(-got, [[loss]])


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


def test_cispo_numbers():
    logp, a = one_row([-1, -0.5, -2]), one_row([1, 1, -1])
    log_ratio = one_row(np.log([0.5, 1.1, 3]))
    close(-both(surrogates.cispo, log_ratio, logp, a, cap_high=1.28), [[[0.5, 0.55, -2.56]]])
    loss = lambda lp: -surrogates.cispo(log_ratio + lp - logp, lp, a, cap_high=1.28).sum()
    close(jax.grad(loss)(logp), [[[-0.5, -1.1, 1.28]]], what="no token loses its gradient")
    ppo = lambda lp: -surrogates.ppo_clip(log_ratio + lp - logp, a).sum()
    close(jax.grad(ppo)(logp), [[[-0.5, -1.1, 3]]])


def test_gspo_numbers():
    log_ratios = jnp.asarray([[[0.02, -0.01, 0.05], [-0.1, 0.3, 9.0]]])
    tokens = mask([[[1, 1, 1], [1, 1, 0]]])
    a = jnp.asarray([[[1.0] * 3, [-1.0] * 3]])
    weights = aggregate.sequence_mean_token_mean(tokens) * 2  # the sum over rows, not the mean
    for ratio in (ratios.sequence, ratios.sequence_token):
        s = both(ratio, log_ratios, jnp.zeros_like(log_ratios), tokens)
        close(np.exp(s[0, :, 0]), [1.0202013, 1.1051709])
        assert s[0, 1, 2] == 0, "padding"
        for low, high, want in [(3e-4, 4e-4, [-1.0004, 1.1051709]),
                                (0.2, 0.28, [-1.0202013, 1.1051709])]:  # fmt: skip
            value = -surrogates.ppo_clip(jnp.asarray(s), a, low=low, high=high) * weights
            close(value.sum(-1), [want], what=f"{ratio.__name__} {low} {high}")


def row_loss(ratio, surrogate, logp, old, a, tokens, weights):
    log_ratio = ratio(logp, old, tokens)
    return -jnp.sum(surrogate(log_ratio, a) * weights(tokens))


def test_gspo_and_its_token_form_agree():
    rng = np.random.default_rng(0)
    logp, old = (jnp.asarray(rng.normal(-1, 0.2, (2, 3, 5)), jnp.float32) for _ in range(2))
    tokens = jnp.arange(5) < jnp.asarray(rng.integers(1, 6, (2, 3, 1)))
    a = jnp.broadcast_to(jnp.asarray(rng.normal(size=(2, 3, 1)), jnp.float32), (2, 3, 5))
    surrogate = functools.partial(surrogates.ppo_clip, low=0.05, high=0.05)
    grads = [
        jax.jit(
            jax.grad(
                lambda lp, ratio=ratio: row_loss(
                    ratio, surrogate, lp, old, a, tokens, aggregate.sequence_mean_token_mean
                )
            )
        )(logp)
        for ratio in (ratios.sequence, ratios.sequence_token)
    ]
    close(grads[0], grads[1], atol=1e-6, what="gradients of GSPO and GSPO-token")
    clipped = np.asarray(jnp.all(grads[0] == 0, axis=-1))
    assert 0 < clipped.sum() < 6, f"the case must clip some rows and not all: {clipped}"
    single = jnp.ones((2, 3, 1), bool)
    for ratio in (ratios.sequence, ratios.sequence_token):
        close(
            ratio(logp[..., :1], old[..., :1], single),
            ratios.token(logp[..., :1], old[..., :1], single),
            what="one token: GSPO = GRPO",
        )


@pytest.mark.parametrize("ratio", [ratios.token, ratios.sequence, ratios.sequence_token])
def test_on_policy_gradient_is_reinforce(ratio):
    rng = np.random.default_rng(1)
    logp = jnp.asarray(rng.normal(-1, 0.5, (2, 3, 4)), jnp.float32)
    a = jnp.broadcast_to(jnp.asarray(rng.normal(size=(2, 3, 1)), jnp.float32), logp.shape)
    tokens = jnp.arange(4) < jnp.asarray([[[4], [2], [1]], [[3], [3], [4]]])
    weights = aggregate.sequence_mean_token_mean
    want = jax.grad(lambda lp: -jnp.sum(surrogates.reinforce(lp, a) * weights(tokens)))(logp)
    for surrogate in (surrogates.ppo_clip, surrogates.dual_clip, surrogates.stable_reinforce):

        @jax.jit
        @jax.grad
        def slope(lp, eps, surrogate=surrogate):
            fn = functools.partial(surrogate, low=eps, high=eps)
            return row_loss(ratio, fn, lp, logp, a, tokens, weights)

        for eps in (1e-3, 0.2, 1e9):
            close(
                slope(logp, eps),
                want,
                atol=1e-6,
                what=f"{surrogate.__name__} {ratio.__name__} eps={eps}",
            )
    cispo = jax.grad(
        lambda lp: -jnp.sum(surrogates.cispo(lp - logp, lp, a, cap_high=1.0) * weights(tokens))
    )(logp)
    close(cispo, want, atol=1e-6, what="CISPO")


def test_stable_reinforce_is_flat_outside_its_band():
    slope = jax.grad(lambda x: surrogates.stable_reinforce(x, -jnp.ones_like(x), high=1e9).sum())
    got = np.asarray(slope(one_row(np.log([1e4, 1e2, 2.0]))))[0, 0]
    assert got[0] == 0, f"ratio 1e4 is beyond 1e3: {got}"
    close(got[1:], [-100, -2], atol=1e-3)
    value = both(surrogates.stable_reinforce, one_row([50.0]), one_row([-1.0]))
    close(value, [[[-1e3]]], atol=0.1)


def test_rl_plus_numbers():
    a, origin = jnp.ones((1, 2, 1)), jnp.asarray([[3, 0]])
    logp, old = jnp.log(jnp.full((1, 2, 1), 0.3)), jnp.log(jnp.full((1, 2, 1), 0.2))
    got = -both(surrogates.rl_plus, logp - old, logp, old, a, origin)
    close(got[0, :, 0], [-0.627495, -1.5], what="external row bounded, own row unclipped")
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


@pytest.mark.parametrize(
    ("fn", "settings", "want"),
    [
        (corrections.token_tis, {"cap": 1e9}, [1, 1.648721, 3.320117, 0.135335]),
        (corrections.token_tis, {}, [1, 1.648721, 2, 0.135335]),
        (corrections.token_tis, {"floor": 0.5}, [1, 1.648721, 2, 0.5]),
        (corrections.token_mask, {}, [1, 1.648721, 0, 0]),
        (corrections.sequence_tis, {}, [0.740818] * 4),
        (corrections.sequence_tis, {"cap": 0.5}, [0.5] * 4),
        (corrections.sequence_mask, {}, [0.740818] * 4),
        (corrections.sequence_mask, {"low": 0.8}, [0.0] * 4),
        (corrections.geometric_rejection, {"low": 0.92, "high": 0.93}, [1.0] * 4),
        (corrections.geometric_rejection, {"low": 0.93}, [0.0] * 4),
    ],
)
def test_correction_numbers(fn, settings, want):
    close(both(fn, SAMPLER + GAP, SAMPLER, FOUR, **settings), [[[*want, 0]]])
    external = fn(SAMPLER + GAP, SAMPLER, FOUR, jnp.asarray([[3]]), **settings)
    close(external, [[[1, 1, 1, 1, 0]]], what="no sampler law: neutral, whatever the bounds")
    older = fn(SAMPLER + GAP, SAMPLER, FOUR, jnp.asarray([[2]]), **settings)
    close(older, [[[*want, 0]]], what="rows of older weights are corrected")
    same = np.asarray(fn(SAMPLER, SAMPLER, FOUR))
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

VALUE = jnp.asarray([[[1.0, 2, 3, 4], [5, 6, jnp.nan, jnp.nan]]])
TOKENS = mask([[[1, 1, 1, 1], [1, 1, 0, 0]]])
MODES = {
    "token_mean": aggregate.token_mean,
    "sequence_mean_token_mean": aggregate.sequence_mean_token_mean,
    "sequence_mean_token_sum": aggregate.sequence_mean_token_sum,
    "constant_length": functools.partial(aggregate.constant_length, length=4),
    "prompt_mean": aggregate.prompt_mean,
}


def total(value, weights):
    return float(jnp.sum(jnp.where(weights != 0, value * weights, 0.0)))


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("token_mean", 3.5),
        ("sequence_mean_token_mean", 4.0),
        ("sequence_mean_token_sum", 10.5),
        ("constant_length", 2.625),
        ("prompt_mean", 3.5),
    ],
)
def test_aggregation_numbers(name, want):
    weights = jax.jit(MODES[name])(TOKENS)
    close(weights, MODES[name](TOKENS), what="jit")
    close(total(VALUE, weights), want)
    assert weights.dtype == jnp.float32


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
    apart = aggregate.prompt_mean(m, group=jnp.asarray([5, -1]) % 2)
    close(total(v, apart), total(v, joined), atol=1e-5)
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
        aggregate.constant_length(TOKENS, length=0)


def test_top_entropy():
    entropy = one_row([0.1, 0.9, 0.5, 0.7, 99.0])
    got = both(aggregate.top_entropy, FOUR, entropy, fraction=0.5)
    close(got, [[[0, 0.25, 0, 0.25, 0]]], what="two of four; the denominator keeps all four")
    close(both(aggregate.top_entropy, FOUR, entropy, fraction=1.0), aggregate.token_mean(FOUR))
    close(both(aggregate.top_entropy, FOUR, entropy, fraction=0.26), [[[0, 0.25, 0, 0.25, 0]]])
    assert (aggregate.top_entropy(FOUR & False, entropy) == 0).all()


# --- penalties ----------------------------------------------------------------------------------

P = np.array([0.5, 0.3, 0.2])
Q = np.array([0.4, 0.4, 0.2])


def test_kl_numbers():
    p, q = one_row(np.log(P)), one_row(np.log(Q))
    k1, k2, k3 = (both(fn, p, q)[0, 0] for fn in (penalties.k1, penalties.k2, penalties.k3))
    close(k1, [0.223144, -0.287682, 0]), close(k2, [0.024897, 0.04138, 0])
    close(k3, [0.023144, 0.045651, 0])
    close(P @ k1, 0.0252671539), close(P @ k3, 0.0252671539), close(P @ k2, 0.0248624073)
    close(P @ k1**2 - (P @ k1) ** 2, 0.0490864), close(P @ k3**2 - (P @ k3) ** 2, 0.0002546)
    for ref, want in [(0, (-1, 0.5, 0.7183)), (-15, (14, 98, 13)), (-30, (29, 420.5, 28))]:
        args = (one_row([-1.0]), one_row([ref]))
        got = [float(fn(*args)[0, 0, 0]) for fn in (penalties.k1, penalties.k2, penalties.k3)]
        close(got, want, atol=1e-4, what=f"logp -1, ref {ref}")
    got = penalties.k3(one_row([0, -1, -2]), one_row([-1, -1, -1]))
    close(got, [[[0.3679, 0, 0.7183]]], atol=1e-4)
    assert np.isfinite(np.asarray(penalties.k3(one_row([-1e4]), one_row([0.0])))).all()


def test_kl_gradients():
    """Expected gradients with respect to the logits, the draw not differentiated."""
    z, q = jnp.log(jnp.asarray(P, jnp.float32)), one_row(np.log(Q))
    ratio_k3 = lambda logp, q: penalties.k3_ratio(logp - one_row(np.log(P)), logp, q)
    reverse, forward = [0.098938, -0.093885, -0.005053], [0.1, -0.1, 0]

    def expected(fn):
        return jax.jit(jax.grad(lambda z: fn(jax.nn.log_softmax(z)[None, None], q)[0, 0] @ P))(z)

    for name, fn, want in [
        ("k1 is inert", penalties.k1, [0, 0, 0]),
        ("k2: KL(pi||ref)", penalties.k2, reverse),
        ("k3: KL(ref||pi)", penalties.k3, forward),
        ("straight through: that of k2", penalties.k3_straight_through, reverse),
        ("ratio times k3: KL(pi||ref)", ratio_k3, reverse),
    ]:
        close(expected(fn), want, atol=2e-6, what=name)
    logp, ref = one_row([-1.0, -2.0]), one_row([-1.5, -0.3])
    straight = both(penalties.k3_straight_through, logp, ref)
    close(straight, penalties.k3(logp, ref), what="the value is k3's")
    close(both(penalties.k3_ratio, 0 * logp, logp, ref), penalties.k3(logp, ref))


def test_entropy_bonus():
    z = jnp.array([2.0, 1.0, 0.0])

    def bonus(z):
        logp = jax.nn.log_softmax(z)
        return penalties.entropy_bonus(-jnp.sum(jnp.exp(logp) * logp)[None, None, None]).sum()

    value, slope = jax.value_and_grad(bonus)(z)
    close(-value, 0.8323956), close(-slope, [-0.282587, 0.14077, 0.141817])


def test_value_losses():
    value, old, target = one_row([0.9, 0.2]), one_row([0.5, 0.5]), one_row([1.0, 1.0])
    close(both(penalties.value_clip, value, target, old).mean(), 0.1825)
    close(both(penalties.value_mse, value, target), [[[0.005, 0.32]]])
    wide = penalties.value_clip(value, target, old, clip=9.0)
    close(wide, penalties.value_mse(value, target))


def pacs_loss(u, rewards, rows=None, **settings):
    tokens = jnp.ones(u.shape, bool)
    value = penalties.pacs(u, jnp.zeros_like(u), tokens, rewards, rows, **settings)
    return jnp.sum(value * aggregate.sequence_mean_token_mean(tokens, rows))


U = jnp.asarray([0.3, -0.2, 0.1, 0.0])[None, :, None]


def test_pacs_numbers():
    rewards = jnp.asarray([[1.0, 0, 0, 1]])
    value, slope = jax.jit(jax.value_and_grad(pacs_loss))(U, rewards)
    close(value, 0.6336708), close(pacs_loss(U, rewards), 0.6336708)
    close(4 * slope[0, :, 0], [-0.556573, 0.556573, 0.688881, -0.688881])
    unequal = jnp.asarray([[1.0, 0, 0, 0]])
    omega = np.asarray(penalties.pacs(0 * U, 0 * U, jnp.ones(U.shape, bool), unequal))[0, :, 0]
    close(omega / np.log(2), [2, 2 / 3, 2 / 3, 2 / 3], what="n / (2 n_class)")
    plain = penalties.pacs(0 * U, 0 * U, jnp.ones(U.shape, bool), unequal, class_weights=False)
    close(plain, np.full(U.shape, np.log(2)))
    doubled = pacs_loss(U, rewards, beta=2.0)
    close(doubled, pacs_loss(2 * U, rewards), what="beta")
    assert penalties.pacs.couples_rows


def test_pacs_at_the_start_is_half_a_reinforce_step():
    rewards = jnp.asarray([[1.0, 0, 0, 1]])
    loss = functools.partial(pacs_loss, class_weights=False)
    slope = jax.jit(jax.grad(loss))(0 * U, rewards)[0, :, 0]
    y = 2 * np.asarray(rewards[0]) - 1
    close(slope, -(1 / (2 * 4)) * 4 / 3 * (y - y.mean()))


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


def smooth_terms():
    a = jnp.asarray([[[1.0, -2.0, 0.5], [-1.0, 3.0, 2.0]]])
    tokens = jnp.ones(a.shape, bool)
    old = jnp.asarray([[[-1.0, -0.7, -2.0], [-0.4, -1.1, -0.9]]])
    rewards = jnp.asarray([[1.0, 0.0]])
    origin = jnp.asarray([[0, 0]])
    return {
        "reinforce": lambda x: surrogates.reinforce(x, a),
        "ppo token": lambda x: surrogates.ppo_clip(ratios.token(x, old, tokens), a),
        "ppo sequence": lambda x: surrogates.ppo_clip(ratios.sequence(x, old, tokens), a),
        "dual": lambda x: surrogates.dual_clip(ratios.token(x, old, tokens), a, c=1.4),
        "stable": lambda x: surrogates.stable_reinforce(
            x - old, a, floor=0.7, ceiling=1.2, low=0.9, high=0.9
        ),
        "rl_plus own rows": lambda x: surrogates.rl_plus(x - old, x, old, a, origin),
        "rl_plus external, gamma 0": lambda x: surrogates.rl_plus(
            x - old, x, old, a, origin + 3, gamma=0.0
        ),
        "k1": lambda x: penalties.k1(x, old),
        "k2": lambda x: penalties.k2(x, old),
        "k3": lambda x: penalties.k3(x, old),
        "k3 ratio": lambda x: penalties.k3_ratio(x - old + 0.1, x, old),
        "value": lambda x: penalties.value_clip(x, a, old, clip=0.17),
        "pacs": lambda x: penalties.pacs(x, old, tokens, rewards, beta=1.3),
    }


@pytest.mark.parametrize("name", sorted(smooth_terms()))
def test_gradients_match_finite_differences(name):
    with jax.enable_x64(True):
        term = smooth_terms()[name]
        x = jnp.asarray([[[-0.95, -0.9, -1.3], [-0.8, -1.05, -1.5]]])  # clips some, off the kinks
        weights = jnp.asarray([[[0.2, 0.1, 0.3], [0.15, 0.05, 0.2]]])
        loss = jax.jit(jax.value_and_grad(lambda x: jnp.sum(term(x) * weights)))
        slope = np.asarray(loss(x)[1])
        steps = 1e-6 * np.eye(6).reshape(6, 1, 2, 3)
        numeric = np.array([float(loss(x + h)[0] - loss(x - h)[0]) / 2e-6 for h in steps])
    assert slope.dtype == np.float64 and np.abs(slope).max() > 1e-3, "the check must see a slope"
    close(slope.ravel(), numeric, atol=1e-8, what=name)


def test_padding_cannot_leak_into_gradients():
    """Garbage behind loss_mask changes neither value nor gradient of what sees the mask."""
    tokens, a = mask([[[1, 1, 0, 0]]]), jnp.ones((1, 1, 4))
    clean = one_row([-1.0, -0.5, 0.0, 0.0])
    wild = one_row([-1.0, -0.5, -1e30, jnp.inf])
    for ratio in (ratios.token, ratios.sequence, ratios.sequence_token):
        fn = lambda x, ratio=ratio: row_loss(
            ratio, surrogates.ppo_clip, x, clean - 0.1, a, tokens, aggregate.token_mean
        )
        for got, want in zip(
            jax.value_and_grad(fn)(wild), jax.value_and_grad(fn)(clean), strict=True
        ):
            close(got, want, what=ratio.__name__)
