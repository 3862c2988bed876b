"""One decoder for Llama, SmolLM2, Mistral, Qwen2/2.5, Qwen3, Gemma 2 and 3.

What differs between families is an option of `ModelConfig`, not a file.  The
parameters are a plain dict with the layers stacked on axis 0 and scanned; what
differs between layers (window, RoPE frequencies) is a scanned array.
"""

from __future__ import annotations

import dataclasses
import typing as tp

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rlpt import sharding
from rlpt.models import lora, products
from rlpt.models.attention import Part, attend

Params = dict[str, tp.Any]


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Static description of a decoder (hashable: it is a static argument of jit)."""

    vocab_size: int
    num_layers: int
    d_model: int
    d_ff: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope_theta: float = 10000.0
    # sorted (key, value) pairs of HF's rope_scaling, e.g. (("factor", 8.0), …)
    rope_scaling: tuple[tuple[str, float | str], ...] = ()
    # Gemma 3: layers with a window use this base, unscaled; 0: the same as rope_theta
    rope_local_theta: float = 0.0
    windows: tuple[int, ...] = ()  # per layer, 0 = full attention; (): all full
    norm_eps: float = 1e-6
    norm_plus_one: bool = False  # Gemma: x * (1 + w)
    post_norms: bool = False  # Gemma 2/3: norms after attention and after the MLP too
    qkv_bias: bool = False  # Qwen2
    qk_norm: bool = False  # Qwen3, Gemma 3: RMS norm per head on q and k
    activation: str = "silu"  # or "gelu_tanh"
    embed_scale: float = 1.0  # Gemma: sqrt(d_model)
    query_scale: float = 0.0  # 0: head_dim ** -0.5
    attn_softcap: float = 0.0  # 0: none
    logit_softcap: float = 0.0
    tie_embeddings: bool = True
    max_positions: int = 8192
    # How attention is computed (`models.attention`); no part of what the model is.
    attention: str = dataclasses.field(default="auto", repr=False)
    matmul: str = dataclasses.field(default="default", repr=False)  # or bfloat16, see `lora.matmul`
    family: str = "llama"  # for export only: HF's model_type


def layer_shapes(cfg: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of one layer's parameters (stacked on a leading axis in the tree)."""
    d, f, hd = cfg.d_model, cfg.d_ff, cfg.head_dim
    q, kv = cfg.num_heads * hd, cfg.num_kv_heads * hd
    shapes: dict[str, tuple[int, ...]] = {
        "attn_norm": (d,),
        "q": (d, q),
        "k": (d, kv),
        "v": (d, kv),
        "o": (q, d),
        "mlp_norm": (d,),
        "gate": (d, f),
        "up": (d, f),
        "down": (f, d),
    }
    if cfg.qkv_bias:
        shapes |= {"q_bias": (q,), "k_bias": (kv,), "v_bias": (kv,)}
    if cfg.qk_norm:
        shapes |= {"q_norm": (hd,), "k_norm": (hd,)}
    if cfg.post_norms:
        shapes |= {"post_attn_norm": (d,), "post_mlp_norm": (d,)}
    return shapes


def param_shapes(cfg: ModelConfig) -> dict[str, tp.Any]:
    """The whole parameter tree as shapes."""
    shapes: dict[str, tp.Any] = {
        "embed": (cfg.vocab_size, cfg.d_model),
        "layers": {k: (cfg.num_layers, *s) for k, s in layer_shapes(cfg).items()},
        "final_norm": (cfg.d_model,),
    }
    if not cfg.tie_embeddings:
        shapes["head"] = (cfg.vocab_size, cfg.d_model)
    return shapes


class _Leaves(nn.Module):
    """Declares the leaves of one level of the tree."""

    shapes: tp.Mapping[str, tp.Any]
    norm_init: float

    @nn.compact
    def __call__(self) -> dict[str, jax.Array]:
        out = {}
        for name, shape in self.shapes.items():
            if isinstance(shape, tuple):
                init: tp.Any = nn.initializers.normal(0.02)
                if name.endswith("norm"):
                    init = nn.initializers.constant(self.norm_init)
                elif name.endswith("bias"):
                    init = nn.initializers.zeros_init()
                out[name] = self.param(name, init, shape)
            else:
                out[name] = _Leaves(shape, self.norm_init, name=name)()
        return out


def init_params(cfg: ModelConfig, key: jax.Array) -> dict[str, tp.Any]:
    """Random parameters: kernels normal(0, 0.02), norms the identity, biases 0."""
    module = _Leaves(param_shapes(cfg), 0.0 if cfg.norm_plus_one else 1.0)
    params: dict[str, tp.Any] = module.init(key)["params"]
    return params


