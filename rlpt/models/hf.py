"""Hugging Face directories: configuration and weights, in and out.

Reads and writes what transformers, vLLM and SGLang load.  Nothing is guessed: a
setting that changes the mathematics and is not supported, and a weight that is
missing, left over or of the wrong shape, are errors that name it.  Tensors are
copied one at a time into preallocated stacked arrays, so that memory is that of
one model.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import shutil
import typing as tp

import jax.numpy as jnp
import numpy as np

from rlpt.models import transformer
from rlpt.models.tokenizer import Tokenizer
from rlpt.models.transformer import ModelConfig

Params = dict[str, tp.Any]

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


class Slot(tp.NamedTuple):
    """Where a tensor of a file goes: a leaf of the tree, one layer of it or all (None)."""

    leaf: tuple[str, ...]
    layer: int | None
    transposed: bool

    def view(self, params: Params) -> tp.Any:
        """This part of the tree in the layout of the file."""
        value: tp.Any = params
        for part in self.leaf:
            value = value[part]
        value = value if self.layer is None else value[self.layer]
        return value.T if self.transposed else value


def slots(
    cfg: ModelConfig, layer_names: tp.Mapping[str, str], top_names: tp.Mapping[str, str]
) -> dict[str, Slot]:
    """{tensor name: Slot} for the whole tree.

    layer_names: {leaf: name with {} for the layer}; top_names: {leaf: name}, both
      without the suffix, which is .bias for biases and .weight for the rest.
    """
    out = {}
    shapes = transformer.param_shapes(cfg)
    for leaf, shape in shapes["layers"].items():
        for i in range(cfg.num_layers):
            name = layer_names[leaf.removesuffix("_bias")].format(i)
            name += ".bias" if leaf.endswith("_bias") else ".weight"
            out[name] = Slot(("layers", leaf), i, len(shape) == 3)
    for leaf in shapes:
        if leaf != "layers":
            out[top_names[leaf] + ".weight"] = Slot((leaf,), None, False)
    return out


def fill(
    cfg: ModelConfig,
    places: tp.Mapping[str, Slot],
    names: tp.Collection[str],
    read: tp.Callable[[str], np.ndarray],
    dtype: tp.Any,
    where: str,
) -> Params:
    """Reads every tensor once into preallocated stacked arrays.

    Args:
      names: what the file has.  read: one tensor by name.  where: the file, for errors.
    Raises: ValueError naming weights that are missing, left over or of the wrong shape.
    """
    missing, extra = sorted(set(places) - set(names)), sorted(set(names) - set(places))
    if missing or extra:
        raise ValueError(
            f"{where}: weights do not fit the {cfg.family} of {cfg.num_layers} layers. "
            f"Missing {len(missing)}: {_few(missing)}. Left over {len(extra)}: {_few(extra)}. "
            "Is the download complete and config.json of this model?"
        )
    params: Params = {"layers": {}}
    for leaf, shape in transformer.param_shapes(cfg).items():
        if leaf == "layers":
            params[leaf] = {k: np.empty(s, jnp.dtype(dtype)) for k, s in shape.items()}
        else:
            params[leaf] = np.empty(shape, jnp.dtype(dtype))
    for name, slot in places.items():
        value, target = read(name), slot.view(params)
        if value.shape != target.shape:
            raise ValueError(
                f"{where}: {name} has shape {value.shape}, "
                f"expected {target.shape} by its configuration"
            )
        target[...] = value
    return params


def _few(names: tp.Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "") if names else "none"


def hf_slots(cfg: ModelConfig) -> dict[str, Slot]:
    """{name in the safetensors file: Slot}."""
    names = {
        "attn_norm": "input_layernorm",
        "mlp_norm": "pre_feedforward_layernorm" if cfg.post_norms else "post_attention_layernorm",
        "post_attn_norm": "post_attention_layernorm",
        "post_mlp_norm": "post_feedforward_layernorm",
        **{k: f"self_attn.{k}_proj" for k in "qkvo"},
        **{k: f"self_attn.{k}" for k in ("q_norm", "k_norm")},
        **{k: f"mlp.{k}_proj" for k in ("gate", "up", "down")},
    }
    return slots(
        cfg,
        {k: "model.layers.{}." + v for k, v in names.items()},
        {"embed": "model.embed_tokens", "final_norm": "model.norm", "head": "lm_head"},
    )


def load_hf(
    directory: str | os.PathLike[str], dtype: str = "float32"
) -> tuple[ModelConfig, Params]:
    """Reads config.json and the safetensors of a Hugging Face directory.

    Returns: the configuration and the tree of `transformer.param_shapes`, numpy arrays.
    Raises: FileNotFoundError naming the file that is not there; ValueError for a setting
      or weight that does not fit.
    """
    directory = pathlib.Path(directory)
    config = directory / "config.json"
    if not config.is_file():
        raise FileNotFoundError(
            f"no config.json in {directory}: expected a Hugging Face model directory "
            "(config.json, model.safetensors, tokenizer.json); download one with "
            "`hf download <model> --local-dir <dir>`"
        )
    raw = json.loads(config.read_text("utf-8"))
    cfg = config_from_hf(raw)
    with contextlib.ExitStack() as stack:
        files = {}
        for path in _weight_files(directory):
            file = stack.enter_context(_open(path))
            files.update({name: file for name in file.keys()})  # noqa: SIM118
        stored = {_text_name(n) if raw["model_type"] == "gemma3" else n: n for n in files}
        stored.pop("", None)

        def read(name: str) -> np.ndarray:
            file = files[stored[name]]
            kind = file.get_slice(stored[name]).get_dtype()
            if kind not in ("F32", "BF16", "F16"):
                raise ValueError(
                    f"{directory}: {name} is stored as {kind}, expected F32, BF16 or F16; "
                    "use a version of the model that is not quantised"
                )
            return tp.cast(np.ndarray, file.get_tensor(stored[name]))

        names = {n for n in stored if not n.endswith("rotary_emb.inv_freq")}
        if cfg.tie_embeddings and "lm_head.weight" in names:  # a copy that some files keep
            if not np.array_equal(read("lm_head.weight"), read("model.embed_tokens.weight")):
                raise ValueError(
                    f"{directory}: config.json ties the embeddings, but lm_head.weight differs "
                    "from model.embed_tokens.weight; set tie_word_embeddings to false"
                )
            names.remove("lm_head.weight")
        return cfg, fill(cfg, hf_slots(cfg), names, read, dtype, str(directory))


def _weight_files(directory: pathlib.Path) -> list[pathlib.Path]:
    index = directory / "model.safetensors.index.json"
    single = directory / "model.safetensors"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        missing = [n for n in names if not (directory / n).is_file()]
        if missing:
            raise FileNotFoundError(
                f"{directory}: {index.name} names {len(names)} files, of which {_few(missing)} "
                "is not there; download the rest"
            )
        return [directory / n for n in names]
    if not single.is_file():
        found = ", ".join(sorted(p.name for p in directory.iterdir())[:12])
        raise FileNotFoundError(
            f"no model.safetensors or model.safetensors.index.json in {directory}; found {found}. "
            "Pickled weights (.bin) are not read: save the model again with safe_serialization"
        )
    return [single]


def _open(path: pathlib.Path) -> tp.Any:
    import safetensors

    try:
        return safetensors.safe_open(str(path), framework="numpy")
    except safetensors.SafetensorError as e:
        raise ValueError(f"{path} is damaged or cut short ({e}); download it again") from e


def _text_name(name: str) -> str:
    """Name in the language model of a tensor of Gemma 3 with images; "" for the image part."""
    if "vision_tower." in name or "multi_modal_projector." in name:
        return ""
    name = name.replace("model.language_model.", "model.")  # as transformers 5 saves it
    return name.removeprefix("language_model.")


def save_hf(
    directory: str | os.PathLike[str],
    cfg: ModelConfig,
    params: Params,
    tokenizer: Tokenizer,
    *,
    dtype: str = "float32",
    run_info: tp.Mapping[str, tp.Any],
    max_shard_bytes: float = 5e9,
) -> None:
    """Writes a directory that transformers, vLLM and `load_hf` read.

    The files are written beside it and moved into place at the end, so a directory of
    that name is always complete.

    Args:
      params: plain, fully addressable arrays in the tree of `transformer.param_shapes`;
        merge adapters first.
      dtype: of the stored weights: float32, bfloat16 or float16.
      run_info: what the model card tells; must have "run_id".
      max_shard_bytes: weights beyond this go to several files with an index.
    Raises: FileExistsError when the directory has files; ValueError for parameters that
      do not fit the configuration, or for a run_info without run_id.
    """
    directory = pathlib.Path(directory)
    if directory.exists() and any(directory.iterdir()):
        raise FileExistsError(f"{directory} is not empty; choose a new directory for the export")
    if "run_id" not in run_info:
        raise ValueError(f"run_info: got {sorted(run_info)}, expected run_id among them")
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"dtype: got {dtype!r}, expected float32, bfloat16 or float16")
    config = config_to_hf(cfg) | {"torch_dtype": dtype, "eos_token_id": list(tokenizer.eos_ids)}
    config |= {"pad_token_id": tokenizer.pad_id, "bos_token_id": tokenizer.bos_id}
    _check_tree(cfg, params)
    part = directory.with_name(directory.name + ".partial")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    _write_json(part / "config.json", config)
    tokenizer.save(part)
    _write_weights(part, cfg, params, jnp.dtype(dtype), max_shard_bytes)
    (part / "README.md").write_text(_model_card(cfg, dtype, run_info), "utf-8")
    if directory.exists():
        directory.rmdir()
    part.rename(directory)


def _check_tree(cfg: ModelConfig, params: Params) -> None:
    def flat(tree: tp.Mapping[str, tp.Any], shapes: bool) -> dict[str, tp.Any]:
        both = {**tree, **{f"layers/{k}": v for k, v in tree["layers"].items()}}
        return {
            k: v if shapes else getattr(v, "shape", type(v).__name__)
            for k, v in both.items()
            if k != "layers"
        }

    got, expected = flat(params, False), flat(transformer.param_shapes(cfg), True)
    wrong = {k: (got.get(k), expected.get(k)) for k in sorted({*got, *expected})}
    wrong = {k: v for k, v in wrong.items() if v[0] != v[1]}
    if wrong:
        raise ValueError(
            f"parameters do not fit the configuration; (got, expected) shapes: {wrong}. "
            "LoRA adapters must be merged before export"
        )


def _write_weights(
    directory: pathlib.Path, cfg: ModelConfig, params: Params, dtype: np.dtype, limit: float
) -> None:
    from safetensors.numpy import save_file

    shapes = transformer.param_shapes(cfg)
    shards: list[dict[str, Slot]] = [{}]
    sizes = [0]
    for name, slot in hf_slots(cfg).items():
        shape = shapes[slot.leaf[0]] if slot.layer is None else shapes["layers"][slot.leaf[1]][1:]
        size = math.prod(shape) * dtype.itemsize
        if shards[-1] and sizes[-1] + size > limit:
            shards.append({})
            sizes.append(0)
        shards[-1][name] = slot
        sizes[-1] += size
    weight_map: dict[str, str] = {}
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        file = file if len(shards) > 1 else "model.safetensors"
        tensors = {
            name: np.ascontiguousarray(np.asarray(slot.view(params)).astype(dtype))
            for name, slot in shard.items()
        }
        save_file(tensors, directory / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(sizes)}, "weight_map": weight_map}
        _write_json(directory / "model.safetensors.index.json", index)


def _write_json(path: pathlib.Path, content: tp.Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def _model_card(cfg: ModelConfig, dtype: str, run_info: tp.Mapping[str, tp.Any]) -> str:
    lines = "\n".join(f"| {key} | {value} |" for key, value in run_info.items())
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [rlpt, reinforcement-learning]
---

# {run_info["run_id"]}

A {ARCHITECTURES[cfg.family]} with {cfg.num_layers} layers of width {cfg.d_model}, weights in
{dtype}, post-trained with rlpt.

| | |
|---|---|
{lines}

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/this/directory")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/directory")
```
"""
