"""Every implementation of attention against the reference, and against plain loops."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt.models import attention, transformer
from rlpt.models.attention import Part
from rlpt.models.transformer import ModelConfig
from tests.numeric import devices

ROOT = pathlib.Path(__file__).parents[1]
CFG = ModelConfig(
    vocab_size=13, num_layers=2, d_model=12, d_ff=16, num_heads=4, num_kv_heads=2, head_dim=8,
    windows=(0, 5),
)  # fmt: skip
P, G, L, S = 2, 3, 12, 9
PROMPTS, COMPLETIONS = (12, 4), ((9, 5, 1), (7, 9, 0))  # real tokens
CASES = {
    "full": {"windows": ()},
    "window, no grouping": {"windows": (5,), "num_kv_heads": 4},
    "one of two windows": {"windows": (0, 5)},
    "soft cap and scale": {"windows": (), "attn_softcap": 1.5, "query_scale": 0.7},
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


def test_the_reference_is_attention():
    """Row by row: the softmax over the real keys that are not later and not too far back."""
    cfg, q, positions, (shared, own), window = case("one of two windows")
    out = attention.reference(cfg, q, positions, [shared, own], window)
    for p, g, s in ((0, 0, 8), (0, 1, 0), (1, 0, 6), (1, 1, 3)):
        keep = np.asarray(shared.mask[p])
        keys = np.concatenate([shared.k[p][:, keep], own.k[p, g][:, : s + 1]], 1)
        values = np.concatenate([shared.v[p][:, keep], own.v[p, g][:, : s + 1]], 1)
        keys, values = (x[:, -int(window) :] for x in (keys, values))
        for h in range(cfg.num_heads):
            x = keys[h // 2] @ np.asarray(q[p, g, s, h]) * cfg.head_dim**-0.5
            w = np.exp(x) / np.exp(x).sum()
            got = out[p, g, s, h * cfg.head_dim : (h + 1) * cfg.head_dim]
            np.testing.assert_allclose(got, w @ values[h // 2], atol=1e-5, err_msg=f"{p, g, s, h}")


def test_splash_over_several_blocks_visits_the_right_keys():
    """Rows and windows that begin and end inside the kernel's blocks."""
    cfg, q, positions, parts, window = case("window, no grouping", l=150, s=140, g=2, p=1)
    cfg, window = dataclasses.replace(cfg, windows=(170,)), jnp.int32(170)
    real = parts[1].mask[..., None]
    got, expected = (
        jnp.where(real, attention.attend(c, q, positions, parts, window), 0)
        for c in (dataclasses.replace(cfg, attention=k) for k in ("splash", "reference"))
    )
    np.testing.assert_allclose(got, expected, atol=2e-5)


def test_who_serves_whom():
    cfg, q, *_ = case("full")
    half, one = q.astype(jnp.bfloat16), q[:, :, :1]
    chosen = lambda kind, q: attention.implementation(dataclasses.replace(cfg, attention=kind), q)
    assert chosen("auto", q) == chosen("auto", half) == "reference", "on a CPU"
    assert chosen("splash", one) == chosen("dot_product", one) == "reference", "decoding"
    with pytest.raises(ValueError, match="got 'flash', expected one of auto, reference"):
        chosen("flash", q)


@pytest.mark.parametrize(
    ("capability", "head_dim", "takes"),
    [("7.5", 64, False), ("8.0", 128, True), ("8.0", 256, False), ("9.0", 256, True),
     ("9.0", 60, False)],
)  # fmt: skip
def test_which_gpus_have_kernels_for_which_heads(capability, head_dim, takes, monkeypatch):
    gpu = types.SimpleNamespace(platform="gpu", compute_capability=capability)
    monkeypatch.setattr(jax, "local_devices", lambda: [gpu])
    assert attention._cudnn_takes(head_dim) is takes


SHARDED = """
import dataclasses, sys
import jax, jax.numpy as jnp, numpy as np
sys.path.insert(0, ".")
from rlpt import sharding
from rlpt.models import attention
from tests.test_attention import case

mesh = sharding.make_mesh({"data": 1, "fsdp": 2, "model": 2})
cfg, *arguments = case("one of two windows")
cfg = dataclasses.replace(cfg, attention="splash")
expected = attention.reference(cfg, *arguments)
*batch, window = sharding.place_batch(arguments[:3], mesh), arguments[3]
out = jax.jit(lambda a, w: attention.attend(cfg, *a, w))(*batch, window)
assert len(out.sharding.device_set) == 4, out.sharding
text = jax.jit(lambda a, w: attention.attend(cfg, *a, w)).lower(*batch, window).as_text()
assert "manual" in text, "each device works on its own blocks and heads"
real = arguments[2][1].mask[..., None]
np.testing.assert_allclose(jnp.where(real, out, 0), jnp.where(real, expected, 0), atol=2e-5)
"""


def test_splash_on_a_mesh():
    env = {**os.environ, "XLA_FLAGS": devices(4)}
    done = subprocess.run(
        [sys.executable, "-c", SHARDED], env=env, cwd=ROOT, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr
