"""Continuous batching: the rows are those of the plain sampler, whatever lane they ran in."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt import generate, lanes
from rlpt.models import transformer

P, G, L, T, V = 4, 6, 9, 40, 300
CFG = transformer.ModelConfig(  # the second layer sees five positions, as in Gemma
    V, 2, 32, 64, num_heads=4, num_kv_heads=2, head_dim=8, qk_norm=True, windows=(0, 5),
    rope_local_theta=100.0,
)  # fmt: skip
STOP = tuple(range(0, V, 15))  # one token in 15: lengths from 1 to beyond T


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@functools.cache
def params():
    out = transformer.init_params(CFG, jax.random.key(0))
    return jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(1), x.shape), out)


def inputs():
    """Prompts of several lengths and the rows' ids."""
    real = np.random.default_rng(0).integers(0, V, (P, L))
    mask = np.arange(L) >= np.array([0, 3, 5, 1])[:, None]
    ids = np.zeros((P, G, 4), int)
    ids[..., 0], ids[..., 3] = np.arange(P)[:, None] + 11, np.arange(G)
    return np.where(mask, real, 0), mask, ids


def sample(fn, **settings):
    tokens, mask, ids = inputs()
    given = dict(width=T, stop=STOP, law=generate.make_law()) | settings
    return jax.device_get(fn(CFG, params(), tokens, mask, jax.random.key(3), ids, **given))


def same(got, want, what=""):
    for name in want:
        if want[name].dtype != np.float32:
            np.testing.assert_array_equal(got[name], want[name], err_msg=f"{name} {what}")
    np.testing.assert_allclose(got["sampler_logp"], want["sampler_logp"], atol=1e-4, err_msg=what)


@functools.cache
def reference():
    return sample(generate.generate)


def test_the_rows_are_long_tailed():
    lengths = reference()["completion_mask"].sum(-1)
    assert lengths.min() <= 3 and (lengths == T).any(), f"the other tests show little: {lengths}"
    assert np.median(lengths) < T / 2, lengths
    truncated = reference()["truncated"]
    assert truncated.any() and not truncated.all(), "both ends are there"


@pytest.mark.parametrize(("k", "slots"), [(1, 0), (2, 0), (4, 3), (2, 1), (9, 99)])
def test_rows_are_those_of_the_plain_sampler(k, slots):
    same(sample(lanes.generate, lanes=k, slots=slots), reference())
