"""Continuous batching: a row that ends makes room for the next sample of its prompt.

The sampler of `rlpt.generate` takes as many steps as its longest row, with all rows.  Here it has
slots, each with one prompt, and lanes in each: a lane whose sample ends takes the prompt's next
one, in the loop on the device; a slot whose prompt has no samples left takes the next prompt that
waits, between two calls of the loop.  Draws are keyed as there, by what is sampled and not by
where it is: the tokens are the same but for ties within float32.

P prompts with G samples each, S slots with K lanes each, T tokens.  P and S are cut alike over
the devices, and a slot serves prompts of its own part only, so that no prompt moves.
"""

from __future__ import annotations

import functools
import typing as tp

import jax
import jax.numpy as jnp
import numpy as np

from rlpt import generate as plain
from rlpt import sharding
from rlpt.generate import Law, LawNumbers
from rlpt.models import transformer
from rlpt.models.transformer import ModelConfig

_LOOK_EVERY = 16  # tokens between looks for slots that can take a waiting prompt


class Rows(tp.NamedTuple):
    """What is to be sampled.

    keys [P,G]: of the draws.  queue [P,G] int32: samples in the order in which they begin, empty
    ones last.  live [P] int32: how many are not empty.  offset [P] int32: completion tokens that
    the prompt ends with.
    """

    keys: jax.Array
    queue: jax.Array
    live: jax.Array
    offset: jax.Array


class State(tp.NamedTuple):
    """A generation under way.

    Of the rows: tokens [P,G,T] int32, logp [P,G,T] f32, lengths [P,G] int32, done [P,G] bool
    (stopped, or empty).
    Of the slots: context [S] int32, their prompt's place in their part of P; taken [S] int32, how
    many of its samples have begun; hidden [S,D], its last state; prompt: keys, values
    [N,S,KV,L,hd], positions, mask [S,L].
    Of the lanes: sample [S,K] int32; length [S,K] int32, its tokens so far; last [S,K] int32, the
    newest; active [S,K] bool; cache: keys, values [N,S,K,KV,T,hd], token i of a sample in slot i.
    """

    tokens: jax.Array
    logp: jax.Array
    lengths: jax.Array
    done: jax.Array
    context: jax.Array
    taken: jax.Array
    hidden: jax.Array
    prompt: tuple[jax.Array, ...]
    sample: jax.Array
    length: jax.Array
    last: jax.Array
    active: jax.Array
    cache: tuple[jax.Array, jax.Array]


def _by_part(fn: tp.Callable[..., jax.Array], parts: int, *arrays: jax.Array) -> jax.Array:
    """fn on each part of arrays whose axis 0 is cut over the devices, so that nothing moves."""
    out = jax.vmap(fn)(*(x.reshape(parts, -1, *x.shape[1:]) for x in arrays))
    return out.reshape(-1, *out.shape[2:])


def _refill(rows: Rows, state: State, free: jax.Array, parts: int) -> State:
    """Free lanes [S,K] take the next samples of their slot's prompt, as far as there are any."""
    count = _by_part(lambda n, c: n[c], parts, rows.live, state.context)
    order = state.taken[:, None] + jnp.cumsum(free, 1, dtype=jnp.int32) - 1
    begins = free & (order < count[:, None])
    sample = _by_part(
        lambda q, c, i: q[c[:, None], i], parts, rows.queue, state.context,
        jnp.minimum(order, rows.queue.shape[1] - 1),
    )  # fmt: skip
    return state._replace(
        sample=jnp.where(begins, sample, state.sample),
        length=jnp.where(free, 0, state.length),
        active=jnp.where(free, begins, state.active),
        taken=state.taken + begins.sum(1, dtype=jnp.int32),
    )


