"""config.json of Hugging Face directories: a `ModelConfig` from it, and back.

Nothing is guessed: a setting that changes the mathematics and is not supported is an
error that names it.
"""

from __future__ import annotations

import dataclasses
import math
import typing as tp

from rlpt.models.transformer import ModelConfig

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
}

# What transformers assumes where config.json is silent.  Published files leave out
# some of these, above all the nested text_config of Gemma 3.
_COMMON = {"rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": False}
_QWEN = {"max_position_embeddings": 32768, "sliding_window": 4096, "max_window_layers": 28}
_GEMMA = {
    "vocab_size": 256000,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "hidden_activation": "gelu_pytorch_tanh",
}
_DEFAULTS: dict[str, dict[str, tp.Any]] = {
    "llama": {"max_position_embeddings": 2048},
    "mistral": {
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
    },
    "qwen2": _QWEN,
    "qwen3": _QWEN | {"head_dim": 128},
    "gemma2": _GEMMA | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    "gemma3_text": _GEMMA
    | {
        "vocab_size": 262208,
        "max_position_embeddings": 131072,
        "rope_theta": 1e6,
        "rope_local_base_freq": 10000.0,
        "sliding_window_pattern": 6,
    },
}

# Settings that would change the mathematics, and the values that do not.
_UNSUPPORTED: dict[str, tuple[tp.Any, ...]] = {
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "partial_rotary_factor": (1.0, None),
    "use_bidirectional_attention": (False, None),
    "num_local_experts": (0, 1, None),
    "num_experts": (0, 1, None),
    "quantization_config": (None,),
}
_ROPE_KEYS = {
    "default": (),
    "linear": ("factor",),
    "llama3": (
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    ),
}


