"""Rewards of steps and tokens: PURE, PRIME, the implicit reward model, and steps in text."""

import collections
import functools
import itertools
import runpy
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlpt import build, columns, learner, scoring
from rlpt import tools as tools_lib
from rlpt import train as train_lib
from rlpt.advantages import group, process, returns
from rlpt.config import ConfigError
from rlpt.losses import aggregate, preference
from rlpt.models import transformer
from rlpt.models.load import load
from rlpt.rewards import steps as rewards
from rlpt.rollouts import steps
from rlpt.tasks.stream import Stream
from tests.numeric import both, close
from tests.test_train import ROOT, lines, toy


def rows(x):
    return jnp.asarray(x, jnp.float32)


def ids(x):
    return jnp.asarray(x, jnp.int32)


def mask(x):
    return jnp.asarray(x, bool)


@pytest.fixture(scope="module", autouse=True)
def _compile_fast():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@functools.cache
def program(fn, static, names):
    return jax.jit(lambda c, n: fn(*c, **dict(static), **dict(zip(names, n, strict=True))))


def call(fn, *columns, **settings):
    """As a trainer would, compiled once for all tests; numpy arrays."""
    numbers = {k: v for k, v in settings.items() if isinstance(v, float)}
    static = tuple((k, v) for k, v in settings.items() if k not in numbers)
    out = program(fn, static, tuple(numbers))(columns, tuple(numbers.values()))
    return jax.tree.map(np.asarray, out)


def total(value, loss_mask):
    weights = aggregate.sequence_mean_token_mean(loss_mask)
    return jnp.sum(jnp.where(weights != 0, value * weights, 0.0))


# --- PURE ---------------------------------------------------------------------------------------

STEPS = ids([[[0, 1, 2], [0, 1, -1]]])
ONES = mask([[[1, 1, 1], [1, 1, 0]]])
SCORES = rows([[[0.9, -0.2, 0.7], [0.1, 0.1, 9.0]]])


def test_pure_numbers():
    """The returns of the soft minimum, less the reward a token of the other row, per token."""
    got = both(process.pure, SCORES, STEPS, ONES)
    score, other = -0.199871, 0.1
    ahead = np.array([score, -0.199886, 8.6e-5])
    close(got[0, 0], ahead - other / 2 * np.array([3, 2, 1]), what="b = 0.1 / 2 tokens")
    close(got[0, 1], [0.1 - score / 3 * 2, 0.05 - score / 3, 0], what="equal steps split: r / 2")
    summed = call(process.pure, SCORES, STEPS, ONES, form="sum")
    close(summed[0, 0], np.array([1.4, 0.5, 0.7]) - 0.2 / 2 * np.array([3, 2, 1]), what="the sum")
    by_step = call(process.pure, SCORES, STEPS, ONES, baseline="step")
    close(by_step[0, 0], ahead - other / 2 * np.array([3, 2, 1]), what="mean of S_j / steps_j")


def test_pure_baseline_numbers():
    """Scores -0.2 and 0.4 of 10 and 20 tokens: b = 0.02 and -0.02 a token."""
    length = np.array([10, 20])
    tokens = mask(np.arange(20) < length[None, :, None])
    score = jnp.where(tokens, rows([[[-0.2], [0.4]]]), 0.0)
    one_step = jnp.where(tokens, 0, -1)
    got = call(process.pure, score, one_step, tokens)
    close(got[0, :, 0], [-0.2 - 0.02 * 10, 0.4 + 0.02 * 20])
    halves = jnp.where(tokens, ids(np.arange(20) >= 5), -1)
    second = call(process.pure, score, halves, tokens)[0, :, 6]
    close(second, [-0.1 - 0.02 * 5, 0.2 + 0.02 * 15], what="the tokens of the step, not of the row")


def test_pure_of_three_rows():
    """Leave-one-out sums over rows of 1, 2 and 4 tokens, which are no means of ratios."""
    length = np.array([1, 2, 4])
    tokens = mask(np.arange(4) < length[None, :, None])
    at = jnp.where(tokens, ids([[[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1]]]), -1)
    score = jnp.where(tokens, rows([[[0.8] * 4, [0.5, -0.4, 0, 0], [0.6, 0.6, -0.9, -0.9]]]), 0.0)
    soft = lambda *r: np.dot(np.exp(-np.array(r) / 0.1) / np.exp(-np.array(r) / 0.1).sum(), r)
    s, n = np.array([0.8, soft(0.5, -0.4), soft(0.6, -0.9)]), np.array([1, 2, 2])
    want = [s[i] - (s.sum() - s[i]) / (7 - length[i]) * length[i] for i in range(3)]
    close(call(process.pure, score, at, tokens)[0, :, 0], want)
    mean = s / n
    want = [s[i] - n[i] * (mean.sum() - mean[i]) / 2 for i in range(3)]
    close(call(process.pure, score, at, tokens, baseline="step")[0, :, 0], want)


def test_pure_with_outcome_kl_and_separators():
    plain = call(process.pure, SCORES, STEPS, ONES)
    outcome = call(process.pure, SCORES, STEPS, ONES, rows([[1, 0]]), outcome_coef=0.5)
    close(outcome - plain, 0.5 * np.array([1, -1])[:, None] * np.asarray(ONES), what="v - LOO mean")
    unverified = call(process.pure, SCORES, STEPS, ONES, rows([[0, 0]]))
    close(unverified, plain, what="a prompt without a verdict says nothing")
    cost = rows([[[-0.1, -0.2, -0.3], [0.5, 0, 7]]])
    with_kl = call(process.pure, SCORES, STEPS, ONES, None, cost)
    close((with_kl - plain)[0], [[-0.6, -0.5, -0.3], [0.5, 0, 0]], what="suffix sums")
    separators = mask([[[0, 1, 0], [0, 0, 0]]])
    cut = call(process.pure, SCORES, STEPS, ONES, None, None, separators)
    close(cut, np.where(separators, 0, plain))


def test_pure_rows_that_are_out():
    four = jnp.concatenate([SCORES, SCORES * 5], axis=1)
    tokens = jnp.concatenate([ONES, ONES & False], axis=1).at[0, 2].set(True)
    at = jnp.concatenate([STEPS, STEPS], axis=1)
    got = call(process.pure, four, at, tokens, None, None, None, mask([[1, 1, 0, 1]]))
    close(
        got[:, :2],
        call(process.pure, SCORES, STEPS, ONES),
        what="a dead row and one without tokens",
    )
    assert (got[:, 2:] == 0).all() and np.isfinite(got).all()
    alone = call(process.pure, SCORES, STEPS, ONES, None, None, None, mask([[1, 0]]))
    close(alone[0, 0], [-0.199871, -0.199886, 8.6e-5], what="no others: no baseline")
    with pytest.raises(ValueError, match="got 'row', expected one of token, step"):
        process.pure(SCORES, STEPS, ONES, baseline="row")
    with pytest.raises(ValueError, match="G=1"):
        process.pure(SCORES[:, :1], STEPS[:, :1], ONES[:, :1])


def test_pure_takes_the_minimum_and_cannot_be_fed_with_good_steps():
    rng = np.random.default_rng(0)
    r = rng.uniform(-1, 1, (20, 2, 5))
    at, tokens = ids(np.broadcast_to(np.arange(5), r.shape)), jnp.ones(r.shape, bool)

    def score(r, temperature):
        return call(returns.minimum, rows(r), at, tokens, temperature=temperature)[..., 0]

    soft = score(r, 0.1)
    assert (r.min(-1) - 1e-6 <= soft).all() and (soft <= r.mean(-1) + 1e-6).all()
    close(score(r, 1e-4), r.min(-1), atol=1e-5), close(score(r, 1e5), r.mean(-1), atol=1e-5)
    first = lambda r: call(returns.minimum, rows(r), at, tokens, temperature=0.5)
    part = lambda r: first(r)[..., 0] - first(r)[..., 1]  # r*, the transformed reward, of step 0
    assert np.abs(part(r + 0.3) - part(r) - 0.3).max() > 0.1, "that of a step is not shifted"
    assert np.abs(score(r + 0.3, 0.5) - score(r, 0.5) - 0.3).max() < 1e-5, "weights sum to 1"
    assert np.abs(score(r * 2, 0.1) - 2 * score(r, 0.1)).max() > 0.01, "no other map commutes"
    filled = r.copy()
    filled[..., -1] = 0.9  # a last step that only looks good
    padded = np.concatenate([filled, np.full((20, 2, 3), 0.9)], axis=-1)
    wide = ids(np.broadcast_to(np.arange(8), padded.shape))
    more = call(returns.minimum, rows(padded), wide, jnp.ones(padded.shape, bool), temperature=0.1)[
        ..., 0
    ]
    summed = call(returns.suffix, rows(padded), jnp.ones(padded.shape, bool))[..., 0] - filled.sum(
        -1
    )
    close(summed, np.full((20, 2), 2.7), atol=1e-5, what="a sum grows with every filler")
    worst = filled.min(-1) < 0
    assert np.abs(np.asarray(more) - score(filled, 0.1))[worst].max() < 1e-3, "a minimum does not"


