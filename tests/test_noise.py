"""Noisy verifiers: the channel, its corrections exactly, strata, rate estimates, patterns."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt.advantages import group
from rlpt.advantages import noise as credit
from rlpt.rewards import appeals, noise, strata
from rlpt.tasks.base import Prompt
from rlpt.verifiers import reasoning
from rlpt.verifiers.base import Trajectory
from tests.numeric import both, close

FP, FN = 0.1, 0.2
C = 1 - FP - FN
RATES = {"fp_rate": FP, "fn_rate": FN}
OBSERVED = jnp.asarray([[1.0, 0, 0, 1, 0, 0, 0, 1]])


def softmax(z):
    return np.exp(z) / np.exp(z).sum()


# a bandit of six answers, two right; S[a] is the score function of answer a
PI = softmax(np.array([0.3, -0.5, 1.0, 0.0, -1.2, 0.4]))
RIGHT = np.array([0, 1, 0, 1, 0, 0.0])
S = np.eye(6) - PI
CLEAN = (PI * RIGHT) @ S


def levels(fn, *columns, **settings):
    """The coefficients that fn gives to an observed 1 and an observed 0, from two singletons."""
    got = np.asarray(fn(jnp.asarray([[1.0], [0.0]]), *columns, **settings))
    return got[0, 0], got[1, 0]


def expected(one, zero, fp=FP, fn=FN, pi=PI, right=RIGHT):
    """E[coefficient * score] over answers and channel, exactly."""
    mean = np.where(right == 1, (1 - fn) * one + fn * zero, fp * one + (1 - fp) * zero)
    return (pi * mean) @ (np.eye(len(pi)) - pi)


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


# --- corrections ---------------------------------------------------------------------------------


def test_numbers():
    got = both(noise.backward, OBSERVED[:, :2], **RATES)
    close(got, [[1.285714, -0.142857]])
    close(both(noise.forward, OBSERVED[:, :2], fn_rate=FN), [[0.2, -0.8]])
    a, b = 1.02041, 0.61224
    close(both(credit.backward, OBSERVED, **RATES), [[a, -b, -b, a, -b, -b, -b, a]], atol=1e-5)
    x, y = 0.71429, 0.42857
    close(both(credit.control, OBSERVED), [[x, -y, -y, x, -y, -y, -y, x]], atol=1e-5)
    w = [0.2, -0.8, -0.8, 0.2, -0.8, -0.8, -0.8, 0.2]
    close(both(credit.forward, OBSERVED, fn_rate=FN), [w])
    none = jnp.zeros((1, 4))
    assert (both(credit.backward, none, **RATES) == 0).all(), "an all-zero group: 0"
    close(both(credit.forward, none, fn_rate=FN), [[-0.8] * 4], what="pushed down all the same")


def test_settings():
    close(credit.backward(OBSERVED, **RATES, scale=2.0), credit.backward(OBSERVED, **RATES) / 2)
    halved = both(credit.forward, OBSERVED, **RATES, scale=2.0, divide_by_channel=True)
    close(halved, credit.forward(OBSERVED, fn_rate=FN) / (2 * C))
    close(noise.backward(OBSERVED, fp_rate=0.45, fn_rate=0.5)[0, :2], [5.5, -4.5], what="eps_c")
    close(both(noise.backward, OBSERVED, eps_c=0.1), OBSERVED, what="no noise: identity")
    columns = [jnp.full(OBSERVED.shape, x) for x in (FP, FN)]
    close(both(noise.backward, OBSERVED, *columns), noise.backward(OBSERVED, **RATES))
    close(both(credit.backward, OBSERVED, None, *columns), credit.backward(OBSERVED, **RATES))
    over = credit.backward(OBSERVED, None, *columns, fp_rate=0.4, fn_rate=0.4)
    close(over, credit.backward(OBSERVED, **RATES), what="estimates win over the config")
    alone = credit.backward(OBSERVED[:, :1], **RATES)
    close(alone, [[1.285714]], what="a single row has no baseline")
    loo = group.rloo(noise.backward(OBSERVED, **RATES))
    close(loo, credit.backward(OBSERVED, **RATES), what="the reward form with RLOO is the recipe")


@pytest.mark.parametrize("fn", [noise.backward, credit.backward, credit.forward])
def test_rates_that_are_no_channel_are_refused(fn):
    for fp, bad in ((0.5, 0.5), (-0.1, 0.2), (0.1, 1.1)):
        with pytest.raises(ValueError, match="a sum below 1.*swap its verdicts"):
            fn(OBSERVED, fp_rate=fp, fn_rate=bad)


def test_standardising_undoes_a_correction():
    """Why these estimators do not divide by the group's std."""
    plain = group.grpo(OBSERVED, ddof=0)
    for corrected in (noise.backward(OBSERVED, **RATES), noise.forward(OBSERVED, fn_rate=FN)):
        close(group.grpo(corrected, ddof=0), plain, atol=8e-6)
    product = OBSERVED * noise.forward(OBSERVED, fn_rate=FN)
    close(group.grpo(product, ddof=0), plain, atol=2e-5)


def test_expected_gradients_are_exact():
    backward = expected(*levels(credit.backward, **RATES))
    close(backward, CLEAN, atol=1e-7, what="E[r^ G] = grad J")
    forward = expected(*levels(credit.forward, fn_rate=FN))
    close(forward, C * CLEAN, atol=1e-7, what="E[w G] = c grad J")
    naive = expected(*levels(credit.control))
    close(naive, C * CLEAN, atol=1e-7, what="uncorrected: parallel too, for one channel")


