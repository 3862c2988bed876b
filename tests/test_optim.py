"""Optimizers: optax's numbers, schedules by hand, decay by path, steps that are skipped whole."""

import contextlib
import math

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh, AxisType

from rlpt import optim, sharding
from rlpt.checkpoint import Checkpointer
from rlpt.models import transformer
from rlpt.models.transformer import ModelConfig


@pytest.fixture
def params():
    key = jax.random.key(0)
    return {
        "embed": jax.random.normal(key, (5, 4)),
        "layers": {
            "attn_norm": jnp.ones((2, 4)),
            "q": jax.random.normal(jax.random.fold_in(key, 1), (2, 4, 4)),
            "q_bias": jnp.full((2, 4), 0.5),
        },
        "final_norm": jnp.ones(4),
    }


def gradients(params, seed):
    keys = jax.random.split(jax.random.key(seed), len(jax.tree.leaves(params)))
    keys = jax.tree.unflatten(jax.tree.structure(params), list(keys))
    return jax.tree.map(lambda k, p: jax.random.normal(k, p.shape), keys, params)


def run(cfg, params, steps=4, start=0, state=None):
    """Params and state after some guarded updates on seeded gradients."""
    optimizer, _ = optim.make_optimizer(cfg)
    state = optimizer.init(params) if state is None else state
    update = jax.jit(lambda g, s, p: optim.guarded_update(optimizer, g, s, p)[:2])
    for step in range(start, start + steps):
        params, state = update(gradients(params, step), state, params)
    return params, state


