"""LoRA nodes: the same numbers attached or merged, and nothing but adapters trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt.models import lora

N, D, F, V, RANK, SCALE = 3, 8, 12, 11, 2, 1.5


@pytest.fixture
def params():
    keys = iter(jax.random.split(jax.random.key(0), 8))
    draw = lambda *shape: jax.random.normal(next(keys), shape) * 0.3
    return {
        "embed": draw(V, D),
        "layers": {
            "attn_norm": draw(N, D),
            "q": draw(N, D, D),
            "q_bias": draw(N, D),
            "up": draw(N, D, F),
            "down": draw(N, F, D),
        },
        "final_norm": draw(D),
    }


@pytest.fixture
def adapters(params):
    """Adapters as after some training: b is not zero."""
    fresh = lora.init_lora(params, jax.random.key(1), RANK)
    keys = jax.random.split(jax.random.key(2), len(fresh))
    return {
        path: {"a": ab["a"], "b": jax.random.normal(key, ab["b"].shape)}
        for key, (path, ab) in zip(keys, fresh.items(), strict=True)
    }


def forward(params, x):
    """A residual network over the stacked layers, scanned as the decoder is."""

    def layer(x, p):
        hidden = jax.nn.silu(lora.matmul(lora.matmul(x, p["q"]) + p["q_bias"], p["up"]))
        return x + lora.matmul(hidden, p["down"]), None

    return jax.lax.scan(layer, x, params["layers"])[0]


def test_init_shapes_law_and_identity(params):
    fresh = lora.init_lora(params, jax.random.key(1), RANK)
    assert sorted(fresh) == ["layers/down", "layers/q", "layers/up"]
    assert fresh["layers/up"]["a"].shape == (N, D, RANK)
    assert fresh["layers/up"]["b"].shape == (N, RANK, F)
    a = np.asarray(
        lora.init_lora({"layers": {"q": jnp.zeros((1, 64, 4))}}, jax.random.key(1), 64)["layers/q"][
            "a"
        ]
    )
    assert np.abs(a).max() <= 64**-0.5 and abs(a.std() * (3 * 64) ** 0.5 - 1) < 0.05
    assert not np.array_equal(fresh["layers/q"]["a"][0], fresh["layers/q"]["a"][1])
    x = jax.random.normal(jax.random.key(3), (5, D))
    np.testing.assert_array_equal(forward(lora.attach(params, fresh, SCALE), x), forward(params, x))


def test_attached_equals_merged_equals_numpy(params, adapters):
    x = jax.random.normal(jax.random.key(3), (4, 5, D))
    attached = jax.jit(forward)(lora.attach(params, adapters, SCALE), x)
    merged = forward(lora.merge(params, adapters, SCALE), x)
    np.testing.assert_allclose(attached, merged, rtol=2e-5, atol=2e-5)
    assert np.abs(attached - forward(params, x)).max() > 0.1, "the adapters changed nothing"
    base, ab = np.asarray(params["layers"]["up"], np.float64), adapters["layers/up"]
    want = base[1] + SCALE * np.asarray(ab["a"][1], np.float64) @ np.asarray(ab["b"][1], np.float64)
    got = lora.merge(params, adapters, SCALE)["layers"]["up"][1]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_scale_counts(params, adapters):
    x = jax.random.normal(jax.random.key(3), (D,))
    node = jax.tree.map(lambda leaf: leaf[0], lora.attach(params, adapters, SCALE)["layers"]["q"])
    low_rank = lora.matmul(x, node) - x @ node.base
    doubled = lora.matmul(x, node.replace(scale=2 * SCALE)) - x @ node.base
    np.testing.assert_allclose(doubled, 2 * low_rank, rtol=1e-4, atol=1e-5)


def test_gradient_reaches_every_adapter_and_only_adapters(params, adapters):
    x = jax.random.normal(jax.random.key(3), (5, D))

    def loss(adapters):
        return jnp.sum(forward(lora.attach(params, adapters, SCALE), x) ** 2)

    grads = jax.grad(loss)(adapters)
    assert jax.tree.structure(grads) == jax.tree.structure(adapters)
    for path, g in grads.items():
        for name in "ab":
            assert float(jnp.abs(g[name]).max()) > 0, f"no gradient at {path}/{name}"
    fresh = lora.init_lora(params, jax.random.key(1), RANK)
    at_start = jax.grad(loss)(fresh)
    assert float(jnp.abs(at_start["layers/q"]["a"]).max()) == 0, "b = 0 shields a at the start"
    assert float(jnp.abs(at_start["layers/q"]["b"]).max()) > 0


@pytest.mark.parametrize("kind", ["array", "lora"])
def test_matmul_keeps_the_compute_dtype(params, adapters, kind):
    attached = params if kind == "array" else lora.attach(params, adapters, SCALE)
    kernel = jax.tree.map(lambda leaf: leaf[0], attached["layers"]["q"])
    assert lora.matmul(jnp.ones((2, D), jnp.bfloat16), kernel).dtype == jnp.bfloat16
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), kernel)
    assert lora.matmul(jnp.ones((2, D), jnp.float32), half).dtype == jnp.float32


def test_merge_keeps_the_stored_dtype(params, adapters):
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    merged = lora.merge(half, adapters, SCALE)
    assert {leaf.dtype for leaf in jax.tree.leaves(merged)} == {jnp.dtype(jnp.bfloat16)}
    assert merged["embed"] is half["embed"]


def test_targets_choose_kernels(params):
    only = lora.init_lora(params, jax.random.key(1), RANK, targets="layers/(up|down)")
    assert sorted(only) == ["layers/down", "layers/up"]


def test_errors_name_what_is_there(params, adapters):
    with pytest.raises(
        ValueError, match="matches no kernel; kernels are layers/down, layers/q, layers/up"
    ):
        lora.init_lora(params, jax.random.key(1), RANK, targets="layers/query")
    with pytest.raises(ValueError, match="rank: got 0, expected 1 or more"):
        lora.init_lora(params, jax.random.key(1), 0)
    with pytest.raises(ValueError, match="adapters for layers/gate, .* of another model"):
        lora.attach(params, {**adapters, "layers/gate": adapters["layers/up"]}, SCALE)
