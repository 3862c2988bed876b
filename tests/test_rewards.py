"""Verdicts to rewards: combination, shaping, the formulas of papers, selection of rows.

Worked numbers are in tests/golden.py.
"""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt import config
from rlpt.advantages import batch, group
from rlpt.rewards import combine, latent, outcomes, selection, shaping
from tests.numeric import both, close

NAN = np.nan


def rows(*x):
    """One group of float rewards."""
    return jnp.asarray([x], jnp.float32)


def bools(*x):
    return jnp.asarray([x], bool)


def lengths(*x, width=None):
    """A mask [1,G,T] with these lengths."""
    return jnp.arange(width or max(x)) < jnp.asarray(x)[None, :, None]


# --- combination --------------------------------------------------------------------------------


def test_weighted_sum():
    verdict = {"answer": rows(1, 0, NAN, 1), "format": rows(1, NAN, 1, 0)}
    got = both(combine.weighted_sum, verdict)
    close(got["rewards"], [[2, 0, 0, 1]])
    assert got["row_mask"].tolist() == [[True, False, False, True]], "NaN is not a silent 0"
    got = both(combine.weighted_sum, verdict, weights={"answer": 2.0})
    close(got["rewards"], [[2, 0, 0, 2]])
    assert got["row_mask"].tolist() == [[True, True, False, True]], "only verdicts that are used"
    got = both(combine.weighted_sum, verdict, bools(1, 1, 1, 0), missing=-1.0)
    close(got["rewards"], [[2, -1, 0, 0]])
    assert got["row_mask"].tolist() == [[True, True, True, False]], "counted as the config says"
    with pytest.raises(ValueError, match=r"got \['tests'\], expected names of verdicts"):
        combine.weighted_sum(verdict, weights={"tests": 1.0})
    with pytest.raises(ValueError, match="at least one verifier"):
        combine.weighted_sum({"a": rows(1)}, weights={})


def test_gated_sum():
    verdict = {
        "outcome": rows(1, 0, 1, NAN),
        "a": rows(0.2, 0.2, 0, 1),
        "b": rows(0.1, 0.1, 0.1, 1),
    }
    order = ("outcome", "a", "b")
    got = both(combine.gated_sum, verdict, order=order)
    close(got["rewards"][:, 2:], [[1, 0]], what="closed by the second of three; no verdict")
    assert got["row_mask"].tolist() == [[True, True, True, False]]
    got = both(combine.gated_sum, verdict, order=order, inclusive=True)
    close(got["rewards"], [[1.3, 0.3, 1.1, 0]])
    got = both(combine.gated_sum, verdict, order=order, thresholds={"outcome": 1.0})
    close(got["rewards"], [[1, 0, 1, 0]], what="> v by default")
    behind = {"outcome": rows(0, 1), "a": rows(NAN, NAN)}
    got = both(combine.gated_sum, behind, order=("outcome", "a"))
    assert got["row_mask"].tolist() == [[True, False]], "behind a closed gate NaN is not missed"
    with pytest.raises(ValueError, match="thresholds"):
        combine.gated_sum(verdict, order=("a",), thresholds={"b": 0.0})


# --- shaping ------------------------------------------------------------------------------------


def test_soft_overlong():
    got = both(shaping.soft_overlong, jnp.zeros((1, 5)), lengths(50, 80, 90, 100, 110),
               max_length=100, cache=20, factor=2.0)  # fmt: skip
    close(got, [[0, 0, -1, -2, -2]])
    mask = lengths(50)
    for cache in (0, 101):
        with pytest.raises(ValueError, match=rf"cache={cache}, expected 1..max_length=100"):
            shaping.soft_overlong(jnp.zeros((1, 1)), mask, max_length=100, cache=cache)


def test_length_terms():
    got = both(shaping.length_cost, rows(1, 1, 0), lengths(10, 30, 50), coef=0.01, budget=20)
    close(got, [[1, 0.9, -0.3]])
    got = both(shaping.group_length, rows(1, 1, 0, 0), lengths(10, 30, 10, 20))
    close(got, [[1.5, 0.5, 0, 0]], what="a wrong short answer earns nothing")
    got = both(shaping.group_length, rows(1, 1, 0), lengths(10, 30, 99), bools(1, 1, 0), coef=2.0)
    close(got, [[2, 0, 0]], what="a dead row sets no length")
    close(shaping.group_length(rows(1, 0), lengths(7, 7)), [[1, 0]], what="one length: no bonus")


