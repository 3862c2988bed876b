"""Log-probs and entropy of given completions, by the sampler's forward function.

The shift by one between a token and the hidden state that predicts it happens
here and nowhere else: `logp[..., t]` belongs to `completion_tokens[..., t]`.
Logits are made for completion positions only and in chunks, so that [P,G,T,V]
never exists.
"""

from __future__ import annotations

import functools
import typing as tp

import chex
import jax
import jax.numpy as jnp

from rlpt.models import transformer
from rlpt.models.transformer import ModelConfig


def predicting_hidden(
    cfg: ModelConfig,
    params: tp.Any,
    table: dict[str, tp.Any],
    *,
    dtype: tp.Any = jnp.float32,
    remat: str = "none",
) -> jax.Array:
    """Hidden states [P,G,T,D]: entry t is the state that predicts completion token t.

    Token 0 is predicted by the prompt's last position, shared by the group.
    """
    tokens, mask = table["completion_tokens"], table["completion_mask"]
    p, g, t = tokens.shape
    prompt, completion, _ = transformer.forward(
        cfg,
        params,
        table["prompt_tokens"],
        table["prompt_mask"],
        tokens[..., :-1] if t > 1 else None,
        mask[..., :-1] if t > 1 else None,
        dtype=dtype,
        remat=remat,
    )
    first = jnp.broadcast_to(prompt[:, None, -1:], (p, g, 1, prompt.shape[-1]))
    return first if completion is None else jnp.concatenate([first, completion], axis=2)


def head_outputs(
    cfg: ModelConfig,
    params: tp.Any,
    hidden: jax.Array,
    tokens: jax.Array,
    temperature: jax.Array,
    *,
    entropy: bool,
    chunk: int,
) -> tuple[jax.Array, jax.Array | None]:
    """log softmax(logits / temperature) of `tokens`, and the entropy of that law.

    Args:
      hidden: [P,G,T,D]; tokens: [P,G,T]; temperature: [P,G] > 0.
      chunk: positions whose logits exist at once; with more positions than that the
        logits are recomputed in the backward pass.
    Returns: logp [P,G,T] float32, entropy [P,G,T] float32 or None.
    """
    chex.assert_equal_shape_prefix([hidden, tokens], 3)
    shape = tokens.shape
    h = hidden.reshape(-1, hidden.shape[-1])
    y = tokens.reshape(-1)
    temp = jnp.broadcast_to(temperature[..., None], shape).reshape(-1)

    def one(args: tp.Any) -> tp.Any:
        h, y, temp = args
        z = transformer.logits(cfg, params, h) / temp[:, None]
        log_total = jax.nn.logsumexp(z, -1)
        logp = jnp.take_along_axis(z, y[:, None], -1)[:, 0] - log_total
        if not entropy:
            return logp
        return logp, log_total - jnp.sum(jnp.exp(z - log_total[:, None]) * z, -1)

    n = h.shape[0]
    if n <= chunk:
        out = one((h, y, temp))
    else:
        pad = -n % chunk
        parts = jax.tree.map(
            lambda x: jnp.pad(x, ((0, pad),) + ((0, 0),) * (x.ndim - 1), mode="edge").reshape(
                -1, chunk, *x.shape[1:]
            ),
            (h, y, temp),
        )
        out = jax.lax.map(jax.checkpoint(one, prevent_cse=False), parts)
        out = jax.tree.map(lambda x: x.reshape(-1)[:n], out)
    out = jax.tree.map(lambda x: x.reshape(shape), out)
    return out if entropy else (out, None)


