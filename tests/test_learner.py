"""The update: layouts cannot change the gradient, options do what they say."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt import config, generate, learner, optim, scoring
from rlpt.config import ConfigError
from rlpt.models import lora, transformer

P, G, L, T, V = 8, 4, 6, 7, 50
CFG = transformer.ModelConfig(V, 2, 32, 48, num_heads=4, num_kv_heads=2, head_dim=8)
POLICY = dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.28))


@functools.cache
def params():
    out = transformer.init_params(CFG, jax.random.key(0))
    return jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(1), x.shape), out)


@functools.cache
def rollout():
    rng = np.random.default_rng(0)
    mask = np.arange(L) >= rng.integers(0, L - 1, P)[:, None]
    tokens = rng.integers(0, V, (P, L)) * mask
    ids = np.zeros((P, G, 4), int)
    ids[..., 0], ids[..., 3] = np.arange(P)[:, None], np.arange(G)
    out = generate.generate(
        CFG,
        params(),
        tokens,
        mask,
        jax.random.key(3),
        ids,
        width=T,
        stop=range(5),
        law=generate.make_law(),
    )
    out = jax.device_get(out)
    rows = np.ones((P, G), bool)
    rows[0, 1] = False
    return {
        "prompt_tokens": tokens,
        "prompt_mask": mask,
        "completion_tokens": out["completion_tokens"],
        "completion_mask": out["completion_mask"],
        "loss_mask": out["completion_mask"],
        "sampler_logp": out["sampler_logp"],
        "temperature": np.ones((P, G), np.float32),
        "origin": np.zeros((P, G), np.int32),
        "row_mask": rows,
        "train_mask": np.ones((P, G), bool),
        "advantages": (rng.normal(size=(P, G, 1)) * rows[..., None] * np.ones(T)).astype(
            np.float32
        ),
    }


_LEARNERS = {}


def make(**kw):
    """Learners by their settings, so that equal ones share a compilation."""
    key = repr(sorted(kw.items()))
    if key not in _LEARNERS:
        _LEARNERS[key] = _make(**kw)
    return _LEARNERS[key]


def _make(loss=(POLICY,), lr=0.1, **kw):
    # plain SGD: the step is the gradient
    opt, _ = optim.make_optimizer(dict(name="sgd", lr=lr, max_grad_norm=None))
    return learner.Learner(CFG, tuple(learner.make_term(t) for t in loss), opt, **kw)


def run(table=None, frozen=None, start=None, seed=(0, 0), step=0, **kw):
    lr = make(**kw)
    state = lr.init(jax.tree.map(jnp.copy, params() if start is None else start))
    state, metrics = lr.update(state, frozen, dict(table or rollout()), lr.numbers(step), seed)
    return state["params"], metrics


def close(a, b, rtol=1e-5):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=rtol * max(float(jnp.abs(x).max()), 1e-3))


def moved(a):
    return max(
        float(jnp.abs(x - y).max())
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(params()), strict=True)
    )


AGGREGATES = (
    "aggregate.token_mean",
    "aggregate.sequence_mean_token_mean",
    "aggregate.sequence_mean_token_sum",
    dict(fn="aggregate.constant_length", length=T),
)


SOME = [pytest.param(a, marks=[pytest.mark.slow] * (0 < i < 3)) for i, a in enumerate(AGGREGATES)]


@pytest.mark.parametrize("aggregate", SOME, ids=str)
def test_micro_batches_cannot_change_the_gradient(aggregate):
    loss = (dict(POLICY, aggregate=aggregate),)
    whole, m1 = run(loss=loss)
    parts, m2 = run(loss=loss, micro_blocks=1)
    assert moved(whole) > 1e-4
    close(whole, parts, 1e-6)
    for k in m1:
        assert m1[k] == pytest.approx(m2[k], rel=1e-4, abs=1e-6), k


def test_accumulation_is_not_the_mean_of_micro_batch_means():
    """The trap: the mean of per-micro-batch token means is another gradient."""
    table = rollout()
    whole, _ = run(table)
    deltas = []
    for i in range(P):
        one, _ = run({k: v[i : i + 1] for k, v in table.items()})
        deltas.append(jax.tree.map(jnp.subtract, one, params()))
    mean = jax.tree.map(lambda p, *d: p + sum(d) / P, params(), *deltas)
    with pytest.raises(AssertionError):
        close(whole, mean, 1e-4)


def test_gradient_is_reinforce_on_policy():
    table = rollout()

    def objective(p):
        logp = scoring.outputs(CFG, p, table)["logp"]
        mask = table["loss_mask"] & table["row_mask"][..., None]
        return -jnp.sum(jnp.where(mask, logp * table["advantages"], 0)) / mask.sum()

    want = jax.tree.map(lambda p, g: p - 0.1 * g, params(), jax.grad(objective)(params()))
    close(run()[0], want)


def test_blocks_without_advantage_are_skipped_exactly():
    table = dict(rollout())
    table["advantages"] = table["advantages"] * (np.arange(P) % 3 == 1)[:, None, None]
    full, m1 = run(table, micro_blocks=1, skip_zero_advantage=False)
    skipped, m2 = run(table, micro_blocks=1)
    close(full, skipped, 1e-6)
    assert m2["policy/live_blocks"] == 3 and m1["policy/live_blocks"] == P
    # a KL term does not read advantages: nothing may be skipped
    kl = (POLICY, dict(fn="penalties.k3", coef=0.1))
    table["ref_logp"] = table["sampler_logp"] - 0.3 * table["completion_mask"]
    assert run(table, loss=kl, micro_blocks=1)[1]["policy/live_blocks"] == P


def test_a_micro_batch_that_is_partly_busy_is_computed():
    table = dict(rollout())
    table["advantages"] = table["advantages"] * (np.arange(P) % 3 == 1)[:, None, None]  # 3 of 8
    full, _ = run(table, skip_zero_advantage=False)
    assert moved(full) > 1e-4
    for size in (2, 4):
        close(full, run(table, micro_blocks=size)[0], 1e-6)


def test_minibatches_alone_have_a_ratio_to_the_old_policy():
    assert make(minibatches=2).needs_old_logp and not make().needs_old_logp
    table = dict(rollout(), old_logp=rollout()["sampler_logp"])
    _, m = run(table, minibatches=2, lr=1.0)
    assert m["policy/kl_old"] != 0 and abs(m["policy/ratio"] - 1) > 1e-5


def test_kl_term_has_its_coefficient_and_gradient():
    table = dict(rollout())
    table["ref_logp"] = table["sampler_logp"] - 0.3 * table["completion_mask"]
    plain, _ = run(table)
    zero, _ = run(table, loss=(POLICY, dict(fn="penalties.k3", coef=0.0)))
    some, m = run(table, loss=(POLICY, dict(fn="penalties.k3", coef=0.5)))
    close(plain, zero)
    assert moved(jax.tree.map(lambda a, b, p: p + a - b, some, plain, params())) > 1e-4
    assert m["loss/k3"] == pytest.approx(np.exp(-0.3) - 1 + 0.3, rel=1e-3)
    assert m["policy/kl_ref"] == pytest.approx(0.3, rel=1e-3)


@pytest.mark.parametrize(
    ("settings", "want"),
    [
        (dict(schedule="linear", steps=4), [0, 0.25, 0.5, 0.75, 1, 1]),
        (dict(schedule="linear", steps=2, delay=2), [0, 0, 0, 0.5, 1, 1]),
        (dict(schedule="cosine", steps=2), [0, 0.5, 1, 1, 1, 1]),
        (dict(schedule="step", steps=3), [0, 0, 0, 1, 1, 1]),
        (dict(schedule="linear", steps=4, restarts=1), [0, 0.5, 0, 0.5, 1, 1]),
        (dict(schedule="cosine", steps=5, restarts=4), [0, 0, 0, 0, 0, 1]),
    ],
)
def test_schedules_by_hand(settings, want):
    number = config.schedule(dict(init=2.0, end=4.0, **settings))
    assert [number(step) for step in range(6)] == pytest.approx([2 + 2 * x for x in want])


def test_schedules_say_what_they_accept():
    with pytest.raises(ConfigError, match=r"schedule='line'.*expected.*'linear'.*restarts"):
        config.schedule(dict(schedule="line", init=0, end=1, steps=2), "loss coef")


def test_coefficient_schedule_follows_the_step_without_recompiling():
    ramp = dict(schedule="linear", init=0.0, end=1.0, steps=10)
    lr = make(loss=(POLICY, dict(fn="penalties.entropy_bonus", coef=ramp)))
    sizes = []
    for step in (0, 5, 10):
        state = lr.init(jax.tree.map(jnp.copy, params()))
        _, m = lr.update(state, None, rollout(), lr.numbers(step), (0, 0))
        policy, total, entropy = m["loss/policy"], m["loss/total"], m["loss/entropy_bonus"]
        sizes.append((total - policy) / entropy)
    np.testing.assert_allclose(sizes, [0, 0.5, 1], atol=1e-5)
    assert lr.step._cache_size() == 1


def test_epochs_and_minibatches():
    table = dict(rollout())
    table["old_logp"] = table["sampler_logp"]
    one, _ = run(table, minibatches=2, seed=(0, 0))
    other, _ = run(table, minibatches=2, seed=(0, 1))
    again, _ = run(table, minibatches=2, seed=(0, 0))
    assert all(
        (x == y).all() for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(again), strict=True)
    )
    with pytest.raises(AssertionError):
        close(one, other, 1e-6)  # the seed decides the minibatches
    two, m = run(table, epochs=2)
    by_hand = run(table, old_logp="sampler", start=run(table, old_logp="sampler")[0])[0]
    close(two, by_hand, 1e-6)
    assert abs(m["policy/ratio"] - 1.0) > 1e-4


def test_clip_takes_effect_off_policy():
    table = dict(rollout())
    table["old_logp"] = table["sampler_logp"] - 1.0 * table["completion_mask"]  # ratio e
    lr = dict(old_logp="sampler")
    tight, m = run(table, **lr)
    assert m["policy/ratio"] == pytest.approx(np.e, rel=1e-3)
    assert 0.2 < m["policy/clip_fraction"] < 0.8
    loose, m = run(
        table, loss=(dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=9.0)),), **lr
    )
    assert m["policy/clip_fraction"] == 0
    with pytest.raises(AssertionError):
        close(tight, loose)


def test_rows_of_other_origin_bring_their_own_old_logp():
    table = dict(rollout())
    table["old_logp"] = table["sampler_logp"] - 1.0 * table["completion_mask"]
    _, mine = run(table)
    assert mine["policy/ratio"] == pytest.approx(1.0, abs=1e-5)
    some = (np.arange(P)[:, None] < 4) * np.ones((P, G), np.int32)
    _, older = run(table | {"origin": 2 * some})
    assert 1.2 < older["policy/ratio"] < 2.6
    assert older["policy/clip_fraction"] > 0.05 and mine["policy/sampler_gap"] < 1e-5
    moved = table["sampler_logp"] - some[..., None] * table["completion_mask"]
    weights = run(table | {"origin": 2 * some})[0]
    _, hinted = run(table | {"origin": some, "sampler_logp": moved})
    assert hinted["policy/ratio"] == pytest.approx(1.0, abs=1e-5), "of rows of their own context"
    assert hinted["policy/clip_fraction"] == 0 and hinted["policy/sampler_gap"] < 1e-5
    close(run(table | {"origin": some})[0], weights)  # metrics apart, the update is the same


def test_a_coefficient_of_zero_asks_for_nothing():
    kl = dict(fn="penalties.k3", coef=0.0)
    terms = learner.make_terms((POLICY, kl))
    assert [t.name for t in terms] == ["policy"]
    assert "ref_logp" not in {c for t in terms for b in t.bound for c in b.reads}
    ramp = dict(schedule="linear", init=0.0, end=1.0, steps=10)
    assert len(learner.make_terms((POLICY, kl | {"coef": ramp}))) == 2, "it will not stay 0"
    with pytest.raises(ConfigError, match="k33"):
        learner.make_terms((POLICY, dict(fn="penalties.k33", coef=0.0)))


def test_correction_multiplies_the_objective():
    table = dict(rollout())
    table["sampler_logp"] = table["sampler_logp"] + np.log(2.0) * table["completion_mask"]
    halved, m = run(
        table, loss=(dict(POLICY, corrections=(dict(fn="corrections.token_tis", cap=2.0),)),)
    )
    plain, _ = run(rollout())
    half = jax.tree.map(lambda p, q: p + 0.5 * (q - p), params(), plain)
    close(halved, half, 1e-4)
    assert m["policy/correction"] == pytest.approx(0.5, rel=1e-4)
    assert m["policy/sampler_gap"] == pytest.approx(np.log(2), rel=1e-3)


def test_not_finite_gradient_leaves_everything_as_it_was():
    table = dict(rollout())
    table["advantages"] = table["advantages"].copy()
    table["advantages"][2, 0, 0] = np.inf
    after, m = run(table)
    assert m["policy/skipped"] == 1.0
    assert all(
        (x == y).all()
        for x, y in zip(jax.tree.leaves(after), jax.tree.leaves(params()), strict=True)
    )


def test_masked_rows_do_not_count():
    table = dict(rollout())
    poisoned = {k: v.copy() for k, v in table.items()}
    dead = ~table["row_mask"]
    poisoned["advantages"][dead] = 100.0
    poisoned["sampler_logp"][dead] = -50.0
    close(run(table)[0], run(poisoned)[0], 1e-7)


def test_lora_trains_adapters_only_and_merges():
    adapters = lora.init_lora(params(), jax.random.key(5), 4, r"layers/(q|v)")
    kw = dict(frozen=params(), lora_scale=2.0, lr=1.0)
    new, _ = run(start=adapters, **kw)
    assert any((np.asarray(new[k]["b"]) != 0).any() for k in new)
    table = rollout()
    attached = scoring.outputs(CFG, lora.attach(params(), new, 2.0), table)["logp"]
    merged = scoring.outputs(CFG, lora.merge(params(), new, 2.0), table)["logp"]
    base = scoring.outputs(CFG, params(), table)["logp"]
    np.testing.assert_allclose(attached, merged, atol=1e-5)
    assert float(jnp.abs(attached - base).max()) > 1e-3


def test_bf16_compute_is_used():
    a, b = run()[0], run(dtype=jnp.bfloat16)[0]
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(b))
    with pytest.raises(AssertionError):
        close(a, b, 1e-6)
    step, other = (jax.tree.map(jnp.subtract, x, params()) for x in (a, b))
    for x, y in zip(jax.tree.leaves(step), jax.tree.leaves(other), strict=True):
        assert jnp.linalg.norm(x - y) < 0.1 * jnp.linalg.norm(x)


VALUE = dict(fn="penalties.value_mse")


def test_value_learner_fits_returns():
    """A critic's gradient is that of half the squared error, and steps along it lower it."""
    table = dict(rollout())
    table["returns"] = np.where(table["loss_mask"], np.float32(0.7), 0)
    start = scoring.value_params(params())
    assert "head" not in start and not start["value_head"]["kernel"].any()
    critic = dict(loss=(VALUE,), name="critic", output="value", lr=0.05)
    new, m = run(table, start=start, **critic)
    assert m["critic/value"] == 0 and m["critic/loss/value_mse"] == pytest.approx(0.245, rel=1e-5)
    assert not any(k.startswith(("policy/", "loss/")) for k in m)
    mask = table["loss_mask"] & table["row_mask"][..., None]

    def objective(p):
        value = scoring.values(CFG, p, table)["value"]
        return jnp.sum(jnp.where(mask, 0.5 * jnp.square(value - table["returns"]), 0)) / mask.sum()

    close(new, jax.tree.map(lambda p, g: p - 0.05 * g, start, jax.grad(objective)(start)))
    parts, _ = run(table, start=start, micro_blocks=2, **critic)
    close(new, parts)
    for _ in range(3):
        new, m = run(table, start=new, **critic)
    assert m["critic/loss/value_mse"] < 0.2 and m["critic/value"] > 0.1