def assert_same(a, b):
    """Bit for bit, dtypes and signs of zero included."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes()


def test_adamw_is_optax_adamw_with_clip_mask_and_schedule(params):
    cfg = {"lr": 0.1, "weight_decay": 0.1, "max_grad_norm": 0.5, "b2": 0.95, "warmup_steps": 2}
    ours, _ = run(cfg, params)
    decayed = {
        "embed": True,
        "layers": {"attn_norm": False, "q": True, "q_bias": False},
        "final_norm": False,
    }
    reference = optax.chain(
        optax.clip_by_global_norm(0.5),
        optax.adamw(
            lambda n: 0.1 * jnp.minimum(1.0, (n + 1) / 2), b2=0.95, weight_decay=0.1, mask=decayed
        ),
    )
    theirs, state = params, reference.init(params)
    for step in range(4):
        updates, state = reference.update(gradients(params, step), state, theirs)
        theirs = optax.apply_updates(theirs, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, theirs)


def test_first_adamw_step_by_hand():
    params = {"w": jnp.array([[1.0, -2.0]])}
    optimizer, _ = optim.make_optimizer({"lr": 0.1, "weight_decay": 0.5, "max_grad_norm": 0.0})
    new, _, info = optim.guarded_update(
        optimizer, {"w": jnp.array([[3.0, -4.0]])}, optimizer.init(params), params
    )
    # Adam's first step is sign(g); the decay is decoupled: 0.1 * 0.5 * w
    np.testing.assert_allclose(new["w"], [[1 - 0.1 - 0.05, -2 + 0.1 + 0.1]], rtol=1e-6)
    assert float(info["grad_norm"]) == 5.0 and not bool(info["skipped"])


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_every_optimizer_descends(name):
    params = {"w": jnp.array([[3.0, -2.0]]), "final_norm": jnp.array([1.0])}
    optimizer, _ = optim.make_optimizer({"name": name, "lr": 0.05, "weight_decay": 0.01})
    state = optimizer.init(params)

    def loss(p):
        return jnp.sum(p["w"] ** 2) + jnp.sum((p["final_norm"] - 2) ** 2)

    @jax.jit
    def update(state, params):
        value, grads = jax.value_and_grad(loss)(params)
        return optim.guarded_update(optimizer, grads, state, params, value)[:2]

    start = float(loss(params))
    for _ in range(80):
        params, state = update(state, params)
    assert float(loss(params)) < 0.1 * start


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("adamw", {"lr": 0.02}),
        ("adamw", {"schedule": "linear", "total_steps": 9}),
        ("adamw", {"schedule": "cosine", "total_steps": 9}),
        ("adamw", {"warmup_steps": 3}),
        ("adamw", {"b1": 0.5}),
        ("adamw", {"b2": 0.5}),
        ("adamw", {"eps": 0.5}),
        ("adamw", {"weight_decay": 0.1}),
        ("adamw", {"max_grad_norm": 0.01}),
        ("adamw", {"mu_dtype": "bfloat16"}),
        ("adamw", {"moments": "bfloat16"}),
        ("adamw", {"moments": "factored"}),
        ("lion", {"b1": 0.1}),
        ("lion", {"b2": 0.1}),
        ("lion", {"weight_decay": 0.1}),
        ("sgd", {"b1": 0.9}),
        ("sgd", {"weight_decay": 0.1}),
        ("adafactor", {"b1": 0.9}),
        ("adafactor", {"eps": 0.5}),
        ("adafactor", {"weight_decay": 0.1}),
    ],
    ids=str,
)
def test_every_setting_has_an_effect(name, setting):
    params = {"q": jax.random.normal(jax.random.key(0), (8, 8))}
    base = {
        "name": name,
        "lr": 0.01,
        "max_grad_norm": None,
        "eps": 1e-2 if name == "adamw" else None,
    }
    plain, _ = run(base, params)
    changed, _ = run({**base, **setting}, params)
    assert not np.array_equal(plain["q"], changed["q"]), f"{setting} is ignored"


def test_moment_dtype(params):
    _, state = run({"mu_dtype": "bfloat16"}, params, steps=1)
    assert optax.tree_utils.tree_get(state, "mu")["embed"].dtype == jnp.bfloat16
    assert optax.tree_utils.tree_get(state, "nu")["embed"].dtype == jnp.float32
    _, state = run({"name": "sgd", "b1": 0.9, "mu_dtype": "bfloat16"}, params, steps=1)
    assert optax.tree_utils.tree_get(state, "trace")["embed"].dtype == jnp.bfloat16


# ---- how the moments are kept

LEARNED = {"embed": (256, 192), "layers": {"q": (2, 192, 160), "q_norm": (2, 160)}}
KEPT = ["float32", "bfloat16", "factored"]


def network(key):
    """Parameters of a small network, its matrices large enough to be factored."""
    keys = iter(jax.random.split(key, 3))
    return jax.tree.map(
        lambda shape: jax.random.normal(next(keys), shape) * shape[-2] ** -0.5,
        LEARNED,
        is_leaf=lambda s: isinstance(s, tuple),
    )


def answers(params, tokens):
    """[n, 160]: a mean of embeddings through two layers."""
    x = params["embed"][tokens].mean(1)
    x = jnp.tanh(x @ params["layers"]["q"][0] * (1 + params["layers"]["q_norm"][0]))
    x = jnp.pad(x, ((0, 0), (0, 32)))
    return x @ params["layers"]["q"][1] * (1 + params["layers"]["q_norm"][1])


def fitted(moments, steps=150):
    """Losses of a network that learns another's answers from batches of tokens."""
    teacher, params = network(jax.random.key(1)), network(jax.random.key(2))
    optimizer, _ = optim.make_optimizer(
        {"lr": 5e-3, "moments": moments, "schedule": "cosine", "total_steps": steps}
    )

    def loss(params, tokens):
        return jnp.mean((answers(params, tokens) - answers(teacher, tokens)) ** 2)

    @jax.jit
    def run(params):
        def step(carry, key):
            params, state = carry
            tokens = jax.random.randint(key, (64, 4), 0, 256)
            value, grads = jax.value_and_grad(loss)(params, tokens)
            params, state, _ = optim.guarded_update(optimizer, grads, state, params, value)
            return (params, state), value

        keys = jax.random.split(jax.random.key(3), steps)
        return jax.lax.scan(step, (params, optimizer.init(params)), keys)[1]

    return np.asarray(run(params))


