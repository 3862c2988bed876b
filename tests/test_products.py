"""Products of factors rounded to bfloat16: their values, gradients, and the sampler's copy."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from rlpt import metrics, scoring, train
from rlpt.models import int8, lora, products, transformer
from tests.test_train import toy

CFG = transformer.ModelConfig(31, 2, 16, 32, num_heads=2, num_kv_heads=1, head_dim=8)
ROUNDED = "bfloat16"


def rounded(x):
    return np.asarray(x, np.float32).astype(ml_dtypes.bfloat16).astype(np.float64)


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize("rows", [1, 6, 64, 96])
@pytest.mark.parametrize("turned", [False, True])
def test_value_and_gradients_are_of_rounded_factors_summed_in_float32(rows, turned):
    x, w, given = normal(0, rows, 24), normal(1, 24, 40), normal(2, rows, 40)
    kernel = w.T if turned else w
    out, pull = jax.vjp(lambda x, k: products.rounded(x, k, turned), x, kernel)
    to_x, to_kernel = jax.jit(pull)(given)
    x, w, given = rounded(x), rounded(w), rounded(given)
    np.testing.assert_allclose(out, x @ w, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(to_x, given @ w.T, rtol=1e-5, atol=1e-5)
    want = x.T @ given
    np.testing.assert_allclose(to_kernel, want.T if turned else want, rtol=1e-5, atol=1e-5)
    assert out.dtype == to_x.dtype == to_kernel.dtype == jnp.float32


def test_kernels_of_all_kinds_are_rounded_alike():
    x, w = normal(0, 5, 24), normal(1, 24, 40)
    a, b = normal(2, 24, 3), normal(3, 3, 40)
    plain = rounded(x) @ rounded(w)
    np.testing.assert_allclose(lora.matmul(x, w, ROUNDED), plain, rtol=1e-5, atol=1e-5)
    bits = jax.lax.bitcast_convert_type(w.astype(jnp.bfloat16), jnp.uint16)
    np.testing.assert_array_equal(lora.matmul(x, bits, ROUNDED), lora.matmul(x, w, ROUNDED))
    adapted = lora.matmul(x, lora.LoRA(w, a, b, 0.5), ROUNDED)
    low = rounded(rounded(x) @ rounded(a)) @ rounded(b)
    np.testing.assert_allclose(adapted, plain + 0.5 * low, rtol=1e-5, atol=0.02)
    small = int8.quantise({"layers": {"q": w[None]}})["layers"]["q"]
    small = int8.Int8(small.values[0], small.scale[0])
    want = rounded(x) @ np.asarray(small.values, np.float64) * np.asarray(small.scale)
    np.testing.assert_allclose(lora.matmul(x, small, ROUNDED), want, rtol=1e-5, atol=1e-5)
    half = x.astype(jnp.bfloat16)  # model.dtype=bfloat16: rounded already
    np.testing.assert_array_equal(lora.matmul(half, w, ROUNDED), lora.matmul(half, w))


def columns(p=2, g=3, length=4, t=5):
    mask = jnp.ones((p, g, t), bool).at[0, 0, 3:].set(False)
    return dict(
        prompt_tokens=jax.random.randint(jax.random.key(4), (p, length), 0, 31),
        prompt_mask=jnp.ones((p, length), bool).at[1, 0].set(False),
        completion_tokens=jax.random.randint(jax.random.key(5), (p, g, t), 0, 31),
        completion_mask=mask,
        temperature=jnp.ones((p, g)),
    )


def outputs(precision, params, chunk=2**24):
    model = transformer.dataclasses.replace(CFG, matmul=precision)

    def total(params):
        out = scoring.outputs(model, params, columns(), entropy=True, remat="dots", chunk=chunk)
        return jnp.sum(out["logp"] * normal(6, 2, 3, 5)) + 0.1 * jnp.sum(out["entropy"]), out

    return jax.jit(jax.value_and_grad(total, has_aux=True))(params)


@pytest.mark.parametrize("chunk", [pytest.param(2**24, marks=pytest.mark.slow), 200])
def test_model_with_rounded_factors_is_near_the_exact_one_and_not_the_same(chunk):
    params = transformer.init_params(CFG, jax.random.key(0))
    (_, exact), exact_grads = outputs("default", params, chunk)
    (_, near), near_grads = outputs(ROUNDED, params, chunk)
    gap = jnp.abs(exact["logp"] - near["logp"]).max()
    assert 1e-6 < gap < 0.05
    for path, g in jax.tree_util.tree_leaves_with_path(exact_grads):
        got = near_grads
        for key in path:
            got = got[key.key]
        cosine = jnp.vdot(g, got) / jnp.linalg.norm(g) / jnp.linalg.norm(got)
        assert cosine > 0.99 and got.dtype == g.dtype, path


@pytest.mark.parametrize("bits", [False, True])
def test_sampler_copy_gives_the_numbers_of_the_weights_that_it_is_of(bits):
    params = transformer.init_params(CFG, jax.random.key(0))
    copy = products.round_kernels(params, bits)
    changed = {
        path[-1].key
        for path, leaf in jax.tree_util.tree_leaves_with_path(copy)
        if leaf.dtype != jnp.float32
    }
    assert changed == {"q", "k", "v", "o", "gate", "up", "down"}
    model = transformer.dataclasses.replace(CFG, matmul=ROUNDED)
    table = columns()
    tokens = table["prompt_tokens"], table["prompt_mask"]
    hidden = [transformer.forward(model, p, *tokens)[0] for p in (params, copy)]
    np.testing.assert_array_equal(*hidden)


def test_int8_and_adapters_in_the_sampler_copy_stay_as_they_are():
    params = transformer.init_params(CFG, jax.random.key(0))
    adapters = lora.init_lora(params, jax.random.key(1), 2, "layers/q")
    whole = lora.attach(int8.quantise(params), adapters, 1.0)
    copy = products.round_kernels(whole, True)
    same = jax.tree.map(lambda x, y: bool((x == y).all()) and x.dtype == y.dtype, whole, copy)
    assert all(jax.tree.leaves(same))


def test_sampler_and_update_of_a_run_agree_on_log_probs(tmp_path):
    """Of kernels as bits and as float32; with the exact update they would be 1e-3 apart."""
    c = toy(steps=2, model__matmul_precision=ROUNDED, learner__old_logp="recompute")
    train.train(c, tmp_path)
    gaps = [r["policy/sampler_gap"] for r in metrics.read_jsonl(tmp_path / "metrics.jsonl")[1:]]
    assert len(gaps) == 2 and max(gaps) < 1e-4


@pytest.fixture
def optimised():
    """As users compile; conftest.py turns most of it off."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.mark.parametrize("rows", [1, 2, 3, 39, 64, 192])