def filler(**settings):
    """Mean number of filler steps that a policy writes at the start, and after some training.

    A row is one real step of score 0.5, then at every turn either its end or a filler of score 0.9;
    a logit a turn says which.
    """
    turns, group = 4, 64
    logits, rng = np.full(turns, -1.0), np.random.default_rng(0)
    lengths = []
    for _ in range(60):
        chance = 1 / (1 + np.exp(-logits))
        more = np.cumprod(rng.random((group, turns)) < chance, axis=1)
        tokens = mask(np.concatenate([np.ones((group, 1)), more], axis=1))[None]
        at = jnp.where(tokens, jnp.arange(turns + 1), -1)
        score = jnp.where(tokens, jnp.where(at == 0, 0.5, 0.9), 0.0)
        credit = call(process.pure, score, at, tokens, **settings)[0]
        lengths.append(more.sum(1).mean())
        went_on = np.concatenate([np.ones((group, 1)), more[:, :-1]], axis=1)  # the turn came
        grad = np.where(more, credit[:, 1:], 0) * (1 - chance)  # an end earns nothing
        logits += 2.0 * (grad.sum(0) / np.maximum(went_on.sum(0), 1))
    return lengths[0], np.mean(lengths[-5:])


def test_filler_pays_under_a_sum_and_not_under_a_minimum():
    """A step that only looks good is learnt where steps are added up."""
    start, summed = filler(form="sum")
    assert start < 0.7 and summed > 3
    assert max(filler()[1], filler(baseline="step")[1]) < 0.1


def test_rows_of_a_group_that_are_alike():
    """Nothing is left of the row as a whole."""
    same = jnp.broadcast_to(SCORES[:, :1], (1, 3, 3))
    at, tokens = jnp.broadcast_to(STEPS[:, :1], (1, 3, 3)), jnp.ones((1, 3, 3), bool)
    outcome = jnp.ones((1, 3))
    close(call(process.pure, same, at, tokens, outcome)[..., 0], np.zeros((1, 3)))
    one_step = jnp.zeros((1, 3, 3), jnp.int32)  # then nothing is left of any token
    close(
        call(process.pure, same[..., :1] * tokens, one_step, tokens, outcome), np.zeros((1, 3, 3))
    )
    for settings in ({}, {"batch_norm": False}, {"granularity": "whole"}):
        got = call(process.prime, same, outcome, tokens, whiten=False, form="paper", **settings)
        close(got[..., 0], np.zeros((1, 3)), what=str(settings))


# --- PRIME --------------------------------------------------------------------------------------

Q = rows([[[0.2, -0.1, 0.3], [-0.4, 0.1, 7.0]]])
ACC = rows([[1.0, 0.0]])
PLAIN = dict(process_coef=1.0, outcome_coef=0.0, batch_norm=False, whiten=False)


