"""Eight-bit rollout weights: what is rounded, which law is sampled, and that TIS corrects it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlpt import build, generate, scoring
from rlpt import config as config_lib
from rlpt import learners as learners_lib
from rlpt.losses import corrections
from rlpt.models import int8, lora, transformer
from rlpt.models.load import load

V, T = 7, 3
CFG = transformer.ModelConfig(
    V, 2, 16, 32, num_heads=2, num_kv_heads=1, head_dim=8, tie_embeddings=False
)


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def test_each_output_of_each_layer_has_a_scale_of_its_own():
    w = jnp.array([[[1.0, 100.0, 0.0], [-0.5, 12.7, 0.0]], [[2.0, 0.0, 0.0], [0.1, -3.0, 0.0]]])
    kernel = int8.quantise({"layers": {"q": w}})["layers"]["q"]
    np.testing.assert_allclose(
        kernel.scale[:, 0] * 127, [[1, 100, 0], [2, 3, 0]], rtol=1e-6, err_msg="max |w|"
    )
    want = [[[127, 127, 0], [-64, 16, 0]], [[127, 0, 0], [6, -127, 0]]]  # -63.5 to the even -64
    np.testing.assert_array_equal(kernel.values, want)
    assert kernel.values.dtype == jnp.int8 and kernel.scale.dtype == jnp.float32


def test_only_kernels_of_layers_are_rounded():
    params = trained()
    rounded = int8.quantise(params)
    for name, leaf in rounded["layers"].items():
        w = params["layers"][name]
        if name.endswith("norm"):
            np.testing.assert_array_equal(leaf, w, name)
        else:
            error = jnp.abs(leaf.values * leaf.scale - w)
            assert (error <= leaf.scale / 2 * (1 + 1e-5)).all(), f"{name}: {error.max()}"
            assert error.max() > 0, f"{name} was not rounded"
    for name in ("embed", "head", "final_norm"):
        np.testing.assert_array_equal(rounded[name], params[name], name)
    adapters = lora.init_lora(params, jax.random.key(0), 2)
    same = jax.tree.map(np.array_equal, int8.quantise(adapters), adapters)
    assert all(jax.tree.leaves(same)), "adapters are not to be rounded"


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-6), (jnp.bfloat16, 1e-2)])
def test_matmul_is_that_of_the_rounded_kernel(dtype, tolerance):
    w = int8.quantise(trained())["layers"]["down"]
    w = jax.tree.map(lambda x: x[1], w)
    x = jax.random.normal(jax.random.key(0), (2, 3, 32), dtype)
    got = lora.matmul(x, w)
    assert got.shape == (2, 3, 16) and got.dtype == dtype
    want = np.asarray(x, np.float64) @ np.asarray(w.values * w.scale, np.float64)
    np.testing.assert_allclose(np.asarray(got, np.float64), want, atol=tolerance * 4)
    a, b = jnp.ones((32, 1), dtype), jnp.ones((1, 16), dtype)
    adapted = lora.matmul(x, lora.LoRA(w, a, b, 0.5))
    more = np.asarray(x, np.float64).sum(-1, keepdims=True) / 2
    np.testing.assert_allclose(
        np.asarray(adapted, np.float64), want + more, atol=tolerance * 20, err_msg="with adapters"
    )


# ---- the law


@functools.cache
def trained():
    """A model that has learnt some law of sequences: its weights are not those of the start."""
    rows = jax.random.randint(jax.random.key(1), (16, T + 2), 0, V)
    mask = jnp.ones(rows.shape, bool)

    def loss(params):
        hidden = transformer.forward(CFG, params, rows, mask)[0]
        logp = jax.nn.log_softmax(transformer.logits(CFG, params, hidden[:, :-1]))
        return -jnp.take_along_axis(logp, rows[:, 1:, None], -1).mean()

    optimizer = optax.adam(1e-2)

    def step(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(params, updates), state), value

    first = transformer.init_params(CFG, jax.random.key(0))
    run = jax.jit(lambda p: jax.lax.scan(step, (p, optimizer.init(p)), length=30))
    (params, _), losses = run(first)
    assert losses[-1] < 0.9 * losses[0], f"learnt nothing: {losses[0]} to {losses[-1]}"
    return params


def everything():
    """A table of one prompt and all completions of T tokens."""
    tokens = np.stack(np.meshgrid(*[np.arange(V)] * T, indexing="ij"), -1).reshape(1, -1, T)
    mask = np.ones(tokens.shape, bool)
    return {
        "prompt_tokens": np.array([[1, 2]]), "prompt_mask": np.ones((1, 2), bool),
        "completion_tokens": tokens, "completion_mask": mask,
        "temperature": np.ones(tokens.shape[:2], np.float32),
    }  # fmt: skip


def logp(params):
    return scoring.outputs(CFG, params, everything())["logp"]


def test_the_sampler_reports_the_law_of_the_rounded_weights():
    table, rounded = everything(), int8.quantise(trained())
    ids = np.zeros((1, 40, 4), int)
    ids[..., 3] = np.arange(40)
    out = generate.generate(
        CFG, rounded, table["prompt_tokens"], table["prompt_mask"], jax.random.key(0), ids,
        width=T, stop=(), law=generate.make_law(),
    )  # fmt: skip
    place = np.asarray(out["completion_tokens"])[0] @ V ** np.arange(T)[::-1]
    got = np.asarray(out["sampler_logp"])[0]
    np.testing.assert_allclose(got, logp(rounded)[0, place], atol=1e-5)
    gap = np.abs(got - logp(trained())[0, place]).max()
    assert gap > 1e-3, f"rounding changed nothing ({gap}): the test shows nothing"


def test_truncated_importance_sampling_takes_the_bias_out_of_the_gradient():
    """Exact: the expectation over all completions, of the policy and of the rounded policy."""
    exact_logp, rounded_logp = logp(trained()), logp(int8.quantise(trained()))
    mask = jnp.ones(exact_logp.shape, bool)
    rewards = jax.random.bernoulli(jax.random.key(2), 0.5, (1, V**T)).astype(jnp.float32)

    @jax.jit
    def gradient(weights):  # sum of weights [P,G,T] * grad log pi
        g = jax.grad(lambda p: jnp.sum(weights * logp(p)))(trained())
        return jnp.concatenate([x.ravel() for x in jax.tree.leaves(g)])

    def expected(law, factor):
        chance = jnp.exp(law.sum(-1))
        assert abs(chance.sum() - 1) < 1e-5, "not a law"
        return gradient((chance * rewards)[..., None] * factor)

    want = expected(exact_logp, mask)
    bias = {
        name: float(jnp.linalg.norm(expected(rounded_logp, f) - want) / jnp.linalg.norm(want))
        for name, f in {
            "none": mask,
            "token": corrections.token_tis(exact_logp, rounded_logp, mask),
            "sequence": corrections.sequence_tis(exact_logp, rounded_logp, mask),
        }.items()
    }
    assert bias["none"] > 1e-3, f"rounding changed nothing: {bias}"
    assert bias["token"] < 0.8 * bias["none"], bias
    assert bias["sequence"] < 0.02 * bias["none"], bias


# ---- the setting


@pytest.mark.parametrize(("rank", "dtype"), [(0, "float32"), (2, "bfloat16")])
def test_the_sampler_of_a_run_gets_them(rank, dtype):
    config = config_lib.default()
    config.model.source, config.model.lora.rank = "toy", rank
    config.sampling.weights, config.sampling.dtype = "int8", dtype
    loaded = load("toy")
    learners = learners_lib.Learners(
        config, build.make_learners(config, loaded.config), (), loaded, set(), jax.random.key(0)
    )
    params = learners.rollout_params()
    kernel = params["layers"]["up"]
    if rank:
        assert isinstance(kernel, lora.LoRA) and kernel.a.dtype == dtype
        kernel = kernel.base
    assert isinstance(kernel, int8.Int8) and kernel.scale.dtype == jnp.float32
    want = int8.quantise(jax.tree.map(jnp.asarray, loaded.params))["layers"]["up"]
    np.testing.assert_array_equal(kernel.values, want.values)
    assert params["embed"].dtype == dtype
    norms = (params["final_norm"], params["layers"]["attn_norm"])
    assert all(x.dtype == jnp.float32 for x in norms), "as the update uses them"
    trained = jax.tree.leaves(learners.policy_params())
    assert all(x.dtype == jnp.float32 for x in trained), "the update's weights are as they were"


def test_an_unknown_form_of_weights():
    config = config_lib.default()
    config.sampling.weights = "int4"
    with pytest.raises(config_lib.ConfigError, match="weights: got 'int4', expected one of , int8"):
        config_lib.validate(config)
