"""rlpt: post-training language models with reinforcement learning in JAX.

import rlpt
config = rlpt.config.default()
result = rlpt.train(config, "runs/mine")
"""

import importlib
import typing

__version__ = "0.1.0"


def __getattr__(name: str) -> typing.Any:
    """Submodules on first use, so that `import rlpt` imports neither jax nor numpy."""
    if name in ("config", "train", "evaluate"):
        return importlib.import_module(f"rlpt.{name}")
    raise AttributeError(f"module 'rlpt' has no attribute {name!r}")
