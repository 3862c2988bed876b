"""Advantage estimators: numbers beyond those of tests/golden.py, settings, invariants."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt.advantages import batch, brorl, exploration, gae, group, noise, returns
from tests.numeric import both, close


def rows(x, dtype=jnp.float32):
    return jnp.asarray(x, dtype)


def mask(x):
    return jnp.asarray(x, bool)


# --- worked numbers -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fn", "settings", "rewards", "want"),
    [
        (group.rloo, {}, [[6, 3]], [3, -3]),
        (group.rloo, {}, [[1, 2, 3]], [-1.5, 0, 1.5]),
        (group.dr_grpo, {}, [[9, 12]], [-1.5, 1.5]),
        (group.maxrl, {}, [[1, 0, 0, 0]], [3, -1, -1, -1]),
        (group.maxrl, {}, [[0, 0]], [0, 0]),
    ],
)
def test_group_numbers(fn, settings, rewards, want):
    close(both(fn, rows(rewards), **settings), [want], atol=4e-6, what=f"{fn.__name__} {rewards}")


def test_grpo_eps_on_near_constant_groups():
    for eps, want in [(1e-4, 0.0468), (1e-6, 0.6196), (1e-8, 0.7061), (1e-9, 0.7070)]:
        got = both(group.grpo, rows([[1.0, 1.00001]]), eps=eps)
        close(got, [[-want, want]], atol=1e-4, what=f"eps {eps}")


def test_variance_takes_two_passes():
    got = both(group.grpo, rows([[0.0, *[0.95] * 7]]) + 1000.0)
    assert np.abs(got).max() < 3, f"advantages blow up on a large mean: {got}"


@pytest.mark.parametrize("k", range(1, 8))
def test_grpo_binary_closed_form(k):
    p = k / 8
    got = both(group.grpo, rows([[1.0] * k + [0.0] * (8 - k)]), ddof=0, eps=1e-9)[0]
    close(got[0], np.sqrt((1 - p) / p), what="correct")
    close(got[-1], -np.sqrt(p / (1 - p)), what="wrong")
    sample = both(group.grpo, rows([[1.0] * k + [0.0] * (8 - k)]), eps=1e-9)[0]
    close(sample, np.sqrt(7 / 8) * got, what="with n - 1")


def test_grpo_scales():
    rewards = rows([[1, 0, 0, 0], [5, 1, 3, 3]])
    centred = np.asarray(group.dr_grpo(rewards))
    close(both(group.grpo, rewards, scale="none"), centred)
    want = centred / (np.asarray(rewards).std(ddof=1) + 1e-6)
    close(both(group.grpo, rewards, scale="batch"), want, what="batch std of the raw rewards")
    with pytest.raises(ValueError, match="expected one of group, batch, none"):
        group.grpo(rewards, scale="rank")


def test_singletons_are_refused_or_raw():
    one = rows([[0.3], [0.7]])
    for fn in (group.grpo, group.dr_grpo, group.rloo, group.maxrl):
        with pytest.raises(ValueError, match=r"G=1.*rollout.group >= 2 or allow_singleton=True"):
            jax.eval_shape(fn, one)
        close(both(fn, one, mask([[1], [0]]), allow_singleton=True), [[0.3], [0.0]])


def test_gdpo():
    verdict = {"a": rows([[1, 0, 0, 0]]), "b": rows([[0, 2, jnp.nan, 4]])}
    weights = {"a": 1.0, "b": 0.5}
    got = both(group.gdpo, verdict, whiten=False, weights=weights)
    b = np.array([0, 2, 4.0])
    z = np.insert((b - 2) / (b.std(ddof=1) + 1e-6), 2, 0.0)
    close(got[0], np.array([1.499997, *[-0.499999] * 3]) + 0.5 * z, what="normalised, then summed")
    whitened = both(group.gdpo, verdict, weights=weights)[0]
    close(whitened, (got[0] - got[0].mean()) / got[0].std(ddof=1), atol=1e-5)
    # [1,1],[1,0] collapse when summed first: here they keep apart
    pair = {"a": rows([[1, 1, 0, 0]]), "b": rows([[10, 0, 0, 0]])}
    got = both(group.gdpo, pair, whiten=False)[0]
    assert got[0] > got[1] > got[2], got
    with pytest.raises(ValueError, match=r"expected some of \['a', 'b'\]"):
        group.gdpo(pair, weights={"c": 1.0})


def test_psr_nsr_select_rows():
    rewards, train = rows([[1, 0, 1, 0]]), mask([[1, 1, 0, 1]])
    got = both(group.psr, rewards, None, train)
    close(got["advantages"], [[1, 0, 1, 0]])
    assert got["train_mask"].tolist() == [[True, False, False, False]]
    got = both(group.nsr, rewards, mask([[1, 0, 1, 1]]))
    close(got["advantages"], [[0, 0, 0, -1]])
    assert got["train_mask"].tolist() == [[False, False, False, True]]
    assert not both(group.psr, rows([[0, 0]]))["train_mask"].any(), "all wrong: nothing trains"


CANON_METRIC = [[0.9, 0.2, 0.5, 0.7]]


def test_canon_alpha_sits_on_the_discounted_half():
    rewards, metric = rows([[1, 0, 1, 1]]), rows(CANON_METRIC)  # low half: rows 1, 2
    low = both(group.canon, rewards, metric, alpha=0.5)[0]
    close(low, [1 - 0.5 * 0.5, 0 - 1, 0.5 - 1, 1 - 0.5 * 0.5], what="entropy version")
    high = both(group.canon, rewards, metric, alpha=0.5, discounted="high")[0]
    close(high, [0.5 - 0.5, 0 - 0.5 * 1, 1 - 0.5 * 1, 0.5 - 0.5], what="length version")
    for source, mu in (("accuracy", 0.75), ("error", 0.25)):
        got = both(group.canon, rewards, metric, mu_from=source)
        close(got, group.canon(rewards, metric, mu=mu), what=source)


def test_canon_odd_groups_masks_and_ties():
    full = group.canon(rows([[1, 0, 1]]), rows([[0.1, 0.3, 0.2]]))
    close(full, [[1 - 0.5, 0 - 1, 1 - 1]], what="low half of 3 is 1 row")
    padded = group.canon(
        rows([[1, jnp.nan, 0, 1]]), rows([[0.1, -9, 0.3, 0.2]]), mask([[1, 0, 1, 1]])
    )
    close(padded, np.insert(np.asarray(full), 1, 0.0)[None], what="a dead row changes nothing")
    ties = group.canon(rows([[1, 1, 0, 0]]), rows([[0.5] * 4]))
    close(ties, [[1, 1, -1, -1]], what="a stable sort keeps the first rows in the low half")
    close(group.canon(rows([[1.0]]), rows([[0.5]])), [[0.0]], what="G=1")


def test_stable_reinforce_filter():
    got = both(group.stable_reinforce, rows([[0.1] * 19 + [5.0]]))
    assert got["train_mask"].sum() == 19 and not got["train_mask"][0, -1], "4.36 sd must not train"


def test_rl_plus_baseline_is_the_policys():
    got = both(group.rl_plus, rows([[1, 0, 0, 1]]), rows([[0, 0, 2, 3]], jnp.int32))
    close(got, [[2 / 3, -1 / 3, -1 / 3, 2 / 3]])


def test_reweight():
    close(both(group.reweight, rows([[1, -2]]), rows([[0.5, 2]])), [[0.5, -4]])
    tokens = both(group.reweight, jnp.ones((1, 2, 3)), rows([[0.5, 2]]))
    close(tokens[0, :, 0], [0.5, 2])


# --- whole-batch and dense ----------------------------------------------------------------------


def test_reinforce_pp_returns_and_kl():
    tokens = mask([[[1, 1, 0, 1], [1, 1, 0, 0]]])
    cost = rows([[[-0.1, -0.2, 9.0, 0.0], [0.0, -0.3, 9.0, 9.0]]])
    to_go = np.array([[-0.1 + 0.5 * (-0.2 + 0.5), -0.2 + 0.5, 1.0], [0.5 * -0.3, -0.3, np.nan]])
    flat = to_go[~np.isnan(to_go)]
    want = (flat - flat.mean()) / flat.std(ddof=1)
    got = both(batch.reinforce_pp, rows([[1, 0]]), tokens, None, cost, gamma=0.5)
    close(got[np.asarray(tokens)], want, atol=1e-5, what="tool token stepped over, padding unread")
    assert (got[~np.asarray(tokens)] == 0).all()


def test_discounted_returns():
    ones = jnp.ones((1, 1, 3), bool)
    x = rows([[[1, 2, 3]]])
    close(both(returns.suffix, x, ones, gamma=0.5), [[[2.75, 3.5, 3]]])
    close(both(returns.suffix, x, ones), [[[6, 5, 3]]])
    holed = both(returns.suffix, rows([[[1, 99, 2, 3]]]), mask([[[1, 0, 1, 1]]]), gamma=0.5)
    close(holed, [[[2.75, 0, 3.5, 3]]], what="a token outside loss_mask is not there")


def test_minimum_numbers():
    ids, ones = rows([[[0, 0, 1, 2]]], jnp.int32), jnp.ones((1, 1, 4), bool)
    got = both(returns.minimum, rows([[[7, 0.9, -0.2, 0.7]]]), ids, ones)
    close(got, [[[-0.199871, -0.199871, -0.199886, 8.6e-5]]], what="read at step ends only")
    equal = both(returns.minimum, rows([[[0.1, 0.1]]]), rows([[[0, 1]]], jnp.int32), ones[..., :2])
    close(equal, [[[0.1, 0.05]]], what="credit is split")
    r = np.array([0.9, -0.2, 0.7])
    for temperature, want in ((1e-3, r.min()), (1e4, r.mean())):
        got = returns.minimum(rows([[[0, 0.9, -0.2, 0.7]]]), ids, ones, temperature=temperature)
        close(got[0, 0, 0], want, atol=1e-4, what=f"temperature {temperature}")
    tool = both(returns.minimum, rows([[[0.9, 5, -0.2, 0.7]]]), rows([[[0, -1, 1, 2]]], jnp.int32),
                mask([[[1, 0, 1, 1]]]))  # fmt: skip
    close(tool, [[[-0.199871, 0, -0.199886, 8.6e-5]]], what="tool tokens between steps")
    dead = returns.minimum(rows([[[0.9, 0.1, 1, 1]]]), ids, ones, mask([[0]]))
    close(dead, np.zeros((1, 1, 4)), what="a dead row is 0, not NaN")


VALUES = [[[0.5, 0.6, 0.4, 0.8]]]


def test_gae_takes_step_rewards():
    ones, how = jnp.ones((1, 1, 4), bool), {"gamma": 0.99, "lam": 0.95, "whiten": False}
    outcome = both(gae.gae, rows(VALUES), ones, rows([[1]]), **how)
    dense = both(gae.gae, rows(VALUES), ones, None, rows([[[0, 0, 0, 1]]]), **how)
    close(dense["advantages"], outcome["advantages"], what="the reward on the last token")
    half = both(gae.gae, rows(VALUES), ones, rows([[0.5]]), rows([[[0, 0, 0, 0.5]]]), **how)
    close(half["advantages"], outcome["advantages"], what="they add up")


def test_gae_whitening_and_bootstrap():
    ones = jnp.ones((1, 1, 4), bool)
    padded = mask([[[1, 1, 1, 1, 0]]])
    values = jnp.pad(rows(VALUES), ((0, 0), (0, 0), (0, 1)), constant_values=jnp.nan)
    white = both(gae.gae, values, padded, rows([[1]]))["advantages"][..., :4]
    close(white.mean(), 0, what="whitened"), close(white.std(ddof=1), 1, atol=1e-5)
    args = (rows(VALUES), ones, rows([[0]]), None, None, mask([[1]]), rows([[0.7]]))
    boot = both(gae.gae, *args, lam=0.0, whiten=False, bootstrap_truncated=True)
    close(boot["advantages"][0, 0, -1], 0.7 - 0.8)
    close(gae.gae(*args, lam=0.0, whiten=False)["advantages"][0, 0, -1], -0.8)
    dense = gae.gae(*args[:2], None, rows([[[0, 0, 0, 1]]]), lam=0.0, whiten=False)["advantages"]
    both_given = both(
        gae.gae, *args[:3], rows([[[0, 0, 0, 1]]]), lam=0.0, whiten=False, outcome_coef=0.0
    )
    close(both_given["advantages"], dense, what="steps that stand for the outcome")
    with pytest.raises(ValueError, match="truncated and last_value"):
        gae.gae(rows(VALUES), ones, rows([[0]]), bootstrap_truncated=True)
    with pytest.raises(ValueError, match="neither rewards"):
        gae.gae(rows(VALUES), ones)


# --- exploration, analysis ----------------------------------------------------------------------


def test_answers_that_are_not_there_earn_no_bonus():
    zero, ids = jnp.zeros((1, 4)), rows([[0, 0, 1, 2]], jnp.int32)
    visits = rows([[9, 9, 1, 1]], jnp.int32)
    unparsed = both(exploration.historical, zero + 3, rows([[-1, -1, 1, 2]], jnp.int32), visits,
                    coef=1.0)  # fmt: skip
    close(unparsed, [[3, 3, 3, 3]], what="no answer: no bonus, and out of the mean")
    close(both(exploration.batch, zero, rows([[-1, -1, 1, 2]], jnp.int32), coef=1.0), zero)
    tokens = both(exploration.batch, jnp.ones((1, 4, 2)), ids, mask([[1, 1, 0, 1]]), coef=3.0)
    close(tokens[0, :, 1], [0, 0, 1, 1], what="spread over tokens; 3 live rows")


def test_brorl_terms_have_their_signs():
    probs = jax.nn.softmax(rows(np.random.default_rng(3).normal(size=8)))
    right, seen = mask([1, 1, 1, 0, 0, 0, 0, 0]), mask([1, 0, 1, 1, 1, 0, 0, 0])
    how = {"step_size": 1e-5, "samples": 4}
    got = both(brorl.mass_change, probs, right, seen, **how)
    assert got["sampled_correct"] > 0 and got["sampled_wrong"] > 0, got
    assert got["unsampled"] != 0, "the case has answers that were not sampled"
    everything = both(brorl.mass_change, probs, right, right | True, **how)
    assert everything["unsampled"] == 0, "nothing unsampled, nothing lost"


# --- invariants of every estimator --------------------------------------------------------------


def tokens_of(fn):
    """The estimator as a function of (rewards, row_mask) alone, with some lengths."""

    def call(rewards, row_mask=None):
        lengths = jnp.arange(rewards.size).reshape(rewards.shape) % 3 + 1
        return fn(rewards, jnp.arange(3) < lengths[..., None], row_mask)

    return call


def metric_of(rewards, row_mask=None, **settings):
    return group.canon(rewards, jnp.sin(7 * rewards + 1), row_mask, **settings)


CENTRED = {
    "grpo": group.grpo,
    "grpo batch": functools.partial(group.grpo, scale="batch"),
    "dr_grpo": group.dr_grpo,
    "rloo": group.rloo,
    "maxrl": group.maxrl,
    "gdpo": lambda r, m=None: group.gdpo({"a": r, "b": r**2}, m),
    "canon": metric_of,
    "canon mixed": functools.partial(metric_of, mu=0.3),
    "rl_plus": lambda r, m=None: group.rl_plus(r, jnp.zeros(r.shape, jnp.int32), m),
    "stable_reinforce": lambda r, m=None: group.stable_reinforce(r, m)["advantages"],
    "noise control": noise.control,
    "noise backward": functools.partial(noise.backward, fp_rate=0.1, fn_rate=0.2),
    "reinforce_pp_baseline": tokens_of(batch.reinforce_pp_baseline),
}
UNCENTRED = {
    "w_reinforce": group.w_reinforce,
    "psr": lambda r, m=None: group.psr(r, m)["advantages"],
    "nsr": lambda r, m=None: group.nsr(r, m)["advantages"],
    "noise forward": functools.partial(noise.forward, fn_rate=0.2),
    "reinforce_pp": tokens_of(batch.reinforce_pp),
}
CENTRED = {name: jax.jit(fn) for name, fn in CENTRED.items()}
ALL = CENTRED | {name: jax.jit(fn) for name, fn in UNCENTRED.items()}
WHOLE_BATCH = {"grpo batch", "gdpo", "stable_reinforce", "reinforce_pp_baseline", "reinforce_pp"}
RANDOM = rows(np.random.default_rng(0).random((3, 6)))
EVERY = jnp.ones((3, 6), bool)


@pytest.mark.parametrize("name", sorted(CENTRED))
def test_constant_groups_are_exactly_zero(name):
    for value in (0.1, 0.3, 1.0, -7.7, 1e6):
        got = np.asarray(CENTRED[name](jnp.full((3, 6), value, jnp.float32), EVERY))
        assert (got == 0).all(), f"{name} of constant {value}: {got}"
    alone = CENTRED[name](RANDOM, mask(np.eye(3, 6)))
    if name not in ("noise control", "noise backward"):  # these keep a single row's own reward
        assert (np.asarray(alone) == 0).all(), f"{name}, one live row a group: {alone}"


@pytest.mark.parametrize("name", sorted(ALL))
def test_dead_rows_are_as_if_absent(name):
    fn = ALL[name]
    live = np.array([1, 0, 1, 1, 0, 1], bool)
    garbage = jnp.where(live, RANDOM, jnp.nan)
    got = np.asarray(fn(garbage, mask(np.tile(live, (3, 1)))))
    assert (got[:, ~live] == 0).all(), f"{name}: dead rows must get 0"
    if "pp" not in name:  # token estimators above tie lengths to the row's place
        close(got[:, live], fn(RANDOM[:, live]), atol=1e-5, what=f"{name}: trimmed")
    nothing = np.asarray(fn(garbage * jnp.nan, ~EVERY))
    assert (nothing == 0).all(), f"{name}: all masked gives {nothing}"


@pytest.mark.parametrize("name", sorted(set(ALL) - {"gdpo"}))
def test_a_reward_that_is_not_known_is_no_zero(name):
    """NaN in a live row reaches the loss, whose finite check leaves the step out and says so.

    (GDPO takes a verdict that is NaN for one that was not given.)
    """
    got = np.asarray(ALL[name](RANDOM.at[1, 2].set(jnp.nan), EVERY))
    assert np.isnan(got[1]).any(), f"{name}: {got[1]}"


@pytest.mark.parametrize("name", ["psr", "nsr", "w_reinforce"])
def test_unknown_is_not_wrong(name):
    out = getattr(group, name)(jnp.array([[1.0, 0.0, jnp.nan]]), jnp.array([[True] * 3]))
    out = out if isinstance(out, dict) else {"advantages": out, "train_mask": EVERY[:1, :3]}
    assert np.isnan(out["advantages"][0, 2]) and out["train_mask"][0, 2]
    assert np.isfinite(out["advantages"][0, :2]).all()


@pytest.mark.parametrize("name", sorted(set(ALL) - {"reinforce_pp", "reinforce_pp_baseline"}))
def test_rows_permute(name):
    order = np.array([3, 0, 5, 1, 4, 2])
    base = np.asarray(ALL[name](RANDOM, EVERY))
    close(ALL[name](RANDOM[:, order], EVERY), base[:, order], atol=1e-5)


@pytest.mark.parametrize("name", sorted(set(ALL) - WHOLE_BATCH))
def test_groups_do_not_meet(name):
    others = RANDOM.at[jnp.array([0, 2])].set(5 * RANDOM[:2] - 1)
    base = ALL[name](RANDOM, EVERY)[1]
    close(ALL[name](others, EVERY)[1], base, atol=0, what=f"{name}: the other groups changed")


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo", "noise control"])
def test_sums_and_scale(name):
    base = CENTRED[name](RANDOM, EVERY)
    close(base.sum(1), np.zeros(3), atol=1e-5, what="advantages sum to 0")
    scaled = CENTRED[name](3 * RANDOM + 2, EVERY)
    close(scaled, base * (1 if name == "grpo" else 3), atol=2e-5)