def test_variances():
    def trace(one, zero):
        p_one = np.where(RIGHT == 1, 1 - FN, FP)
        second = (PI * (p_one * one**2 + (1 - p_one) * zero**2) * (S**2).sum(1)).sum()
        return second - (expected(one, zero) ** 2).sum()

    one, zero = levels(credit.forward, **RATES, divide_by_channel=True)
    close(trace(one, zero), 0.70030, atol=1e-5, what="forward/c")
    close(trace(*levels(credit.backward, **RATES)), 0.36318, atol=1e-5, what="backward")
    one, zero = levels(credit.control, scale=C)
    close(trace(one, zero), 0.44053, atol=1e-5, what="control/c")
    clean = (PI * RIGHT * (S**2).sum(1)).sum() - (CLEAN**2).sum()
    close(clean, 0.19114, atol=1e-5)
    q = PI @ np.where(RIGHT == 1, 1 - FN, FP)
    assert q < (1 - (FN - FP)) / 2, "the side on which forward has the larger variance"


def test_group_recipes_by_enumeration():
    """All groups of three answers and their observations: the scale of the summed update."""
    answers = np.array(list(itertools.product(range(6), repeat=3)))
    seen = np.array(list(itertools.product((0.0, 1.0), repeat=3)))
    p_one = np.where(RIGHT == 1, 1 - FN, FP)[answers][:, None]
    chance = np.prod(PI[answers], axis=1)[:, None] * np.prod(
        np.where(seen == 1, p_one, 1 - p_one), axis=2
    )  # [216, 8]

    def mean_update(fn, **settings):
        coefficient = np.asarray(fn(jnp.asarray(seen), **settings))  # [8, 3]
        return np.einsum("ab,bk,akd->d", chance, coefficient, S[answers]) / 3

    centred = lambda r: group.dr_grpo(noise.backward(r, **RATES))
    for fn, settings, scale in [
        (credit.backward, RATES, 1.0),
        (centred, {}, 2 / 3),
        (credit.forward, {"fn_rate": FN}, C),
        (lambda r: group.dr_grpo(noise.forward(r, fn_rate=FN)), {}, C * 2 / 3),
        (credit.control, {}, C),
        (lambda r: group.grpo(r, ddof=0), {}, 0.989947),
        (lambda r: r * (r.sum(1, keepdims=True) < 2), {}, 0.393129),
    ]:
        update = mean_update(fn, **settings)
        close(cosine(update, CLEAN), 1.0, atol=1e-6)
        close(update @ CLEAN / (CLEAN @ CLEAN), scale, atol=1e-5)


def test_rates_that_differ_between_prompts():
    """Where noise turns the summed update, and which recipe turns it back."""
    pis = [PI, softmax(np.array([1.2, -0.3, 0.1, 0.5, -0.7, 0.0]))]
    rights = [RIGHT, np.array([1, 0, 0, 0, 1, 0.0])]
    channels = [(0.02, 0.45), (0.30, 0.05)]

    def stacked(fn, **settings):
        parts = []
        for pi, right, (fp, fn_) in zip(pis, rights, channels, strict=True):
            columns = [jnp.full((2, 1), x) for x in (fp, fn_)]
            known = () if fn is credit.control else (None, *columns)
            parts.append(expected(*levels(fn, *known, **settings), fp, fn_, pi, right))
        return np.concatenate(parts)

    clean = np.concatenate([expected(1, 0, 0, 0, p, r) for p, r in zip(pis, rights, strict=True)])
    close(cosine(stacked(credit.control), clean), 0.996232, what="uncorrected")
    close(cosine(stacked(credit.backward), clean), 1.0)
    close(cosine(stacked(credit.forward), clean), 0.996232, what="forward, fixed scale")
    close(cosine(stacked(credit.forward, divide_by_channel=True), clean), 1.0)
    hack = np.array([0, 0, 0.6, 0, 0, 0])
    seen = np.where(RIGHT == 1, 1 - FN, FP + hack * (1 - FP))
    close(cosine((PI * seen) @ S, CLEAN), 0.33460, what="noise that depends on the response")


def test_process_rewards():
    steps = jnp.asarray([[[9.0, 1, 9, 0, 9]]])
    ids, mask = jnp.asarray([[[0, 0, -1, 1, -1]]]), jnp.asarray([[[1, 1, 0, 1, 0]]], bool)
    got = both(credit.backward_steps, steps, ids, mask, **RATES, scale=2.0)
    good, bad = 1.285714 / 2, -0.142857 / 2
    close(got, [[[good + bad, good + bad, 0, bad, 0]]])
    columns = [jnp.full((1, 1), x) for x in (FP, FN)]
    again = both(credit.backward_steps, steps, ids, mask, None, *columns, scale=2.0)
    close(again, got)


def test_audit():
    corrected = credit.backward(OBSERVED, **RATES)
    control = credit.control(OBSERVED)
    got = both(credit.audit, corrected, control)
    close(got["metrics/audit_cosine"], 1, what="one channel: only a scale")
    difference = np.abs(np.asarray(corrected - control))
    close(got["metrics/audit_mean"], difference.mean())
    close(got["metrics/audit_max"], difference.max())
    same = credit.audit(control, control)
    assert same["metrics/audit_max"] == 0, "a no-op shows as 0"
    mask = jnp.arange(3) < jnp.asarray([1, 2, 3, 1, 1, 1, 1, 1])[None, :, None]
    tokens = jnp.broadcast_to(corrected[..., None], (1, 8, 3))
    got = both(credit.audit, tokens, control, mask)
    weights = np.array([1, 2, 3, 1, 1, 1, 1, 1])
    close(got["metrics/audit_mean"], (difference[0] * weights).sum() / weights.sum())
    assert both(credit.audit, 0 * control, 0 * control)["metrics/audit_cosine"] == 1
    with pytest.raises(ValueError, match="got no loss_mask"):
        credit.audit(tokens, control)