def test_smaller_moments_learn_as_well_as_float32():
    losses = {moments: fitted(moments) for moments in KEPT}
    start, end = (np.mean(losses["float32"][part]) for part in (slice(0, 5), slice(-20, None)))
    assert end < 0.1 * start, f"float32 itself: {start} to {end}"
    for moments in ("bfloat16", "factored"):
        got = np.mean(losses[moments][-20:])
        assert got < 1.15 * end, f"{moments}: {got}, float32 {end}, from {start}"
    path = np.abs(losses["bfloat16"] / losses["float32"] - 1)
    assert path.max() < 0.1, "bfloat16 follows float32 all the way"


def test_bytes_of_moments():
    params = network(jax.random.key(0))
    count = sum(x.size for x in jax.tree.leaves(params))
    norms = params["layers"]["q_norm"].size

    def used(**cfg):
        state = optim.make_optimizer(cfg)[0].init(params)
        return sum(x.nbytes for x in jax.tree.leaves(state) if x.ndim)

    assert used() == 8 * count and used(mu_dtype="bfloat16") == 6 * count
    assert used(moments="bfloat16") == 4 * count
    sums = 256 + 192 + 2 * (192 + 160)  # of rows and columns
    fixed = 2 + 2  # single zeros that optax puts where it keeps nothing
    second = 4 * (sums + norms + fixed)
    assert used(moments="factored") == 2 * count + second
    assert used(moments="factored", mu_dtype="float32") == 4 * count + second
    assert used(moments="factored", b1=0.0) == second < 0.06 * count
    assert used(name="lion", moments="bfloat16") == 2 * count
    assert used(name="sgd", b1=0.9, moments="bfloat16") == 2 * count


@pytest.mark.parametrize("moments", KEPT)
def test_moments_of_a_large_model_are_cut_like_its_parameters(moments):
    """Llama 3 70B, as shapes: what is on every device is small change."""
    model = ModelConfig(128256, 80, 8192, 28672, 64, 8, 128, tie_embeddings=False)
    params = jax.eval_shape(lambda: transformer.init_params(model, jax.random.key(0)))
    state = jax.eval_shape(optim.make_optimizer({"moments": moments})[0].init, params)
    mesh = AbstractMesh((2, 8, 4), sharding.AXES, axis_types=(AxisType.Auto,) * 3)
    specs = jax.tree.leaves(sharding.shardings_like(state, params, mesh))
    bytes_each, whole = 0, 0
    for leaf, spec in zip(jax.tree.leaves(state), specs, strict=True):
        size = leaf.size * leaf.dtype.itemsize
        bytes_each += size // leaf.size * math.prod(spec.shard_shape(leaf.shape))
        whole += size if leaf.ndim and spec.is_fully_replicated else 0
    count = sum(x.size for x in jax.tree.leaves(params))
    cut = {"float32": 8, "bfloat16": 4, "factored": 2}[moments] * count / (8 * 4)
    assert whole < 75e6, f"{whole / 1e6} MB on every device"
    assert cut < bytes_each < cut + 75e6, f"{bytes_each / 1e9} GB, expected {cut / 1e9}"


SCALES = (1.0, 0.5, -0.25, 0.125)  # shrinking, so that no step is clipped


