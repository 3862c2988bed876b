"""Causal attention over shared and own keys, behind one function.

`attend` gives the same numbers, up to rounding, by one of three implementations, chosen by
`ModelConfig.attention`:

  reference    einsum and softmax in parts, nothing copied; every score exists at once.
  dot_product  `jax.nn.dot_product_attention`, on a GPU in half precision by cuDNN's flash
               attention (FlashAttention-2, arXiv 2307.08691).  A block's prompt keys are
               copied to its rows for the time of one layer.  No soft cap.
  splash       JAX's Pallas kernel for TPUs: block-sparse flash attention, all rows of a block
               in one sequence, in which no row's queries visit another row's keys.  On other
               machines it runs interpreted, for tests.
  auto         splash on TPU; dot_product on GPU in half precision; else the reference.

One query a row (decoding) and soft caps under dot_product fall back on the reference.
"""

from __future__ import annotations

import functools
import math
import typing as tp

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as Spec

from rlpt import sharding

if tp.TYPE_CHECKING:
    from rlpt.models.transformer import ModelConfig

IMPLEMENTATIONS = ("auto", "reference", "dot_product", "splash")
_BATCH_AXES = ("data", "fsdp")  # of rlpt.sharding: they cut P, "model" cuts heads
_LANES = 128  # what splash wants its axes to be multiples of
_INDEX_BITS = 20  # of a query's index in the codes that `_visible` reads


class Part(tp.NamedTuple):
    """Keys and values that queries attend to, all of one layer.

    k, v: [P, KV, S', hd] when shared by the group, else [P, G, KV, S', hd]: with the heads
    in front, so that no product has to copy them;
    positions: [P, S'] or [P, G, S'] int32; mask: the same shape, True = a real key.
    """

    k: jax.Array
    v: jax.Array
    positions: jax.Array
    mask: jax.Array


def attend(
    cfg: ModelConfig,
    q: jax.Array,
    positions: jax.Array,
    parts: tp.Sequence[Part],
    window: jax.Array,
) -> jax.Array:
    """Causal softmax attention over several parts at once.

    Args:
      q: [P, G, S, H, hd].  positions: [P, G, S] int32, of the queries.
      parts: a key is seen iff it is real, its position is not after the query's
        and, where window > 0, less than `window` before it.  With more than one query a row
        either [prompt], the queries' own left-padded rows (G is 1), or [prompt, own], where
        the own keys are the queries' and their positions go on from the prompt's.
      window: scalar int32, one of cfg.windows.
    Returns: [P, G, S, H*hd].  A query that sees no key, or stands on padding, gets a finite
      value that means nothing.
    Raises: ValueError for an implementation that there is not.
    """
    chosen = implementation(cfg, q)
    if chosen == "splash":
        return _splash(cfg, q, parts, window)
    if chosen == "dot_product":
        return _dot_product(cfg, q, positions, parts, window)
    return reference(cfg, q, positions, parts, window)


def implementation(cfg: ModelConfig, q: jax.Array) -> str:
    """Which implementation serves these queries [P, G, S, H, hd], see `attend`."""
    if cfg.attention not in IMPLEMENTATIONS:
        raise ValueError(
            f"model.attention: got {cfg.attention!r}, expected one of {', '.join(IMPLEMENTATIONS)}"
        )
    chosen = cfg.attention
    if chosen == "auto":
        half = q.dtype in (jnp.bfloat16, jnp.float16)
        on_gpu = "dot_product" if half and _cudnn_takes(cfg.head_dim) else "reference"
        chosen = {"tpu": "splash", "gpu": on_gpu}.get(sharding.platform(q), "reference")
    if q.shape[2] == 1 or (chosen == "dot_product" and cfg.attn_softcap):
        return "reference"
    return chosen


