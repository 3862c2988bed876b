"""How much the update of a token moves the likelihood of the correct completions.

With logits z = W h and e = (onehot(y) - pi) / temperature, one gradient step on sum A_k log pi_k
changes W by sum_k A_k e_k h_k^T, and the log-likelihood of the correct completions by
sum_k A_k e_k^T M h_k with M = sum_j e_j h_j^T over their tokens: the gradient of that likelihood
with respect to W.
"""

from __future__ import annotations

import typing as tp

import chex
import jax
import jax.numpy as jnp

from rlpt import masks, scoring

Head = tp.Callable[[jax.Array], jax.Array]


class _Tokens(tp.NamedTuple):
    """The tokens of a block in chunks: hidden [N,C,D] in compute dtype, the others [N,C]."""

    hidden: jax.Array
    token: jax.Array
    temperature: jax.Array
    correct: jax.Array


def _exact(head: Head, vocab: int, tokens: _Tokens) -> jax.Array:
    """e^T M h of each token, [N,C], over the whole vocabulary."""

    def residual(t: _Tokens) -> jax.Array:
        law = jax.nn.softmax(head(t.hidden) / t.temperature[:, None])
        return (jax.nn.one_hot(t.token, vocab) - law) / t.temperature[:, None]

    def add(moved: jax.Array, t: _Tokens) -> tuple[jax.Array, None]:
        e = jnp.where(t.correct[:, None], residual(t), 0.0)
        return moved + e.T @ t.hidden.astype(jnp.float32), None

    start = jnp.zeros((vocab, tokens.hidden.shape[-1]))
    moved, _ = jax.lax.scan(add, start, tokens)
    return jax.lax.map(lambda t: jnp.sum((residual(t) @ moved) * t.hidden, -1), tokens)


def _sparse(head: Head, vocab: int, top_k: int, tokens: _Tokens) -> jax.Array:
    """The same, with e kept at the top_k most likely tokens and the sampled one."""

    def residual(t: _Tokens) -> tuple[jax.Array, jax.Array]:
        law = jax.nn.softmax(head(t.hidden) / t.temperature[:, None])
        top, ids = jax.lax.top_k(law, top_k)
        own = jnp.take_along_axis(law, t.token[:, None], 1)
        own = jnp.where(jnp.any(ids == t.token[:, None], 1, keepdims=True), 0.0, own)
        e = jnp.concatenate([-top, 1.0 - own], 1) / t.temperature[:, None]
        return jnp.concatenate([ids, t.token[:, None]], 1), e

    def add(moved: jax.Array, part: tuple[_Tokens, jax.Array, jax.Array]) -> tp.Any:
        t, ids, e = part
        e = jnp.where(t.correct[:, None], e, 0.0)
        return moved.at[ids].add(e[..., None] * t.hidden[:, None].astype(jnp.float32)), None

    def form(part: tuple[_Tokens, jax.Array, jax.Array]) -> jax.Array:
        t, ids, e = part
        return jnp.einsum("ck,ckd,cd->c", e, moved[ids], t.hidden.astype(jnp.float32))

    parts = (tokens, *jax.lax.map(residual, tokens))
    moved, _ = jax.lax.scan(add, jnp.zeros((vocab, tokens.hidden.shape[-1])), parts)
    return jax.lax.map(form, parts)


def on_correct(
    hidden: jax.Array,
    completion_tokens: jax.Array,
    loss_mask: jax.Array,
    temperature: jax.Array,
    verdict: dict[str, jax.Array],
    head: Head,
    row_mask: jax.Array | None = None,
    *,
    verifier: str = "",
    threshold: float = 0.5,
    top_k: int = 0,
    chunk: int = 1024,
) -> dict[str, jax.Array]:
    """Token hidden reward, without its advantage: influence_k = e_k^T M h_k.

    M sums over the trained tokens of the block's correct rows (see the module).  Times the
    advantage (`advantages.influence.thr`) it is the change of their log-likelihood that the token
    causes through the output layer.

    Args:
      hidden: [P,G,T,D], the state that predicts token t.
      completion_tokens: [P,G,T] int32.  loss_mask: [P,G,T] bool.  temperature: [P,G] > 0.
      verdict: name -> [P,G] float32 as judged, before any shaping; NaN: not correct.
      head: from hidden states [...,D] to logits [...,V] float32.
      row_mask: [P,G] bool.
      verifier: whose verdict tells what is correct; '': the only one.
      threshold: a row is correct if its verdict exceeds it.
      top_k: keeps e at so many most likely tokens and the sampled one: after one pass over the
        logits the work no longer grows with V.  0: exact.
      chunk: positions of a block whose logits exist at once, >= 1.  Memory of a device: [chunk,V]
        and [V,D] float32 of one block (with top_k also [chunk,top_k,D]).

    Returns: influence [P,G,T] float32; 0 outside loss_mask and in blocks without a correct row;
      influence_known [P,G] bool, whether the row's block has one.

    Raises: ValueError for an unknown verifier, or none named where there are several.

    Reference: Deng et al., "Token Hidden Reward", arXiv:2510.03669; the formula was derived here
    from its definition and agrees with a finite difference.  Where groups span blocks, the correct
    rows are those of the token's own block.  Where a model caps its logits (Gemma 2), e is the
    gradient with respect to the capped ones.
    """
    chex.assert_equal_shape_prefix([hidden, completion_tokens, loss_mask], 3)
    names = [verifier] if verifier else sorted(verdict)
    if len(names) != 1 or names[0] not in verdict:
        raise ValueError(
            f"influence.on_correct verifier: got {verifier!r}, expected one of {sorted(verdict)}"
        )
    correct = verdict[names[0]] > threshold
    rows = masks.live(correct, row_mask)
    vocab = jax.eval_shape(head, hidden[0, 0, 0]).shape[-1]
    _, g, t, d = hidden.shape
    size = min(chunk, g * t)
    trained = loss_mask & rows[..., None]

    def cut(x: jax.Array) -> jax.Array:
        padded = jnp.pad(x, [(0, -len(x) % size)] + [(0, 0)] * (x.ndim - 1))
        return padded.reshape(-1, size, *x.shape[1:])

    def block(tokens: _Tokens) -> jax.Array:
        tokens = jax.tree.map(cut, tokens)
        warm = jnp.where(tokens.temperature > 0, tokens.temperature, 1.0)  # padding has none
        tokens = tokens._replace(temperature=warm)
        if top_k:
            out = _sparse(head, vocab, min(top_k, vocab), tokens)
        else:
            out = _exact(head, vocab, tokens)
        return out.reshape(-1)[: g * t]

    flat = _Tokens(
        hidden.reshape(-1, g * t, d),
        completion_tokens.reshape(-1, g * t),
        jnp.broadcast_to(temperature[..., None], loss_mask.shape).reshape(-1, g * t),
        (trained & correct[..., None]).reshape(-1, g * t),
    )
    out = scoring.each_block(block, flat).reshape(loss_mask.shape)
    known = jnp.any(trained & correct[..., None], axis=(1, 2))
    return {
        "influence": jnp.where(trained, out, 0.0),
        "influence_known": jnp.broadcast_to(known[:, None], rows.shape),
    }