@functools.partial(
    jax.jit, static_argnames=("cfg", "slots", "lanes", "length", "width", "pad", "mesh", "dtype")
)
def begin(
    cfg: ModelConfig,
    key: jax.Array,
    ids: jax.Array,
    alive: jax.Array,
    offset: jax.Array,
    *,
    slots: int,
    lanes: int,
    length: int,
    width: int,
    pad: int,
    mesh: tp.Any,
    dtype: tp.Any,
) -> tuple[Rows, State]:
    """What is to be sampled, and slots without prompts.

    Args: ids, alive: as `generate`; offset [P]; slots: S; lanes: K; length: L; width: T.
    """
    p, g = alive.shape
    rows = Rows(
        keys=plain.row_keys(key, ids),
        queue=jnp.argsort(~alive, axis=1, stable=True).astype(jnp.int32),
        live=alive.sum(1, dtype=jnp.int32),
        offset=offset,
    )
    kept = jnp.zeros((cfg.num_layers, slots, cfg.num_kv_heads, length, cfg.head_dim), dtype)
    per_lane = jnp.zeros((slots, lanes), jnp.int32)
    state = State(
        tokens=jnp.full((p, g, width), pad, jnp.int32),
        logp=jnp.zeros((p, g, width), jnp.float32),
        lengths=jnp.zeros((p, g), jnp.int32),
        done=~alive,
        context=jnp.zeros(slots, jnp.int32),
        taken=jnp.zeros(slots, jnp.int32),
        hidden=jnp.zeros((slots, cfg.d_model), dtype),
        prompt=(
            kept, kept, jnp.zeros((slots, length), jnp.int32), jnp.zeros((slots, length), bool)
        ),
        sample=per_lane,
        length=per_lane,
        last=per_lane,
        active=jnp.zeros((slots, lanes), bool),
        cache=plain.empty_cache(cfg, slots, lanes, width, dtype),
    )  # fmt: skip
    return rows, plain.cut(state, mesh)


@functools.partial(jax.jit, static_argnames=("cfg", "mesh", "dtype"), donate_argnames=("state",))
def load(
    cfg: ModelConfig,
    params: tp.Any,
    rows: Rows,
    state: State,
    tokens: jax.Array,
    mask: jax.Array,
    context: jax.Array,
    slot: jax.Array,
    *,
    mesh: tp.Any,
    dtype: tp.Any,
) -> State:
    """Encodes prompts into idle slots and begins their first samples.

    Args: tokens, mask [M,L], the same number for each part of P; context, slot [M] int32: places
      in that part of P and of S; a slot behind the last is none.
    """
    parts = sharding.shards(mesh)

    def put(old: jax.Array, new: jax.Array) -> jax.Array:
        return _by_part(lambda x, i, y: x.at[i].set(y, mode="drop"), parts, old, slot, new)

    hidden, _, kept = transformer.forward(cfg, params, tokens, mask, dtype=dtype, return_cache=True)
    assert kept is not None
    layers = jax.vmap(put)
    state = state._replace(
        context=put(state.context, context),
        taken=put(state.taken, jnp.zeros_like(slot)),
        hidden=put(state.hidden, hidden[:, -1]),
        prompt=(
            layers(state.prompt[0], kept[0]),
            layers(state.prompt[1], kept[1]),
            put(state.prompt[2], transformer.prompt_positions(mask)),
            put(state.prompt[3], mask),
        ),
    )
    loaded = put(jnp.zeros(state.context.shape, bool), jnp.ones(slot.shape, bool))
    free = jnp.broadcast_to(loaded[:, None], state.active.shape)
    return plain.cut(_refill(rows, state, free, parts), mesh)


def _with_busy(state: State, mesh: tp.Any) -> tuple[State, jax.Array]:
    busy = state.active.any(1)
    if mesh is not None:
        busy = jax.lax.with_sharding_constraint(busy, sharding.everywhere(mesh))
    return plain.cut(state, mesh), busy


@functools.partial(jax.jit, static_argnames=("mesh",), donate_argnames=("state",))
def release(rows: Rows, state: State, done: jax.Array, *, mesh: tp.Any) -> tuple[State, jax.Array]:
    """Ends rows that the host found to be done [P,G]; their lanes go on with the next samples.

    Returns: as `decode`.
    """
    parts = sharding.shards(mesh)
    over = _by_part(lambda d, c, s: d[c[:, None], s], parts, done, state.context, state.sample)
    state = state._replace(done=done)
    return _with_busy(_refill(rows, state, state.active & over, parts), mesh)


@functools.partial(
    jax.jit, static_argnames=("cfg", "law", "mesh", "dtype"), donate_argnames=("state",)
)
def decode(
    cfg: ModelConfig,
    params: tp.Any,
    rows: Rows,
    state: State,
    steps: jax.Array,
    stop: jax.Array,
    numbers: LawNumbers,
    *,
    law: Law,
    mesh: tp.Any,
    dtype: tp.Any,
) -> tuple[State, jax.Array]:
    """Samples `steps` tokens in every lane, or until none is active; one loop on the device.

    Returns: the state; which slots [S] are busy, whole on every device.
    """
    width, parts = state.tokens.shape[-1], sharding.shards(mesh)
    places = jnp.arange(width, dtype=jnp.int32)

    def step(carry: tuple[State, jax.Array], filled: int) -> tuple[State, jax.Array]:
        state, left = carry
        prompt_length = state.prompt[3].sum(-1, dtype=jnp.int32)
        slot = jnp.maximum(state.length - 1, 0)
        own = places < state.length[..., None]
        hidden, cache = transformer.decode_step(
            cfg,
            params,
            state.last,
            prompt_length[:, None] + slot,
            tp.cast(tp.Any, state.prompt),
            state.cache,
            jnp.where(own, prompt_length[:, None, None] + places, -1),
            slot,
            filled,
            dtype=dtype,
        )
        # a sample's first token follows from the prompt: what its lane computed is not used
        hidden = jnp.where((state.length == 0)[..., None], state.hidden[:, None], hidden)
        out = transformer.logits(cfg, params, hidden)
        keys, place = (
            _by_part(lambda x, c, s: x[c[:, None], s], parts, x, state.context, state.sample)
            for x in (rows.keys, jnp.broadcast_to(rows.offset[:, None], rows.keys.shape))
        )
        token, logp = plain.draw(out, plain.uniforms(keys, place + state.length), law, numbers)
        stopped = state.active & (token[..., None] == stop).any(-1)
        length = state.length + state.active

        def put(x: jax.Array, mask: jax.Array, *new: jax.Array) -> jax.Array:
            """Writes where the mask [S,K] is True: new is values, or places [S,K] and values."""
            *at, value = new
            sample = jnp.where(mask, state.sample, x.shape[1])  # out of range: dropped

            def one(x: jax.Array, c: jax.Array, *index: jax.Array) -> jax.Array:
                return x.at[c[:, None], *index[:-1]].set(index[-1], mode="drop")

            return _by_part(one, parts, x, state.context, sample, *at, value)

        state = state._replace(
            tokens=put(state.tokens, state.active, state.length, token),
            logp=put(state.logp, state.active, state.length, logp),
            lengths=put(state.lengths, state.active, length),
            done=put(state.done, stopped, stopped),
            length=length,
            last=token,
            cache=cache,
        )
        return _refill(rows, state, stopped | (state.active & (length == width)), parts), left - 1

    def goes_on(carry: tuple[State, jax.Array], low: int, high: int) -> jax.Array:
        state, left = carry
        longest = jnp.max(state.length, initial=-1, where=state.active)  # -1: no lane is active
        return (left > 0) & (low < longest) & (longest <= high)

    bounds = plain.segments(width)

    def segments(carry: tuple[State, jax.Array]) -> tuple[State, jax.Array]:
        for low, high in zip((-1, *bounds), bounds, strict=False):
            carry = jax.lax.while_loop(
                functools.partial(goes_on, low=low, high=high),
                functools.partial(step, filled=high),
                carry,
            )
        return carry

    whole = functools.partial(goes_on, low=-1, high=width)
    state, _ = jax.lax.while_loop(whole, segments, (state, steps))
    return _with_busy(state, mesh)