def test_implicit_reward_numbers():
    ref = rows([[[-1.0, -2.0, -0.5], [-3.0, -0.1, 0.0]]])
    got = both(rewards.implicit, Q + ref, ref, ONES)["step_rewards"]
    close(got, np.where(ONES, Q, 0.0))
    close(got.sum(-1), [[0.4, -0.3]])
    loss = both(preference.implicit_bce, Q + ref, ref, ONES, ACC)
    close(loss[0, :, 0], -np.log([0.505, 1 - 0.49625]), what="p = .505000, .496250")
    close(total(loss, ONES), 0.684436)
    same = preference.implicit_bce(ref, ref, ONES, ACC)
    close(total(same, ONES), np.log(2), what="the reference itself: ln 2")
    assert not np.asarray(rewards.implicit(ref, ref, ONES)["step_rewards"]).any()
    known = both(preference.implicit_bce, Q + ref, ref, ONES, rows([[1, np.nan]]))
    assert (known[0, 1] == 0).all() and known[0, 0, 0] > 0


def test_dense_rewards_add_up():
    ref, kl = rows([[[-1.0, -2.0, -0.5], [-3.0, -0.1, 0.0]]]), 0.1 * ONES
    out = rewards.implicit(Q + ref, ref, ONES, kl)["step_rewards"]
    close(out, np.where(ONES, Q, 0) + kl, what="in any order with kl_in_reward")


def test_separation():
    """Sums 0.4 and -0.3, then -0.1 and 0.5 in another group."""
    q = jnp.concatenate([Q, rows([[[-0.1, 0, 0], [0.2, 0.3, 9]]])])
    tokens = jnp.concatenate([ONES, ONES])
    for outcome, want in (
        ([[1, 0], [0, 1]], (1.0, 1.0)),
        ([[1, 0], [1, 0]], ((1 + 0 + 1 + 0) / 4, 0.5)),
        ([[0, 0], [0, 0]], (0.5, 0.5)),
    ):
        out = call(rewards.separation, q, rows(outcome), tokens)
        close([out["metrics/steps/auc"], out["metrics/steps/auc_group"]], want, what=str(outcome))
    tied = rewards.separation(0 * q, rows([[1, 0], [0, 1]]), tokens)
    close(tied["metrics/steps/auc"], 0.5)
    part = call(rewards.separation, q, rows([[1, 0], [0, 1]]), tokens, mask([[1, 0], [1, 1]]))
    close([part["metrics/steps/auc"], part["metrics/steps/auc_group"]], [1.0, 1.0])


def test_prime_numbers():
    released = both(process.prime, Q, ACC, ONES, **PLAIN)
    want = [[0.85, 0.433333, 0.616667], [-0.566667, 0.216667, 0]]
    close(released, [want], what="suffix sums of 2 q - (m_1 + m_2)")
    paper = call(process.prime, Q, ACC, ONES, **PLAIN, form="paper")
    q, mean = np.where(ONES, Q, 0)[0], np.array([0.4 / 3, -0.3 / 2])
    own = np.where(ONES[0], q - mean[::-1, None], 0)
    close(paper, [own[:, ::-1].cumsum(1)[:, ::-1] * np.asarray(ONES[0])], what="less the other's")
    normed = call(process.prime, Q, ACC, ONES, **PLAIN | {"batch_norm": True})
    close(normed, released / 0.4, atol=1e-5, what="the largest |return| is 0.4")
    outcome = call(process.prime, Q, ACC, ONES, **PLAIN | dict(process_coef=0.0, outcome_coef=1.0))
    close(outcome, np.array([1, -1])[:, None] * np.asarray(ONES), what="RLOO of the outcome")


def test_prime_of_three_rows():
    """Means over 1, 2 and 4 tokens, leave one out; the outcome's own three too."""
    length = np.array([1, 2, 4])
    tokens = mask(np.arange(4) < length[None, :, None])
    q = np.where(tokens, [[[0.8] * 4, [0.5, -0.4, 0, 0], [0.6, 0.2, -0.9, 0.3]]], 0)[0]
    mean, outcome = q.sum(-1) / length, np.array([1, 0, 0.5])
    for form in ("paper", "released"):
        got = call(process.prime, rows(q[None]), rows([outcome]), tokens, **PLAIN, form=form)
        for i, n in enumerate(length):
            others = (mean.sum() - mean[i]) / 2
            own = q[i] - others if form == "paper" else 1.5 * q[i] - mean.sum() / 2
            close(got[0, i, :n], own[:n][::-1].cumsum()[::-1], what=form)
        only = PLAIN | dict(process_coef=0.0, outcome_coef=1.0)
        got = call(process.prime, rows(q[None]), rows([outcome]), tokens, **only, form=form)
        close(got[0, :, 0], [0.75, -0.75, 0], what="o less the mean of the other two")
    late = only | dict(gamma=0.5)
    paper, released = (
        call(process.prime, rows(q[None]), rows([outcome]), tokens, **late, form=form)[0, 1]
        for form in ("paper", "released")
    )
    close(paper, [-0.75, -0.75, 0, 0])
    close(released, [-0.375, -0.75, 0, 0], what="on the last token, and discounted from there")


