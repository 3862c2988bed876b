"""Coefficients that follow the run, and columns of answers."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt import chain, config
from rlpt.advantages import exploration
from rlpt.losses import penalties
from rlpt.rewards import answers, controllers, outcomes, shaping
from tests.numeric import both, close

NAN = np.nan


def bools(*x):
    return jnp.asarray([x], bool)


def run(transform, batches, **settings):
    """What a transform writes for each batch in turn, jitted with its numbers traced."""
    numbers = {k: v for k, v in settings.items() if isinstance(v, float)}
    static = {k: v for k, v in settings.items() if k not in numbers}
    step = jax.jit(lambda c, s, n: transform.update(**c, state=s, **static, **n))
    state, out = transform.init(), []
    for columns in batches:
        new, state = step(columns, state, numbers)
        out.append(jax.tree.map(np.asarray, new))
    return out, state


# ---- adaptive KL


def kl_batch(*rows, mask=None):
    """Rows of k1 per token: old_logp over a reference of 0; NaN where the mask is False."""
    old = jnp.asarray([rows], jnp.float32)
    mask = jnp.ones(old.shape, bool) if mask is None else jnp.asarray([mask], bool)
    return {
        "old_logp": jnp.where(mask, old, NAN),
        "ref_logp": jnp.where(mask, 0.0, NAN),
        "loss_mask": mask,
    }


SETTINGS = {"coef": 0.1, "target": 0.5, "horizon": 10.0}


def test_kl_coefficient_follows_the_formula():
    batches = [kl_batch([0.55, 0.55], [0.55, 0.55]), kl_batch([2.0, 2.0], [2.0, 2.0])]
    batches += [kl_batch([-1.0, 0.0], [0.0, 0.0]), kl_batch([0.5, 0.5], [0.5, 0.5])]
    out, state = run(controllers.adaptive_kl, batches, **SETTINGS)
    # relative errors 0.1, 3 (bounded to 0.2), -1.5 (to -0.2), 0; times 2 rows / 10
    factors = np.cumprod([1, 1.02, 1.04, 0.96])
    close([o["kl_coef"][0] for o in out], 0.1 * np.stack([factors] * 2, 1), what="before the batch")
    close([o["metrics/adaptive_kl/coef"] for o in out], 0.1 * factors)
    close([o["metrics/adaptive_kl/kl"] for o in out], [0.55, 2, -0.25, 0.5])
    close(state["factor"], factors[-1], what="at its target it stays")


def test_kl_is_of_trained_tokens_by_token_or_by_row():
    mask = ((1, 1, 1, 0), (1, 0, 0, 0), (0, 0, 0, 0))
    batch = kl_batch([0.2, 0.4, 0.6, 9], [1, 9, 9, 9], [9, 9, 9, 9], mask=mask)
    for unit, kl in (("token", (0.4 + 1) / 2), ("row", (1.2 + 1) / 2)):
        out, state = run(controllers.adaptive_kl, [batch], unit=unit, **SETTINGS)
        close(out[0]["metrics/adaptive_kl/kl"], kl, what=unit)
        close(state["factor"], 1 + 0.2 * 2 / 10, what="two rows train")
        close(out[0]["kl_coef"], [[0.1, 0.1, 0.1]])
    batch |= {"row_mask": bools(0, 1, 1)}
    out, state = run(controllers.adaptive_kl, [batch], **SETTINGS)
    close(out[0]["metrics/adaptive_kl/kl"], 1.0)
    close(state["factor"], 1 + 0.2 * 1 / 10)
    batch |= {"row_mask": bools(0, 0, 0)}
    out, state = run(controllers.adaptive_kl, [batch], **SETTINGS)
    assert state["factor"] == 1, "nothing was seen, nothing changes"
    with pytest.raises(ValueError, match="'step', expected 'token' or 'row'"):
        run(controllers.adaptive_kl, [batch], unit="step")


def test_kl_settles_where_it_is_wanted():
    """A policy whose KL falls with the coefficient, as 0.02 / beta, is brought to the target."""
    update = jax.jit(
        lambda c, s: controllers.adaptive_kl.update(
            **c, state=s, coef=0.1, target=0.5, horizon=10.0
        )
    )
    state, beta = controllers.adaptive_kl.init(), 0.1
    for _ in range(150):
        out, state = update(kl_batch(*[[0.02 / beta] * 2] * 5), state)
        beta = float(out["kl_coef"][0, 0])
    assert out["metrics/adaptive_kl/kl"] == pytest.approx(0.5, rel=0.02)


def test_kl_in_reward_with_a_coefficient_per_row():
    old = jnp.asarray([[[-1.0, -2.0, NAN], [0.5, 0.0, 0.0]]])
    ref = jnp.asarray([[[-1.5, -1.0, 3.0], [0.0, 0.0, 0.0]]])
    mask = jnp.asarray([[[1, 1, 0], [1, 0, 0]]], bool)
    coef = jnp.asarray([[0.1, 2.0]])
    got = both(controllers.kl_in_reward, old, ref, mask, coef)["step_rewards"]
    close(got, [[[-0.05, 0.1, 0], [-1, 0, 0]]])
    same = controllers.kl_in_reward(old, ref, mask, jnp.full((1, 2), 0.3))["step_rewards"]
    close(same, shaping.kl_in_reward(old, ref, mask, coef=0.3)["step_rewards"])
    got = both(controllers.kl_in_reward, old, ref, mask, coef, jnp.ones((1, 2, 3)))
    close(got["step_rewards"], [[[0.95, 1.1, 1], [0, 1, 1]]], what="added to what there is")


def test_scaled_penalties():
    logp, ref = jnp.asarray([[[-1.0, -2.0], [-0.5, -0.1]]]), jnp.asarray([[[-1.5, -1.0], [-1, -1]]])
    coef = jnp.asarray([[0.5, 0.0]])
    got = both(penalties.scaled_k3, logp, ref, coef)
    close(got, coef[..., None] * penalties.k3(logp, ref))
    assert (got[0, 1] == 0).all()
    close(both(penalties.scaled_entropy_bonus, -logp, coef), [[[-0.5, -1.0], [0, 0]]])
    one = jax.grad(lambda x: penalties.scaled_k3(x, ref, jnp.full((1, 2), 0.3)).sum())(logp)
    close(one, 0.3 * jax.grad(lambda x: penalties.k3(x, ref).sum())(logp))


# ---- adaptive entropy


def entropy_batch(*rows, mask=None):
    entropy = jnp.asarray([rows], jnp.float32)
    mask = jnp.ones(entropy.shape, bool) if mask is None else jnp.asarray([mask], bool)
    return {"policy_entropy": entropy, "loss_mask": mask}


def test_entropy_coefficient_rises_only_below_its_target():
    levels = (0.1, 0.1, 0.3, 0.2, 0.1)
    out, state = run(
        controllers.adaptive_entropy, [entropy_batch([h, h]) for h in levels], target=0.2, coef=0.01
    )
    close([o["entropy_coef"][0, 0] for o in out], [0.01, 0.015, 0, 0.015, 0.02])
    close([o["metrics/adaptive_entropy/entropy"] for o in out], levels)
    close(state["change"], 0.015)


def test_entropy_coefficient_stays_in_its_bounds():
    low = [entropy_batch([0.1]) for _ in range(4)]
    high = [entropy_batch([0.9]) for _ in range(4)]
    settings = {"target": 0.2, "coef": 0.01, "delta": 0.02, "low": 0.005, "high": 0.04}
    out, _ = run(controllers.adaptive_entropy, low + high + low, **settings)
    got = [float(o["entropy_coef"][0, 0]) for o in out]
    close(got, [0.01, 0.03, 0.04, 0.04, 0, 0, 0, 0, 0.005, 0.025, 0.04, 0.04])


def test_entropy_is_of_trained_tokens():
    batch = entropy_batch([0.2, 0.4, NAN], [0.9, NAN, NAN], mask=((1, 1, 0), (1, 0, 0)))
    out, _ = run(controllers.adaptive_entropy, [batch], target=0.5, coef=0.1)
    close(out[0]["metrics/adaptive_entropy/entropy"], 0.5, what="tokens weigh alike")
    close(out[0]["entropy_coef"], [[0.1, 0.1]], what="at the target it is on")
    batch |= {"row_mask": bools(1, 0)}
    out, _ = run(controllers.adaptive_entropy, [batch], target=0.5, coef=0.1)
    close(out[0]["metrics/adaptive_entropy/entropy"], 0.3)
    batch |= {"row_mask": bools(0, 0)}
    out, state = run(controllers.adaptive_entropy, [batch], target=0.5, coef=0.1)
    assert (out[0]["entropy_coef"] == 0).all() and state["change"] == 0, "nothing was seen"


# ---- RECAP


def recap_batches(*losses):
    """Two rewards or more a batch, whose means leave these losses; rows differ around the mean."""
    spread = np.array([[0.25, -0.25]])
    return [
        {"verdict": {n: jnp.asarray(1 - x + spread) for n, x in zip("abc", row, strict=False)}}
        for row in losses
    ]


@pytest.mark.parametrize(
    ("temperature", "want"),
    [(5.0, [1.006644, 0.986711, 1.006644]), (0.5, [1.064309, 0.871382, 1.064309])],
)
def test_recap_numbers(temperature, want):
    """Convergence 1, 0.6, 0.9 and instability 0, 0.3, 0.1, in windows of two batches."""
    mean, std = np.array([1, 0.6, 0.9]), np.array([0, 0.3, 0.1]) * np.array([2, 1.6, 1.9])
    losses = [np.ones(3), np.ones(3), mean + std, mean - std]
    settings = {"window": 2, "temperature": temperature}
    out, _ = run(controllers.recap, recap_batches(*losses), **settings)
    weights = [[o[f"metrics/recap/{n}"] for n in "abc"] for o in out]
    close(weights, [[1, 1, 1]] * 3 + [want], what="alike until two windows are full")
    close(weights[-1], np.array(want), atol=1e-6)
    verdict = np.stack([recap_batches(*losses)[-1]["verdict"][n] for n in "abc"])
    close(out[-1]["rewards"], np.einsum("k,kpg->pg", want, verdict) / 3, atol=1e-5)
    # the released code halves both, which is the paper's with twice the temperature
    halved = {**settings, "convergence": 0.5, "instability": 0.5}
    got, _ = run(controllers.recap, recap_batches(*losses), **halved)
    twice, _ = run(controllers.recap, recap_batches(*losses), window=2, temperature=2 * temperature)
    for n in "abc":
        close(got[-1][f"metrics/recap/{n}"], twice[-1][f"metrics/recap/{n}"])


def test_recap_favours_what_does_not_get_better():
    steady, better = [1.0] * 8, [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]
    batches = recap_batches(*zip(steady, better, strict=True))
    out, _ = run(controllers.recap, batches, window=4, temperature=0.5)
    assert out[-1]["metrics/recap/a"] > 1.1 > 0.9 > out[-1]["metrics/recap/b"]
    mean = out[-1]["metrics/recap/a"] + out[-1]["metrics/recap/b"]
    assert mean == pytest.approx(2), "the weights sum to their number"


def test_recap_of_one_slip_behind_a_perfect_window():
    """A division by a loss of 0 gave the slip all of the weight."""
    batches = [{"verdict": {"a": jnp.ones((8, 8)), "b": jnp.ones((8, 8)) * 0.5}}] * 6
    slip = {"verdict": batches[0]["verdict"] | {"a": jnp.ones((8, 8)).at[0, 0].set(0)}}
    out, _ = run(controllers.recap, [*batches, slip], window=3, temperature=0.5)
    assert out[-1]["metrics/recap/b"] > 0.5, out[-1]


def test_recap_without_verdicts():
    """NaN is not in a mean, adds nothing, and a reward that no row has is not seen."""
    both_ = {"verdict": {"a": jnp.asarray([[1, 0.5, NAN]]), "b": jnp.asarray([[NAN, 0.5, 0.5]])}}
    only_a = {"verdict": {"a": jnp.asarray([[1, 0.5, 1]]), "b": jnp.full((1, 3), NAN)}}
    for batch in (both_, only_a):
        batch["row_mask"] = bools(1, 1, 0)
    out, state = run(controllers.recap, [both_, only_a, only_a, both_], window=1)
    close(out[0]["rewards"][0, :2], [0.5, 0.5])
    assert state["count"][:3].tolist() == [4, 2, 0]
    close(state["history"][-2:, :2], [[0.25, 0.5], [0.25, 0.5]])
    assert np.isfinite(state["history"]).all()
    close([o["metrics/recap/a"] for o in out[:3]], [1, 1, 1], what="b was seen once")
    out, _ = run(controllers.recap, [both_] * 2, window=1, names=("a",))
    assert {k for k in out[-1] if k.startswith("metrics/")} == {"metrics/recap/a"}
    close(out[-1]["rewards"][0, :2], [1, 0.5], what="one reward is itself")


def test_recap_settings_are_checked():
    batch = recap_batches([1, 1])[0]
    many = {"verdict": {f"v{i}": jnp.ones((1, 2)) for i in range(17)}}
    for bad, columns, message in (
        ({"names": ("z",)}, batch, r"got \['z'\], expected 1 to 16 of \['a', 'b'\]"),
        ({}, many, "expected 1 to 16"),
        ({"window": 0}, batch, "got 0, expected 1..32"),
        ({"window": 33}, batch, "got 33, expected 1..32"),
    ):
        with pytest.raises(ValueError, match=message):
            controllers.recap.update(**columns, state=controllers.recap.init(), **bad)


# ---- answers


def completions(*rows):
    """One group; 0 is padding."""
    tokens = jnp.asarray([rows], jnp.int32)
    return jnp.asarray([7], jnp.int32), tokens, tokens > 0


def test_equal_completions_are_one_answer():
    prompt, tokens, mask = completions([3, 4], [5, 0], [3, 4], [3, 0], [5, 0], [0, 0], [3, 4])
    padding = jnp.where(mask, tokens, jnp.arange(7)[None, :, None] + 50)  # rubbish does not matter
    rows = bools(1, 1, 1, 1, 1, 1, 0)
    got = both(answers.of_completions, prompt, padding, mask, rows)
    assert got["answer_id"].tolist() == [[0, 1, 0, 3, 1, -1, -1]]
    keys = got["answer_key"][0]
    assert (keys[[5, 6]] == -1).all() and (keys[:5] >= 0).all() and (keys[:5] < 2**24).all()
    assert keys[0] == keys[2] and keys[1] == keys[4] and len(set(keys[:5])) == 3
    other = answers.of_completions(prompt + 1, padding, mask, rows)["answer_key"]
    assert not np.isin(other[0, :5], keys).any(), "the same answer to another question"
    dead_first = answers.of_completions(prompt, padding, mask, bools(0, 1, 1, 1, 1, 1, 1))
    assert dead_first["answer_id"].tolist() == [[-1, 1, 2, 3, 1, -1, 2]], "a dead row leads nobody"


def test_answers_feed_diversity():
    prompt, tokens, mask = completions([3], [3], [4], [5])
    found = answers.of_completions(prompt, tokens, mask)
    rewards = outcomes.darling(jnp.asarray([[1.0, 1, 1, 0]]), found["answer_id"])
    close(rewards, [[2 / 3, 2 / 3, 1, 0]])


def test_visits_count_over_the_run():
    keys = ([11, 11, 12, 13, -1, 14], [11, 12, 15, 15, -1, 14])
    batches = [
        {"answer_key": jnp.asarray([k], jnp.int32), "row_mask": bools(1, 1, 1, 1, 1, 0)}
        for k in keys
    ]
    out, state = run(answers.visits, batches)
    assert [o["answer_visits"][0].tolist() for o in out] == [[2, 2, 1, 1, 0, 0], [3, 2, 2, 2, 0, 0]]
    close([o["metrics/answers/new"] for o in out], [1, 0.5])
    assert int(state["counts"].sum()) == 8
    bonus = exploration.historical(
        jnp.zeros((1, 6)), batches[1]["answer_key"], out[1]["answer_visits"],
        batches[1]["row_mask"], coef=1.0, baseline="none",
    )  # fmt: skip
    close(bonus, [[3**-0.5, 2**-0.5, 2**-0.5, 2**-0.5, 0, 0]])


# ---- in a config


def test_chain_carries_their_state():
    c = types.SimpleNamespace(
        verifiers=(dict(name="a"), dict(name="b")),
        shaping=(
            dict(fn="controllers.recap", window=1, temperature=1.0),
            dict(fn="answers.of_completions"),
            "answers.visits",
            dict(fn="controllers.adaptive_kl", target=0.5, coef=0.1, horizon=10.0),
            dict(fn="controllers.kl_in_reward"),
        ),
        advantage=(dict(fn="batch.reinforce_pp"),),
    )
    made = chain.build(c)
    prompt, tokens, mask = completions([3, 4], [5, 0], [3, 4])
    table = {
        "prompt_id": prompt, "completion_tokens": tokens, "loss_mask": mask,
        "completion_mask": mask, "row_mask": bools(1, 1, 1),
        "verdict/a": jnp.asarray([[1.0, 0, 0]]), "verdict/b": jnp.asarray([[0.0, 1, NAN]]),
        "old_logp": jnp.full(tokens.shape, 1.0), "ref_logp": jnp.zeros(tokens.shape),
    }  # fmt: skip
    call = jax.jit(lambda t, s, n: made(t, s, n, jax.random.key(0), jnp.int32(0)))
    state, betas = made.init(), []
    for visits in (2, 4):
        out, state = call(table, state, made.numbers(0))
        betas.append(float(out["metrics/adaptive_kl/coef"]))
        assert out["answer_visits"].tolist() == [[visits, visits // 2, visits]]
        close(out["step_rewards"], np.where(mask, -betas[-1], 0.0))
        assert np.isfinite(out["advantages"]).all()
    close(betas, [0.1, 0.1 * (1 + 0.2 * 3 / 10)])
    assert {"metrics/recap/a", "metrics/recap/b"} <= set(out)


def test_a_wrong_setting_is_named_at_once():
    with pytest.raises(config.ConfigError, match="'targets'. Did you mean 'target'"):
        config.resolve("rewards", "controllers.adaptive_kl", targets=1.0)
