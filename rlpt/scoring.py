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

from rlpt import sharding
from rlpt.models import products, transformer
from rlpt.models.transformer import ModelConfig

LOGITS = 2**24  # positions x V that exist at once, unless the config says otherwise
_CACHED = 2**21  # logits that a processor's cache holds


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
      chunk: logits (positions x V) that exist at once, at least those of P positions. Where all
        fit, they are kept for the backward pass; else it makes them again, chunk by chunk.
    Returns: logp [P,G,T] float32, entropy [P,G,T] float32 or None.
    """
    chex.assert_equal_shape_prefix([hidden, tokens], 3)
    p, g, t = tokens.shape
    keep = p * g * t * cfg.vocab_size <= chunk
    width = max((_CACHED if keep else chunk) // (p * cfg.vocab_size), 1)
    scale = jnp.broadcast_to(1.0 / temperature[..., None], tokens.shape)
    columns = (x.reshape(p, g * t, *x.shape[3:]) for x in (hidden, tokens, scale))
    logp, ent = _law(cfg, keep, -(-g * t // width), transformer.head_kernel(cfg, params), *columns)
    return logp.reshape(p, g, t), ent.reshape(p, g, t) if entropy else None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _law(
    cfg: ModelConfig,
    keep: bool,
    chunks: int,
    kernel: jax.Array,
    hidden: jax.Array,
    tokens: jax.Array,
    scale: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Log-probs of `tokens` and the entropy of softmax(logits * scale), both [P,N] float32.

    The gradient with respect to the logits is made from the log-sum-exp of the forward pass, so
    that only a chunk's logits exist, or, with keep, those that the forward pass made.

    Args: kernel [V,D], hidden [P,N,D], tokens [P,N], scale [P,N]; chunks: parts of N.
    Reference: Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models",
      arXiv:2411.09009 (here: chunks of positions, whole rows of logits).
    """
    return _law_forward(cfg, keep, chunks, kernel, hidden, tokens, scale)[0]


def _law_forward(
    cfg: ModelConfig,
    keep: bool,
    chunks: int,
    kernel: jax.Array,
    hidden: jax.Array,
    tokens: jax.Array,
    scale: jax.Array,
) -> tuple[tuple[jax.Array, jax.Array], tp.Any]:
    whole = sharding.gathered({"head": kernel}, hidden.dtype)["head"]

    def one(_: None, part: tp.Any) -> tp.Any:
        h, y, s = part
        raw = transformer.logits_of(cfg, whole, h)
        z = raw * s[:, None]
        top = z.max(-1)
        z = z - top[:, None]
        mass = jnp.exp(z)
        total = mass.sum(-1)
        logp = jnp.take_along_axis(z, y[:, None], -1)[:, 0] - jnp.log(total)
        ent = jnp.log(total) - jnp.sum(mass * z, -1) / total
        return None, (logp, ent, jnp.log(total) + top, raw if keep else None)

    _, (logp, ent, log_total, raw) = over_chunks(one, chunks, None, (hidden, tokens, scale))
    return (logp, ent), (kernel, hidden, tokens, scale, log_total, ent, raw)


def _law_backward(cfg: ModelConfig, keep: bool, chunks: int, kept: tp.Any, given: tp.Any) -> tp.Any:
    kernel, *columns, raw = kept
    shards = sharding.block_cuts(columns[0])
    whole = sharding.gathered({"head": kernel}, columns[0].dtype)["head"]
    rounds = cfg.matmul == "bfloat16" and columns[0].dtype == jnp.float32
    turned = not (rounds and shards == chunks == 1)  # else see `products.of_kernel`

    def one(total: jax.Array, part: tp.Any) -> tp.Any:
        h, *rows, raw = part
        y, s, log_total, ent, to_logp, to_ent = (x[:, None] for x in rows)
        raw = raw if keep else transformer.logits_of(cfg, whole, h)
        z = raw * s - log_total  # log-probs
        drawn = jnp.arange(z.shape[-1]) == y
        dz = jnp.where(drawn, to_logp, 0.0) - jnp.exp(z) * (to_logp + to_ent * (z + ent))
        to_scale = jnp.sum(dz * raw, -1)
        dz = dz * s
        if cfg.logit_softcap:
            dz = dz * (1.0 - jnp.square(raw / cfg.logit_softcap))
        if rounds and shards == 1:
            total = total + products.of_kernel(*((h, dz) if turned else (dz, h)))
            return total, (products.rounded(dz, whole), to_scale)
        if h.dtype == jnp.bfloat16:  # float16 has not the range
            dz = dz.astype(h.dtype)
        wide = whole.astype(h.dtype)
        if rounds:
            h, dz, wide = (products.as_bfloat16(x) for x in (h, dz, wide))
        # [D,V], not [V,D]: on CPU this product is half as fast again with the wide factor behind.
        # A sum for each shard: the devices add theirs up once, not once a chunk.
        law, factors = "nd,nv->dv", (h, dz)
        if shards > 1:
            law, factors = (
                "snd,snv->sdv",
                tuple(x.reshape(shards, -1, x.shape[-1]) for x in factors),
            )
        total = total + jnp.einsum(law, *factors, preferred_element_type=jnp.float32)
        total = sharding.cut_blocks(total) if shards > 1 else total
        to_hidden = jnp.einsum("nv,vd->nd", dz, wide).astype(h.dtype)
        return total, (to_hidden, to_scale)

    zeros = jnp.zeros(kernel.shape[::-1] if turned else kernel.shape, jnp.float32)
    if shards > 1:
        zeros = jnp.zeros((shards, *zeros.shape), jnp.float32)
    total, (to_hidden, to_scale) = over_chunks(one, chunks, zeros, (*columns, *given, raw))
    total = total.sum(0) if shards > 1 else total
    total = total.T if turned else total
    return total.astype(kernel.dtype), to_hidden, None, to_scale


