"""Hugging Face directories: configuration and weights, in and out.

Reads and writes what transformers, vLLM and SGLang load, in `config` (config.json),
`weights` (import) and `export`.
"""

from rlpt.models.hf.config import config_from_hf, config_to_hf
from rlpt.models.hf.export import save_hf
from rlpt.models.hf.weights import load_hf

__all__ = ("config_from_hf", "config_to_hf", "load_hf", "save_hf")