def test_the_length_of_a_branch_is_that_of_the_completion():
    """What it has from its parent is not trained there, and part of it all the same."""
    at = jnp.asarray([[0, 0, 6, 4]])
    own = (jnp.arange(12) >= at[..., None]) & jnp.ones((1, 4, 12), bool)
    right = rows(1, 1, 1, 1)
    close(shaping.group_length(right, own, branch_at=at), right, what="one length")
    close(shaping.length_cost(right, own, branch_at=at, coef=0.01), 0.88 * right)
    away = jnp.full((1, 4), -1)  # of another stage, which makes no such columns
    whole = jnp.ones((1, 4, 12), bool)
    for fn, settings in (
        (shaping.group_length, {}),
        (shaping.length_cost, dict(coef=0.01)),
        (shaping.soft_overlong, dict(max_length=12, cache=4)),
    ):
        plain = fn(right, whole, **settings)
        close(fn(right, whole, prefix_length=away, **settings), plain)
        if fn is not shaping.soft_overlong:
            close(fn(right, whole, branch_at=away, **settings), plain)


def test_affine_clip_min_shift():
    close(both(shaping.affine, rows(2, 5), scale=1 / 3, shift=-2 / 3), [[0, 1]])
    close(both(shaping.clip, rows(-3, 0.5, 9), low=-1.0, high=2.0), [[-1, 0.5, 2]])
    got = both(shaping.min_shift, rows(-3, NAN, 1, -5), bools(1, 0, 1, 0))
    close(got, [[0, 0, 4, 0]])


def test_kl_in_reward():
    old, ref = jnp.asarray([[[-1.0, -2.0, NAN]]]), jnp.asarray([[[-1.5, -1.0, 3.0]]])
    mask = lengths(2, width=3)
    got = both(shaping.kl_in_reward, old, ref, mask, coef=0.1)["step_rewards"]
    close(got, [[[-0.05, 0.1, 0]]])
    got = both(shaping.kl_in_reward, old, ref, mask, jnp.ones((1, 1, 3)), coef=0.1)
    close(got["step_rewards"], [[[0.95, 1.1, 1]]])
    for origin, want in ((0, -0.05), (1, 0), (2, -0.05), (3, 0)):
        got = both(shaping.kl_in_reward, old, ref, mask, None, jnp.full((1, 1), origin), coef=0.1)
        close(got["step_rewards"][0, 0, 0], want, what="what is said under a hint is no KL")


def test_kl_in_reward_is_the_gradient_of_the_sequence_kl():
    """Two tokens, two symbols: the score function estimate is exact when all rows are listed."""
    z = jnp.asarray([0.3, -0.2, 0.8])  # first token; second token after a 0; after a 1
    ref = jnp.log(jnp.asarray([0.6, 0.3, 0.7]))
    sequences = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])

    def token_logp(z):
        """Log-probs [4,2] of the listed sequences; sigmoid(z) is the chance of a 1."""
        node = np.stack([np.zeros(4, int), 1 + sequences[:, 0]], 1)
        return jnp.where(sequences == 1, jax.nn.log_sigmoid(z[node]), jax.nn.log_sigmoid(-z[node]))

    ref_logp = token_logp(ref - jnp.log1p(-jnp.exp(ref)))
    exact = jax.grad(lambda z: jnp.sum(
        jnp.exp(token_logp(z).sum(1)) * (token_logp(z) - ref_logp).sum(1)
    ))(z)  # fmt: skip
    logp = token_logp(z)
    mask = jnp.ones((1, 4, 2), bool)
    cost = shaping.kl_in_reward(logp[None], ref_logp[None], mask, coef=1.0)["step_rewards"]
    to_go = jnp.cumsum(cost[0][:, ::-1], axis=1)[:, ::-1]
    chance = jax.lax.stop_gradient(jnp.exp(logp.sum(1)))[:, None]
    estimate = jax.grad(lambda z: -jnp.sum(chance * to_go * token_logp(z)))(z)
    close(estimate, exact, atol=1e-6)
    white = batch.reinforce_pp(jnp.zeros((1, 4)), mask, None, cost)
    raw = np.asarray(to_go)
    close(white[0], (raw - raw.mean()) / raw.std(ddof=1), atol=1e-5, what="as REINFORCE++ sees it")


