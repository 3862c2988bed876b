"""The head: log-probs and entropies of all layouts against log-softmax, and their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt import scoring
from rlpt.models import transformer
from rlpt.models.transformer import ModelConfig

P, G, T, D, V = 3, 2, 5, 16, 50


def given(dtype=jnp.float32):
    """kernel [V,D], hidden [P,G,T,D], temperature [P,G], tokens, what is asked of logp, entropy."""
    keys = jax.random.split(jax.random.key(0), 4)
    hidden = jax.random.normal(keys[1], (P, G, T, D)).astype(dtype)
    temperature = jnp.linspace(0.5, 2.0, P * G).reshape(P, G)
    tokens = jax.random.randint(keys[2], (P, G, T), 0, V)
    wanted = jax.random.normal(keys[3], (2, P, G, T))
    return (jax.random.normal(keys[0], (V, D)), hidden, temperature), tokens, wanted


def plain(cfg, kernel, hidden, temperature, tokens):
    z = transformer.logits_of(cfg, kernel, hidden) / temperature[..., None, None]
    logp = jax.nn.log_softmax(z)
    entropy = -jnp.sum(jnp.exp(logp) * logp, -1)
    return jnp.take_along_axis(logp, tokens[..., None], -1)[..., 0], entropy


@pytest.mark.parametrize("cap", [0.0, 3.0])
@pytest.mark.parametrize("chunk", [scoring.LOGITS, 4 * P * V, 1])
def test_law_and_gradients_are_those_of_log_softmax(cap, chunk, monkeypatch):
    monkeypatch.setattr(scoring, "_CACHED", 3 * P * V)  # 10 positions a block: unequal parts
    cfg = ModelConfig(V, 1, D, D, 1, 1, D, logit_softcap=cap)
    arrays, tokens, wanted = given()

    def total(arrays, fn):
        out = fn(*arrays)
        return sum(jnp.sum(w * x) for w, x in zip(wanted, out, strict=True)), out

    def ours(kernel, *rest):
        params = {"embed": kernel}
        hidden, temperature = rest
        return scoring.head_outputs(
            cfg, params, hidden, tokens, temperature, entropy=True, chunk=chunk
        )

    grad = jax.jit(jax.grad(total, has_aux=True), static_argnums=1)
    got = jax.tree.leaves(grad(arrays, ours))
    want = jax.tree.leaves(grad(arrays, lambda *a: plain(cfg, *a, tokens)))
    names = ("kernel", "hidden", "temperature", "logp", "entropy")
    for name, a, b in zip(names, got, want, strict=True):
        atol = 5e-6 * float(jnp.abs(b).max())
        np.testing.assert_allclose(a, b, rtol=0, atol=atol, err_msg=f"{name}, chunk={chunk}")


def test_in_bfloat16_the_gradients_are_of_the_same_size_and_direction():
    cfg = ModelConfig(V, 1, D, D, 1, 1, D)
    grads = []
    for dtype in (jnp.float32, jnp.bfloat16):
        (kernel, hidden, temperature), tokens, wanted = given(dtype)

        def total(kernel, hidden, temperature=temperature, tokens=tokens, wanted=wanted):
            logp, _ = scoring.head_outputs(
                cfg, {"embed": kernel}, hidden, tokens, temperature, entropy=False, chunk=1
            )
            return jnp.sum(wanted[0] * logp)

        grads.append(jax.grad(total, argnums=(0, 1))(kernel, hidden))
    for exact, rounded in zip(*grads, strict=True):
        off = jnp.linalg.norm(exact - rounded.astype(jnp.float32)) / jnp.linalg.norm(exact)
        assert 0 < off < 0.02, f"relative difference {off}"
    assert grads[1][0].dtype == jnp.float32 and grads[1][1].dtype == jnp.bfloat16


def test_no_array_is_larger_than_the_chunk():
    """Neither forward nor backward, where the logits of all positions are."""
    cfg = ModelConfig(V, 1, D, D, 1, 1, D)
    (kernel, hidden, temperature), tokens, _ = given()

    def largest(chunk):
        def total(kernel):
            return scoring.head_outputs(
                cfg, {"embed": kernel}, hidden, tokens, temperature, entropy=True, chunk=chunk
            )[0].sum()

        text = jax.jit(jax.grad(total)).lower(kernel).as_text()
        rows = set(range(1, P * G * T + 1)) - {D}  # [D,V]: the gradient of the kernel
        return {n for n in rows if f"tensor<{n}x{V}xf32>" in text}

    assert max(largest(2 * P * V)) == 2 * P, largest(2 * P * V)
    assert max(largest(scoring.LOGITS)) == P * G * T, "the check sees logits"
