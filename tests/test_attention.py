"""Every implementation of attention against the reference, and against plain loops."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt import sharding
from rlpt.models import attention, transformer
from rlpt.models.attention import Part
from rlpt.models.transformer import ModelConfig

CFG = ModelConfig(
    vocab_size=13, num_layers=2, d_model=12, d_ff=16, num_heads=4, num_kv_heads=2, head_dim=8,
    windows=(0, 5),
)  # fmt: skip
P, G, L, S = 2, 3, 12, 9
PROMPTS, COMPLETIONS = (12, 4), ((9, 5, 1), (7, 9, 0))  # real tokens
CASES = {
    "full": {"windows": ()},
    "window": {"windows": (5,)},
    "one of two windows": {"windows": (0, 5)},
    "soft cap": {"windows": (), "attn_softcap": 1.5},
    "query scale": {"windows": (), "query_scale": 0.7},
    "no grouping": {"windows": (), "num_kv_heads": 4},
}


def case(name: str, l: int = L, s: int = S, g: int = G, p: int = P):
    """(cfg, q, positions, parts, window) of completions after left-padded prompts."""
    cfg = dataclasses.replace(CFG, **CASES[name])
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=(*shape, cfg.head_dim)), jnp.float32)
    prompts = np.resize(np.array(PROMPTS) * l // L, p)
    lengths = np.resize(np.array(COMPLETIONS) * s // S, (p, g))
    prompt_mask = jnp.asarray(np.arange(l) >= l - prompts[:, None])
    prompt_positions = transformer.prompt_positions(prompt_mask)
    positions = jnp.asarray(np.broadcast_to(prompts[:, None, None] + np.arange(s), (p, g, s)))
    mask = jnp.asarray(np.arange(s) < lengths[..., None])
    kv = cfg.num_kv_heads
    shared = Part(draw(p, kv, l), draw(p, kv, l), prompt_positions, prompt_mask)
    own = Part(draw(p, g, kv, s), draw(p, g, kv, s), positions, mask)
    window = jnp.int32((cfg.windows or (0,))[-1])
    return cfg, draw(p, g, s, cfg.num_heads), positions, [shared, own], window


def prompt_case(name: str):
    """The same of the prompts alone: their own queries, G = 1."""
    cfg, q, _, (shared, _), window = case(name)
    q = jnp.resize(q, (P, 1, L, *q.shape[3:]))
    return cfg, q, shared.positions[:, None], [shared], window


def values_and_gradients(cfg, q, positions, parts, window, real):
    """The output on real queries, and what its gradient is in q, k and v."""
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(*real.shape, 1)), q.dtype)

    @jax.jit
    def run(q, kv):
        def loss(q, kv):
            mine = [part._replace(k=k, v=v) for part, (k, v) in zip(parts, kv, strict=True)]
            out = attention.attend(cfg, q, positions, mine, window)
            return jnp.where(real[..., None], jnp.sin(out) * weights, 0).sum(), out

        grads, out = jax.grad(loss, argnums=(0, 1), has_aux=True)(q, kv)
        return jnp.where(real[..., None], out, 0), grads

    return run(q, [(part.k, part.v) for part in parts])


@pytest.mark.parametrize("kind", ("splash", "dot_product"))
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_the_reference(kind, name):
    for make in (case, prompt_case):
        cfg, *arguments = make(name)
        real = arguments[2][-1].mask.reshape(arguments[1].shape)
        other = dataclasses.replace(cfg, attention=kind)
        fallback = kind == "dot_product" and bool(cfg.attn_softcap)
        chosen = attention.implementation(other, arguments[0])
        assert chosen == ("reference" if fallback else kind), "another one would be tested"
        reference = dataclasses.replace(cfg, attention="reference")
        expected = values_and_gradients(reference, *arguments, real)
        got = values_and_gradients(other, *arguments, real)
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            assert np.isfinite(a).all(), "padding may not make NaN"
            np.testing.assert_allclose(a, b, atol=2e-5, err_msg=f"{kind}, {name}, {make.__name__}")
            assert np.abs(b).max() > 0.01, "an array of zeros says nothing"