def _cudnn_takes(head_dim: int) -> bool:
    """Whether cuDNN's attention has kernels for such heads on the GPUs that are here.

    From compute capability 8.0 on, of up to 128, from 9.0 on of up to 256 (jax checks the latter).
    """
    gpus = [d for d in jax.local_devices() if d.platform == "gpu"]
    least = min((float(getattr(d, "compute_capability", 0)) for d in gpus), default=9.0)
    return least >= 8.0 and head_dim % 8 == 0 and head_dim <= (256 if least >= 9.0 else 128)


def _scaled(cfg: ModelConfig, q: jax.Array) -> jax.Array:
    scale = cfg.query_scale or cfg.head_dim**-0.5
    return (q.astype(jnp.float32) * scale).astype(q.dtype)


def _seen(
    positions: jax.Array, key_positions: jax.Array, real: jax.Array, window: jax.Array
) -> jax.Array:
    """[..., S, S'] bool for queries at positions [..., S] and keys [..., S']."""
    distance = positions[..., :, None] - key_positions[..., None, :]
    return real[..., None, :] & (distance >= 0) & ((window <= 0) | (distance < window))


# ---- reference


def _product(subscripts: str, rows: jax.Array, keys: jax.Array) -> jax.Array:
    """einsum in float32 of rows [B..., M..., x] and keys [B..., L, x'], M seen as one axis.

    With more than one axis of rows the gradient's products would transpose what they sum over.
    """
    batch = keys.shape[:-2]
    flat = rows.reshape(*batch, -1, rows.shape[-1])
    out = jnp.einsum(subscripts, flat, keys, preferred_element_type=jnp.float32)
    return out.reshape(*rows.shape[:-1], out.shape[-1])