_law.defvjp(_law_forward, _law_backward)


def over_chunks(fn: tp.Any, chunks: int, carry: tp.Any, columns: tp.Any) -> tp.Any:
    """jax.lax.scan of fn(carry, rows) over parts of axis 1 of a pytree of columns [P,N,...].

    A part is P * ceil(N / chunks) rows; axis 0, which a mesh cuts, stays whole. What fn returns a
    row comes back as [P,N,...].
    """
    p, n = jax.tree.leaves(columns)[0].shape[:2]
    width = -(-n // chunks)

    def cut(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, ((0, 0), (0, chunks * width - n), *((0, 0),) * (x.ndim - 2)))
        x = jnp.swapaxes(x.reshape(p, chunks, width, *x.shape[2:]), 0, 1)
        return x.reshape(chunks, p * width, *x.shape[3:])

    def join(x: jax.Array) -> jax.Array:
        x = jnp.swapaxes(x.reshape(chunks, p, width, *x.shape[2:]), 0, 1)
        return x.reshape(p, chunks * width, *x.shape[3:])[:, :n]

    carry, out = jax.lax.scan(fn, carry, jax.tree.map(cut, columns), unroll=chunks == 1)
    return carry, jax.tree.map(join, out)


def outputs(
    cfg: ModelConfig,
    params: tp.Any,
    table: dict[str, tp.Any],
    *,
    entropy: bool = False,
    dtype: tp.Any = jnp.float32,
    remat: str = "none",
    chunk: int = LOGITS,
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
    fn: tp.Callable[[tp.Any], tp.Any],
    table: tp.Any,
    blocks: int,
    shards: int = 1,
) -> tp.Any:
    """fn over slabs of a table, so that only one slab's activations exist at once.

    Args:
      fn: maps a table of `blocks` blocks to arrays whose first axis is the block.
      table: pytree of arrays [P,...].
      blocks: a divisor of P; 0: all at once.
      shards: into how many parts P is cut over devices, a divisor of blocks: each slab has
        as many blocks from every part.
    """
    p = jax.tree.leaves(table)[0].shape[0]
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


def each_block(fn: tp.Callable[[tp.Any], tp.Any], table: tp.Any) -> tp.Any:
    """fn over the blocks of a pytree of arrays [P,...], one at a time on each device.

    A loop over P would have every device compute all blocks.
    """
    shards = sharding.block_cuts(jax.tree.leaves(table)[0])
    return by_blocks(jax.vmap(fn), table, shards, shards)


@functools.partial(
    jax.jit, static_argnames=("cfg", "entropy", "dtype", "chunk", "blocks", "shards")
)
def score(
    cfg: ModelConfig,
    params: tp.Any,
    table: dict[str, tp.Any],
    *,
    entropy: bool = False,
    dtype: tp.Any = jnp.float32,
    chunk: int = LOGITS,
    blocks: int = 0,
    shards: int = 1,
) -> dict[str, jax.Array]:
    """`outputs` without a gradient and without the hidden states, jitted; see `by_blocks`."""

    def some(part: dict[str, tp.Any]) -> dict[str, jax.Array]:
        out = outputs(cfg, params, part, entropy=entropy, dtype=dtype, chunk=chunk)
        out.pop("hidden")
        return out

    return by_blocks(some, table, blocks, shards)