def test_values_are_of_the_prefix_before_the_token():
    """Changing a token changes the values behind it and no other."""
    critic = scoring.value_params(params())
    kernel = jax.random.normal(jax.random.key(7), critic["value_head"]["kernel"].shape)
    critic["value_head"] = {"kernel": kernel, "bias": jnp.float32(0.5)}
    table = dict(rollout(), completion_mask=np.ones((P, G, T), bool))
    before = np.asarray(scoring.values(CFG, critic, table)["value"])
    table["completion_tokens"] = table["completion_tokens"].copy()
    table["completion_tokens"][:, :, 3] += 1
    after = np.asarray(scoring.values(CFG, critic, table)["value"])
    assert (before[..., :4] == after[..., :4]).all() and (before[..., 4:] != after[..., 4:]).all()
    assert np.ptp(before[..., 0], axis=1).max() == 0, "the first is of the prompt alone"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (dict(coef=1.0), "expected surrogate= .* or fn="),
        (
            dict(surrogate="surrogates.ppo_clop"),
            "has no 'ppo_clop'. Did you mean 'surrogates.ppo_clip'",
        ),
        (
            dict(surrogate=dict(fn="surrogates.ppo_clip", hihg=1.0)),
            "unknown setting 'hihg'. Did you mean 'high'",
        ),
        (dict(POLICY, agregate="x"), "unknown setting 'agregate'"),
        (
            dict(POLICY, aggregate="aggregate.mean"),
            "has no 'mean'.* Accepted:.*aggregate.token_mean",
        ),
    ],
)
def test_wrong_terms_say_what_is_accepted(spec, message):
    with pytest.raises(ConfigError, match=message):
        learner.make_term(spec)


def test_blocks_must_divide():
    with pytest.raises(ConfigError, match="8 blocks do not divide into 3 minibatches"):
        run(minibatches=3)