def reference(
    cfg: ModelConfig,
    q: jax.Array,
    positions: jax.Array,
    parts: tp.Sequence[Part],
    window: jax.Array,
) -> jax.Array:
    """`attend` by a softmax in parts, for any positions; nothing is copied."""
    p, g, s, h, hd = q.shape
    kv = cfg.num_kv_heads
    q = _scaled(cfg, q).reshape(p, g, s, kv, h // kv, hd)
    q = q.transpose(0, 1, 3, 4, 2, 5)  # [P,G,KV,R,S,hd]

    def swap(x: jax.Array, part: Part) -> jax.Array:
        """[P,G,KV,...] <-> [P,KV,G,...] for what is shared: one product for the group."""
        return jnp.swapaxes(x, 1, 2) if part.k.ndim == 4 else x

    scores = []
    for part in parts:
        shared = part.k.ndim == 4
        x = _product("...mh,...lh->...ml", swap(q, part), part.k)
        if cfg.attn_softcap:
            x = cfg.attn_softcap * jnp.tanh(x / cfg.attn_softcap)
        key_pos = part.positions[:, None] if shared else part.positions
        real = part.mask[:, None] if shared else part.mask
        seen = _seen(positions, key_pos, real, window)
        scores.append(jnp.where(swap(seen[:, :, None, None], part), x, -1e30))
    tops = [swap(x.max(-1, keepdims=True), y) for x, y in zip(scores, parts, strict=True)]
    top = jax.lax.stop_gradient(functools.reduce(jnp.maximum, tops))  # [P,G,KV,R,S,1]
    total: tp.Any = 0.0
    out: tp.Any = 0.0
    for part, x in zip(parts, scores, strict=True):
        w = jnp.exp(x - swap(top, part))
        total = total + swap(w.sum(-1, keepdims=True), part)
        out = out + swap(_product("...ml,...lh->...mh", w.astype(part.v.dtype), part.v), part)
    out = (out / total).astype(q.dtype)
    return out.transpose(0, 1, 4, 2, 3, 5).reshape(p, g, s, h * hd)


# ---- dot_product


def _dot_product(
    cfg: ModelConfig,
    q: jax.Array,
    positions: jax.Array,
    parts: tp.Sequence[Part],
    window: jax.Array,
) -> jax.Array:
    """`attend` by `jax.nn.dot_product_attention`, each row with its prompt's keys beside its own.

    (Two calls joined by their log-sum-exp would share the keys, but cuDNN rounds it to bfloat16.)
    """
    p, g, s, h, hd = q.shape
    cudnn = sharding.platform(q) == "gpu" and q.dtype in (jnp.bfloat16, jnp.float16)

    def rows(name: str) -> jax.Array:
        """[P*G, ...] of all parts, side by side along S'."""
        found = []
        for part in parts:
            x = getattr(part, name)
            x = x if part.k.ndim == 5 else jnp.broadcast_to(x[:, None], (p, g, *x.shape[1:]))
            found.append(x.reshape(p * g, *x.shape[2:]))
        return jnp.concatenate(found, axis=-2 if name in "kv" else -1)

    keys, values = (jnp.swapaxes(rows(name), 1, 2) for name in "kv")  # [P*G, S', KV, hd]
    seen = _seen(positions.reshape(p * g, s), rows("positions"), rows("mask"), window)
    queries = _scaled(cfg, q).reshape(p * g, s, h, hd)
    more_q, more_k = -s % 2, -keys.shape[1] % 2  # cuDNN's gradient wants even lengths
    keys, values = (jnp.pad(x, ((0, 0), (0, more_k), (0, 0), (0, 0))) for x in (keys, values))
    out = jax.nn.dot_product_attention(
        jnp.pad(queries, ((0, 0), (0, more_q), (0, 0), (0, 0))),
        keys,
        values,
        mask=jnp.pad(seen, ((0, 0), (0, more_q), (0, more_k)))[:, None],
        scale=1.0,
        implementation="cudnn" if cudnn else "xla",
    )
    return out[:, :s].reshape(p, g, s, h * hd)


# ---- splash


def _splash(
    cfg: ModelConfig, q: jax.Array, parts: tp.Sequence[Part], window: jax.Array
) -> jax.Array:
    """`attend` by Pallas splash attention, a block's rows behind one another in one sequence.

    The kernel asks for each query which keys it may see by their places, which say as much as
    positions: padding is in front of the prompt and behind the rows, in a segment of its own.
    """
    p, g, s, h, hd = q.shape
    *prompt, own = parts
    shared = prompt[0].k.shape[2] if prompt else 0

    def row(x: jax.Array) -> jax.Array:
        """[P, G, KV, S, hd] or [P, KV, S, hd] -> [P, KV, G*S, hd]."""
        if x.ndim == 4:
            return x
        return jnp.swapaxes(x, 1, 2).reshape(p, x.shape[2], g * s, x.shape[4])

    keys = jnp.concatenate([row(part.k) for part in parts], 2)
    values = jnp.concatenate([row(part.v) for part in parts], 2)
    segments = [part.mask.reshape(p, -1).astype(jnp.int32) for part in parts]
    queries = _scaled(cfg, q).transpose(0, 3, 1, 2, 4).reshape(p, h, g * s, hd)
    block_q, block_k = _block(queries.shape[2]), _block(keys.shape[2])
    head = -hd % _LANES  # zeros add nothing to a score

    def fill(x: jax.Array, block: int) -> jax.Array:
        return jnp.pad(x, ((0, 0), (0, 0), (0, -x.shape[2] % block), (0, head)))

    queries, keys, values = fill(queries, block_q), fill(keys, block_k), fill(values, block_k)
    own_segment = jnp.pad(segments[-1], ((0, 0), (0, -g * s % block_q)))
    segment = jnp.concatenate(segments, 1)
    segment = jnp.pad(segment, ((0, 0), (0, -segment.shape[1] % block_k)))

    mesh = sharding.mesh_of(q)
    cut = {} if mesh is None else mesh.shape
    over = tuple(a for a in _BATCH_AXES if cut.get(a, 1) > 1)
    if p % math.prod(cut[a] for a in over):
        over = ()
    heads = cut.get("model", 1)
    if cfg.num_kv_heads % heads:  # every device of the axis then works on all heads
        heads = 1
    interpret = sharding.platform(q) != "tpu"

    def run(width: int, *args: jax.Array) -> jax.Array:
        kernel = _kernel(
            h // heads, queries.shape[2], keys.shape[2], block_q, block_k, shared, s, width,
            cfg.attn_softcap, interpret,
        )  # fmt: skip
        return jax.vmap(lambda q, k, v, mine, all: kernel(q, k, v, (mine, all)))(*args)

    def local(window: jax.Array, *args: jax.Array) -> jax.Array:
        widths = sorted(set(cfg.windows or (0,)))
        if len(widths) == 1:
            return run(widths[0], *args)
        which = jnp.searchsorted(jnp.asarray(widths), window)
        return jax.lax.switch(which, [functools.partial(run, w) for w in widths], *args)

    if over or heads > 1:
        whole, rows = Spec(over or None, "model" if heads > 1 else None), Spec(over or None)
        local = jax.shard_map(
            local, mesh=mesh, in_specs=(Spec(), whole, whole, whole, rows, rows), out_specs=whole,
            check_vma=False,
        )  # fmt: skip
    out = local(window, queries, keys, values, own_segment, segment)
    out = out[:, :, : g * s, :hd].reshape(p, h, g, s, hd)
    return out.transpose(0, 2, 3, 1, 4).reshape(p, g, s, h * hd)


def _block(length: int) -> int:
    """The kernel's block along an axis: large, but with at most an eighth of padding."""
    for block in (512, 256):
        if -length % block <= length // 8:
            return block
    return _LANES


def _visible(shared: int, width: int, window: int) -> tp.Callable[[tp.Any, tp.Any], tp.Any]:
    """The mask by places: which keys a query may see.

    The keys are `shared` ones, then rows of `width`; a query is coded as its row * 2**20 + the
    place of its own key.
    """

    def visible(code: tp.Any, key: tp.Any) -> tp.Any:
        place = code & (2**_INDEX_BITS - 1)
        begin = (code >> _INDEX_BITS) * width  # of its row, after the shared keys
        seen = (key <= place) & ((key < shared) | (key >= begin + shared))
        if window:
            between = (key < shared) * begin  # rows that lie between it and a shared key
            seen = seen & (place - key - between < window)
        return seen

    return visible


@functools.lru_cache(maxsize=64)
def _kernel(
    heads: int,
    queries: int,
    keys: int,
    block_q: int,
    block_k: int,
    shared: int,
    width: int,
    window: int,
    softcap: float,
    interpret: bool,
) -> tp.Any:
    """A splash kernel for [heads, queries, hd] and [KV, keys, hd].

    Raises: ValueError for a block of more tokens than the codes of `_visible` can count.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    rows = -(-queries // width)
    if keys > 2**_INDEX_BITS or rows > 2 ** (31 - _INDEX_BITS):
        raise ValueError(
            f"splash attention: a block of {rows} rows and {keys} tokens, expected at most "
            f"{2 ** (31 - _INDEX_BITS)} rows and {2**_INDEX_BITS} tokens; use a smaller "
            "rollout.group with rollout.group_blocks, or model.attention='reference'"
        )

    class Visible(masks._ComputableMask):
        """`_visible` as splash wants it; heads share one object, and so one mask."""

        def __init__(self) -> None:
            super().__init__((queries, keys), _visible(shared, width, window))
            place = np.arange(queries, dtype=np.int32)
            self.q_sequence = (place // width << _INDEX_BITS) | (place + shared)

        def __eq__(self, other: object) -> bool:
            return self is other

        def __hash__(self) -> int:
            return id(self)

    sizes = splash.BlockSizes(
        block_q=block_q, block_kv=block_k, block_q_dkv=block_q, block_kv_dkv=block_k,
        block_q_dq=block_q, block_kv_dq=block_k,
    )  # fmt: skip
    with jax.ensure_compile_time_eval():
        kernel = splash.make_splash_mha(
            masks.MultiHeadMask([Visible()] * heads), block_sizes=sizes, head_shards=1,
            q_seq_shards=1, attn_logits_soft_cap=softcap or None, interpret=interpret,
        )  # fmt: skip
        kernel = jax.tree.map(np.asarray, kernel)
    return lambda q, k, v, segments: kernel(q, k, v, splash.SegmentIds(*segments))
