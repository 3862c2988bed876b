"""The sampler: prompts encoded once a block, G completions decoded beside them.

Every draw is keyed by (seed, step, prompt id, occurrence, attempt, sample,
position), so the noise is the same whatever the bucket, the other rows or the
batch layout, and a retry never meets the noise that failed.  A token is drawn by
inverting the CDF in two levels with one uniform each: a flat float32 cumulative
sum over a vocabulary is not monotone, and Gumbel noise over it costs more than
the draw.  Positions count from the start of the completion: a row that goes on from
its own first tokens, given as context, meets the noise that it would have met.
`sampler_logp` is under the law that was really sampled (temperature, top-k, top-p,
min-p).
"""

from __future__ import annotations

import dataclasses
import functools
import typing as tp

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rlpt import sharding
from rlpt.models import transformer
from rlpt.models.transformer import ModelConfig

_BLOCK = 256  # vocabulary entries in the lower level of the inverse CDF
_SEGMENT = 64  # first width of the filled cache that attention reads; doubles


@dataclasses.dataclass(frozen=True)
class Law:
    """Which truncations the sampling law has; their values are traced numbers.

    greedy: take the argmax (log-prob 0: the law is a point mass).
    """

    greedy: bool = False
    top_k: bool = False
    top_p: bool = False
    min_p: bool = False


class LawNumbers(tp.NamedTuple):
    """temperature > 0; top_k >= 1; top_p in (0, 1]; min_p in [0, 1)."""

    temperature: tp.Any = 1.0
    top_k: tp.Any = 0
    top_p: tp.Any = 1.0
    min_p: tp.Any = 0.0


