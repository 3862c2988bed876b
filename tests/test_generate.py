"""The sampler and the scorer: one law, one forward function, keyed noise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt import generate, scoring
from rlpt.models import transformer

P, G, L, T, V = 3, 4, 9, 24, 300
CFG = transformer.ModelConfig(
    V, 3, 64, 128, num_heads=4, num_kv_heads=2, head_dim=16, qk_norm=True, windows=(0, 5, 0)
)


@functools.cache
def params():
    out = transformer.init_params(CFG, jax.random.key(0))
    return jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(1), x.shape), out)


def prompts(length=L):
    rng = np.random.default_rng(0)
    real = rng.integers(0, V, (P, L))
    lengths = np.array([L, L - 3, L - 5])
    tokens, mask = np.zeros((P, length), int), np.zeros((P, length), bool)
    for i, n in enumerate(lengths):
        tokens[i, length - n :], mask[i, length - n :] = real[i, :n], True
    return tokens, mask


def row_ids(blocks=P, group=G, **fixed):
    ids = np.zeros((blocks, group, 4), int)
    ids[..., 0], ids[..., 3] = np.arange(blocks)[:, None] + 11, np.arange(group)
    for k, v in fixed.items():
        ids[..., ("prompt", "occurrence", "attempt", "sample").index(k)] = v
    return ids


def sample(length=L, width=T, stop=(7,), seed=3, ids=None, rows=slice(None), **law):
    tokens, mask = prompts(length)
    out = generate.generate(
        CFG, params(), tokens[rows], mask[rows], jax.random.key(seed),
        row_ids()[rows] if ids is None else ids,
        width=width, stop=stop, law=generate.make_law(**law),
    )  # fmt: skip
    return jax.device_get(out)


def table(out, temperature=1.0, length=L):
    tokens, mask = prompts(length)
    temp = np.full(out["truncated"].shape, temperature, np.float32)
    return {**out, "prompt_tokens": tokens, "prompt_mask": mask, "temperature": temp}


def score(out, temperature=1.0, **kw):
    return jax.device_get(scoring.score(CFG, params(), table(out, temperature), **kw))


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
def test_sampler_and_scorer_agree(temperature):
    out = sample(temperature=temperature)
    gap = np.abs(out["sampler_logp"] - score(out, temperature)["logp"])
    assert gap[out["completion_mask"]].mean() < 1e-5 and gap.max() < 1e-4


@pytest.mark.parametrize(
    "law",
    [
        *(dict(top_k=5), dict(top_p=0.8), dict(min_p=0.1)),
        *(dict(top_p=0.8, temperature=0.6), dict(min_p=0.1, temperature=1.7)),
    ],
)
def test_truncated_law_is_the_law_that_was_sampled(law):
    """exp(logp - sampler_logp) is the kept mass; restoring the law makes the ratio 1.

    What is cut is a part of the law at its temperature, not of that at 1.
    """
    out, heat = sample(**law), law.get("temperature", 1.0)
    mask = out["completion_mask"]
    ratio = np.exp(score(out, heat)["logp"] - out["sampler_logp"])[mask]
    assert ratio.mean() < 0.95  # not corrected: the mass that the law keeps
    tokens, pmask = prompts()
    hidden = scoring.predicting_hidden(CFG, params(), table(out))
    z = np.asarray(transformer.logits(CFG, params(), hidden)) / heat
    static, numbers = generate.make_law(**law)
    kept = np.asarray(generate.truncate(jnp.asarray(z), static, numbers))
    p = np.asarray(jax.nn.softmax(z, -1))
    mass = np.where(np.isfinite(kept), p, 0).sum(-1)
    np.testing.assert_allclose(ratio, mass[mask], rtol=2e-4)
    corrected = np.asarray(jax.nn.log_softmax(kept, -1))
    own = np.take_along_axis(corrected, out["completion_tokens"][..., None], -1)[..., 0]
    np.testing.assert_allclose(np.exp(own - out["sampler_logp"])[mask], 1.0, rtol=2e-4)


def test_truncation_keeps_exactly_what_it_says():
    z = jnp.asarray(np.random.default_rng(0).normal(size=(50, 1, 97)), jnp.float32)
    p = np.asarray(jax.nn.softmax(z, -1))
    order = np.sort(p, -1)[..., ::-1]

    def kept(**law):
        static, numbers = generate.make_law(**law)
        return np.isfinite(np.asarray(generate.truncate(z, static, numbers))).sum(-1)

    assert (kept(top_k=5) == 5).all()
    want = (np.cumsum(order, -1) < 0.7).sum(-1) + 1
    np.testing.assert_array_equal(kept(top_p=0.7), want)
    np.testing.assert_array_equal(kept(min_p=0.2), (p >= 0.2 * p.max(-1, keepdims=True)).sum(-1))
    assert (kept(top_k=5, top_p=0.7) <= kept(top_k=5)).all()
    assert (kept(top_k=1000) == 97).all()


def test_draw_follows_the_law():
    """Chi-square of 200,000 draws against the softmax; the bound is 6 sigma."""
    rng = np.random.default_rng(1)
    z = jnp.asarray(rng.normal(size=(1, 1, 700)) * 1.5, jnp.float32)
    n = 200_000
    u = jnp.asarray(rng.random((1, n, 2)), jnp.float32)
    tokens, logp = generate.draw(z, u, *generate.make_law())
    p = np.asarray(jax.nn.softmax(z, -1))[0, 0]
    count = np.bincount(np.asarray(tokens)[0], minlength=700)
    chi2 = ((count - n * p) ** 2 / (n * p)).sum()
    assert abs(chi2 - 699) < 6 * np.sqrt(2 * 699)
    np.testing.assert_allclose(np.exp(np.asarray(logp)[0]), p[np.asarray(tokens)[0]], rtol=1e-4)


def test_draw_never_takes_what_has_no_mass():
    z = jnp.full((1, 1, 600), -jnp.inf).at[0, 0, 511].set(0.0)
    u = jnp.asarray([[[0.0, 0.0], [0.9999999, 0.9999999], [0.5, 0.0]]], jnp.float32)
    tokens, logp = generate.draw(z, u, *generate.make_law())
    assert (np.asarray(tokens) == 511).all() and (np.asarray(logp) == 0).all()


def test_stop_token_is_kept_with_mask_log_prob_and_gradient():
    first = sample(stop=(7,))["completion_tokens"][0, 0, 3]
    out = sample(stop=(int(first),))
    mask, tokens = out["completion_mask"][0, 0], out["completion_tokens"][0, 0]
    n = mask.sum()
    assert n <= 4 and tokens[n - 1] == first and not out["truncated"][0, 0]
    assert out["sampler_logp"][0, 0, n - 1] < 0 and (tokens[n:] == 0).all()

    def loss(scale):
        new = {**params(), "embed": params()["embed"] * scale}
        return scoring.outputs(CFG, new, table(out))["logp"][0, 0, n - 1]

    assert abs(jax.grad(loss)(1.0)) > 1e-3


def test_noise_depends_on_its_ids_and_on_nothing_else():
    base = sample(stop=())
    for change in (
        sample(stop=(), seed=4),  # another step or seed
        sample(stop=(), ids=row_ids(attempt=1)),
        sample(stop=(), ids=row_ids(occurrence=1)),
        sample(stop=(), ids=row_ids(sample=9 + np.arange(G))),
    ):
        same = (change["completion_tokens"] == base["completion_tokens"]).all(-1)
        assert not same.any()
    rows = base["completion_tokens"].reshape(P * G, T)
    assert len(np.unique(rows, axis=0)) == P * G
    for same in (
        sample(stop=(), length=L + 7),  # another prompt bucket
        sample(stop=(), width=T + 9),  # another completion bucket
        sample(stop=(), rows=slice(1, 2)),  # without the other prompts
    ):
        tokens = same["completion_tokens"][..., :T]
        want = base["completion_tokens"] if len(tokens) == P else base["completion_tokens"][1:2]
        np.testing.assert_array_equal(tokens, want)


def test_segments_of_the_cache_do_not_change_anything(monkeypatch):
    base = sample(stop=(), width=70)
    monkeypatch.setattr(generate, "_SEGMENT", 4)
    generate.decode.clear_cache()
    small = sample(stop=(), width=70)
    generate.decode.clear_cache()
    np.testing.assert_array_equal(base["completion_tokens"], small["completion_tokens"])


def test_empty_slots_are_not_sampled():
    tokens, mask = prompts()
    alive = np.ones((P, G), bool)
    alive[1], alive[2, 3] = False, False
    out = generate.generate(
        CFG, params(), tokens, mask, jax.random.key(3), row_ids(), width=T, stop=(),
        law=generate.make_law(), alive=alive,
    )  # fmt: skip
    np.testing.assert_array_equal(np.asarray(out["completion_mask"]).any(-1), alive)
    assert not np.asarray(out["truncated"])[~alive].any()


@pytest.mark.parametrize(
    ("law", "message"),
    [
        (dict(temperature=-1), "temperature: got -1, expected >= 0"),
        (dict(top_p=0.0), "top_p: got 0.0, expected in \\(0, 1\\]"),
        (dict(min_p=1.0), "min_p: got 1.0, expected in \\[0, 1\\)"),
        (dict(top_k=1.5), "top_k: got 1.5, expected an integer"),
    ],
)
def test_law_out_of_range(law, message):
    with pytest.raises(ValueError, match=message):
        generate.make_law(**law)


def test_greedy_takes_the_argmax():
    out = sample(temperature=0.0, stop=())
    hidden = scoring.predicting_hidden(CFG, params(), table(out))
    best = np.asarray(jnp.argmax(transformer.logits(CFG, params(), hidden), -1))
    np.testing.assert_array_equal(best, out["completion_tokens"])


def test_shared_prompt_scorer_and_gradient_equal_the_plain_one():
    out = sample()
    shared = table(out)
    plain = {  # every row a block of its own, the prompt repeated
        k: np.repeat(v, G, 0) if k.startswith("prompt") else v.reshape(P * G, 1, *v.shape[2:])
        for k, v in shared.items()
    }

    def loss(p, t, entropy):
        out = scoring.outputs(CFG, p, t, entropy=True, chunk=1000)
        values = out["entropy"] if entropy else out["logp"]
        weight = jnp.cos(jnp.arange(P * G * T, dtype=jnp.float32)).reshape(values.shape)
        return jnp.sum(values * weight), values  # a sum that cancels: compare its terms

    grad = jax.grad(loss, has_aux=True)
    for entropy in (False, True):
        ga, a = grad(params(), shared, entropy)
        gb, b = grad(params(), plain, entropy)
        np.testing.assert_allclose(
            a.reshape(b.shape), b, rtol=0, atol=1e-5 * float(jnp.abs(a).max())
        )
        for x, y in zip(jax.tree.leaves(ga), jax.tree.leaves(gb), strict=True):
            scale = float(jnp.abs(x).max())
            np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * max(scale, 1e-3))


def test_one_sequence_by_hand():
    """Shared scorer against a plain forward over the concatenated sequence."""
    out = sample()
    tokens, mask = prompts()
    i, j = 1, 2
    n = out["completion_mask"][i, j].sum()
    whole = np.concatenate([tokens[i][mask[i]], out["completion_tokens"][i, j, :n]])[None]
    hidden = transformer.forward(CFG, params(), whole, np.ones_like(whole, bool))[0]
    logp = np.asarray(jax.nn.log_softmax(transformer.logits(CFG, params(), hidden), -1))[0]
    first = mask[i].sum()
    want = [logp[first - 1 + t, whole[0, first + t]] for t in range(n)]
    np.testing.assert_allclose(score(out)["logp"][i, j, :n], want, atol=1e-4)


def test_chunks_and_remat_change_nothing():
    out = sample()
    base = score(out, entropy=True, chunk=10_000)
    small = score(out, entropy=True, chunk=17)
    for k in base:
        np.testing.assert_allclose(base[k], small[k], atol=1e-5)
    grads = []
    for kw in (dict(chunk=10_000), dict(chunk=17), dict(remat="full"), dict(remat="dots")):
        f = lambda p, kw=kw: jnp.sum(scoring.outputs(CFG, p, table(out), **kw)["logp"])  # noqa: E731
        grads.append(jax.grad(f)(params()))
    for other in grads[1:]:
        for x, y in zip(jax.tree.leaves(grads[0]), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(x, y, rtol=0, atol=2e-5 * float(jnp.abs(x).max()) + 1e-6)


def test_entropy_by_hand():
    out = sample(temperature=0.5)
    hidden = scoring.predicting_hidden(CFG, params(), table(out))
    logp = jax.nn.log_softmax(transformer.logits(CFG, params(), hidden) / 0.5, -1)
    want = np.where(out["completion_mask"], -np.asarray(jnp.sum(jnp.exp(logp) * logp, -1)), 0)
    np.testing.assert_allclose(score(out, 0.5, entropy=True)["entropy"], want, atol=1e-4)


def test_unknown_remat_says_what_is_accepted():
    with pytest.raises(ValueError, match="remat: got 'some', expected one of none, full, dots"):
        scoring.outputs(CFG, params(), table(sample()), remat="some")