def test_prime_sums_its_sources_and_whitens():
    first, second = (
        call(process.prime, Q, ACC, ONES, **PLAIN | dict(process_coef=p, outcome_coef=o))
        for p, o in ((5.0, 0.0), (0.0, 5.0))
    )
    settings = dict(batch_norm=False, whiten=False)
    summed = call(process.prime, Q, ACC, ONES, **settings)
    close(summed, first + second, atol=1e-5)
    white = call(process.prime, Q, ACC, ONES, batch_norm=False)
    live = summed[np.asarray(ONES)]
    close(white[np.asarray(ONES)], (live - live.mean()) / live.std(ddof=1), atol=1e-5)
    half = call(process.prime, Q, ACC, ONES, **PLAIN, gamma=0.5)[0, 0]
    close(half, [0.416667 + 0.5 * (-0.183333 + 0.5 * 0.616667), 0.125, 0.616667], atol=3e-6)


def test_prime_granularity():
    at = ids([[[0, 0, 1], [0, 1, -1]]])
    settings = PLAIN | dict(form="paper")
    token, step, whole = (
        call(process.prime, Q, ACC, ONES, None, at, **settings, granularity=g)
        for g in ("token", "step", "whole")
    )
    close(step[0, :, 0], token[0, :, 0], what="the sum over a row is the same")
    close(whole[0, :, 0], token[0, :, 0])
    mean = np.array([0.4 / 3, -0.3 / 2])
    close(step[0, 0], [0.1 + 0.3 - 3 * mean[1], 0.4 - 2 * mean[1], 0.3 - mean[1]])
    close(whole[0, 0], [0.4 - 3 * mean[1], 0.4 - 2 * mean[1], 0.4 - mean[1]])
    with pytest.raises(ValueError, match="needs the column step_id"):
        process.prime(Q, ACC, ONES, granularity="step")
    with pytest.raises(ValueError, match="form: got 'code', expected one of paper, released"):
        process.prime(Q, ACC, ONES, form="code")


def test_prime_rows_that_are_out():
    more = jnp.concatenate([Q, 9 * Q], axis=1)
    tokens = jnp.concatenate([ONES, ONES & False], axis=1).at[0, 2].set(True)
    live, outcome = mask([[1, 1, 0, 1]]), rows([[1, 0, 1, 1]])
    for form in ("paper", "released"):
        got = call(process.prime, more, outcome, tokens, live, form=form)
        close(got[:, :2], call(process.prime, Q, ACC, ONES, form=form), atol=1e-5, what=form)
        assert (got[:, 2:] == 0).all()
    alone = call(process.prime, Q, ACC, ONES, mask([[1, 0]]), **PLAIN)
    assert (alone == 0).all(), "no others, no advantage"
    order = call(process.prime, Q[:, ::-1], ACC[:, ::-1], ONES[:, ::-1])
    close(
        order[:, ::-1], call(process.prime, Q, ACC, ONES), atol=1e-5, what="rows in another order"
    )


def test_the_implicit_reward_is_a_soft_value():
    """Sum up to a token = beta log E_ref exp(r / beta), by counting all completions of two laws."""
    beta, rng = 0.3, np.random.default_rng(0)
    laws = []
    for _ in range(2):  # log-probs of the first symbol, and of the second given the first
        raw = [rng.normal(size=3), rng.normal(size=(3, 3))]
        laws.append([x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in raw])
    texts = np.array(list(itertools.product(range(3), repeat=2)))
    logp, ref = (np.stack([a[texts[:, 0]], b[texts[:, 0], texts[:, 1]]], -1) for a, b in laws)
    tokens = jnp.ones((1, 9, 2), bool)
    step = both(rewards.implicit, rows(logp[None]), rows(ref[None]), tokens, beta=beta)
    q = np.cumsum(step["step_rewards"], -1)[0]
    reward = q[:, -1]
    for first in range(3):
        here = texts[:, 0] == first
        soft = beta * np.log(np.sum(np.exp(ref[here, 1] + reward[here] / beta)))
        close(q[here, 0], np.full(3, soft), atol=1e-5)
        mean = np.sum(np.exp(ref[here, 1]) * reward[here])
        assert mean - 1e-6 <= soft <= reward[here].max() + 1e-6
    at = jnp.broadcast_to(jnp.arange(2), (1, 9, 2))
    by_step = process._step_sums(step["step_rewards"], at, tokens).sum(-1)
    close(by_step[0], reward, atol=1e-5, what="steps telescope to the outcome reward")


# --- a process reward model ---------------------------------------------------------------------


def test_a_score_is_that_of_the_prefix_with_the_token():
    values = rows([[[0.0, 1.0, -2.0, 9.0]]])
    got = both(rewards.value_scores, values, mask([[[1, 1, 1, 0]]]))["step_scores"]
    close(got, [[[np.tanh(0.5), np.tanh(-1), np.tanh(-1), 0]]], what="the last has its own")
    logits = np.array([0.3, -0.7])  # good, bad
    good, bad = np.exp(logits) / np.exp(logits).sum()
    one = rewards.value_scores(rows([[[1.0]]]), mask([[[1]]]))["step_scores"]
    close(one, [[[good - bad]]], what="p(good) - p(bad) of two logits that differ by 1")


def test_value_bce_numbers():
    got = both(preference.value_bce, rows([[[0, 2, -1]]]), rows([[[1, 0, np.nan]]]))
    close(got, [[[np.log(2), np.log1p(np.exp(2)), 0]]])
    of_rows = both(preference.value_bce, rows([[[0, 2], [1, 1]]]), rows([[1, np.nan]]))
    close(of_rows, [[[np.log(2), np.log1p(np.exp(-2))], [0, 0]]])


MODEL = transformer.ModelConfig(8, 1, 16, 16, num_heads=2, num_kv_heads=1, head_dim=8)