def test_filters():
    got = both(shaping.overlong_filter, bools(0, 1, 0), bools(1, 1, 0))["train_mask"]
    assert got.tolist() == [[True, False, False]]
    rewards = jnp.asarray([[1.0, 1, NAN], [0.5, 0.5, 0.7], [0, 0, 0]])
    live = jnp.asarray([[1, 1, 0], [1, 1, 1], [0, 0, 0]], bool)
    got = both(shaping.zero_variance_filter, rewards, live)["train_mask"]
    assert got.tolist() == [[False] * 3, [True] * 3, [False] * 3]
    kept = both(shaping.zero_variance_filter, rewards, live, ~live)["train_mask"]
    assert not kept[1].any(), "a row that another filter dropped stays dropped"
    # continuous rewards whose mean is 1/2 are not constant, binary ones with equal means are
    continuous = shaping.zero_variance_filter(rows(0.4, 0.6))["train_mask"]
    assert continuous.all(), "the spread decides, not the mean"
    alone = shaping.zero_variance_filter(jnp.asarray([[1.0], [0.0]]), jnp.asarray([[True], [True]]))
    assert alone["train_mask"].all(), "groups of one row have no spread to look at"


# --- formulas of papers -------------------------------------------------------------------------


def test_truthrl():
    correct, abstained = rows(1, 0, NAN, 0, NAN), rows(0, 0, 1, 1, 0)
    got = both(outcomes.truthrl, correct, abstained)
    close(got["rewards"], [[1, -1, 0, 0, 0]])
    assert got["row_mask"].tolist() == [[True, True, True, True, False]]
    knows_not = both(outcomes.truthrl, correct, abstained, None, rows(0, 0, 1, 0, 0))
    close(knows_not["rewards"], [[1, -1, 1, 0, 0]])
    for p in (0.4, 0.6):
        answer = p * 1 + (1 - p) * -1
        assert (answer > 0) == (p > 0.5), "to answer beats to abstain above one half"


def test_rlcr():
    correct, q = rows(1, 0, 1, 1, NAN), rows(0.8, 0.8, NAN, 1.2, 0.5)
    got = both(outcomes.rlcr, correct, q)
    close(got["rewards"][:, 2:], [[-1, -1, 0]], what="malformed, malformed, no verdict")
    assert got["row_mask"].tolist() == [[True] * 4 + [False]]
    code = both(outcomes.rlcr, correct, q, form="code")["rewards"]
    close(code, [[0.5 + 0.5 + 0.5 * 0.96, 0.5 + 0 + 0.5 * 0.36, 0, 0, 0]])
    grid = np.linspace(0, 1, 101)
    ones = outcomes.rlcr(rows(*np.ones(101)), rows(*grid))["rewards"][0]
    zeros = outcomes.rlcr(rows(*np.zeros(101)), rows(*grid))["rewards"][0]
    for p in (0.2, 0.5, 0.83):
        mean = p * np.asarray(ones) + (1 - p) * np.asarray(zeros)
        close(grid[mean.argmax()], p, what="honest confidence is best"), close(mean.max(), p * p)
    with pytest.raises(ValueError, match="'paper' or 'code'"):
        outcomes.rlcr(correct, q, form="brier")


def test_fapo():
    got = both(outcomes.fapo, rows(1, 1, 0, 0, 0), rows(0, 1, NAN, 0, 1))
    close(got["rewards"], [[1, 0, -1, -1, -1]])
    assert got["row_mask"].all(), "the judge is needed only where the answer is correct"
    unjudged = both(outcomes.fapo, rows(1, NAN), rows(NAN, 0))
    assert not unjudged["row_mask"].any()
    for coef, a, b in ((1.0, 3, 2), (1.0, 2, 3), (0.5, 5, 2), (0.5, 7, 2)):
        n = a + b + 1
        labels = rows(*[1] * (a + 1), *[0] * b), rows(1, *[0] * (n - 1))
        advantage = group.dr_grpo(outcomes.fapo(*labels, coef=coef)["rewards"])[0, 0]
        assert (advantage > 0) == (a / b < 2 / coef - 1), f"sign switch at {coef}, {a}, {b}"


