"""Weights of Hugging Face directories, read where they are asked for.

Opening a directory reads the headers of its safetensors files; the numbers stay in memory
maps until a `Leaf` of the tree is indexed.  A weight that is missing, left over or of
the wrong shape is an error that names it.
"""

from __future__ import annotations

import json
import os
import pathlib
import typing as tp

import jax.numpy as jnp
import numpy as np

from rlpt.models import leaves
from rlpt.models.hf.config import config_from_hf
from rlpt.models.leaves import Params, Slot
from rlpt.models.transformer import ModelConfig

DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}

_ROWS = 4096  # how many are compared at once


class Stored(tp.NamedTuple):
    """Where a tensor lies: in which file, from which byte on."""

    path: pathlib.Path
    offset: int
    kind: str  # as safetensors calls it, such as BF16
    shape: tuple[int, ...]

    def view(self) -> np.ndarray:
        """A memory map, which ends with the array: indexing it reads what is indexed."""
        return np.memmap(self.path, jnp.dtype(DTYPES[self.kind]), "r", self.offset, self.shape)


def load_hf(
    directory: str | os.PathLike[str], dtype: str = "float32"
) -> tuple[ModelConfig, Params]:
    """Opens config.json and the safetensors of a Hugging Face directory.

    Returns: the configuration and the tree of `transformer.param_shapes`, of `leaves.Leaf`s.
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
    stored: dict[str, Stored] = {}
    for path in _weight_files(directory):
        for name, tensor in _tensors(path).items():
            stored[_text_name(name) if raw["model_type"] == "gemma3" else name] = tensor
    stored = {n: t for n, t in stored.items() if n and not n.endswith("rotary_emb.inv_freq")}
    for name, tensor in stored.items():
        if tensor.kind not in DTYPES:
            raise ValueError(
                f"{directory}: {name} is stored as {tensor.kind}, expected {', '.join(DTYPES)}; "
                "use a version of the model that is not quantised"
            )
    if cfg.tie_embeddings and "lm_head.weight" in stored:  # a copy that some files keep
        if not _equal(stored.pop("lm_head.weight"), stored["model.embed_tokens.weight"]):
            raise ValueError(
                f"{directory}: config.json ties the embeddings, but lm_head.weight differs "
                "from model.embed_tokens.weight; set tie_word_embeddings to false"
            )
    shapes = {name: tensor.shape for name, tensor in stored.items()}
    read = lambda name: stored[name].view()  # noqa: E731
    return cfg, leaves.tree(cfg, hf_slots(cfg), shapes, read, dtype, str(directory))


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
    return leaves.slots(
        cfg,
        {k: "model.layers.{}." + v for k, v in names.items()},
        {"embed": "model.embed_tokens", "final_norm": "model.norm", "head": "lm_head"},
    )


def _weight_files(directory: pathlib.Path) -> list[pathlib.Path]:
    index = directory / "model.safetensors.index.json"
    single = directory / "model.safetensors"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        missing = [n for n in names if not (directory / n).is_file()]
        if missing:
            raise FileNotFoundError(
                f"{directory}: {index.name} names {len(names)} files, of which "
                f"{leaves.few(missing)} is not there; download the rest"
            )
        return [directory / n for n in names]
    if not single.is_file():
        found = ", ".join(sorted(p.name for p in directory.iterdir())[:12])
        raise FileNotFoundError(
            f"no model.safetensors or model.safetensors.index.json in {directory}; found {found}. "
            "Pickled weights (.bin) are not read: save the model again with safe_serialization"
        )
    return [single]


def _tensors(path: pathlib.Path) -> dict[str, Stored]:
    """What a file holds.  Raises: ValueError for one that is not whole."""
    import safetensors

    try:
        with safetensors.safe_open(str(path), framework="numpy"):
            pass  # it compares the header with the length of the file
    except safetensors.SafetensorError as e:
        raise ValueError(f"{path} is damaged or cut short ({e}); download it again") from e
    with path.open("rb") as f:
        length = int.from_bytes(f.read(8), "little")
        header = json.loads(f.read(length))
    header.pop("__metadata__", None)
    return {
        name: Stored(path, 8 + length + t["data_offsets"][0], t["dtype"], tuple(t["shape"]))
        for name, t in header.items()
    }


def _equal(one: Stored, other: Stored) -> bool:
    a, b = one.view(), other.view()
    rows = range(0, len(a), _ROWS)
    return a.shape == b.shape and all(
        np.array_equal(a[i : i + _ROWS], b[i : i + _ROWS]) for i in rows
    )


def _text_name(name: str) -> str:
    """Name in the language model of a tensor of Gemma 3 with images; "" for the image part."""
    if "vision_tower." in name or "multi_modal_projector." in name:
        return ""
    name = name.replace("model.language_model.", "model.")  # as transformers 5 saves it
    return name.removeprefix("language_model.")
