"""Methods that have to agree: where one is another's special case, or a multiple of it.

Those of IGPO, THR and VERL are beside their other tests, in tests/test_scorers.py.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt.advantages import batch, gae, group, noise, tree
from rlpt.losses import aggregate, penalties, ratios, surrogates
from rlpt.rewards import combine, outcomes
from tests.numeric import both, close

RNG = np.random.default_rng(0)
REWARDS = jnp.asarray(RNG.random((3, 6)), jnp.float32)
BINARY = jnp.round(REWARDS)
ONE = jnp.ones((3, 6, 1), bool)
LOGP, OLD = (jnp.asarray(RNG.normal(-1, 0.2, (2, 3, 5)), jnp.float32) for _ in range(2))
TOKENS = jnp.asarray(np.arange(5) < RNG.integers(1, 6, (2, 3, 1)))
OF_ROWS = jnp.broadcast_to(jnp.asarray(RNG.normal(size=(2, 3, 1)), jnp.float32), (2, 3, 5))
OF_TOKENS = jnp.asarray(RNG.normal(size=(2, 3, 5)), jnp.float32)


def signs(binary):
    return 2 * np.asarray(binary) - 1


# --- losses -------------------------------------------------------------------------------------


def slope(objective, logp, tokens=TOKENS):
    """Gradient of the loss; rows weigh the same, as sequence ratios ask for."""
    weights = aggregate.sequence_mean_token_mean(tokens)
    return np.asarray(jax.jit(jax.grad(lambda x: -jnp.sum(objective(x) * weights)))(logp))


CLIPPED = (surrogates.ppo_clip, surrogates.dual_clip, surrogates.stable_reinforce)


@pytest.mark.parametrize("ratio", [ratios.token, ratios.sequence, ratios.sequence_token])
def test_on_policy_gradient_is_reinforce(ratio):
    """With any clip range: at the old policy no ratio is clipped."""
    want = slope(lambda x: surrogates.reinforce(x, OF_ROWS), OLD)
    assert np.abs(want).max() > 0.01
    for fn in CLIPPED:
        for eps in (1e-3, 0.2, 1e9):
            surrogate = functools.partial(fn, low=eps, high=eps)
            got = slope(lambda x, s=surrogate: s(ratio(x, OLD, TOKENS), OF_ROWS), OLD)
            close(got, want, atol=1e-6, what=f"{fn.__name__} {ratio.__name__} eps={eps}")
    cispo = lambda x: surrogates.cispo(ratio(x, OLD, TOKENS), x, OF_ROWS, cap_high=1.0)
    close(slope(cispo, OLD), want, atol=1e-6, what=f"CISPO {ratio.__name__}")


def test_surrogates_without_a_clip_are_importance_sampling():
    """Off the old policy too: A rho grad log pi."""
    rho = np.exp(LOGP - OLD)
    assert np.abs(rho - 1).max() > 0.3
    want = slope(lambda x: surrogates.reinforce(x, rho * OF_TOKENS), LOGP)
    for fn in (surrogates.ppo_clip, functools.partial(surrogates.dual_clip, c=1e9)):
        objective = lambda x, fn=fn: fn(x - OLD, OF_TOKENS, low=1e9, high=1e9)
        close(slope(objective, LOGP), want, atol=1e-6, what=str(fn))
    cispo = lambda x: surrogates.cispo(x - OLD, x, OF_TOKENS, cap_high=1e9)
    close(slope(cispo, LOGP), want, atol=1e-6, what="CISPO without a cap")
    own = jnp.zeros((2, 3), jnp.int32)
    rl_plus = lambda x: surrogates.rl_plus(x - OLD, x, OLD, OF_TOKENS, own)
    close(slope(rl_plus, LOGP), want, atol=1e-6, what="RL-PLUS, rows of the policy")


def test_gspo_and_its_token_form_agree():
    """In gradient, clip decisions included, where advantages are those of rows."""
    found = []
    for ratio in (ratios.sequence, ratios.sequence_token):
        objective = lambda x, ratio=ratio: surrogates.ppo_clip(
            ratio(x, OLD, TOKENS), OF_ROWS, low=0.05, high=0.05
        )
        found.append(slope(objective, LOGP))
        close(objective(LOGP), surrogates.ppo_clip(
            ratios.sequence(LOGP, OLD, TOKENS), OF_ROWS, low=0.05, high=0.05
        ), what="value")  # fmt: skip
    close(found[0], found[1], atol=1e-6)
    clipped = (found[0] == 0).all(-1)
    assert 0 < clipped.sum() < 6, f"the case must clip some rows and not all: {clipped}"


@pytest.mark.parametrize("ratio", [ratios.sequence, ratios.sequence_token])
def test_gspo_of_one_token_is_grpo(ratio):
    short, old = LOGP[..., :1], OLD[..., :1]
    ones = jnp.ones(short.shape, bool)
    close(both(ratio, short, old, ones), ratios.token(short, old, ones))
    loss = lambda fn: lambda x: surrogates.ppo_clip(fn(x, old, ones), OF_ROWS[..., :1])
    close(slope(loss(ratio), short, ones), slope(loss(ratios.token), short, ones), atol=1e-6)


def test_pacs_at_the_start_is_half_a_reinforce_step():
    """With class weights 1: -1/(2n) n/(n-1) sum_i (y_i - mean y) grad u_i, y = 2R - 1."""
    u, rewards = jnp.zeros((1, 4, 1)), jnp.asarray([[1.0, 0, 0, 0]])
    ones = jnp.ones(u.shape, bool)

    def loss(x):
        value = penalties.pacs(x, u, ones, rewards, class_weights=False)
        return jnp.sum(value * aggregate.sequence_mean_token_mean(ones))

    y = signs(rewards[0])
    close(jax.jit(jax.grad(loss))(u)[0, :, 0], -(1 / (2 * 4)) * 4 / 3 * (y - y.mean()))
    rloo = -np.asarray(group.rloo(jnp.asarray([y], jnp.float32)))[0] / (2 * 4)
    close(jax.grad(loss)(u)[0, :, 0], rloo, what="which is half of RLOO's")


# --- advantages ---------------------------------------------------------------------------------


def test_rloo_is_a_multiple_of_dr_grpo():
    close(both(group.rloo, REWARDS), 6 / 5 * both(group.dr_grpo, REWARDS))


def test_group_estimators_differ_by_what_they_divide_by():
    centred = both(group.dr_grpo, REWARDS)
    mean, std = (np.asarray(f(REWARDS, 1))[:, None] for f in (jnp.mean, jnp.std))
    close(both(group.grpo, REWARDS, ddof=0, eps=1e-9), centred / std, atol=1e-5)
    close(both(group.maxrl, REWARDS), centred / mean, atol=1e-5)


def test_backward_correction_without_noise_is_rloo():
    close(both(noise.backward, REWARDS, fp_rate=0.0, fn_rate=0.0), group.rloo(REWARDS))
    close(both(noise.control, REWARDS), group.rloo(REWARDS), what="the control, too")


def test_forward_correction_at_one_half():
    close(both(noise.forward, BINARY, fn_rate=0.5), BINARY - 0.5)


def test_w_reinforce_at_one_is_reinforce():
    close(both(group.w_reinforce, BINARY, positive=1.0), signs(BINARY))
    halves = [both(fn, BINARY)["advantages"] for fn in (group.psr, group.nsr)]
    close(sum(halves), signs(BINARY), what="as are PSR and NSR together")


def test_canon_of_both_comparisons_is_dr_grpo():
    """Halves of equal size, alpha 1, inter and intra in equal parts."""
    metric = jnp.asarray(np.random.default_rng(1).random((3, 6)), jnp.float32)
    close(both(group.canon, REWARDS, metric, mu=0.5), group.dr_grpo(REWARDS))


def test_reinforce_pp_is_grpo_of_one_big_group():
    whole = group.grpo(REWARDS.reshape(1, -1), eps=1e-9).reshape(REWARDS.shape)
    close(both(batch.reinforce_pp, REWARDS, ONE)[..., 0], whole, atol=1e-5)
    scaled = both(batch.reinforce_pp_baseline, REWARDS, ONE)[..., 0]
    centred = both(group.dr_grpo, REWARDS)
    close(scaled, centred / centred.std(ddof=1), atol=1e-5, what="with the groups' means taken off")


def test_gae_at_lambda_one_is_return_minus_value():
    values = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 5)), jnp.float32)
    rewards = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3)), jnp.float32)
    got = both(gae.gae, values, TOKENS, rewards, lam=1.0, whiten=False)
    want = jnp.where(TOKENS, rewards[..., None] - values, 0.0)
    close(got["advantages"], want), close(got["returns"], TOKENS * rewards[..., None])
    alone = gae.gae(0 * values, TOKENS, rewards, lam=1.0, whiten=False)["advantages"]
    close(alone, TOKENS * rewards[..., None], what="without a critic: the reward")


def test_tempo_is_grpo_where_nothing_parts_or_counts():
    tokens = jnp.asarray(np.random.default_rng(1).integers(0, 3, (3, 6, 5)))
    ones = jnp.ones(tokens.shape, bool)
    plain = np.asarray(group.grpo(REWARDS, ddof=0))[..., None] * np.ones(5)
    close(both(tree.tempo, REWARDS, tokens, ones, ones, td_coef=0.0), plain, atol=1e-5)
    same = jnp.broadcast_to(tokens[:, :1], tokens.shape)
    close(both(tree.tempo, REWARDS, same, ones, ones), plain, atol=1e-5, what="identical rows")
    credited = tree.tempo(REWARDS, tokens, ones, ones)
    assert np.abs(credited - plain).max() > 0.1, "else the case shows nothing"


# --- rewards ------------------------------------------------------------------------------------


def test_darling_of_distinct_answers_is_dr_grpo():
    distinct = jnp.broadcast_to(jnp.arange(6), (3, 6))
    rewards = both(outcomes.darling, REWARDS, distinct)
    close(both(group.dr_grpo, jnp.asarray(rewards)), group.dr_grpo(REWARDS))


def test_gates_that_are_open_leave_the_sum():
    verdict = {name: REWARDS * scale - 0.2 for name, scale in (("a", 1), ("b", 2), ("c", -1))}
    order = tuple(verdict)
    got = both(combine.gated_sum, verdict, order=order, thresholds=dict.fromkeys(order, -9.0))
    close(got["rewards"], combine.weighted_sum(verdict)["rewards"])
    closed = combine.gated_sum(verdict, order=order)["rewards"]
    assert np.abs(got["rewards"] - closed).max() > 0.1, "else the case shows nothing"


def test_fapo_without_flaws_is_grpo_of_signs():
    rewards = both(outcomes.fapo, BINARY, 0 * BINARY)["rewards"]
    close(both(group.grpo, jnp.asarray(rewards)), group.grpo(jnp.asarray(signs(BINARY))))