def test_fapo_judge():
    got = both(outcomes.fapo_judge, rows(1, 1, 0, 0), rows(1, 0, 0, 1), rows(3, 3, 0, 0),
               rows(5, 0, 0, 2), rows(8, 8, 8, 8))  # fmt: skip
    close(got["rewards"], [[1 - 2 / 8, -1, 1, -1]])
    got = outcomes.fapo_judge(rows(NAN, 1, 1, 0), rows(NAN, NAN, 1, 0), rows(0, 0, NAN, NAN),
                              rows(0, 0, 1, NAN), rows(8, 8, 8, 8))  # fmt: skip
    assert got["row_mask"].tolist() == [[False, False, False, True]], "not judged is not sound"
    close(got["rewards"], [[0, 0, 0, 1]])


def test_stable_reinforce():
    got = both(outcomes.stable_reinforce, rows(1, 0, 0, 1), rows(0, 1, NAN, NAN),
               rows(1, 1, 0, 1))  # fmt: skip
    close(got["rewards"], [[1.5, 0.5, 0, 0]])
    assert got["row_mask"].tolist() == [[True, True, True, False]]


def test_darling():
    classes, distinct = jnp.asarray([[0, 0, 1, 2]]), jnp.arange(4)[None]
    quality = rows(1, 0.5, 0.2, 0)
    close(both(outcomes.darling, quality, distinct * 0 - 1), quality, what="-1: its own class")
    close(both(outcomes.darling, quality, distinct * 0), 0.1 * quality, what="floor")
    dead = both(outcomes.darling, rows(1, NAN, 1, 0), classes, bools(1, 0, 1, 1))
    close(dead, [[1, 0, 1, 0]], what="a dead row is no twin")
    close(both(outcomes.darling, rows(0.7), jnp.asarray([[0]])), [[0.7]], what="G=1")


# --- selection ----------------------------------------------------------------------------------

KEY = jax.random.key(3)
IDS = jnp.arange(50), jnp.arange(400).reshape(50, 8)


def test_subsample():
    live = jnp.asarray(np.random.default_rng(0).random((50, 8)) < 0.6)
    got = both(selection.subsample, KEY, *IDS, live, keep=3)["train_mask"]
    assert not (got & ~np.asarray(live)).any()
    assert (got.sum(1) == np.minimum(np.asarray(live).sum(1), 3)).all()
    order = np.array([5, 2, 7, 0, 1, 6, 4, 3])
    moved = selection.subsample(KEY, IDS[0], IDS[1][:, order], live[:, order], keep=3)
    assert (np.asarray(moved["train_mask"]) == got[:, order]).all(), "by row, not by place"
    everyone = selection.subsample(KEY, *IDS, keep=3)["train_mask"]
    share = np.asarray(everyone).mean(0)
    assert (np.abs(share - 3 / 8) < 4 * np.sqrt(15 / 64 / 50)).all(), (
        f"no lane is preferred: {share}"
    )
    with pytest.raises(ValueError, match="keep=0"):
        selection.subsample(KEY, *IDS, keep=0)


def test_pf_ppo():
    rewards = jnp.asarray(np.random.default_rng(0).random((50, 8)), jnp.float32)
    score = np.asarray(rewards)
    best, worst = score.argmax(1), score.argmin(1)
    got = both(selection.pf_ppo, rewards, KEY, *IDS, keep="best")["train_mask"]
    assert (got.sum(1) == 1).all() and (got.argmax(1) == best).all()
    got = both(selection.pf_ppo, rewards, KEY, *IDS, keep="best_worst")["train_mask"]
    assert (got.sum(1) == 2).all()
    assert got[np.arange(50), best].all() and got[np.arange(50), worst].all()
    got = both(selection.pf_ppo, rewards, KEY, *IDS)["train_mask"]
    assert (got.sum(1) == 2).all() and got[np.arange(50), best].all()
    assert len(set(np.where(got)[1].tolist())) == 8, "the other is drawn at random"
    only = both(selection.pf_ppo, rewards, KEY, *IDS, jnp.arange(8) < jnp.ones((50, 1)))
    assert (only["train_mask"].sum(1) == 1).all(), "one live row: that one"
    with pytest.raises(ValueError, match="best, best_random or best_worst"):
        selection.pf_ppo(rewards, KEY, *IDS, keep="worst")