def config_from_hf(raw: tp.Mapping[str, tp.Any]) -> ModelConfig:
    """ModelConfig of a parsed config.json, in the spelling of transformers 4 or 5.

    Raises: ValueError that names a model type or setting which is not supported.
    """
    kind = raw.get("model_type")
    if kind == "gemma3":  # text and images: the language model alone
        text = dict(raw.get("text_config") or {})
        return config_from_hf(text | {"model_type": "gemma3_text"})
    if kind not in ARCHITECTURES:
        raise ValueError(
            f"model_type: got {kind!r}, supported are {', '.join(ARCHITECTURES)} and gemma3"
        )
    given = {k: v for k, v in raw.items() if v is not None or k == "sliding_window"}
    if kind == "gemma2":  # null switches the soft caps off, absence does not
        given |= {k: raw[k] or 0.0 for k in raw if k.endswith("_softcapping")}
    hf: dict[str, tp.Any] = _COMMON | _DEFAULTS[kind] | given
    for key, harmless in _UNSUPPORTED.items():
        if hf.get(key) not in harmless:
            raise ValueError(
                f"{kind}: {key}={hf[key]!r} is not supported, expected {harmless[0]!r} or no key"
            )
    gemma = kind.startswith("gemma")
    act_key = "hidden_activation" if gemma else "hidden_act"
    activation = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}.get(hf.get(act_key, "silu"))
    if activation is None:
        raise ValueError(
            f"{act_key}: got {hf[act_key]!r}, supported are silu and gelu_pytorch_tanh"
        )
    try:
        heads, layers, width = (
            int(hf[k]) for k in ("num_attention_heads", "num_hidden_layers", "hidden_size")
        )
        vocab_size, d_ff = int(hf["vocab_size"]), int(hf["intermediate_size"])
    except KeyError as e:
        raise ValueError(f"config.json of a {kind} lacks the key {e}") from None
    head_dim = int(hf.get("head_dim") or width // heads)
    theta, local_theta, scaling = _rope(kind, hf)
    return ModelConfig(
        vocab_size=vocab_size,
        num_layers=layers,
        d_model=width,
        d_ff=d_ff,
        num_heads=heads,
        num_kv_heads=int(hf.get("num_key_value_heads") or heads),
        head_dim=head_dim,
        rope_theta=theta,
        rope_scaling=scaling,
        rope_local_theta=local_theta,
        windows=_windows(kind, hf, layers),
        norm_eps=float(hf["rms_norm_eps"]),
        norm_plus_one=gemma,
        post_norms=gemma,
        qkv_bias=kind == "qwen2",
        qk_norm=kind in ("qwen3", "gemma3_text"),
        activation=activation,
        embed_scale=math.sqrt(width) if gemma else 1.0,
        query_scale=float(hf["query_pre_attn_scalar"]) ** -0.5 if gemma else 0.0,
        attn_softcap=float(hf.get("attn_logit_softcapping") or 0.0) if gemma else 0.0,
        logit_softcap=float(hf.get("final_logit_softcapping") or 0.0) if gemma else 0.0,
        tie_embeddings=bool(hf["tie_word_embeddings"]),
        max_positions=int(hf["max_position_embeddings"]),
        family=kind,
    )


def _windows(kind: str, hf: dict[str, tp.Any], layers: int) -> tuple[int, ...]:
    """Window of each layer, 0 = full attention; () where all are full."""
    window = hf.get("sliding_window")
    types = hf.get("layer_types")
    if kind == "llama":
        window, types = None, None
    elif kind == "mistral":
        types = ["sliding_attention"] * layers  # transformers ignores layer_types here
    elif kind in ("qwen2", "qwen3"):
        if not hf.get("use_sliding_window", False):
            window = None
        if types is None:
            first = int(hf["max_window_layers"])
            types = ["full_attention"] * min(first, layers)
            types += ["sliding_attention"] * (layers - len(types))
    elif types is None:
        every = 2 if kind == "gemma2" else int(hf["sliding_window_pattern"])
        types = [
            "sliding_attention" if (i + 1) % every else "full_attention" for i in range(layers)
        ]
    if types is None or not window:
        return ()
    unknown = sorted(set(types) - {"sliding_attention", "full_attention"})
    if unknown or len(types) != layers:
        raise ValueError(
            f"layer_types: got {len(types)} entries with {unknown or 'known names'}, expected "
            f"{layers} entries of sliding_attention or full_attention"
        )
    windows = tuple(int(window) if t == "sliding_attention" else 0 for t in types)
    return windows if any(windows) else ()


def _rope(
    kind: str, hf: dict[str, tp.Any]
) -> tuple[float, float, tuple[tuple[str, float | str], ...]]:
    """(base, base of layers with a window or 0, scaling) from either spelling."""
    parameters = dict(hf.get("rope_parameters") or {})
    local: dict[str, tp.Any] = {}
    if kind == "gemma3_text":
        local = {"rope_theta": hf["rope_local_base_freq"]}
        local |= parameters.get("sliding_attention") or {}
        if _scaling(local, hf):
            raise ValueError(f"rope_parameters.sliding_attention: got {local}, expected no scaling")
        if "full_attention" in parameters or "sliding_attention" in parameters:
            parameters = dict(parameters.get("full_attention") or {})
    merged = {"rope_theta": hf["rope_theta"]} | parameters | dict(hf.get("rope_scaling") or {})
    scaling = _scaling(merged, hf)
    return float(merged["rope_theta"]), float(local.get("rope_theta", 0.0)), scaling


def _scaling(rope: dict[str, tp.Any], hf: dict[str, tp.Any]) -> tuple[tuple[str, float | str], ...]:
    rope = {k: v for k, v in rope.items() if v is not None}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in _ROPE_KEYS:
        raise ValueError(f"rope_type: got {kind!r}, supported are {', '.join(_ROPE_KEYS)}")
    if kind == "llama3":
        rope.setdefault("original_max_position_embeddings", hf["max_position_embeddings"])
    wanted = _ROPE_KEYS[kind]
    known = {"rope_type", "type", "rope_theta", *wanted}
    if rope.get("partial_rotary_factor") == 1.0:
        known.add("partial_rotary_factor")
    unknown, missing = sorted(set(rope) - known), sorted(set(wanted) - set(rope))
    if unknown or missing:
        raise ValueError(
            f"rope scaling of type {kind!r}: unsupported keys {unknown}, missing keys {missing}; "
            f"expected {wanted or 'none'}"
        )
    if kind == "default":
        return ()
    pairs: dict[str, float | str] = {k: float(rope[k]) for k in wanted}
    return tuple(sorted((pairs | {"rope_type": kind}).items()))


def config_to_hf(cfg: ModelConfig) -> dict[str, tp.Any]:
    """config.json of a model, in the spelling that transformers 4 and 5 and vLLM read.

    Raises: ValueError naming the options that the family `cfg.family` cannot express.
    """
    if cfg.family not in ARCHITECTURES:
        raise ValueError(f"family: got {cfg.family!r}, expected one of {', '.join(ARCHITECTURES)}")
    gemma = cfg.family.startswith("gemma")
    hf: dict[str, tp.Any] = {
        "architectures": [ARCHITECTURES[cfg.family]],
        "model_type": cfg.family,
        "vocab_size": cfg.vocab_size,
        "hidden_size": cfg.d_model,
        "intermediate_size": cfg.d_ff,
        "num_hidden_layers": cfg.num_layers,
        "num_attention_heads": cfg.num_heads,
        "num_key_value_heads": cfg.num_kv_heads,
        "head_dim": cfg.head_dim,
        "max_position_embeddings": cfg.max_positions,
        "rms_norm_eps": cfg.norm_eps,
        "rope_theta": cfg.rope_theta,
        # whole numbers as such: transformers wants original_max_position_embeddings to be an int
        "rope_scaling": {
            k: int(v) if isinstance(v, float) and v.is_integer() and "max" in k else v
            for k, v in cfg.rope_scaling
        }
        or None,
        "tie_word_embeddings": cfg.tie_embeddings,
    }
    hf["hidden_activation" if gemma else "hidden_act"] = {"gelu_tanh": "gelu_pytorch_tanh"}.get(
        cfg.activation, cfg.activation
    )
    sliding = max(cfg.windows, default=0)
    if cfg.family != "llama":
        hf["sliding_window"] = sliding or None
    if cfg.family in ("qwen2", "qwen3"):
        hf["use_sliding_window"] = sliding > 0
    if cfg.family not in ("llama", "mistral"):
        hf["layer_types"] = [
            "sliding_attention" if w else "full_attention"
            for w in cfg.windows or (0,) * cfg.num_layers
        ]
    if gemma:
        hf["query_pre_attn_scalar"] = round((cfg.query_scale or cfg.head_dim**-0.5) ** -2)
        hf["attn_logit_softcapping"] = cfg.attn_softcap or None
        hf["final_logit_softcapping"] = cfg.logit_softcap or None
    if cfg.family == "gemma3_text":
        hf["rope_local_base_freq"] = cfg.rope_local_theta or cfg.rope_theta
    back = dataclasses.asdict(config_from_hf(hf))
    lost = {
        k: v
        for k, v in dataclasses.asdict(cfg).items()
        if back[k] != v and (k, v) not in (("query_scale", 0.0), ("rope_local_theta", 0.0))
    }
    if lost:
        raise ValueError(
            f"a {cfg.family} in the Hugging Face format cannot express {lost}; it would mean "
            f"{ {k: back[k] for k in lost} }"
        )
    return hf