@pytest.mark.parametrize("output", ["logp", "value"])
def test_models_learn_to_tell_right_from_wrong(output):
    """Rows with a 7 are right.  Both kinds of reward model find out, from outcomes."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 7, (8, 4, 5))
    right = rng.random((8, 4)) < 0.5
    tokens[..., 1] = np.where(right, 7, tokens[..., 1])
    ones = np.ones(tokens.shape, bool)
    start = transformer.init_params(MODEL, jax.random.key(0))
    table = {
        "prompt_tokens": np.ones((8, 1), np.int32), "prompt_mask": np.ones((8, 1), bool),
        "completion_tokens": tokens, "completion_mask": ones, "loss_mask": ones,
        "temperature": np.ones((8, 4), np.float32), "row_mask": ones[..., 0],
        "origin": np.zeros((8, 4), np.int32), "verdict/x": right.astype(np.float32),
        "sampler_logp": np.zeros(tokens.shape, np.float32),
    }  # fmt: skip
    table["ref_logp"] = np.asarray(scoring.score(MODEL, start, table)["logp"])
    name, settings = ("implicit_bce", dict(beta=1.0)) if output == "logp" else ("value_bce", {})
    spec = dict(
        fn=f"preference.{name}", reads=dict(labels="verdict/x"), **settings,
        aggregate="aggregate.sequence_mean_token_mean",
    )  # fmt: skip
    model = learner.Learner(
        MODEL, (learner.make_term(spec),), optax.adam(0.01), name="model", output=output
    )
    state = model.init(scoring.value_params(start) if output == "value" else start)
    losses = []
    for i in range(30):
        state, metrics = model.update(state, None, table, model.numbers(i), (0, i))
        losses.append(metrics[f"model/loss/{name}"])
    assert losses[0] == pytest.approx(np.log(2), rel=1e-5), "at the reference, and with a new head"
    out = model.score(state["params"], {k: table[k] for k in learner.MODEL_COLUMNS})
    if output == "logp":
        dense = rewards.implicit(out, table["ref_logp"], ones)["step_rewards"]
        score = np.asarray(dense).sum(-1)
    else:
        score = np.asarray(rewards.value_scores(out, ones)["step_scores"])[..., -1]
    assert losses[-1] < 0.4 and score[right].min() > score[~right].max(), losses[-1]


# --- steps in text ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("", []),
        ("a", ["a|"]),
        ("a\n\nbc", ["a|\n\n", "bc|"]),
        ("a \n\n\n\nb\n\n", ["a| \n\n\n\n", "b|\n\n"]),
        ("\n\na\nb\n\nc", ["\n\na\nb|\n\n", "c|"]),
        ("\n\n \n\n", []),
    ],
)
def test_spans(text, want):
    found = steps.spans(text, "\n\n")
    assert [f"{text[a:said]}|{text[said:b]}" for a, said, b in found] == want
    if found:
        assert [0, *(b for *_, b in found)] == [*(a for a, *_ in found), len(text)], "all of it"


def test_empty_separator():
    with pytest.raises(ValueError, match="separator=''"):
        steps.spans("a", "")


def pieces(*parts):
    """Tokens that are pieces of bytes, as in a byte-level vocabulary."""
    return lambda tokens: b"".join(parts[t] for t in tokens).decode("utf-8", "replace")


def test_offsets_to_tokens():
    decode = pieces(b"One", b".\n", b"\nTw", b"o", b"", b"\xf0\x9f", b"\x98\x80", b"!")
    tokens = [0, 1, 2, 3, 5, 6, 7, 4]
    text = decode(tokens)
    assert text == "One.\n\nTwo\U0001f600!"
    offsets = [0, 1, 3, 4, 6, 9, 10, 11]
    want = [0, 1, 1, 2, 3, 4, 6, 7]
    assert steps.covering(decode, tokens, offsets) == want
    for offset, n in zip(offsets, want, strict=True):
        assert decode(tokens[:n]).startswith(text[:offset]), "covers the characters"
        assert n == 0 or len(decode(tokens[: n - 1]).rstrip("\ufffd")) < offset, "no token too many"


@pytest.mark.parametrize(
    ("parts", "separates", "at"),
    [
        ((b"One", b".\n", b"\nTw", b"o"), [0, 0, 0, 0], [0, 0, 0, 1]),
        ((b"One.", b"\n", b"\n", b"Two"), [0, 1, 1, 0], [0, 0, 0, 1]),
        ((b"a", b"\n\nSecond", b"\n\nc"), [0, 0, 0], [0, 0, 1]),
    ],
)
def test_a_token_that_says_something_is_no_separator(parts, separates, at):
    tokens = np.arange(len(parts))[None, None]
    table = {"completion_mask": tokens >= 0, "completion_tokens": tokens}
    batch = types.SimpleNamespace(table=table, outcomes=collections.Counter())
    tools = types.SimpleNamespace(tokenizer=types.SimpleNamespace(decode=pieces(*parts)))
    inner = dict(fn="tests.test_process:given", batch=batch)
    steps.split(None, tools, None, 0, prompts=1, group=1, inner=inner)
    assert table["separator_mask"][0, 0].astype(int).tolist() == separates
    assert table["step_id"][0, 0].tolist() == at


def given(stream, tools, state, step, *, prompts, group, batch):
    return {"policy": batch}, state


TEXTS = ("1+2=3\n=4", "\n5", "7", "a\n\n\nb", "")


def written(stream, tools, state, step, *, prompts, group):
    """A rollout whose completions are TEXTS, as far as they fit."""
    batch = tools.generate(stream.take(prompts), group=group, step=step)
    for j, text in enumerate(TEXTS):
        tokens = [*tools.tokenizer.encode(text), tools.tokenizer.eos_ids[0]][: tools.width]
        for name in ("completion_mask", "loss_mask"):
            batch.table[name][0, j] = np.arange(tools.width) < len(tokens)
        batch.table["completion_tokens"][0, j, : len(tokens)] = tokens
    return {"policy": batch}, {"steps": step}


def test_split_marks_the_steps_of_completions():
    config, loaded = toy(), load("toy")
    tools = tools_lib.Tools(
        loaded.config, loaded.tokenizer, None, config.sampling, {}, (), jax.random.key(2)
    )
    tools.params = jax.tree.map(jnp.asarray, loaded.params)
    batches, state = steps.split(
        Stream(build.load_tasks(config)[0], seed=0), tools, None, 3, prompts=1, group=5,
        separator="\n", inner=dict(fn="tests.test_process:written"),
    )  # fmt: skip
    batch = batches["policy"]
    columns.check(batch.table)
    assert state == {"steps": 3}, "that of the other rollout"
    assert batch.table["step_id"][0].tolist() == [
        [0, 0, 0, 0, 0, 0],  # cut by the budget: "1+2=3\n" is one step
        [0, 0, 0, -1, -1, -1],
        [0, 0, -1, -1, -1, -1],
        [0, 0, 0, 0, 1, 1],
        [0, -1, -1, -1, -1, -1],
    ]
    assert batch.table["separator_mask"][0].astype(int).tolist() == [
        [0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]
    assert (batch.outcomes["steps/rows"], batch.outcomes["steps/steps"]) == (5, 6)


def test_columns_of_a_rollout_in_a_rollout():
    config = toy(rollout__fn="steps.split")
    made = build.abstract_table(config)
    assert made["step_id"].shape == made["completion_tokens"].shape
    config.rollout.options = dict(inner=dict(fn="branch.branching", first=2))
    assert {"branch_at", "node_id", "separator_mask"} <= set(build.rollout_columns(config))
    config.rollout.options = dict(inner=dict(fn="branch.branching", last=2))
    with pytest.raises(ConfigError, match="unknown setting 'last'"):
        build.check(config)
    config.rollout.options = dict(separator="")
    with pytest.raises(ValueError, match="separator=''"):
        build.check(config)


def test_a_reward_model_that_is_updated_after_it_rewards(tmp_path):
    """The first batch is rewarded by the reference itself, so by its outcome alone."""
    bce = dict(fn="preference.implicit_bce", reads=dict(labels="verdict/digit"))
    config = toy(
        steps=2, export=False, eval__prompts=1, log__tensorboard=False,
        shaping=(dict(fn="steps.implicit", reads=dict(model_logp="phi")), "steps.separation"),
        advantage=(dict(fn="process.prime", whiten=False),),
        learners__phi=dict(output="logp", writes="phi", loss=(bce,)),
    )  # fmt: skip
    config.model.source = "toy:layers=1,width=16,heads=2,kv_heads=1,ff=16"
    train_lib.train(config, tmp_path)
    log = [m for m in lines(tmp_path / "metrics.jsonl") if "loss/total" in m]
    assert log[0]["phi/loss/implicit_bce"] == pytest.approx(np.log(2), abs=1e-4)
    found = lines(tmp_path / "rollouts.jsonl")
    spread = [max(np.ptp(r["advantages"]) for r in found if r["step"] == s) for s in (1, 2)]
    assert spread[0] < 1e-3 < 0.1 < spread[1], spread
    first = [r for r in found if r["step"] == 1]
    reward = rows([[r["reward"] for r in first[i : i + 4]] for i in range(0, 16, 4)])
    close([r["advantages"][0] for r in first], 5 * np.ravel(group.rloo(reward)), atol=1e-3)


def test_arms_of_the_configs():
    def arm(name, arg):
        config = runpy.run_path(str(ROOT / f"configs/{name}.py"))["get_config"](arg)
        build.check(config)
        return config

    assert dict(arm("pure", "sum").advantage[0])["form"] == "sum"
    for arg, when, coef in (
        (None, "before_credit", 5.0),
        ("after", "after_credit", 5.0),
        ("outcome", "after_credit", 0.0),
    ):
        config = arm("prime", arg)
        assert config.learners.implicit.when == when
        assert dict(config.advantage[0])["process_coef"] == coef