def outputs(
    cfg: ModelConfig,
    params: tp.Any,
    table: dict[str, tp.Any],
    *,
    entropy: bool = False,
    dtype: tp.Any = jnp.float32,
    remat: str = "none",
    chunk: int = 1024,
) -> dict[str, jax.Array]:
    """What a policy says of the completions in a table.

    Args:
      table: prompt_tokens, prompt_mask, completion_tokens, completion_mask and
        temperature (see rlpt.columns).
    Returns: logp [P,G,T] float32 (0 outside completion_mask), hidden [P,G,T,D] and,
      where asked for, entropy [P,G,T].
    """
    hidden = predicting_hidden(cfg, params, table, dtype=dtype, remat=remat)
    logp, ent = head_outputs(
        cfg, params, hidden, table["completion_tokens"], table["temperature"],
        entropy=entropy, chunk=chunk,
    )  # fmt: skip
    mask = table["completion_mask"]
    out = {"logp": jnp.where(mask, logp, 0.0), "hidden": hidden}
    if ent is not None:
        out["entropy"] = jnp.where(mask, ent, 0.0)
    return out


def value_params(params: tp.Any) -> tp.Any:
    """Parameters of a value model: the body of a language model and a scalar head of zeros.

    Returns: the tree without `head`, with value_head {"kernel": [D], "bias": []} float32.
    """
    body = {k: v for k, v in params.items() if k != "head"}
    width = params["final_norm"].shape[0]
    head = {"kernel": jnp.zeros(width, jnp.float32), "bias": jnp.zeros((), jnp.float32)}
    return {**body, "value_head": head}


def values(
    cfg: ModelConfig,
    params: tp.Any,
    table: dict[str, tp.Any],
    *,
    dtype: tp.Any = jnp.float32,
    remat: str = "none",
) -> dict[str, jax.Array]:
    """What a value model (`value_params`) says of the prefix before each completion token.

    Args:
      table: as `outputs`; the temperature is not read.
    Returns: value [P,G,T] float32 (0 outside completion_mask) and hidden [P,G,T,D].
    """
    hidden = predicting_hidden(cfg, params, table, dtype=dtype, remat=remat)
    head = params["value_head"]
    value = jnp.einsum(
        "pgtd,d->pgt", hidden, head["kernel"].astype(hidden.dtype),
        preferred_element_type=jnp.float32,
    )  # fmt: skip
    mask = table["completion_mask"]
    return {"value": jnp.where(mask, value + head["bias"], 0.0), "hidden": hidden}


def by_blocks(
    fn: tp.Callable[[dict[str, tp.Any]], tp.Any],
    table: dict[str, tp.Any],
    blocks: int,
    shards: int = 1,
) -> tp.Any:
    """fn over slabs of a table, so that only one slab's activations exist at once.

    Args:
      fn: maps a table of `blocks` blocks to arrays whose first axis is the block.
      blocks: a divisor of P; 0: all at once.
      shards: into how many parts P is cut over devices, a divisor of blocks: each slab has
        as many blocks from every part.
    """
    p = table["completion_tokens"].shape[0]
    if blocks in (0, p):
        return fn(table)
    count, each = p // blocks, blocks // shards

    def cut(x: jax.Array) -> jax.Array:
        x = jnp.asarray(x).reshape(shards, count, each, *x.shape[1:])
        return jnp.swapaxes(x, 0, 1).reshape(count, blocks, *x.shape[3:])

    def join(x: jax.Array) -> jax.Array:
        x = x.reshape(count, shards, each, *x.shape[2:])
        return jnp.swapaxes(x, 0, 1).reshape(p, *x.shape[3:])

    return jax.tree.map(join, jax.lax.map(fn, jax.tree.map(cut, table)))


@functools.partial(jax.jit, static_argnames=("cfg", "entropy", "dtype", "chunk", "blocks"))
def score(
    cfg: ModelConfig,
    params: tp.Any,
    table: dict[str, tp.Any],
    *,
    entropy: bool = False,
    dtype: tp.Any = jnp.float32,
    chunk: int = 1024,
    blocks: int = 0,
) -> dict[str, jax.Array]:
    """`outputs` without a gradient and without the hidden states, jitted; see `by_blocks`."""

    def some(part: dict[str, tp.Any]) -> dict[str, jax.Array]:
        out = outputs(cfg, params, part, entropy=entropy, dtype=dtype, chunk=chunk)
        out.pop("hidden")
        return out

    return by_blocks(some, table, blocks)