def make_law(
    temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> tuple[Law, LawNumbers]:
    """The static and the traced half of a sampling law.

    Raises: ValueError for a number outside its range.
    """
    for name, value, ok, want in (
        ("temperature", temperature, temperature >= 0, ">= 0 (0 is greedy)"),
        ("top_k", top_k, top_k >= 0 and top_k == int(top_k), "an integer >= 0 (0 is off)"),
        ("top_p", top_p, 0 < top_p <= 1, "in (0, 1] (1 is off)"),
        ("min_p", min_p, 0 <= min_p < 1, "in [0, 1) (0 is off)"),
    ):
        if not ok:
            raise ValueError(f"sampling {name}: got {value!r}, expected {want}")
    greedy = temperature == 0
    law = Law(greedy, not greedy and top_k > 0, not greedy and top_p < 1, not greedy and min_p > 0)
    return law, LawNumbers(1.0 if greedy else temperature, max(top_k, 1), top_p, min_p)


def _as_ordered(x: jax.Array) -> jax.Array:
    """float32 -> uint32 with the same order (for exact bisection)."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    return jnp.where(bits >> 31, ~bits, bits | jnp.uint32(1 << 31))


def _largest_threshold(x: jax.Array, enough: tp.Callable[[jax.Array], jax.Array]) -> jax.Array:
    """Mask of the smallest top set {x >= threshold} for which enough(mask) holds.

    Exact without a sort: 32 halvings of the float's bit pattern. Ties at the
    threshold are all kept. x: [..., V]; enough: mask -> [...] bool, true of the full set.
    """
    order = _as_ordered(x)
    low = jnp.zeros(x.shape[:-1], jnp.uint32)  # enough({order >= low}) always holds

    def halve(i: jax.Array, low: jax.Array) -> jax.Array:
        trial = low | (jnp.uint32(1) << (31 - i).astype(jnp.uint32))
        return jnp.where(enough(order >= trial[..., None]), trial, low)

    low = jax.lax.fori_loop(0, 32, halve, low)
    return order >= low[..., None]


def truncate(scaled: jax.Array, law: Law, numbers: LawNumbers) -> jax.Array:
    """Sets what the law excludes to -inf. scaled: logits / temperature [..., V] float32.

    In turn, as in transformers: top-k, then top-p of what is left, then min-p.
    """
    if law.top_k:
        keep = _largest_threshold(scaled, lambda m: m.sum(-1) >= numbers.top_k)
        scaled = jnp.where(keep, scaled, -jnp.inf)
    if law.top_p:
        p = jax.nn.softmax(scaled, -1)
        total = p.sum(-1)
        keep = _largest_threshold(
            scaled, lambda m: jnp.where(m, p, 0.0).sum(-1) >= numbers.top_p * total
        )
        scaled = jnp.where(keep, scaled, -jnp.inf)
    if law.min_p:
        floor = scaled.max(-1, keepdims=True) + jnp.log(numbers.min_p)
        scaled = jnp.where(scaled >= floor, scaled, -jnp.inf)
    return scaled


def _pick(mass: jax.Array, u: jax.Array) -> jax.Array:
    """First index whose cumulative mass exceeds u * total and whose mass is positive."""
    cumulative = jnp.cumsum(mass, -1)
    above = (cumulative > u[..., None] * cumulative[..., -1:]) & (mass > 0)
    last = mass.shape[-1] - 1 - jnp.argmax((mass > 0)[..., ::-1], -1)
    return jnp.where(above.any(-1), jnp.argmax(above, -1), last)


def draw(
    logits: jax.Array, uniforms: jax.Array, law: Law, numbers: LawNumbers
) -> tuple[jax.Array, jax.Array]:
    """Draws one token a row and its log-prob under the law.

    Args:
      logits: [P, 1 or G, V] float32 (1: the rows of a block share them).
      uniforms: [P, G, 2] float32 in [0, 1).
    Returns: tokens [P, G] int32, logp [P, G] float32.
    """
    p, g = uniforms.shape[:2]
    if law.greedy:
        token = jnp.broadcast_to(jnp.argmax(logits, -1).astype(jnp.int32), (p, g))
        return token, jnp.zeros((p, g), jnp.float32)
    scaled = truncate(logits / numbers.temperature, law, numbers)
    top = scaled.max(-1, keepdims=True)
    pad = -scaled.shape[-1] % _BLOCK
    mass = jnp.pad(jnp.exp(scaled - top), ((0, 0), (0, 0), (0, pad)))
    blocks = mass.reshape(*mass.shape[:2], -1, _BLOCK)
    block_mass = blocks.sum(-1)
    block = _pick(jnp.broadcast_to(block_mass, (p, g, block_mass.shape[-1])), uniforms[..., 0])
    if blocks.shape[1] == 1:
        inner = jnp.take_along_axis(blocks[:, 0], block[..., None], axis=1)
    else:
        inner = jnp.take_along_axis(blocks, block[..., None, None], axis=2)[:, :, 0]
    token = (block * _BLOCK + _pick(inner, uniforms[..., 1])).astype(jnp.int32)
    log_total = jnp.log(block_mass.sum(-1))
    if blocks.shape[1] == 1:
        chosen = jnp.take_along_axis(scaled[:, 0], token, axis=1)
    else:
        chosen = jnp.take_along_axis(scaled, token[..., None], axis=2)[..., 0]
    return token, chosen - top[..., 0] - log_total


def row_keys(key: jax.Array, ids: jax.Array) -> jax.Array:
    """A key a row. key: of (seed, step); ids [P,G,K]: prompt, occurrence, attempt, sample."""

    def fold(row: jax.Array) -> jax.Array:
        out = key
        for i in range(ids.shape[-1]):
            out = jax.random.fold_in(out, row[i])
        return out

    return jax.vmap(jax.vmap(fold))(ids)


def uniforms(keys: jax.Array, position: jax.Array) -> jax.Array:
    """What `draw` needs, [P,G,2], of row keys [P,G] at positions [P,G]."""
    one = lambda k, i: jax.random.uniform(jax.random.fold_in(k, i), (2,))  # noqa: E731
    return jax.vmap(jax.vmap(one))(keys, position)


def segments(width: int) -> list[int]:
    """Numbers of cache slots that attention reads, in turn, as a completion grows to `width`."""
    sizes = [min(_SEGMENT, width)]
    while sizes[-1] < width:
        sizes.append(min(2 * sizes[-1], width))
    return sizes


def empty_cache(
    cfg: ModelConfig, blocks: int, rows: int, width: int, dtype: tp.Any
) -> tuple[jax.Array, jax.Array]:
    """Keys and values [N, blocks, rows, KV, width, hd] of completions, zeros."""
    shape = (cfg.num_layers, blocks, rows, cfg.num_kv_heads, width, cfg.head_dim)
    return jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)


def cut(state: tp.Any, mesh: tp.Any) -> tp.Any:
    """Asks for the arrays of a sampler's state to lie where the batch does; under jit.

    Without it what is filled with zeros would be whole on every device.  Arrays of 5 axes or more
    are caches [N,P,...,KV,positions,hd], cut over P and the heads; others [P,...] over P.
    """
    if mesh is None:
        return state

    def one(x: jax.Array) -> jax.Array:
        if x.ndim == 0:
            return x
        where = sharding.batch_sharding(mesh)
        if x.ndim >= 5:
            heads = "model" if x.shape[-3] % mesh.shape["model"] == 0 else None
            spec = (None, *where.spec, *(None,) * (x.ndim - 5), heads)
            where = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
        return jax.lax.with_sharding_constraint(x, where)

    return jax.tree.map(one, state)


class State(tp.NamedTuple):
    """A generation under way; everything a later call needs to go on.

    tokens [P,G,T] int32, logp [P,G,T] f32: what was sampled so far; step: scalar int32,
    tokens sampled; done [P,G] bool; lengths [P,G] int32: real tokens, the stop token
    included; keys [P,G]; offset [P,1] int32: completion tokens that the context ends with,
    which the positions of the draws count; prompt: keys, values [N,P,KV,L,hd], positions,
    mask [P,L]; cache: keys, values [N,P,G,KV,T,hd]; cache_positions [P,G,T] int32, -1 empty.
    """

    tokens: jax.Array
    logp: jax.Array
    step: jax.Array
    done: jax.Array
    lengths: jax.Array
    keys: jax.Array
    offset: jax.Array
    prompt: tuple[jax.Array, ...]
    cache: tuple[jax.Array, jax.Array]
    cache_positions: jax.Array


def _record(state: State, token: jax.Array, logp: jax.Array, stop: jax.Array, pad: int) -> State:
    """Writes the tokens sampled at state.step; finished rows get padding."""
    live = ~state.done
    at = (0, 0, state.step)
    token = jnp.where(live, token, pad)
    stopped = (token[..., None] == stop).any(-1)
    return state._replace(
        tokens=jax.lax.dynamic_update_slice(state.tokens, token[..., None], at),
        logp=jax.lax.dynamic_update_slice(state.logp, jnp.where(live, logp, 0.0)[..., None], at),
        lengths=state.lengths + live,
        done=state.done | stopped,
        step=state.step + 1,
    )


@functools.partial(jax.jit, static_argnames=("cfg", "law", "width", "pad", "dtype", "mesh"))
def start(
    cfg: ModelConfig,
    params: tp.Any,
    prompt_tokens: jax.Array,
    prompt_mask: jax.Array,
    key: jax.Array,
    ids: jax.Array,
    stop: jax.Array,
    numbers: LawNumbers,
    alive: jax.Array,
    offset: jax.Array,
    *,
    law: Law,
    width: int,
    pad: int,
    dtype: tp.Any = jnp.float32,
    mesh: tp.Any = None,
) -> State:
    """Encodes the prompts and draws every row's first token.

    Args:
      prompt_tokens, prompt_mask: [P, L] left-padded.  ids: [P, G, 4], see `row_keys`.
      stop: [K] int32 stop tokens.  alive: [P, G] bool, False: an empty slot.
      offset: [P, 1] int32, see `State`.
      width: T, room for completion tokens.  pad: the padding token.  mesh: as `generate`.
    """
    chex.assert_equal_shape([prompt_tokens, prompt_mask])
    p, g = ids.shape[:2]
    hidden, _, cache = transformer.forward(
        cfg, params, prompt_tokens, prompt_mask, dtype=dtype, return_cache=True
    )
    assert cache is not None
    keys = row_keys(key, ids)
    state = State(
        tokens=jnp.full((p, g, width), pad, jnp.int32),
        logp=jnp.zeros((p, g, width), jnp.float32),
        step=jnp.int32(0),
        done=~alive,
        lengths=jnp.zeros((p, g), jnp.int32),
        keys=keys,
        offset=offset,
        prompt=(*cache, transformer.prompt_positions(prompt_mask), prompt_mask),
        cache=empty_cache(cfg, p, g, width, dtype),
        cache_positions=jnp.full((p, g, width), -1, jnp.int32),
    )
    first = transformer.logits(cfg, params, hidden[:, -1:])
    noise = uniforms(keys, jnp.broadcast_to(offset, (p, g)))
    token, logp = draw(first, noise, law, numbers)
    return cut(_record(state, token, logp, stop, pad), mesh)


def _goes_on(state: State, limit: jax.Array) -> jax.Array:
    return (state.step < limit) & ~state.done.all()


@functools.partial(
    jax.jit, static_argnames=("cfg", "law", "pad", "dtype"), donate_argnames=("state",)
)
def decode(
    cfg: ModelConfig,
    params: tp.Any,
    state: State,
    until: jax.Array,
    stop: jax.Array,
    numbers: LawNumbers,
    *,
    law: Law,
    pad: int,
    dtype: tp.Any = jnp.float32,
) -> State:
    """Samples until `until` tokens a row or all rows are done; one loop on the device."""
    width = state.tokens.shape[-1]
    prompt_length = state.prompt[3].sum(-1, dtype=jnp.int32)

    def step(state: State, filled: int) -> State:
        slot = state.step - 1
        last = jax.lax.dynamic_index_in_dim(state.tokens, slot, axis=2, keepdims=False)
        position = jnp.broadcast_to(prompt_length[:, None] + slot, last.shape)
        cache_positions = jax.lax.dynamic_update_slice(
            state.cache_positions, position[..., None], (0, 0, slot)
        )
        hidden, cache = transformer.decode_step(
            cfg,
            params,
            last,
            position,
            tp.cast(tp.Any, state.prompt),
            state.cache,
            cache_positions,
            slot,
            filled,
            dtype=dtype,
        )
        state = state._replace(cache=cache, cache_positions=cache_positions)
        out = transformer.logits(cfg, params, hidden)
        index = jnp.broadcast_to(state.offset + state.step, last.shape)
        token, logp = draw(out, uniforms(state.keys, index), law, numbers)
        return _record(state, token, logp, stop, pad)

    for filled in segments(width):  # attention reads only the slots in use
        limit = jnp.minimum(until, filled)
        state = jax.lax.while_loop(
            functools.partial(_goes_on, limit=limit), functools.partial(step, filled=filled), state
        )
    return state


def generate(
    cfg: ModelConfig,
    params: tp.Any,
    prompt_tokens: tp.Any,
    prompt_mask: tp.Any,
    key: jax.Array,
    ids: tp.Any,
    *,
    width: int,
    stop: tp.Sequence[int],
    law: tuple[Law, LawNumbers],
    pad: int = 0,
    alive: tp.Any = None,
    offset: tp.Any = None,
    mesh: tp.Any = None,
    dtype: tp.Any = jnp.float32,
    check_every: int = 0,
    check: tp.Callable[[tp.Any, tp.Any, tp.Any], tp.Any] | None = None,
) -> dict[str, jax.Array]:
    """Samples G completions of every prompt.

    Args:
      prompt_tokens, prompt_mask: [P, L] left-padded.
      key: typed key of (seed, step); ids: [P, G, 4] int32, see `row_keys`.
      width: T; stop: stop token ids; law: from `make_law`.
      alive: [P, G] bool, False: an empty slot, never sampled.
      offset: [P] int32, tokens of the completion that the prompt ends with; default: 0.
      mesh: of rlpt.sharding, over whose data and fsdp axes P is cut; None: one device.
      check, check_every: every so many tokens the host may end rows:
        check(tokens, lengths, done) -> done [P,G] (stop strings).
    Returns: completion_tokens, completion_mask, sampler_logp [P,G,T] and truncated
      [P,G] (stopped by the width, not by a stop token).
    """
    static, numbers = law
    alive = np.ones(np.shape(ids)[:2], bool) if alive is None else alive
    shift = np.zeros(len(ids), np.int32) if offset is None else np.asarray(offset, np.int32)
    blocks = [np.asarray(x) for x in (prompt_tokens, prompt_mask, ids, alive, shift[:, None])]
    tokens, prompted, row_ids, alive, shift = sharding.place_batch(blocks, mesh)
    stop_ids = jnp.asarray(list(stop) or [-1], jnp.int32)
    numbers = LawNumbers(*(jnp.asarray(x) for x in numbers))
    state = start(
        cfg, params, tokens, prompted, key, row_ids, stop_ids,
        numbers, alive, shift, law=static, width=width, pad=pad, dtype=dtype, mesh=mesh,
    )  # fmt: skip
    until = width if check is None else min(check_every, width)
    while True:
        state = decode(
            cfg,
            params,
            state,
            jnp.int32(until),
            stop_ids,
            numbers,
            law=static,
            pad=pad,
            dtype=dtype,
        )
        if check is not None:
            done = check(*sharding.fetch((state.tokens, state.lengths, state.done)))
            state = state._replace(done=sharding.place_batch(np.asarray(done), mesh))
        if until >= width or (check is not None and bool(done.all())):
            break
        until = min(until + check_every, width)
    mask = jnp.arange(width) < state.lengths[..., None]
    return {
        "completion_tokens": state.tokens,
        "completion_mask": mask,
        "sampler_logp": jnp.where(mask, state.logp, 0.0),
        "truncated": ~state.done & alive,
    }