def test_factored_is_adam_where_nothing_can_be_factored():
    """Vectors and small matrices: b1, b2 and bias corrections are Adam's, by hand."""
    params = {"w": jnp.zeros((3, 4)), "final_norm": jnp.zeros(5)}
    constant = jax.tree.map(lambda p: 0.1 + jnp.arange(p.size).reshape(p.shape), params)
    cfg = {"lr": 0.1, "b1": 0.7, "b2": 0.9, "max_grad_norm": None}
    moved = []
    for moments in ("float32", "factored"):
        optimizer, _ = optim.make_optimizer(cfg | {"moments": moments, "mu_dtype": "float32"})
        p, state = params, optimizer.init(params)
        for scale in SCALES:
            grads = jax.tree.map(lambda g, s=scale: s * g, constant)
            p, state, _ = optim.guarded_update(optimizer, grads, state, p)
        moved.append(p)
    mu = nu = want = 0.0
    for t, scale in enumerate(SCALES, 1):  # by hand, for any element
        nu = 0.9 * nu + 0.1 * scale**2
        mu = 0.7 * mu + 0.3 * scale / (nu / (1 - 0.9**t)) ** 0.5
        want -= 0.1 * mu / (1 - 0.7**t)
    for leaf in jax.tree.leaves(moved[1]):
        np.testing.assert_allclose(leaf, want, rtol=1e-5)
    assert not np.allclose(moved[0]["w"], moved[1]["w"]), "Adam averages before it scales"


def test_stochastic_rounding_is_right_in_the_mean():
    """For every value, over seeds at one place and over places with one seed."""
    values = np.array([1.0, 1.003, -1.003, 3.1e-20, 255.7, 0.0], np.float32)
    seeds = jnp.arange(20_000, dtype=jnp.uint32)
    over_seeds = jax.vmap(lambda seed: optim.stochastic_round(jnp.asarray(values), seed))(seeds)
    spread = jnp.broadcast_to(jnp.asarray(values), (100, 200, len(values)))
    over_places = optim.stochastic_round(spread, jnp.uint32(7)).reshape(-1, len(values))
    for draws in (over_seeds, over_places):
        assert draws.dtype == jnp.bfloat16
        draws = np.asarray(draws, np.float64)
        for i, value in enumerate(values.astype(np.float64)):
            seen = np.unique(draws[:, i])
            exact = float(jnp.bfloat16(value)) == value
            assert seen.size == (1 if exact else 2), f"neighbours of {value}: {seen}"
            gap = np.ptp(seen)
            assert seen.min() <= value <= seen.max() and gap <= abs(value) * 2**-7
            error = abs(draws[:, i].mean() - value)
            assert error <= 4 * gap / 2 / len(draws) ** 0.5, f"{value}: {draws[:, i].mean()}"


def test_draws_of_rounding_are_independent():
    """Of neighbouring places, and of one place under neighbouring seeds."""
    half = jnp.full((300, 300), 1 + 2.0**-8, jnp.float32)  # midway between two bfloat16
    up = np.stack([optim.stochastic_round(half, jnp.uint32(s)) > 1 for s in range(4)])
    for axis in range(3):
        pairs = np.stack([np.delete(up, i, axis).ravel() for i in (0, -1)]) - 0.5
        correlation = 4 * pairs.prod(0).mean()
        assert abs(correlation) < 4 * pairs.shape[1] ** -0.5, f"along axis {axis}: {correlation}"


def test_a_second_moment_in_bfloat16_forgets():
    """1000 updates without a gradient shrink it by b2^1000 = 0.37, as it does in float32."""
    params = {"w": jnp.zeros(4096)}
    optimizer, _ = optim.make_optimizer({"moments": "bfloat16", "max_grad_norm": None})
    _, state = optimizer.update({"w": jnp.ones(4096)}, optimizer.init(params), params)
    nu = optax.tree_utils.tree_get(state, "nu")["w"]
    assert nu.dtype == jnp.bfloat16
    zero = {"w": jnp.zeros(4096)}
    state = jax.jit(
        lambda s: jax.lax.fori_loop(0, 1000, lambda i, s: optimizer.update(zero, s, params)[1], s)
    )(state)
    after = np.asarray(optax.tree_utils.tree_get(state, "nu")["w"], np.float64).mean()
    np.testing.assert_allclose(after / 1e-3, 0.999**1000, rtol=0.02)


