"""Export to a Hugging Face directory, one layer of one weight at a time."""

from __future__ import annotations

import json
import math
import os
import pathlib
import shutil
import typing as tp

import jax
import jax.numpy as jnp
import numpy as np

from rlpt.models import lora, transformer
from rlpt.models.hf.config import ARCHITECTURES, config_to_hf
from rlpt.models.hf.weights import DTYPES, hf_slots
from rlpt.models.leaves import Fetch, Params, Slot
from rlpt.models.tokenizer import Tokenizer
from rlpt.models.transformer import ModelConfig

MAX_SHARD_BYTES = 5e9


def save_hf(
    directory: str | os.PathLike[str],
    cfg: ModelConfig,
    params: Params,
    tokenizer: Tokenizer,
    *,
    dtype: str = "float32",
    run_info: tp.Mapping[str, tp.Any],
    max_shard_bytes: float = MAX_SHARD_BYTES,
    fetch: Fetch = jax.device_get,
) -> None:
    """Writes a directory that transformers, vLLM and `load_hf` read.

    The files are written beside it and moved into place at the end, so a directory of
    that name is always complete.  The host needs memory for one layer of one weight.
    With several processes every one calls this, with the same arguments, and process 0
    writes.

    Args:
      params: arrays in the tree of `transformer.param_shapes`; a `lora.LoRA` is folded, one
        layer at a time.
      dtype: of the stored weights: float32, bfloat16 or float16.
      run_info: what the model card tells; must have "run_id".
      max_shard_bytes: weights beyond this go to several files with an index.
      fetch: one layer of a leaf -> numpy; of several processes all at once, as
        `rlpt.sharding.fetch` does for arrays that no process has whole.
    Raises: FileExistsError when the directory has files; ValueError for parameters that
      do not fit the configuration, or for a run_info without run_id.
    """
    directory = pathlib.Path(directory)
    if "run_id" not in run_info:
        raise ValueError(f"run_info: got {sorted(run_info)}, expected run_id among them")
    if dtype not in DTYPES.values():
        raise ValueError(f"dtype: got {dtype!r}, expected {', '.join(DTYPES.values())}")
    config = config_to_hf(cfg) | {"torch_dtype": dtype, "eos_token_id": list(tokenizer.eos_ids)}
    config |= {"pad_token_id": tokenizer.pad_id, "bos_token_id": tokenizer.bos_id}
    _check_tree(cfg, params)
    shards = _shards(cfg, jnp.dtype(dtype), max_shard_bytes)
    if jax.process_index() != 0:
        for slot in (slot for shard in shards for slot in shard.values()):
            slot.view(params, fetch)
        return
    if directory.exists() and any(directory.iterdir()):
        raise FileExistsError(f"{directory} is not empty; choose a new directory for the export")
    part = directory.with_name(directory.name + ".partial")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    _write_json(part / "config.json", config)
    tokenizer.save(part)
    weight_map: dict[str, str] = {}
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        file = file if len(shards) > 1 else "model.safetensors"
        _write_shard(part / file, cfg, shard, jnp.dtype(dtype), params, fetch)
        weight_map |= dict.fromkeys(shard, file)
    if len(shards) > 1:
        total = sum(_bytes(slot, cfg, jnp.dtype(dtype)) for s in shards for slot in s.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        _write_json(part / "model.safetensors.index.json", index)
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
            f"parameters do not fit the configuration; (got, expected) shapes: {wrong}"
        )


def _shards(cfg: ModelConfig, dtype: np.dtype, limit: float) -> list[dict[str, Slot]]:
    """The tensors of each file, in the order in which they are written."""
    shards: list[dict[str, Slot]] = [{}]
    filled = 0
    for name, slot in hf_slots(cfg).items():
        size = _bytes(slot, cfg, dtype)
        if shards[-1] and filled + size > limit:
            shards.append({})
            filled = 0
        shards[-1][name] = slot
        filled += size
    return shards


def _bytes(slot: Slot, cfg: ModelConfig, dtype: np.dtype) -> int:
    return math.prod(slot.shape(cfg)) * dtype.itemsize


def _write_shard(
    path: pathlib.Path,
    cfg: ModelConfig,
    shard: tp.Mapping[str, Slot],
    dtype: np.dtype,
    params: Params,
    fetch: Fetch,
) -> None:
    """A safetensors file: the length of the header, the header, the tensors.

    By hand, since the library's writer wants all tensors of the file in memory.
    """
    kind = {name: kind for kind, name in DTYPES.items()}[dtype.name]
    header: dict[str, tp.Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, slot in shard.items():
        start, end = end, end + _bytes(slot, cfg, dtype)
        shape = list(slot.shape(cfg))
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the numbers are aligned
    with path.open("wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for slot in shard.values():
            value = slot.view(params, lambda leaf: np.asarray(lora.fold(fetch(leaf))))
            value = np.ascontiguousarray(value, dtype)
            f.write(value.view(np.uint8).data)


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