def _assign(waiting: list[list[int]], idle: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Gives up to `most` idle slots of each part its next waiting prompts, and takes both away.

    Args: waiting: of each part, places of prompts; idle: [parts, slots of a part].
    Returns: context, slot [parts, most] as `load` wants them.
    """
    parts, slots = idle.shape
    context = np.zeros((parts, most), np.int32)
    slot = np.full((parts, most), slots, np.int32)
    for part, queue in enumerate(waiting):
        for i, place in enumerate(np.flatnonzero(idle[part])[: min(most, len(queue))]):
            context[part, i], slot[part, i] = queue.pop(0), place
            idle[part, place] = False
    return context, slot


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
    lanes: int,
    slots: int = 0,
    pad: int = 0,
    alive: tp.Any = None,
    offset: tp.Any = None,
    mesh: tp.Any = None,
    dtype: tp.Any = jnp.float32,
    check_every: int = 0,
    check: tp.Callable[[tp.Any, tp.Any, tp.Any], tp.Any] | None = None,
) -> dict[str, jax.Array]:
    """Samples G completions of every prompt, as `rlpt.generate.generate` does.

    Args:
      lanes: K, samples of a prompt under way at once; more than G are not made.
      slots: S, prompts under way at once; 0, or more than P: all.
      The others, Returns: as `rlpt.generate.generate`.
    Raises: ValueError for lanes or slots out of range.
    """
    (p, g), parts = np.shape(ids)[:2], sharding.shards(mesh)
    if lanes < 1:
        raise ValueError(f"lanes: got {lanes}, expected 1 or more")
    slots = min(slots, p) or p
    if slots < 0 or slots % parts:
        raise ValueError(
            f"slots: got {slots}, expected 0: all, or a multiple of {parts}, the parts into which "
            "the mesh cuts the prompts"
        )
    static, numbers = law
    numbers = LawNumbers(*(jnp.asarray(x) for x in numbers))
    alive = np.ones((p, g), bool) if alive is None else np.asarray(alive)
    shift = np.zeros(p, np.int32) if offset is None else np.asarray(offset, np.int32)
    prompt_tokens, prompt_mask = np.asarray(prompt_tokens), np.asarray(prompt_mask)
    row_ids, live, shift = sharding.place_batch([np.asarray(ids), alive, shift], mesh)
    stop_ids = jnp.asarray(list(stop) or [-1], jnp.int32)
    rows, state = begin(
        cfg, key, row_ids, live, shift, slots=slots, lanes=min(lanes, g),
        length=prompt_tokens.shape[1], width=width, pad=pad, mesh=mesh, dtype=dtype,
    )  # fmt: skip
    waiting = [np.flatnonzero(part).tolist() for part in alive.any(1).reshape(parts, -1)]
    idle = np.ones((parts, slots // parts), bool)
    most = slots // parts  # prompts that one call encodes for each part; later 1
    unchecked = 0  # tokens a row, at most
    while True:
        while any(queue and free.any() for queue, free in zip(waiting, idle, strict=True)):
            context, slot = _assign(waiting, idle, most)
            at = (context + np.arange(parts)[:, None] * (p // parts)).ravel()
            blocks = [prompt_tokens[at], prompt_mask[at], context.ravel(), slot.ravel()]
            blocks = sharding.place_batch(blocks, mesh)
            state = load(cfg, params, rows, state, *blocks, mesh=mesh, dtype=dtype)
            most = 1
        steps = min(p * g * width, 2**31 - 1) if check is None else check_every - unchecked
        steps = min(steps, _LOOK_EVERY) if any(waiting) else steps
        state, busy = decode(
            cfg, params, rows, state, jnp.int32(steps), stop_ids, numbers,
            law=static, mesh=mesh, dtype=dtype,
        )  # fmt: skip
        unchecked += steps
        if check is not None and unchecked == check_every:
            done = check(*sharding.fetch((state.tokens, state.lengths, state.done)))
            state, busy = release(
                rows, state, sharding.place_batch(np.asarray(done), mesh), mesh=mesh
            )
            unchecked = 0
        idle = ~sharding.fetch(busy).reshape(parts, -1)
        if idle.all() and not any(waiting):
            break
    mask = jnp.arange(width) < state.lengths[..., None]
    return {
        "completion_tokens": state.tokens,
        "completion_mask": mask,
        "sampler_logp": state.logp,
        "truncated": ~state.done & live,
    }