@pytest.mark.parametrize("moments", KEPT)
def test_resume_is_bit_exact_from_a_checkpoint(moments, tmp_path):
    cfg = {"lr": 0.1, "moments": moments, "weight_decay": 0.1, "warmup_steps": 2}
    params = network(jax.random.key(0))
    whole = run(cfg, params, steps=6)
    half = run(cfg, params, steps=3)
    with contextlib.closing(Checkpointer(tmp_path)) as checkpointer:
        checkpointer.save(3, half, {})
        fresh = params, optim.make_optimizer(cfg)[0].init(params)
        found = checkpointer.restore(fresh)
    assert_same(found.device_state, half)
    restored, state = found.device_state
    assert_same(run(cfg, restored, steps=3, start=3, state=state), whole)


@pytest.mark.parametrize(
    ("cfg", "want"),
    [
        ({}, [1, 1, 1, 1, 1, 1, 1]),
        ({"warmup_steps": 2}, [0.5, 1, 1, 1, 1, 1, 1]),
        ({"schedule": "linear", "total_steps": 4}, [1, 0.75, 0.5, 0.25, 0, 0, 0]),
        (
            {"schedule": "linear", "warmup_steps": 2, "total_steps": 6, "end_lr_fraction": 0.2},
            [0.5, 1, 1, 0.8, 0.6, 0.4, 0.2],
        ),
        (
            {"schedule": "cosine", "total_steps": 4, "end_lr_fraction": 0.1},
            [1, 0.1 + 0.45 * (1 + 0.5**0.5), 0.55, 0.1 + 0.45 * (1 - 0.5**0.5), 0.1, 0.1, 0.1],
        ),
    ],
    ids=str,
)
def test_schedules_by_hand(cfg, want):
    _, lr_at = optim.make_optimizer(dict(lr=0.3, **cfg))
    got = [float(lr_at(count)) for count in range(7)]
    np.testing.assert_allclose(got, 0.3 * np.array(want), rtol=1e-6, atol=1e-8)


def test_resume_continues_on_the_schedule_bit_for_bit(params):
    cfg = {
        "lr": 0.1,
        "schedule": "cosine",
        "warmup_steps": 2,
        "total_steps": 6,
        "weight_decay": 0.1,
    }
    whole, whole_state = run(cfg, params, steps=6)
    half, state = run(cfg, params, steps=3)
    assert int(optim.update_count(state)) == 3
    half, state = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), (half, state))
    resumed, resumed_state = run(cfg, half, steps=3, start=3, state=state)
    assert_same((whole, whole_state), (resumed, resumed_state))


def with_schedule_of(before, after):
    """The state after, its schedule's count set back by the one update that was left out."""
    assert int(optim.update_count(after)) == int(optim.update_count(before)) + 1
    back = optax.ScaleByScheduleState(optim.update_count(before))
    is_schedule = lambda x: isinstance(x, optax.ScaleByScheduleState)  # noqa: E731
    return jax.tree.map(lambda x: back if is_schedule(x) else x, after, is_leaf=is_schedule)


@pytest.mark.parametrize("poison", ["nan gradient", "inf gradient", "nan loss"])
def test_a_step_that_is_not_finite_changes_nothing(params, poison):
    optimizer, _ = optim.make_optimizer({"lr": 0.1, "weight_decay": 0.1, "warmup_steps": 3})
    params["final_norm"] = params["final_norm"].at[0].set(-0.0)
    update = jax.jit(lambda g, s, p, loss: optim.guarded_update(optimizer, g, s, p, loss))
    good = gradients(params, 0)
    before = update(good, optimizer.init(params), params, 1.0)[:2]
    bad = gradients(params, 1)
    if "gradient" in poison:
        bad["layers"]["q"] = bad["layers"]["q"].at[1, 0, 0].set(float(poison.split()[0]))
    loss = float("nan") if poison == "nan loss" else 1.0
    *after, info = update(bad, before[1], before[0], loss)
    assert bool(info["skipped"])
    assert_same(before, (after[0], with_schedule_of(before[1], after[1])))
    assert int(optim.update_count(after[1])) == 2, "the schedule goes on"
    *resumed, info = update(good, after[1], after[0], 1.0)
    assert not bool(info["skipped"]) and int(optim.update_count(resumed[1])) == 3