def test_with_amx_value_and_gradients_are_products_of_ynnpack(optimised, rows):
    """Else they take four times as long, or raise UNIMPLEMENTED, when XLA changes what it folds."""
    x, w, given = normal(0, rows, 24), normal(1, 24, 40), normal(2, rows, 40)
    for kernel, turned in ((w, False), (w.T, True)):
        out, pull = jax.vjp(lambda x, k, t=turned: products.rounded(x, k, t), x, kernel)
        np.testing.assert_allclose(out, rounded(x) @ rounded(w), rtol=1e-5, atol=1e-5)
        to_x, to_kernel = jax.jit(pull)(given)
        np.testing.assert_allclose(to_x, rounded(given) @ rounded(w).T, rtol=1e-5, atol=1e-5)
        want = rounded(x).T @ rounded(given)
        np.testing.assert_allclose(to_kernel, want.T if turned else want, rtol=1e-5, atol=1e-5)
        if rows >= 64:  # a matrix times a vector is not worth it
            text = jax.jit(pull).lower(given).compile().as_text()
            assert text.count("__ynn_fusion") == 2 * products._amx(), text


def test_with_amx_blocks_may_be_mapped(optimised):
    x, w = normal(0, 3, 32, 24), normal(1, 24, 40)
    out = jax.jit(jax.vmap(products.rounded, (0, None)))(x, w)
    np.testing.assert_allclose(out, rounded(x) @ rounded(w), rtol=1e-5, atol=1e-5)
    total = lambda x, w: jnp.sum(jnp.sin(jax.vmap(products.rounded, (0, None))(x, w)))  # noqa: E731
    grads = jax.jit(jax.grad(total, (0, 1)))(x, w)
    assert all(bool(jnp.isfinite(g).all()) for g in grads)