def test_pf_ppo_weights():
    rewards = rows(-2, 1, 0, 1, 50)
    live = bools(1, 1, 1, 1, 0)
    got = both(selection.pf_ppo_weights, rewards, live, power=2.0)["row_weight"]
    close(got, np.array([[4, 1, 0, 1, 0]]) * 4 / 6)
    got = both(selection.pf_ppo_weights, rewards, live, kind="extremes")["row_weight"]
    close(got, np.array([[1, 1, 0, 1, 0]]) * 4 / 3)
    got = both(selection.pf_ppo_weights, rewards, live, kind="mixed")["row_weight"]
    close(got, np.array([[0.1, 0.4, 0.1, 0.4, 0]]) * 4)
    nothing = both(selection.pf_ppo_weights, 0 * rewards, live)["row_weight"]
    assert (nothing == 0).all(), "no weight at all: 0, not NaN"
    with pytest.raises(ValueError, match="power, extremes or mixed"):
        selection.pf_ppo_weights(rewards, kind="softmax")


# --- as the config sees them --------------------------------------------------------------------


def test_lare_learns_which_factor_pays():
    """Outcomes are the number of steps with the first factor: that becomes the steps' reward."""
    rng = np.random.default_rng(0)
    ends = rng.random((8, 16, 6)) < 0.5
    given = rng.integers(0, 2, (8, 16, 6, 2)).astype(np.float32)
    outcome = (given[..., 0] * ends).sum(-1)
    factors = jnp.asarray(np.where(ends[..., None], given, NAN))
    mask = np.ones((8, 16), bool)
    mask[0] = False
    spoilt = outcome.copy()
    spoilt[0] = 50.0  # rows that are out teach nothing
    state, losses = latent.lare.init(), []
    for _ in range(4):
        out, state = latent.lare.update(
            factors, jnp.asarray(spoilt), state, jnp.asarray(mask), lr=0.1, fits=50, preserve=False
        )
        losses.append(float(out["metrics/lare/loss"]))
    assert losses[-1] < 1e-4 < losses[0]
    close(state["weights"][:2], [1, 0], atol=0.01)
    close(out["step_rewards"][1:], (given[..., 0] * ends)[1:], atol=0.02)
    assert not np.asarray(out["step_rewards"])[0].any()
    assert int(state["count"]) == 200
    kept, _ = latent.lare.update(factors, jnp.asarray(outcome), latent.lare.init())
    some = ends.any(-1)
    close(kept["step_rewards"].sum(-1)[some], outcome[some], atol=1e-5)
    assert not np.asarray(kept["step_rewards"])[~ends].any()
    with pytest.raises(ValueError, match="got 33 factors, expected at most 32"):
        latent.lare.update(jnp.zeros((1, 1, 1, 33)), jnp.zeros((1, 1)), latent.lare.init())


@pytest.mark.parametrize("package", ["rewards", "advantages", "losses"])
def test_every_method_can_be_named(package):
    """Each method is documented, reads columns, and its settings can be given in a config."""
    for name in config.accepted_names(package):
        method = config.find(package, name)
        fn = getattr(method, "update", method)
        assert fn.__doc__, f"{name} has no docstring"
        settings = {
            p.name: {"float": 0.1, "int": 1}.get(p.annotation, ())
            if p.default is p.empty
            else p.default
            for p in inspect.signature(fn).parameters.values()
            if p.kind is p.KEYWORD_ONLY
        }
        bound = config.resolve(package, name, **settings)
        assert bound.columns, f"{name} reads no column"