@pytest.mark.parametrize("left_out", [0.0, float("nan")], ids=["zero", "not finite"])
def test_a_schedule_ends_with_the_planned_updates(left_out):
    """The rate of an update is that of its place among all; Adam's own count is of the applied."""
    cfg = {
        "lr": 0.1,
        "schedule": "linear",
        "warmup_steps": 2,
        "total_steps": 8,
        "weight_decay": 0.1,
    }
    optimizer, lr_at = optim.make_optimizer(cfg)
    params = {"w": jnp.ones((2, 2))}
    state = optimizer.init(params)
    update = jax.jit(lambda g, s, p: optim.guarded_update(optimizer, g, s, p))
    for step in range(8):
        applied = step % 3 != 1
        grads = {"w": jnp.full((2, 2), 1.0 if applied else left_out)}
        new, state, _ = update(grads, state, params)
        moved = float((params["w"] - new["w"])[0, 0])
        # of a constant gradient Adam's step is 1, whatever number of them there were
        rate = float(lr_at(step)) if applied else 0.0
        assert moved == pytest.approx(rate * (1 + 0.1 * float(params["w"][0, 0])), rel=1e-4), step
        params = new
    assert int(optim.update_count(state)) == 8 and float(lr_at(8)) == 0
    assert int(optax.tree_utils.tree_get(state[1], "count")) == 5


def test_gradients_that_are_zero_change_nothing(params):
    """Momentum of earlier batches and weight decay would move what this batch says nothing of."""
    optimizer, _ = optim.make_optimizer({"lr": 0.1, "weight_decay": 0.1})
    update = jax.jit(lambda g, s, p: optim.guarded_update(optimizer, g, s, p))
    before = update(gradients(params, 0), optimizer.init(params), params)[:2]
    zero = jax.tree.map(jnp.zeros_like, params)
    *after, info = update(zero, before[1], before[0])
    assert_same(before, (after[0], with_schedule_of(before[1], after[1])))
    assert not bool(info["skipped"]) and info["grad_norm"] == 0
    moved = optax.apply_updates(before[0], optimizer.update(zero, before[1], before[0])[0])
    assert np.abs(moved["layers"]["q"] - before[0]["layers"]["q"]).max() > 1e-3


def test_global_norm_accumulates_in_float32():
    tree = {"a": jnp.ones(4096, jnp.bfloat16), "b": jnp.ones((), jnp.bfloat16)}
    got = optim.global_norm(tree)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, 4097**0.5, rtol=1e-7)


