"""GGUF files (llama.cpp): configuration, dequantised weights and tokenizer.

The file's quantised blocks are expanded by the `gguf` package.  llama.cpp stores
the rows of q and k of a Llama in the interleaved rotary layout; they are put back
into the half-split layout here.
"""

from __future__ import annotations

import os
import pathlib
import typing as tp

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from rlpt.models import leaves
from rlpt.models.tokenizer import Tokenizer
from rlpt.models.transformer import ModelConfig

SUPPORTED = ("llama", "qwen2", "qwen3")

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# Where a text is cut before merges apply; the names are those of tokenizer.ggml.pre.
_SPLITS = {
    "llama-bpe": _WORDS + r"\p{N}{1,3}" + _REST,
    "qwen2": _WORDS + r"\p{N}" + _REST,
}
_CONTROL, _USER_DEFINED = 3, 4  # values of tokenizer.ggml.token_type


def load_gguf(
    path: str | os.PathLike[str], dtype: str = "float32"
) -> tuple[ModelConfig, leaves.Params, Tokenizer]:
    """Reads a model of architecture llama, qwen2 or qwen3 with a byte-level BPE vocabulary.

    Returns: configuration, parameters as numpy arrays of `dtype`, tokenizer.
    Raises: FileNotFoundError; ValueError naming what is not supported or does not fit.
    """
    try:
        import gguf
    except ModuleNotFoundError as e:
        raise ModuleNotFoundError(
            "reading a .gguf file needs the package gguf: pip install gguf"
        ) from e

    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no GGUF file {path}; give the path of a .gguf file")
    try:
        reader = gguf.GGUFReader(path)
    except (ValueError, IndexError) as e:
        raise ValueError(f"{path} is not a complete GGUF file ({e}); download it again") from e
    meta = {name: field.contents() for name, field in reader.fields.items()}
    tensors = {t.name: t for t in reader.tensors}
    cfg = gguf_config(meta, tensors)
    heads = {"q": cfg.num_heads, "k": cfg.num_kv_heads} if cfg.family == "llama" else {}
    places = gguf_slots(cfg)

    def read(name: str) -> np.ndarray:
        tensor = tensors[name]
        value = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        leaf = places[name].leaf[-1]
        return unpermute(value, heads[leaf]) if leaf in heads else value

    shapes = {name: tuple(int(n) for n in t.shape[::-1]) for name, t in tensors.items()}
    params = leaves.tree(cfg, places, shapes, read, dtype, str(path))
    return cfg, leaves.materialise(params), gguf_tokenizer(meta)