# --- injection ----------------------------------------------------------------------------------

N = 20000
KEY = jax.random.key(0)


def sample(p_right=0.35, prompts=2500, seed=0):
    right = np.random.default_rng(seed).random((prompts, N // prompts)) < p_right
    shape = right.shape
    ids = jnp.arange(prompts), jnp.arange(N).reshape(shape)
    return jnp.asarray(right, jnp.float32), *ids


def check_rates(observed, clean, fp, fn):
    """Empirical rates within four binomial standard deviations."""
    observed, clean = np.asarray(observed), np.asarray(clean)
    for of, rate, level in (("fp", fp, 0), ("fn", fn, 1)):
        flips = observed[clean == level] != level
        bound = 4 * np.sqrt(rate * (1 - rate) / len(flips))
        assert abs(flips.mean() - rate) <= bound, f"{of}: {flips.mean()}, wanted {rate} +- {bound}"


def test_injected_rates():
    clean, prompt, row = sample()
    got = both(noise.inject, clean, KEY, prompt, row, **RATES)
    check_rates(got["rewards"], clean, FP, FN)
    assert (got["clean_rewards"] == np.asarray(clean)).all()
    wanted = C * float(clean.mean()) + FP
    assert abs(got["rewards"].mean() - wanted) < 4 * 0.5 / np.sqrt(N)
    close(got["metrics/injected_fp"], got["rewards"][np.asarray(clean) == 0].mean())
    corrected = np.asarray(noise.backward(jnp.asarray(got["rewards"]), **RATES))
    for level, rate in ((1, FN), (0, FP)):
        part = corrected[np.asarray(clean) == level]
        bound = 4 * np.sqrt(rate * (1 - rate)) / C / np.sqrt(len(part))
        assert abs(part.mean() - level) < bound, "backward rewards are unbiased given the truth"
        close(part.var(), rate * (1 - rate) / C**2, atol=0.03)
    coefficient = np.asarray(noise.forward(jnp.asarray(got["rewards"]), fn_rate=FN))
    close(coefficient[np.asarray(clean) == 1].mean(), 0, atol=0.02)
    close(coefficient[np.asarray(clean) == 0].mean(), -C, atol=0.02)


def test_injection_belongs_to_the_row():
    clean, prompt, row = sample(prompts=5000)
    base = np.asarray(noise.inject(clean, KEY, prompt, row, **RATES)["rewards"])
    order = np.random.default_rng(1).permutation(5000)
    moved = noise.inject(clean[order], KEY, prompt[order], row[order], **RATES)["rewards"]
    assert (np.asarray(moved) == base[order]).all(), "shuffled prompts"
    lanes = np.array([2, 0, 3, 1])
    moved = noise.inject(clean[:, lanes], KEY, prompt, row[:, lanes], **RATES)["rewards"]
    assert (np.asarray(moved) == base[:, lanes]).all(), "shuffled rows"
    part = noise.inject(clean[7:9], KEY, prompt[7:9], row[7:9], **RATES)["rewards"]
    assert (np.asarray(part) == base[7:9]).all(), "a part of the batch"
    other = noise.inject(clean, jax.random.key(1), prompt, row, **RATES)["rewards"]
    assert (np.asarray(other) != base).any(), "another key, other coins"
    none = noise.inject(clean, KEY, prompt, row, fp_rate=0.0, fn_rate=0.0)["rewards"]
    assert (np.asarray(none) == np.asarray(clean)).all(), "rates 0: identity"


def test_group_coins():
    clean, prompt, row = sample(prompts=5000)
    got = both(noise.inject, clean, KEY, prompt, row, fp_rate=0.4, fn_rate=0.4, unit="group")
    flipped = got["rewards"] != np.asarray(clean)
    assert (flipped.all(1) | ~flipped.any(1)).all(), "a group flips as a whole"
    assert abs(flipped[:, 0].mean() - 0.4) < 4 * np.sqrt(0.24 / 5000)
    with pytest.raises(ValueError, match="'sample' or 'group'"):
        noise.inject(clean, KEY, prompt, row, **RATES, unit="batch")


def test_hashed_coins():
    clean, prompt, _ = sample(prompts=2500)
    rng = np.random.default_rng(0)
    tokens = jnp.asarray(rng.integers(0, 50000, (2500, 8, 5)), jnp.int32)
    mask = jnp.broadcast_to(jnp.arange(5) < 4, tokens.shape)
    fn = lambda *a, **kw: np.asarray(noise.inject_hashed(*a, **RATES, **kw)["rewards"])
    base = both(noise.inject_hashed, clean, prompt, tokens, mask, **RATES)["rewards"]
    check_rates(base, clean, FP, FN)
    wide = jnp.pad(tokens, ((0, 0), (0, 0), (0, 2)), constant_values=7)
    padded = fn(clean, prompt, wide, jnp.pad(mask, ((0, 0), (0, 0), (0, 2))))
    assert (padded == base).all(), "padding does not matter"
    twins = jnp.broadcast_to(tokens[:, :1], tokens.shape)
    flips = fn(jnp.zeros_like(clean), prompt, twins, mask)
    assert (flips == flips[:, :1]).all(), "one response, one label"
    assert abs(flips[:, 0].mean() - FP) < 4 * np.sqrt(0.09 / 2500), "and prompts apart"
    for what, changed in [
        ("seed", fn(clean, prompt, tokens, mask, seed=1)),
        ("prompt", fn(clean, prompt + 1, tokens, mask)),
        ("order of tokens", fn(clean, prompt, tokens[..., jnp.array([1, 0, 2, 3, 4])], mask)),
        ("length", fn(clean, prompt, tokens, jnp.arange(5) < 3 + 0 * tokens)),
    ]:
        share = (changed != base).mean()
        assert 0.1 < share < 0.4, f"{what} must draw anew: {share}"


def test_rates_by_stratum():
    clean, prompt, row = sample()
    kind = row % 2
    rates = {"fp_rate": (0.2, 0.2), "fn_rate": (0.05, 0.45)}  # canonical and risky formats
    got = both(noise.inject, clean, KEY, prompt, row, kind, **rates)["rewards"]
    for s, fn in ((0, 0.05), (1, 0.45)):
        here = np.asarray(kind) == s
        check_rates(got[here], np.asarray(clean)[here], 0.2, fn)
    known = both(noise.known_rates, kind, fp_rate=0.2, fn_rate=(0.05, 0.45))
    close(known["fp_rates"], np.full(kind.shape, 0.2))
    close(known["fn_rates"], np.where(np.asarray(kind) == 0, 0.05, 0.45))
    back = both(noise.backward, jnp.asarray(got), known["fp_rates"], known["fn_rates"])
    assert abs(back[np.asarray(clean) == 1].mean() - 1) < 0.05, "unbiased with the rates by stratum"
    with pytest.raises(ValueError, match="the column strata"):
        noise.inject(clean, KEY, prompt, row, **rates)
    with pytest.raises(ValueError, match="below 1"):
        noise.known_rates(kind, fp_rate=(0.2, 0.6), fn_rate=(0.05, 0.45))


def test_rows_without_a_stratum():
    kind = jnp.asarray([[-1, 0, 1, 2]])
    got = noise.known_rates(kind, fp_rate=(0.1, 0.3), fn_rate=0.2)
    close(got["fp_rates"], [[0, 0.1, 0.3, np.nan]], what="no stratum: 0; beyond the tuple: NaN")
    close(got["fn_rates"], np.full((1, 4), 0.2), what="one number is for all rows")
    ids = jnp.arange(1), jnp.arange(4)[None]
    flipped = noise.inject(
        jnp.zeros((1, 4)), KEY, *ids, kind, fp_rate=(0.99999, 0.0, 0.0), fn_rate=0.0
    )
    close(flipped["rewards"], [[0, 1, 0, 0]], what="rows of no stratum keep their reward")


def test_strata():
    rows = jnp.asarray([[1, 1, 1, 0], [1, 1, 1, 1]], bool)
    form = jnp.asarray([[0.0, 1.0, np.nan, 1.0], [0.5, 2.0, 1.0, -1.0]])
    got = both(strata.by_edges, form, rows)["strata"]
    assert got.tolist() == [[0, 1, 2, -1], [1, 1, 1, 0]], "0, 1, not judged; an empty row: -1"
    got = both(strata.by_edges, form, rows, edges=(0.0, 0.75))["strata"]
    assert got.tolist() == [[1, 2, 3, -1], [1, 2, 2, 0]]
    judged = strata.by_edges(form, rows, edges=())["strata"]
    assert judged.tolist() == [[0, 0, 1, -1], [0, 0, 0, 0]], "judged by this verifier or not"
    stops = strata.by_edges(jnp.asarray([[False, True, True, True]] * 2), rows)["strata"]
    assert stops.tolist() == [[0, 1, 1, -1], [0, 1, 1, 1]], "bool columns"
    crossed = both(strata.by_edges, form, rows, stops)["strata"]
    assert crossed.tolist() == [[0, 4, 5, -1], [1, 4, 4, 3]], "task times format"
    prompts = both(strata.by_id, jnp.asarray([21, 6]), rows, count=8)["strata"]
    assert prompts.tolist() == [[5, 5, 5, -1], [6] * 4]
    answers = both(strata.by_id, jnp.asarray([[0, 1, -1, 2]] * 2), rows, stops, count=4)["strata"]
    assert answers.tolist() == [[0, 5, -1, -1], [0, 5, -1, 6]], "no answer: no stratum"
    with pytest.raises(ValueError, match="expected increasing"):
        strata.by_edges(form, rows, edges=(1.0, 0.5))
    with pytest.raises(ValueError, match="at least 1"):
        strata.by_id(jnp.arange(2), rows, count=0)


def test_rewards_must_be_binary():
    rewards, ids = jnp.asarray([[0.0, 0.5, 1.0]]), (jnp.arange(1), jnp.arange(3)[None])
    with pytest.raises(ValueError, match="got a reward of 0.5, expected 0 or 1"):
        noise.inject(rewards, KEY, *ids, **RATES)
    traced = jax.jit(lambda r: noise.inject(r, KEY, *ids, fp_rate=0.0, fn_rate=0.0)["rewards"])
    got = np.asarray(traced(rewards))
    assert np.isnan(got[0, 1]) and (got[0, [0, 2]] == [0, 1]).all(), "inside jit: NaN, not a guess"
    few = noise.inject(jnp.ones((1, 3)), KEY, *ids, jnp.asarray([[0, 1, 2]]), fp_rate=(0.0, 0.0),
                       fn_rate=(0.0, 0.0))["rewards"]  # fmt: skip
    close(few, [[1, 1, np.nan]], what="a stratum that has no rate is not taken for a clean one")
    rows = jnp.asarray([[1, 0, 1]], bool)
    left = noise.inject(rewards, KEY, *ids, None, rows, fp_rate=0.99, fn_rate=0.0)["rewards"]
    close(left, [[1, 0.5, 1]], what="a dead row is left alone")


# --- estimates ----------------------------------------------------------------------------------


def counts(positives, negatives, won, lost):
    """One group: rule-positives, then negatives of which some were appealed."""
    rewards = np.r_[np.ones(positives), np.zeros(negatives)]
    appeal = np.full(positives + negatives, np.nan)
    appeal[positives : positives + won] = 1
    appeal[positives + won : positives + won + lost] = 0
    return jnp.asarray(rewards, jnp.float32)[None], jnp.asarray(appeal, jnp.float32)[None]


def test_appeals_by_hand():
    batch = counts(40, 500, 1, 49)
    init, update = appeals.pooled
    for average in ("counts", "rates"):
        got, state = both(update, *batch, init(), average=average)
        close(got["metrics/fn_rate"], 0.2, what="the first estimate is taken as it is")
        close(got["fn_rates"], np.full((1, 540), 0.2))
    got, _ = both(update, *counts(90, 100, 30, 20), state, decay=0.5)
    missed = (0.5 * 1 + 30) * (0.5 * 500 + 100) / (0.5 * 50 + 50)
    close(got["metrics/fn_rate"], missed / (missed + 0.5 * 40 + 90), what="decayed counts")
    warm = {**init(), "fn_rate": jnp.float32(0.15), "updates": jnp.int32(3)}
    got, state = both(update, *batch, warm, average="rates")
    close(got["metrics/fn_rate"], 0.155, what="moving average")
    assert state["updates"] == 4 and got["metrics/appeals_won"] == 1
    for silent in (counts(0, 30, 0, 5), counts(9, 30, 0, 0)):
        nothing, state = both(update, *silent, warm, average="rates")
        close(nothing["metrics/fn_rate"], 0.15, what="no evidence: the rate stays")
        assert state["updates"] == 3
    with pytest.raises(ValueError, match="got 'mean', expected 'counts' or 'rates'"):
        update(*batch, init(), average="mean")
    dead, _ = update(*batch, warm, jnp.zeros((1, 540), bool))
    close(dead["metrics/fn_rate"], 0.15, what="dead rows are no evidence")
    high, _ = both(update, *counts(1, 500, 50, 0), init())
    close(high["metrics/fn_rate"], 0.9, what="ceiling")
    overwritten, _ = update(*batch, init(), overwrite=True)
    assert overwritten["rewards"].sum() == 41, "the won appeal counts as correct"
    assert "rewards" not in got, "by default an appeal does not change the reward"


@pytest.mark.parametrize("accuracy, rate", [(0.97, 0.05), (0.995, 0.02)])
def test_pooled_counts_have_no_bias_where_few_are_heard(accuracy, rate):
    """64 rows, a tenth of the negatives heard: no batch of what is heard chooses the batches."""
    rng = np.random.default_rng(0)
    right = rng.random((4000, 64)) < accuracy
    rewards = right & (rng.random(right.shape) >= rate)
    heard = ~rewards & (rng.random(right.shape) < 0.1)
    appeal = np.where(heard, right, np.nan).astype(np.float32)
    init, update = appeals.pooled

    def step(state, batch):
        r, a = batch
        out, state = update(r[None], a[None], state, decay=1.0)
        return state, out["metrics/fn_rate"]

    batches = jnp.asarray(rewards, jnp.float32), jnp.asarray(appeal)
    _, found = jax.lax.scan(step, jax.tree.map(jnp.asarray, init()), batches)
    true = (right & ~rewards).sum() / right.sum()
    assert float(found[-1]) == pytest.approx(true, rel=0.06), "0.057 and 0.013 for 0.05 and 0.02"


def test_appeals_debias_an_imperfect_second_verifier():
    positives, won, heard = 100, 20, 60
    got, _ = both(appeals.pooled.update, *counts(positives, 600, won, heard - won),
                  appeals.pooled.init(), true_positive=0.9, false_positive=0.05)  # fmt: skip
    missed = (won - 0.05 * heard) / 0.85 * 600 / heard
    close(got["metrics/fn_rate"], missed / (missed + positives), atol=1e-5)
    none, _ = appeals.pooled.update(*counts(100, 600, 1, 59), appeals.pooled.init(),
                                   true_positive=0.9, false_positive=0.05)  # fmt: skip
    close(none["metrics/fn_rate"], 0.0, what="fewer wins than false ones: 0, not negative")


def simulate(
    steps=600, rows=1024, tpr=1.0, fpr=0.0, q=0.1, fp=0.0, fn=0.2, p=0.4, silent=0.0,
    positives=False,
):  # fmt: skip
    """Rule verdicts and appeals of many steps, [steps, 1, rows] each."""
    rng = np.random.default_rng(1)
    rewards, second = np.zeros((2, steps, 1, rows), np.float32)
    for t in range(steps):
        right = rng.random(rows) < p
        seen = np.where(right, rng.random(rows) >= fn, rng.random(rows) < fp)
        heard = (positives | ~seen) & (rng.random(rows) < q) & (rng.random(rows) >= silent)
        won = heard & (rng.random(rows) < np.where(right, tpr, fpr))
        rewards[t, 0], second[t, 0] = seen, np.where(heard, won, np.nan)
    return jnp.asarray(rewards), jnp.asarray(second)


def fn_rates(method, batches, **settings):
    """The estimate after each batch."""

    @jax.jit
    def run(batches):
        more = () if method is appeals.pooled else (jnp.arange(batches[0].shape[-1])[None] % 16,)
        step = lambda state, batch: method.update(*batch, *more, state, **settings)[::-1]
        return jax.lax.scan(step, method.init(), batches)[1]["metrics/fn_rate"]

    return np.asarray(run(batches))


WEAK = dict(tpr=0.838, fpr=0.336)  # a judge, as measured (methods, core C6)


@pytest.mark.parametrize("method", [appeals.pooled, appeals.stratified, appeals.stratified_both])
@pytest.mark.parametrize(
    ("world", "want"),
    [
        (dict(fn=0.2), 0.2),
        (dict(fn=0.2, p=0.1), 0.2),
        (dict(fn=0.0, **WEAK), 0.0),
        (dict(fn=0.4, **WEAK), 0.4),
        (dict(fn=0.2, silent=0.5), 0.2),
    ],
)
def test_appeals_at_the_size_of_a_batch(method, world, want):
    """64 rows: the mean of the rates of batches is 0.15 for the first, 0.09 for the second."""
    batches = simulate(3000, 64, **world, positives=method is appeals.stratified_both)
    belief = dict(true_positive=0.838, false_positive=0.336) if "tpr" in world else {}
    found = fn_rates(method, batches, decay=0.98, **belief)[100:].mean()
    assert abs(found - want) < (0.03 if "tpr" in world else 0.02), found


@pytest.mark.parametrize(
    ("world", "belief", "want", "sd"),
    [
        ({}, {}, 0.1999, 0.0078),
        ({"tpr": 0.9, "fpr": 0.05}, {}, 0.2429, 0.0109),
        ({"tpr": 0.9, "fpr": 0.05}, {"true_positive": 0.9, "false_positive": 0.05}, 0.2008, 0.0143),
        ({"fp": 0.1}, {}, 0.1745, 0.0073),
        ({"q": 1.0}, {}, 0.2027, 0.0042),
    ],
)  # fmt: skip
def test_appeals_in_the_long_run(world, belief, want, sd):
    """Mean of the moving average; its sd is that of one value, 1 in 19 of which are independent."""
    rates = fn_rates(appeals.pooled, simulate(**world), average="rates", **belief)[-400:]
    assert abs(rates.mean() - want) < 4 * sd * np.sqrt(19 / 400), (rates.mean(), want)
    assert sd / 1.5 < rates.std() < 1.5 * sd, (rates.std(), sd)


def test_stratified_appeals():
    rewards, appeal = counts(40, 500, 1, 49)
    kind = jnp.where(jnp.arange(540) < 20, 0, 1)[None]
    init, update = appeals.stratified
    got, state = both(update, rewards, appeal, kind, init(), shrink=10.0)
    # stratum 0: 20 positives, no appeal; stratum 1: 20 positives, one won appeal, 10 missed
    pooled = 10 / 50
    close(got["metrics/fn_rate"], pooled)
    want = [(0 + 10 * pooled) / (20 + 10), (10 + 10 * pooled) / (30 + 10)]
    close(got["fn_rates"][0, [0, -1]], want, what="each shrunk to the pooled rate")
    outside = both(update, rewards, appeal, kind * 0 - 1, init())[0]["fn_rates"]
    close(outside, np.zeros((1, 540)), what="rows of no stratum: pooled over none")
    _, state = update(rewards, appeal, kind, state, decay=0.5)
    close(state["positives"][:2], [30, 30]), close(state["won"][:2], [0, 1.5], atol=1e-4)
    rewards, appeal = counts(0, 30, 0, 3)
    idle, _ = update(rewards, appeal, kind[:, :30], init())
    assert np.isfinite(np.asarray(idle["fn_rates"])).all(), "no evidence at all"


def test_a_stratum_that_was_not_heard_says_nothing():
    rewards = jnp.asarray([[1.0] * 100 + [0.0] * 50 + [1.0] * 300 + [0.0] * 200])
    kind = jnp.asarray([[0] * 150 + [1] * 500])
    appeal = jnp.full((1, 650), jnp.nan).at[0, 100:150].set(jnp.arange(50) < 25)
    got, state = appeals.stratified.update(rewards, appeal, kind, appeals.stratified.init())
    close(got["metrics/fn_rate"], 25 / 125, 1e-6)
    close(got["fn_rates"][0, [0, -1]], [0.2, 0.2], 1e-6)
    own, _ = appeals.stratified.update(rewards, appeal, kind, appeals.stratified.init(), shrink=0.0)
    close(own["fn_rates"][0, [0, -1]], [0.2, 0.2], 1e-6, "no rows of its own, and no 0")
    appeal = appeal.at[0, -1].set(1.0)  # later one is: its positives count from the beginning
    got, _ = appeals.stratified.update(rewards, appeal, kind, state, decay=1.0)
    close(state["positives"][1], 300)
    assert float(got["fn_rates"][0, -1]) > 0.3


def test_a_rate_falls_with_the_appeals_that_are_won():
    """Also where the second verifier's errors leave less than no rows."""
    true = dict(true_positive=0.9, false_positive=0.1)
    found = []
    for won in (12, 10, 8, 7, 5):
        rewards = jnp.asarray([[1.0] * 15 + [0.0] * 1000 + [1.0] * 700 + [0.0] * 300])
        appeal = jnp.full((1, 2015), jnp.nan).at[0, 15:115].set(jnp.arange(100) < won)
        appeal = appeal.at[0, 1715:].set(1.0)
        kind = jnp.asarray([[0] * 1015 + [1] * 1000])
        got, _ = both(appeals.stratified.update, rewards, appeal, kind, appeals.stratified.init(),
                      **true)  # fmt: skip
        found.append(float(got["fn_rates"][0, 0]))
    assert found == sorted(found, reverse=True) and found[0] > 0.1 and found[-1] == 0, found


@pytest.mark.parametrize("method", [appeals.pooled, appeals.stratified, appeals.stratified_both])
def test_without_appeals_a_rate_stays(method):
    rewards, appeal = counts(40, 500, 1, 49)
    kind = (jnp.zeros(rewards.shape, jnp.int32),) * (method is not appeals.pooled)
    if method is appeals.stratified_both:
        appeal = jnp.where(rewards > 0.5, 1.0, appeal)
    got, state = method.update(rewards, appeal, *kind, method.init())
    first = float(got["metrics/fn_rate"])
    assert first > 0.02
    update = jax.jit(method.update)
    for _ in range(900):
        got, state = update(rewards, jnp.full_like(appeal, jnp.nan), *kind, state)
    assert float(got["metrics/fn_rate"]) == pytest.approx(first, rel=1e-3)
    np.testing.assert_allclose(got["fn_rates"], first, rtol=2e-3)


@pytest.mark.parametrize("method", [appeals.pooled, appeals.stratified, appeals.stratified_both])
def test_a_second_verifier_that_says_the_opposite_is_refused(method):
    kinds = (jnp.zeros((1, 4), jnp.int32),) * (method is not appeals.pooled)
    for true_positive, false_positive in ((0.3, 0.8), (0.5, 0.5)):
        rates = dict(true_positive=true_positive, false_positive=false_positive)
        with pytest.raises(ValueError, match="accept right replies more often than wrong ones"):
            method.update(jnp.zeros((1, 4)), jnp.ones((1, 4)), *kinds, method.init(), **rates)


def test_stratified_rates_are_found():
    right = np.random.default_rng(0).random((1, N)) < 0.5
    kind = np.arange(N)[None] % 2
    fn = np.where(kind == 0, 0.05, 0.45)
    rng = np.random.default_rng(1)
    seen = right & (rng.random((1, N)) >= fn)
    appeal = np.where(~seen & (rng.random((1, N)) < 0.5), right, np.nan)
    init, update = appeals.stratified
    columns = [jnp.asarray(x, jnp.float32) for x in (seen, appeal)]
    got, _ = update(*columns, jnp.asarray(kind), init())
    close(got["fn_rates"][0, :2], [0.05, 0.45], atol=0.03)
    corrected = noise.backward(columns[0], None, got["fn_rates"])
    for s in (0, 1):
        share = np.asarray(corrected)[kind == s].mean() - right[kind == s].mean()
        assert abs(share) < 0.03, "the corrected rewards have the true mean in each stratum"


def test_who_appeals():
    clean, prompt, row = sample()
    second = jnp.where(row % 7 == 0, jnp.nan, 1.0)
    got = both(appeals.lodge, clean, second, KEY, prompt, row, probability=0.3)
    heard = ~np.isnan(got["appeal"])
    negative = (np.asarray(clean) == 0) & ~np.isnan(np.asarray(second))
    assert not (heard & ~negative).any(), "only negatives that have a second verdict"
    n = negative.sum()
    assert abs(heard[negative].mean() - 0.3) < 4 * np.sqrt(0.21 / n), heard[negative].mean()
    assert (got["appeal"][heard] == 1).all() and got["metrics/appeals_asked"] == heard.sum()
    order = np.random.default_rng(0).permutation(len(prompt))
    again = appeals.lodge(
        clean[order], second[order], KEY, prompt[order], row[order], probability=0.3
    )
    np.testing.assert_array_equal(again["appeal"], got["appeal"][order], "whatever the layout")
    either = appeals.lodge(clean, second, KEY, prompt, row, probability=0.3, positives=True)
    heard = ~np.isnan(np.asarray(either["appeal"]))
    assert heard[np.asarray(clean) == 1].any(), "positives too"
    few = appeals.lodge(clean, second, KEY, prompt, row, row < 8, probability=1.0)
    assert not np.isfinite(np.asarray(few["appeal"])[1:]).any(), "empty rows are not asked"
    with pytest.raises(ValueError, match=r"expected one in \(0, 1\]"):
        appeals.lodge(clean, second, KEY, prompt, row, probability=0.0)


def test_both_rates_by_hand():
    # stratum 0: 10 right of which 2 missed, 5 wrong of which 1 passes; stratum 1: nothing
    right = np.r_[np.ones(10), np.zeros(5)]
    seen = np.r_[np.ones(8), np.zeros(2), np.zeros(4), np.ones(1)]
    columns = [jnp.asarray(x, jnp.float32)[None] for x in (seen, right)]
    kind = jnp.zeros((1, 15), jnp.int32)
    init, update = appeals.stratified_both
    got, state = both(update, *columns, kind, init(), shrink=10.0)
    close(got["fn_rates"], np.full((1, 15), 0.2), what="pooled and own rate are the same")
    close(got["fp_rates"], np.full((1, 15), 0.2))
    close(state["heard"][:, 0], [6, 9]), close(state["won"][:, 0], [2, 8])
    kind = jnp.asarray([[0] * 12 + [1] * 3])  # 1: three wrong rows, one of which passes
    got, _ = update(*columns, kind, init(), shrink=10.0)
    close(got["fp_rates"][0, [0, -1]], [2 / 12, 3 / 13], what="0 of 2 and 1 of 3, shrunk to 1/5")
    close(got["fn_rates"][0, -1], 0.2, what="no right row: the pooled rate")
    more, _ = update(*columns, kind, init(), shrink=10.0, shown=2)
    expected = {"fp_rate_0": 2 / 12, "fp_rate_1": 3 / 13, "fn_rate_0": 0.2, "fn_rate_1": 0.2}
    new = {k.removeprefix("metrics/"): float(v) for k, v in more.items() if k not in got}
    assert new == pytest.approx(expected)
    one, _ = appeals.stratified.update(*columns, kind, appeals.stratified.init(), shown=1)
    assert one["metrics/fn_rate_0"] == one["fn_rates"][0, 0] and "metrics/fn_rate_1" not in one
    with pytest.raises(ValueError, match="got 65, expected 0 to 64"):
        update(*columns, kind, init(), shown=65)
    _, state = update(*columns, kind, state, decay=0.5)
    close(state["heard"][:, :2], [[3 + 4, 2], [4.5 + 8, 1]], what="a decayed sum")
    silent = jnp.full((1, 15), jnp.nan)
    idle, _ = update(columns[0], silent, kind, init())
    close(idle["fn_rates"], np.zeros((1, 15)), what="no evidence: no correction")
    negatives = jnp.where(columns[0] > 0.5, jnp.nan, columns[1])
    half, _ = update(columns[0], negatives, kind, init())
    close(half["fn_rates"], np.zeros((1, 15)), what="no positive was heard: not a rate of 1")


def test_both_rates_with_an_imperfect_second_verifier():
    rng = np.random.default_rng(0)
    right, kind = rng.random((1, N)) < 0.4, np.arange(N)[None] % 2
    fp, fn = np.where(kind == 0, 0.05, 0.3), np.where(kind == 0, 0.45, 0.1)
    seen = np.where(right, rng.random((1, N)) >= fn, rng.random((1, N)) < fp)
    second = np.where(right, rng.random((1, N)) < 0.9, rng.random((1, N)) < 0.05)
    second = np.where(rng.random((1, N)) < 0.5, second, np.nan)
    columns = [jnp.asarray(x, jnp.float32) for x in (seen, second)]
    believed = {"true_positive": 0.9, "false_positive": 0.05}
    got, _ = appeals.stratified_both.update(
        *columns, jnp.asarray(kind), appeals.stratified_both.init(), **believed
    )
    # sd of each rate below 0.015 with some 2000 rows heard for it
    close(got["fp_rates"][0, :2], [0.05, 0.3], atol=0.05)
    close(got["fn_rates"][0, :2], [0.45, 0.1], atol=0.05)
    naive, _ = appeals.stratified_both.update(
        *columns, jnp.asarray(kind), appeals.stratified_both.init()
    )
    assert abs(naive["fn_rates"][0, 1] - 0.1) > 0.03, "taken for perfect, it biases the estimate"


# --- reasoning patterns -------------------------------------------------------------------------


def reasons(text, **settings):
    return reasoning.patterns(Trajectory(text), Prompt("p", (), "1"), **settings)


def test_pattern_reward_numbers():
    twelve = " ".join(reasoning.PHRASES[:12])
    assert reasons(twelve.upper()).score == pytest.approx(0.6), "12 of 20, in any case"
    words = (twelve.split() + [str(i) for i in range(38)])[:38]
    half = " ".join(words + words[:21])  # 2 of 40 20-grams are there twice
    assert reasons(half).score == pytest.approx(0.55), "less the repetition, 0.05"
    assert reasons(" ".join(reasoning.PHRASES)).score == 1, "no more than 1"
    assert reasons("thus thus thus").score == pytest.approx(1 / 20), "distinct phrases count"
    assert reasons("42").score == 0
    assert reasons(f"{twelve} user: and then?").score == 0, "a turn played for the user costs 1"
    assert reasons("", ngram=1).score == 0
    assert {reasons("42").outcome, reasons(twelve).outcome} == {"correct"}, "never wrong"
    assert len(set(reasoning.PHRASES)) == len(reasoning.PHRASES) == 40
    assert all(p == p.lower() for p in reasoning.PHRASES)
    for bad in ({"full_count": 0}, {"ngram": 0}, {"turn": ""}):
        with pytest.raises(ValueError, match="expected both numbers >= 1"):
            reasons("x", **bad)


def test_repetition():
    assert reasoning.repetition("a b a b a", 2) == 0.5, "of ab ba ab ba both kinds are repeated"
    assert reasoning.repetition("a b c d", 2) == 0 == reasoning.repetition("a", 2)
    # 80 words, of which the last 21 are those of the beginning: 2 of 61 20-grams twice
    words = [str(i) for i in range(59)]
    text = " ".join(words + words[:21])
    assert reasoning.repetition(text, 20) == pytest.approx(2 / 61)
    said = " ".join([*reasoning.PHRASES[:8], text])
    found = round(20 * reasons(said, ngram=99).score)
    repeated = reasoning.repetition(said, 20)
    assert repeated > 0 and reasons(said).score == pytest.approx(found / 20 - repeated)


def test_calibration_numbers():
    scores = jnp.asarray([[0.3, 0.7, 0.45]])
    got = both(noise.calibrate, scores, jnp.full((1, 3), 0.55))
    close(got, [[0.355, 0.7, 0.505]])
    close(both(noise.calibrate, scores, jnp.ones((1, 3)), alpha=0.9), [[1, 0.7, 1]])
    got = both(noise.pattern_when_wrong, jnp.asarray([[0.0, 1.0]]), jnp.asarray([[0.55, 0.2]]))
    close(got, [[0.55, 1]])