def test_decay_rules(params):
    default = optim.decay_multipliers(params)
    assert default == {
        "embed": 1.0,
        "layers": {"attn_norm": 0.0, "q": 1.0, "q_bias": 0.0},
        "final_norm": 0.0,
    }
    adapters = {
        "layers/q": {"a": jnp.ones((2, 4, 1)), "b": jnp.ones((2, 1, 4))},
        "scalar": jnp.ones(3),
    }
    assert optim.decay_multipliers(adapters) == {"layers/q": {"a": 1.0, "b": 1.0}, "scalar": 0.0}
    rules = (("layers/q", 0.5), (".*(norm|bias)", 0.0), (".*", 2.0))
    got = optim.decay_multipliers(params, rules)
    assert (got["layers"]["q"], got["embed"], got["final_norm"]) == (0.5, 2.0, 0.0)
    optimizer, _ = optim.make_optimizer({"lr": 0.1, "weight_decay": 0.1, "decay_rules": rules})
    zero = jax.tree.map(jnp.zeros_like, params)
    new = optax.apply_updates(params, optimizer.update(zero, optimizer.init(params), params)[0])
    np.testing.assert_allclose(
        new["layers"]["q"], params["layers"]["q"] * (1 - 0.1 * 0.1 * 0.5), rtol=1e-6
    )
    np.testing.assert_allclose(new["embed"], params["embed"] * (1 - 0.1 * 0.1 * 2), rtol=1e-6)
    np.testing.assert_array_equal(new["layers"]["q_bias"], params["layers"]["q_bias"])


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ((("layers/.*", 0.0), ("final_norm", 0.0)), "no rule covers 'embed'; end the rules with"),
        (
            (("layers/querry", 1.0), (".*", 1.0)),
            "'layers/querry' matches no parameter; there are embed",
        ),
        (((".*", -1.0),), r"expected \(regex, number >= 0\)"),
    ],
)
def test_decay_rules_that_cannot_work(params, rules, message):
    optimizer, _ = optim.make_optimizer({"decay_rules": rules})
    with pytest.raises(ValueError, match=message):
        optimizer.init(params)


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (
            {"lrr": 1},
            "unknown setting 'lrr'; accepted: b1, b2, decay_rules, end_lr_fraction, eps, lr",
        ),
        ({"name": "adam"}, "optim.name: got 'adam', expected one of adamw, lion, sgd, adafactor"),
        (
            {"schedule": "wsd"},
            "optim.schedule: got 'wsd', expected one of constant, linear, cosine",
        ),
        ({"lr": 0.0}, "optim.lr: got 0.0, expected a number > 0"),
        ({"lr": "1e-3"}, "optim.lr: got '1e-3', expected a number > 0"),
        ({"name": "sgd", "b2": 0.9}, "optim.b2: got 0.9, but sgd has no such setting"),
        ({"name": "lion", "eps": 1e-8}, "but lion has no such setting; set it to None"),
        (
            {"name": "sgd", "mu_dtype": "bfloat16"},
            "optim.mu_dtype: sgd keeps no such moment without b1",
        ),
        (
            {"moments": "int8"},
            "moments: got 'int8', expected one of float32, bfloat16, factored wi",
        ),
        ({"name": "lion", "moments": "factored"}, "got 'factored', expected one of float32, bflo"),
        ({"name": "sgd", "moments": "bfloat16"}, "optim.moments: sgd keeps no such moment without"),
        ({"moments": "bfloat16", "mu_dtype": "float32"}, "mu_dtype: got 'float32' with moments=bf"),
        ({"mu_dtype": "bf16"}, "optim.mu_dtype: got 'bf16', expected one of float32, bfloat16, f"),
        ({"schedule": "cosine"}, "total_steps: got 0, expected more than warmup_steps=0"),
        ({"weight_decay": -0.1}, "optim.weight_decay: got -0.1, expected a number >= 0"),
        ({"max_grad_norm": -1.0}, "optim.max_grad_norm: got -1.0, expected a number >= 0"),
    ],
    ids=str,
)
def test_settings_that_cannot_work(cfg, message):
    with pytest.raises(ValueError, match=message):
        optim.make_optimizer(cfg)


def test_settings_from_a_config_dict(params):
    cfg = ml_collections.ConfigDict(
        {"lr": 0.1, "decay_rules": (("embed", 0.0), (".*", 1.0)), "weight_decay": 0.1}
    )
    from_config, _ = run(cfg, params, steps=1)
    from_dict, _ = run(cfg.to_dict(), params, steps=1)
    assert_same(from_config, from_dict)


def test_update_count_of_another_state(params):
    with pytest.raises(ValueError, match="a state with 0 schedules"):
        optim.update_count(optax.adam(1e-3).init(params))
