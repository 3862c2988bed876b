"""Shapes of published models, so that a run can be planned without their weights."""

from __future__ import annotations

import json
import pathlib
import typing as tp

from rlpt.models import hf, load
from rlpt.models.transformer import ModelConfig

_QWEN3 = {
    "model_type": "qwen3", "attention_bias": False, "head_dim": 128, "hidden_act": "silu",
    "max_position_embeddings": 40960, "num_key_value_heads": 8, "rms_norm_eps": 1e-6,
    "rope_theta": 1e6, "vocab_size": 151936,
}  # fmt: skip
# What their config.json says.
PUBLISHED: dict[str, dict[str, tp.Any]] = {
    "Qwen3-1.7B": {
        **_QWEN3, "hidden_size": 2048, "intermediate_size": 6144, "num_attention_heads": 16,
        "num_hidden_layers": 28, "tie_word_embeddings": True,
    },
    "Qwen3-8B": {
        **_QWEN3, "hidden_size": 4096, "intermediate_size": 12288, "num_attention_heads": 32,
        "num_hidden_layers": 36, "tie_word_embeddings": False,
    },
    "Llama-3-70B": {
        "model_type": "llama", "attention_bias": False, "hidden_act": "silu", "mlp_bias": False,
        "hidden_size": 8192, "intermediate_size": 28672, "num_attention_heads": 64,
        "num_hidden_layers": 80, "num_key_value_heads": 8, "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": False,
        "vocab_size": 128256,
    },
}  # fmt: skip


def find(source: str) -> ModelConfig:
    """The shape of config.model.source: by the name of its directory, or from its config.json.

    Raises: FileNotFoundError for a source that is neither known nor there.
    """
    path = pathlib.Path(source)
    if (path / "config.json").is_file():
        return hf.config_from_hf(json.loads((path / "config.json").read_text()))
    if path.name in PUBLISHED:
        return hf.config_from_hf(PUBLISHED[path.name])
    if source == "embedded" or source.startswith("toy") or path.suffix == ".gguf":
        return load.load(source).config
    raise FileNotFoundError(
        f"model {source!r}: no such directory with a config.json; known without one are "
        f"{', '.join(PUBLISHED)}, embedded and toy"
    )
