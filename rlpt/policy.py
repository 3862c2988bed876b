"""From a source to a policy: the embedded model, a Hugging Face directory, a GGUF file
or the workdir of a run."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import typing as tp

import jax

from rlpt.checkpoint import Checkpointer, IdentityError
from rlpt.models import lora
from rlpt.models.load import Loaded, load


def is_workdir(source: str) -> bool:
    """Whether a source is the workdir of a run."""
    return (pathlib.Path(source).expanduser() / "checkpoints").is_dir()


def workdir_config(path: str) -> tp.Any:
    """The resolved config that a run wrote to its workdir.

    Raises: FileNotFoundError if it is not there.
    """
    import ml_collections

    file = pathlib.Path(path).expanduser() / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not there: {path} is not the workdir of a run")
    return ml_collections.ConfigDict(json.loads(file.read_text()))


def load_policy(source: str, step: int | None = None) -> Loaded:
    """Loads a model with its tokenizer; adapters of a run are merged.

    Args:
      source: as config.model.source, or a workdir.  step: of a workdir's checkpoint;
        None: the newest good one.
    Raises: FileNotFoundError where there is nothing to load; IdentityError for a workdir whose
      config.model.source has become another tokenizer or, under its adapters, another model.
    """
    if not is_workdir(source):
        return load(source)
    config: tp.Any = workdir_config(source)
    loaded = load(config.model.source, chat=config.model.get("chat", {}))
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), loaded.params)
    rank = config.model.lora.rank
    if rank:
        targets = config.model.lora.targets
        params = jax.eval_shape(lambda: lora.init_lora(params, jax.random.key(0), rank, targets))
    example = {"learners": {"policy": {"params": params}}}
    fingerprint = loaded.tokenizer.fingerprint()
    identity = {"tokenizer": fingerprint, "model": loaded.fingerprint, "code": ""}
    allow = ("versions", "config", "code") + ("model",) * (not rank)
    checkpoints = pathlib.Path(source).expanduser() / "checkpoints"
    checkpointer = Checkpointer(checkpoints, identity=identity)
    try:
        saved = checkpointer.restore(example, step, allow=allow, partial=True)
    except IdentityError as e:
        raise IdentityError(
            f"{source} is a run from model.source={config.model.source!r}, where there is now "
            f"another {e.changed}. Put back what it was made from (a relative path is from the "
            "directory in which the run was started).",
            e.changed,
        ) from e
    finally:
        checkpointer.close()
    if saved is None:
        raise FileNotFoundError(
            f"{source}/checkpoints holds no checkpoint" + (f" of step {step}" if step else "")
        )
    new = saved.device_state["learners"]["policy"]["params"]
    if rank:
        new = lora.merge(loaded.params, new, config.model.lora.alpha / rank)
    return dataclasses.replace(loaded, params=new, source=f"{source} at step {saved.step}")