def gguf_config(meta: tp.Mapping[str, tp.Any], tensor_names: tp.Collection[str]) -> ModelConfig:
    """ModelConfig of a file's metadata. Raises: ValueError naming what is not supported."""
    arch = meta.get("general.architecture")
    if arch not in SUPPORTED:
        raise ValueError(
            f"GGUF architecture: got {arch!r}, supported are {', '.join(SUPPORTED)}; "
            "for other models use the Hugging Face directory"
        )

    def get(key: str, default: tp.Any = None) -> tp.Any:
        value = meta.get(f"{arch}.{key}", default)
        if value is None:
            raise ValueError(f"GGUF metadata lacks {arch}.{key}")
        return value

    heads, width = get("attention.head_count"), get("embedding_length")
    head_dim = get("attention.key_length", width // heads)
    refused = {
        "expert_count": get("expert_count", 0) not in (0,),
        "rope.scaling.type": get("rope.scaling.type", "none") not in ("none", "linear"),
        "rope.dimension_count": get("rope.dimension_count", head_dim) != head_dim,
        "attention.sliding_window": get("attention.sliding_window", 0) not in (0,),
    }
    for key, bad in refused.items():
        if bad:
            raise ValueError(
                f"GGUF: {arch}.{key}={get(key)} is not supported; use the Hugging Face directory"
            )
    if "rope_freqs.weight" in tensor_names:
        raise ValueError(
            "GGUF: rope_freqs.weight (RoPE scaling of Llama 3.1 and later) is not supported; "
            "use the Hugging Face directory"
        )
    scaling: tuple[tuple[str, float | str], ...] = ()
    if get("rope.scaling.type", "none") == "linear":
        scaling = (("factor", float(get("rope.scaling.factor"))), ("rope_type", "linear"))
    return ModelConfig(
        vocab_size=len(meta["tokenizer.ggml.tokens"]),
        num_layers=get("block_count"),
        d_model=width,
        d_ff=get("feed_forward_length"),
        num_heads=heads,
        num_kv_heads=get("attention.head_count_kv", heads),
        head_dim=head_dim,
        rope_theta=float(get("rope.freq_base", 10000.0)),
        rope_scaling=scaling,
        norm_eps=shortest_float(get("attention.layer_norm_rms_epsilon")),
        qkv_bias=arch == "qwen2",
        qk_norm=arch == "qwen3",
        tie_embeddings="output.weight" not in tensor_names,
        max_positions=get("context_length"),
        family=arch,
    )


def shortest_float(x: float) -> float:
    """The decimal that was meant by a float32: 1e-05 for 9.999999747378752e-06."""
    return float(str(np.float32(x)))


def gguf_slots(cfg: ModelConfig) -> dict[str, leaves.Slot]:
    """{tensor name in the file: Slot}."""
    names = {
        "attn_norm": "attn_norm",
        "mlp_norm": "ffn_norm",
        "o": "attn_output",
        **{k: f"attn_{k}" for k in ("q", "k", "v", "q_norm", "k_norm")},
        **{k: f"ffn_{k}" for k in ("gate", "up", "down")},
    }
    return leaves.slots(
        cfg,
        {k: "blk.{}." + v for k, v in names.items()},
        {"embed": "token_embd", "final_norm": "output_norm", "head": "output"},
    )


def unpermute(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows [heads * head_dim, D] from llama.cpp's interleaved rotary order to half-split."""
    rows = weight.shape[0]
    pairs = weight.reshape(heads, rows // heads // 2, 2, *weight.shape[1:])
    return pairs.swapaxes(1, 2).reshape(weight.shape)


def gguf_tokenizer(meta: tp.Mapping[str, tp.Any]) -> Tokenizer:
    """The tokenizer that a file describes: vocabulary, merges, token types, pre-tokenizer.

    Raises: ValueError for a vocabulary that is not byte-level BPE, or a pre-tokenizer
      that is not known.
    """
    kind, pre = meta.get("tokenizer.ggml.model"), meta.get("tokenizer.ggml.pre")
    if kind != "gpt2":
        raise ValueError(
            f"tokenizer.ggml.model: got {kind!r}, supported is gpt2 (byte-level BPE); "
            "use the Hugging Face directory"
        )
    tokens: list[str] = meta["tokenizer.ggml.tokens"]
    merges = [tuple(m.split(" ", 1)) for m in meta["tokenizer.ggml.merges"]]
    backend = tokenizers.Tokenizer(
        models.BPE(
            vocab={token: i for i, token in enumerate(tokens)},
            merges=tp.cast("list[tuple[str, str]]", merges),
            ignore_merges=pre == "llama-bpe",
        )
    )
    if pre == "smollm":
        cuts: list[tp.Any] = [pre_tokenizers.Digits(individual_digits=True)]
    elif pre in _SPLITS:
        cuts = [pre_tokenizers.Split(tokenizers.Regex(_SPLITS[pre]), behavior="isolated")]
    elif pre in ("gpt-2", "gpt2"):
        cuts = []
    else:
        raise ValueError(
            f"tokenizer.ggml.pre: got {pre!r}, supported are smollm, gpt-2, {', '.join(_SPLITS)}; "
            "use the Hugging Face directory"
        )
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre not in _SPLITS)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*cuts, byte_level])
    backend.decoder = decoders.ByteLevel()
    if pre == "qwen2":
        backend.normalizer = normalizers.NFC()
    types = meta["tokenizer.ggml.token_type"]
    for special, wanted in ((True, _CONTROL), (False, _USER_DEFINED)):
        added = [
            tokenizers.AddedToken(token, normalized=False, special=special)
            for token, t in zip(tokens, types, strict=True)
            if t == wanted
        ]
        (backend.add_special_tokens if special else backend.add_tokens)(added)
    bos = meta.get("tokenizer.ggml.bos_token_id")
    if bos is not None and meta.get("tokenizer.ggml.add_bos_token", False):
        backend.post_processor = processors.TemplateProcessing(
            single=f"{tokens[bos]} $A", special_tokens=[(tokens[bos], bos)]
        )
    return Tokenizer(
        backend,
        chat_template=meta.get("tokenizer.chat_template", ""),
        eos_ids=[meta["tokenizer.ggml.eos_token_id"]],
        pad_id=meta.get("tokenizer.ggml.padding_token_id"),
        bos_id=bos,
    )