def inverse_frequencies(cfg: ModelConfig) -> tuple[np.ndarray, np.ndarray]:
    """RoPE inverse frequencies and which of them each layer uses.

    Returns: ([U, head_dim/2] float64, [num_layers] int); U is 2 where layers with a
      window have their own base (Gemma 3), else 1.
    Raises: ValueError for a rope_type that is not default, linear or llama3.
    """
    half = np.arange(0, cfg.head_dim, 2, dtype=np.float64) / cfg.head_dim
    freq = cfg.rope_theta**-half
    scaling = dict(cfg.rope_scaling)
    kind = scaling.get("rope_type", "default")
    if kind == "linear":
        freq = freq / float(scaling["factor"])
    elif kind == "llama3":
        factor = float(scaling["factor"])
        low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
        original = float(scaling["original_max_position_embeddings"])
        wavelength = 2 * np.pi / freq
        smooth = np.clip((original / wavelength - low) / (high - low), 0.0, 1.0)
        freq = (1 - smooth) * freq / factor + smooth * freq
    elif kind != "default":
        raise ValueError(f"rope_type: got {kind!r}, expected default, linear or llama3")
    layers = np.zeros(cfg.num_layers, np.int32)
    if cfg.rope_local_theta and any(cfg.windows):
        layers = np.array([int(w > 0) for w in cfg.windows], np.int32)
        return np.stack([freq, cfg.rope_local_theta**-half]), layers
    return freq[None], layers


def rms_norm(cfg: ModelConfig, x: jax.Array, weight: jax.Array) -> jax.Array:
    """x / rms(x) * w (or 1 + w), computed in float32, returned in x's dtype."""
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + cfg.norm_eps)
    w = weight.astype(jnp.float32)
    return (y * (1.0 + w if cfg.norm_plus_one else w)).astype(x.dtype)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """RoPE in the half-split layout. x [..., S, heads, hd]; cos, sin [..., S, hd/2] float32."""
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    c, s = cos[..., None, :], sin[..., None, :]
    return jnp.concatenate([a * c - b * s, b * c + a * s], -1).astype(x.dtype)


def rope_tables(cfg: ModelConfig, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """cos, sin [U, *positions.shape, hd/2] float32 for integer positions."""
    freq, _ = inverse_frequencies(cfg)
    angle = positions[None, ..., None].astype(jnp.float32) * jnp.asarray(
        freq.astype(np.float32)
    ).reshape(freq.shape[0], *(1,) * positions.ndim, -1)
    return jnp.cos(angle), jnp.sin(angle)


def project(
    cfg: ModelConfig, layer: Params, x: jax.Array, cos: jax.Array, sin: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Rotated q [..., S, H, hd], rotated k and v [..., KV, S, hd] of normed input x [..., S, D]."""
    q, k, v = (lora.matmul(x, layer[n], cfg.matmul) for n in "qkv")
    if cfg.qkv_bias:
        q, k, v = (
            y + layer[f"{n}_bias"].astype(y.dtype) for n, y in (("q", q), ("k", k), ("v", v))
        )
    q, k, v = (y.reshape(*y.shape[:-1], -1, cfg.head_dim) for y in (q, k, v))
    if cfg.qk_norm:
        q, k = rms_norm(cfg, q, layer["q_norm"]), rms_norm(cfg, k, layer["k_norm"])
    return rotate(q, cos, sin), jnp.swapaxes(rotate(k, cos, sin), -3, -2), jnp.swapaxes(v, -3, -2)


def finish_layer(cfg: ModelConfig, layer: Params, x: jax.Array, attended: jax.Array) -> jax.Array:
    """Output projection, residuals and MLP. x [..., D], attended [..., H*hd]."""
    y = lora.matmul(attended, layer["o"], cfg.matmul)
    x = x + (rms_norm(cfg, y, layer["post_attn_norm"]) if cfg.post_norms else y)
    y = rms_norm(cfg, x, layer["mlp_norm"])
    gate = lora.matmul(y, layer["gate"], cfg.matmul)
    gate = (
        jax.nn.gelu(gate, approximate=True) if cfg.activation == "gelu_tanh" else jax.nn.silu(gate)
    )
    y = lora.matmul(gate * lora.matmul(y, layer["up"], cfg.matmul), layer["down"], cfg.matmul)
    return x + (rms_norm(cfg, y, layer["post_mlp_norm"]) if cfg.post_norms else y)


def embed(cfg: ModelConfig, params: Params, tokens: jax.Array, dtype: tp.Any) -> jax.Array:
    """Token embeddings [..., D] in the compute dtype."""
    x = params["embed"][tokens].astype(dtype)
    return x * jnp.asarray(cfg.embed_scale, dtype) if cfg.embed_scale != 1.0 else x


def head_kernel(cfg: ModelConfig, params: Params) -> jax.Array:
    """[V, D]: the matrix that makes logits."""
    kernel: jax.Array = params["embed"] if cfg.tie_embeddings else params["head"]
    return kernel


def logits_of(cfg: ModelConfig, kernel: jax.Array, hidden: jax.Array) -> jax.Array:
    """[..., V] float32 of final hidden states [..., D] and a kernel [V, D]."""
    if cfg.matmul == "bfloat16" and hidden.dtype == jnp.float32:
        flat = products.rounded(hidden.reshape(-1, hidden.shape[-1]), kernel, True)
        out = flat.reshape(*hidden.shape[:-1], -1)
    else:
        out = jnp.einsum(
            "...d,vd->...v", hidden, kernel.astype(hidden.dtype), preferred_element_type=jnp.float32
        )
    return cfg.logit_softcap * jnp.tanh(out / cfg.logit_softcap) if cfg.logit_softcap else out


def logits(cfg: ModelConfig, params: Params, hidden: jax.Array) -> jax.Array:
    """[..., V] float32 of final hidden states [..., D]."""
    return logits_of(cfg, head_kernel(cfg, params), hidden)


def layer_inputs(cfg: ModelConfig) -> dict[str, jax.Array]:
    """What differs between layers, to be scanned: window [N] (0: full), rope set [N]."""
    windows = cfg.windows or (0,) * cfg.num_layers
    return {
        "window": jnp.asarray(windows, jnp.int32),
        "rope": jnp.asarray(inverse_frequencies(cfg)[1]),
        "index": jnp.arange(cfg.num_layers, dtype=jnp.int32),
    }


def prompt_positions(mask: jax.Array) -> jax.Array:
    """[..., L] int32: 0 at the first real token of a left-padded row."""
    return jnp.maximum(jnp.cumsum(mask, -1, dtype=jnp.int32) - 1, 0)


REMAT = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def forward(
    cfg: ModelConfig,
    params: Params,
    prompt_tokens: jax.Array,
    prompt_mask: jax.Array,
    completion_tokens: jax.Array | None = None,
    completion_mask: jax.Array | None = None,
    *,
    dtype: tp.Any = jnp.float32,
    remat: str = "none",
    return_cache: bool = False,
) -> tuple[jax.Array, jax.Array | None, tuple[jax.Array, jax.Array] | None]:
    """Hidden states of prompts and of the completions that share them.

    The prompt is encoded once a block, and its keys and values are attended to in
    place by the G completions.

    Args:
      prompt_tokens, prompt_mask: [P, L], left-padded.
      completion_tokens, completion_mask: [P, G, S] or None.
      dtype: compute dtype; parameters are cast where they are used.
      remat: none, full (recompute layers in the backward pass) or dots (keep matmuls).
      return_cache: also return the prompt's keys and values, [N, P, KV, L, hd] each.
    Returns: (prompt hidden [P,L,D], completion hidden [P,G,S,D] or None, cache or None),
      after the final norm.
    """
    chex.assert_equal_shape([prompt_tokens, prompt_mask])
    prompt_pos = prompt_positions(prompt_mask)
    prompt_rope = rope_tables(cfg, prompt_pos)
    prompt_x = embed(cfg, params, prompt_tokens, dtype)
    state: dict[str, jax.Array] = {"prompt": prompt_x}
    if completion_tokens is not None:
        lengths = prompt_mask.sum(-1, dtype=jnp.int32)
        steps = jnp.arange(completion_tokens.shape[-1], dtype=jnp.int32)
        pos = jnp.broadcast_to(lengths[:, None, None] + steps, completion_tokens.shape)
        rope = rope_tables(cfg, pos)
        state["completion"] = embed(cfg, params, completion_tokens, dtype)

    def body(x: dict[str, jax.Array], xs: tp.Any) -> tp.Any:
        layer, info = xs
        layer, x = sharding.gathered(layer, dtype, "layers/"), sharding.cut_blocks(x)
        out = {}
        y = rms_norm(cfg, x["prompt"], layer["attn_norm"])
        q, k, v = project(cfg, layer, y, *(t[info["rope"]] for t in prompt_rope))
        shared = Part(k, v, prompt_pos, prompt_mask)
        a = attend(cfg, q[:, None], prompt_pos[:, None], [shared], info["window"])[:, 0]
        out["prompt"] = finish_layer(cfg, layer, x["prompt"], a)
        if "completion" in x:
            y = rms_norm(cfg, x["completion"], layer["attn_norm"])
            q, ck, cv = project(cfg, layer, y, *(t[info["rope"]] for t in rope))
            assert completion_mask is not None
            own = Part(ck, cv, pos, completion_mask)
            a = attend(cfg, q, pos, [shared, own], info["window"])
            out["completion"] = finish_layer(cfg, layer, x["completion"], a)
        return out, ((k, v) if return_cache else None)

    if remat not in REMAT:
        raise ValueError(f"remat: got {remat!r}, expected one of {', '.join(REMAT)}")
    policy = REMAT[remat]
    if remat == "none" and sharding.cuts_weights(params["embed"]):  # or all layers would be kept
        policy = jax.checkpoint_policies.save_anything_except_these_names(sharding.GATHERED)
    if policy is not None:
        body = jax.checkpoint(body, policy=policy, prevent_cse=False)
    state, cache = jax.lax.scan(body, state, (params["layers"], layer_inputs(cfg)))
    out = {k: rms_norm(cfg, x, params["final_norm"]) for k, x in state.items()}
    return out["prompt"], out.get("completion"), cache


def _write(cache: jax.Array, new: jax.Array, layer: jax.Array, slot: jax.Array) -> jax.Array:
    """cache [N,P,G,KV,S,hd] with new [P,G,KV,1,hd] in `slot` of a layer, in place where it can."""
    new = new.astype(cache.dtype)
    if slot.ndim == 0:
        return jax.lax.dynamic_update_slice(cache, new[None], (layer, 0, 0, 0, slot, 0))
    rows = jax.lax.ScatterDimensionNumbers(  # what vmap would make copies the cache on CPU
        update_window_dims=(2, 3),
        inserted_window_dims=(0, 4),
        scatter_dims_to_operand_dims=(0, 4),
        operand_batching_dims=(1, 2),
        scatter_indices_batching_dims=(0, 1),
    )
    index = jnp.stack([jnp.broadcast_to(layer, slot.shape), slot], -1)
    return jax.lax.scatter(
        cache, index, new[..., 0, :], rows, unique_indices=True, mode="promise_in_bounds"
    )


def decode_step(
    cfg: ModelConfig,
    params: Params,
    tokens: jax.Array,
    positions: jax.Array,
    prompt: tuple[jax.Array, jax.Array, jax.Array, jax.Array],
    cache: tuple[jax.Array, jax.Array],
    cache_positions: jax.Array,
    slot: jax.Array,
    filled: int,
    *,
    dtype: tp.Any = jnp.float32,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """One token for every row: hidden states and the cache, written in place.

    Args:
      tokens, positions: [P, G].
      prompt: keys, values [N,P,KV,L,hd], positions and mask [P,L].
      cache: keys, values [N,P,G,KV,S,hd]; slot: scalar or [P,G], where this token goes;
        filled: static bound on the slots in use (slot < filled), so that attention
        does not read the empty rest.
      cache_positions: [P,G,S] int32 with this token's position at `slot`; -1: empty.
    Returns: hidden [P,G,D] after the final norm, and the cache.
    """
    rope = rope_tables(cfg, positions[..., None])
    x = embed(cfg, params, tokens, dtype)[:, :, None]
    keys, values, prompt_pos, prompt_mask = prompt
    own_pos = cache_positions[:, :, :filled]

    def body(carry: tp.Any, xs: tp.Any) -> tp.Any:
        x, ck, cv = carry
        layer, info, pk, pv = xs
        y = rms_norm(cfg, x, layer["attn_norm"])
        q, k, v = project(cfg, layer, y, *(t[info["rope"]] for t in rope))
        ck, cv = (_write(c, new, info["index"], slot) for c, new in ((ck, k), (cv, v)))
        size = (1, *ck.shape[1:4], filled, ck.shape[5])
        at = (info["index"], 0, 0, 0, 0, 0)
        own = Part(
            jax.lax.dynamic_slice(ck, at, size)[0],
            jax.lax.dynamic_slice(cv, at, size)[0],
            own_pos,
            own_pos >= 0,
        )
        shared = Part(pk, pv, prompt_pos, prompt_mask)
        a = attend(cfg, q, positions[..., None], [shared, own], info["window"])
        return (finish_layer(cfg, layer, x, a), ck, cv), None

    xs = (params["layers"], layer_inputs(cfg), keys, values)
    (x, ck, cv), _ = jax.lax.scan(body, (x, *cache), xs)
    return rms_norm(cfg, x[:, :, 0], params["final_norm"]), (ck, cv)
