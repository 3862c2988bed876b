"""Checkpoints that are proved good before they are used.

Orbax writes them asynchronously and commits a step by one rename.  What it does
not do is notice a flipped bit, so every step carries a manifest, committed by the
same rename, with a hash of every leaf, of the host state, and of the manifest
itself.  `restore` verifies all of it and falls back to the newest good step, and
refuses a step made with another config, tokenizer, model or library version unless
that change is allowed by name.  Every process of a run calls every method.
"""

from __future__ import annotations

import collections.abc
import contextlib
import copy
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import math
import os
import pathlib
import typing as tp

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from rlpt import digests as digests_lib
from rlpt import distributed
from rlpt.digests import Leaves, Region

Tree = tp.Any
Json = tp.Any
Hashes = list[tuple[Region, str]]  # of the regions that the devices held when it was saved

_TMP_SUFFIX = ".orbax-checkpoint-tmp"
_VERSIONED = ("jax", "jaxlib", "optax", "orbax-checkpoint", "numpy")


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written, or none that was asked for can be read."""


class IdentityError(ValueError):
    """A checkpoint belongs to another config, tokenizer, model or library version.

    changed: what, as it was saved and as it is now.  names: of the identity, that have changed.
    """

    def __init__(self, message: str, changed: str = "", names: tp.Sequence[str] = ()):
        super().__init__(message)
        self.changed, self.names = changed, tuple(names)


class Restored(tp.NamedTuple):
    """What `Checkpointer.restore` found: the step, the pytree and the JSON dict."""

    step: int
    device_state: Tree
    host_state: dict[str, Json]


def fingerprint(value: Json) -> str:
    """Hash of a JSON value, independent of the order of keys; tuples count as lists."""
    text = json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def tree_fingerprint(tree: Tree) -> str:
    """Hash of the paths, dtypes, shapes and bytes of a tree that this process holds in full."""
    leaves = digests_lib.flatten(tree)
    return fingerprint(
        _describe(leaves, {name: digests_lib.stored(leaf) for name, leaf in leaves.items()})
    )


class Checkpointer:
    """Saves and restores (step, pytree of arrays, JSON dict) in a directory.

    Args:
      directory: made when it is not there; local, or what Orbax accepts.
      keep: newest steps kept.
      keep_best: best steps kept besides, by `best_metric` of save's metrics (higher
        is better; steps without a finite value do not compete).
      identity: {name: JSON value} of what a checkpoint must share with the run that
        reads it, such as {"config": ..., "tokenizer": ..., "model": ...} with
        fingerprints; "versions" of the libraries is added.
    Raises: CheckpointError when the directory cannot be made or read.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        keep: int = 3,
        keep_best: int = 1,
        best_metric: str | None = None,
        identity: tp.Mapping[str, Json] | None = None,
    ):
        if keep < 1 or keep_best < 0:
            raise ValueError(f"got keep={keep}, keep_best={keep_best}; expected >= 1 and >= 0")
        self.directory = epath.Path(directory).absolute()
        self.best_metric = best_metric
        versions = {name: importlib.metadata.version(name) for name in _VERSIONED}
        self.identity = {"versions": versions, **(identity or {})}
        self._pending: int | None = None
        self._writing = False
        self._policy = _Keep(keep, keep_best)
        self._names = ocp.path.step.standard_name_format()
        options = ocp.CheckpointManagerOptions(
            step_name_format=self._names,
            preservation_policy=self._policy,
            lightweight_initialize=True,  # a damaged step must not stop us here
            # made in a thread, a directory that cannot be made stalls a save for minutes
            async_options=ocp.options.AsyncOptions(create_directories_asynchronously=False),
        )
        try:
            self._manager = ocp.CheckpointManager(
                self.directory, options=options, item_names=("state", "host", "manifest")
            )
        except OSError as e:
            raise CheckpointError(
                f"cannot use {self.directory} for checkpoints: {e}. Choose a writable directory."
            ) from e
        if best_metric is not None:
            for step in self.steps():  # that all processes have
                manifest, _ = _attempt(functools.partial(self._manifest, step))
                self._score(step, manifest["metrics"] if manifest else {})

    def steps(self) -> list[int]:
        """Steps on disk, ascending, good or not; a save in flight is not among them.

        Those that process 0 sees; every process calls it, and waits until it sees the newest.
        Raises: CheckpointError where one does not.
        """
        found = distributed.join(self._on_disk() if distributed.primary() else [])
        if found:
            try:
                distributed.sees(pathlib.Path(self.directory / str(found[-1])))
            except ValueError as e:
                raise CheckpointError(str(e)) from e
        return found

    def _on_disk(self) -> list[int]:
        return sorted(found.step for found in self._names.find_all(self.directory))

    def save(
        self,
        step: int,
        device_state: Tree,
        host_state: dict[str, Json],
        metrics: tp.Mapping[str, float] | None = None,
    ) -> None:
        """Copies the state and writes it in the background.

        The hashes are taken before it returns (about a second per GB), after which
        the arrays may be donated.  Steps at or after `step` that are there already,
        because `restore` passed over them, are renamed to set-aside-<step>.

        Args:
          device_state: pytree of jax arrays (sharded ones and typed PRNG keys too),
            numpy arrays and Python numbers.
          host_state: strict JSON: string keys, lists and no tuples, finite numbers.
          metrics: for `best_metric`.
        Where the save before failed, this one is waited for.
        Raises: CheckpointError when this save failed at once, or after one that failed; ValueError
          for a state that could not come back as it is.
        """
        try:
            self.wait()
            again = False
        except CheckpointError as e:  # of a step that is gone; there may be space again
            logging.error("CHECKPOINT NOT WRITTEN: %s Step %d is tried now.", e, step)
            again = True
        if again := bool(distributed.agree(again)):  # also where another process alone failed
            self._writing = False
        _check_json(host_state)
        host_state = copy.deepcopy(host_state)  # it is written while the run changes it
        state = digests_lib.flatten(device_state)
        leaves = {name: digests_lib.stored(leaf) for name, leaf in state.items()}
        empty = [name for name, leaf in leaves.items() if leaf.size == 0]
        if empty:
            raise ValueError(f"leaf {empty[0]!r} has no elements, which Orbax cannot save; drop it")
        finite = {k: float(v) for k, v in (metrics or {}).items() if math.isfinite(v)}
        manifest = {
            "step": step,
            "identity": self.identity,
            "metrics": finite,
            "host": fingerprint(host_state),
            "leaves": _describe(state, leaves),
        }
        manifest["seal"] = fingerprint(manifest)
        self._score(step, finite)
        self._pending = step
        with self._reporting():
            self._clear_the_way(step)
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeSave(leaves),
                    host=ocp.args.JsonSave(host_state),
                    manifest=ocp.args.JsonSave(manifest),
                ),
                force=True,
            )
        if again:
            self.wait()

    def restore(
        self,
        example: Tree,
        step: int | None = None,
        *,
        allow: tp.Collection[str] = (),
        partial: bool = False,
    ) -> Restored | None:
        """The newest good step, or the one asked for; None when there is no step at all.

        Args:
          example: a tree like the saved one, of arrays or ShapeDtypeStructs; every
            leaf comes back with the type, dtype and sharding that it has there.
          step: this step and no other.
          allow: names in the identity that may have changed.
          partial: read only the leaves that `example` has, such as the parameters.
        Raises: CheckpointError when no step is good; IdentityError; ValueError when
          the tree does not fit.
        """
        self.wait()
        steps = self.steps()
        if step is not None and step not in steps:
            raise CheckpointError(f"no step {step} in {self.directory}; there are {steps}")
        for left in sorted(p.name for p in self.directory.iterdir() if _TMP_SUFFIX in p.name):
            logging.warning("checkpoints: %s is a save that never finished; ignored", left)
        problems: list[str] = []
        for candidate in reversed(steps) if step is None else [step]:
            found, problem = self._restore_step(candidate, example, allow, partial)
            if found is not None:
                return found
            problems.append(f"step {candidate} is damaged: {problem}")
            logging.error("CHECKPOINT DAMAGED in %s: %s", self.directory, problems[-1])
        if not steps:
            return None
        raise CheckpointError(
            f"no good checkpoint in {self.directory}: {'; '.join(problems)}. "
            "Restore the files from a copy, or start in a new directory."
        )

    def wait(self) -> None:
        """Blocks until the save in flight is on disk.  Raises: CheckpointError if it failed."""
        with self._reporting():
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        self._pending = None

    def close(self) -> None:
        """Waits for the save in flight and stops Orbax's threads; no call may follow."""
        try:
            self.wait()
        finally:
            self._manager.close()

    @contextlib.contextmanager
    def _reporting(self) -> tp.Iterator[None]:
        """Turns whatever a write raises into a CheckpointError that says what to do."""
        try:
            yield
        except Exception as e:
            step, self._pending, self._writing = self._pending, None, False
            raise CheckpointError(
                f"saving step {step} to {self.directory} failed: {type(e).__name__}: {e}. "
                f"Steps {self._on_disk()} are untouched. Check that there is space and that the "
                "directory is writable, then start again with the same directory."
            ) from e

    def _manifest(self, step: int) -> dict[str, tp.Any]:
        manifest: dict[str, tp.Any] = self._read(step, manifest=ocp.args.JsonRestore())
        seal = manifest.pop("seal")
        if seal != fingerprint(manifest) or manifest["step"] != step:
            raise ValueError("the manifest does not match its own hash")
        return manifest

    def _read(self, step: int, **item: tp.Any) -> tp.Any:
        """One item of a step.

        By the handler, not the manager: that one waits for all processes, for ever if
        one of them finds damage that the others do not see.
        """
        ((name, arguments),) = item.items()
        handler = ocp.PyTreeCheckpointHandler() if name == "state" else ocp.JsonCheckpointHandler()
        path = self._names.find_step(self.directory, step).path
        return handler.restore(path / name, args=arguments)

    def _restore_step(
        self, step: int, example: Tree, allow: tp.Collection[str], partial: bool
    ) -> tuple[Restored | None, str]:
        """(what is there, "") or (None, the damage), alike on every process."""
        manifest, problem = _attempt(lambda: self._manifest(step))
        if problem:
            return None, problem
        self._check_identity(step, manifest["identity"], allow)
        wanted = digests_lib.flatten(example)
        _check_fit(step, manifest["leaves"], wanted, partial)
        hashes = {name: manifest["leaves"][name]["hashes"] for name in wanted}
        loaded, problem = _attempt(
            lambda: self._load(step, manifest["host"], wanted, hashes, partial)
        )
        if problem:
            return None, problem
        leaves, host, digests = loaded
        if problem := _mismatch(hashes, digests):
            return None, problem
        values = [_like(leaves[name], leaf) for name, leaf in wanted.items()]
        return Restored(step, jax.tree.unflatten(jax.tree.structure(example), values), host), ""

    def _load(
        self, step: int, host_hash: str, wanted: Leaves, hashes: dict[str, Hashes], partial: bool
    ) -> tuple[Leaves, dict[str, Json], list[bytes | None]]:
        """Leaves by path, host state (verified), and digests of the leaves as they were read."""
        host = self._read(step, host=ocp.args.JsonRestore())
        if fingerprint(host) != host_hash:
            raise ValueError("the host state does not match its hash")
        item = {name: _target(leaf) for name, leaf in wanted.items()}
        arguments = ocp.args.PyTreeRestore(
            item=item,
            restore_args={name: _restore_args(leaf) for name, leaf in item.items()},
            partial_restore=partial,
        )
        leaves = self._read(step, state=arguments)
        regions = {name: [region for region, _ in hashes[name]] for name in wanted}
        return (
            leaves,
            host,
            digests_lib.of_regions({name: leaves[name] for name in wanted}, regions),
        )

    def _check_identity(self, step: int, saved: dict[str, Json], allow: tp.Collection[str]) -> None:
        now = json.loads(json.dumps(self.identity))
        unknown = sorted(set(allow) - {*saved, *now})
        if unknown:
            raise ValueError(
                f"allow: got {', '.join(unknown)}, expected names among "
                f"{', '.join(sorted({*saved, *now}))}"
            )
        names = [
            name
            for name in sorted({*saved, *now})
            if saved.get(name) != now.get(name) and name not in allow
        ]
        if names:
            changed = "; another ".join(
                f"{name} (saved {saved.get(name)!r}, now {now.get(name)!r})" for name in names
            )
            raise IdentityError(
                f"checkpoint step {step} in {self.directory} was made with another "
                f"{changed}. Use what it was made with or a new directory; "
                f"--config.checkpoint.allow={','.join([*allow, *names])} goes on all the same.",
                changed,
                names,
            )

    def _clear_the_way(self, step: int) -> None:
        """Sets aside steps that this run did not continue from, and removes torn saves."""
        stale = [old for old in self._manager.all_steps() if old >= step]
        if self._writing and not stale:
            return
        self._writing = True
        if jax.process_index() == 0:
            for path in self.directory.iterdir():
                if _TMP_SUFFIX in path.name:
                    path.rmtree()
            for old in stale:
                target = _unused(self.directory / f"set-aside-{old}")
                (self.directory / str(old)).rename(target)
                logging.warning(
                    "checkpoints: step %d is not what this run went on from; it is now %s",
                    old,
                    target,
                )
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("rlpt_checkpoint_clear")
        self._manager.reload()

    def _score(self, step: int, metrics: tp.Mapping[str, float]) -> None:
        self._policy.scores.pop(step, None)
        if self.best_metric is not None and self.best_metric in metrics:
            self._policy.scores[step] = metrics[self.best_metric]


def shapes(tree: Tree) -> Tree:
    """An example for `restore` that holds no memory: arrays as ShapeDtypeStructs that stay put."""

    def one(x: tp.Any) -> tp.Any:
        if not isinstance(x, jax.Array):
            return x
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding if x.committed else None)

    return jax.tree.map(one, tree)


@dataclasses.dataclass
class _Keep:
    """Orbax preservation policy: the newest steps and those with the highest scores."""

    newest: int
    best: int
    scores: dict[int, float] = dataclasses.field(default_factory=dict)

    def should_preserve(
        self, checkpoints: collections.abc.Sequence[tp.Any], *, context: tp.Any
    ) -> list[bool]:
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        ranked = sorted((self.scores[step], step) for step in steps if step in self.scores)
        best = ranked[max(len(ranked) - self.best, 0) :]
        kept = {*steps[-self.newest :], *(step for _, step in best)}
        return [step in kept for step in steps]


def _attempt(read: tp.Callable[[], tp.Any]) -> tuple[tp.Any, str]:
    """(result, "") or (None, reason), alike on every process, of reading what may be damaged."""
    result, problem = None, ""
    try:
        result = read()
    except Exception as e:  # torn files make Orbax raise nearly anything
        problem = f"{type(e).__name__}: {e}".splitlines()[0][:300]
    if jax.process_count() > 1:
        failed = multihost_utils.process_allgather(np.array([bool(problem)]))
        if failed.any():
            result, problem = None, problem or "damaged as another process sees it"
    return result, problem


def _target(leaf: tp.Any) -> tp.Any:
    """What Orbax is asked for: a numpy array, or a ShapeDtypeStruct with a sharding.

    An array that was never placed on purpose is read as numpy and stays free to move.
    """
    if digests_lib.is_key(leaf):
        data = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
    elif isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
        data = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    else:
        return np.asarray(leaf)
    placed = leaf.committed if isinstance(leaf, jax.Array) else leaf.sharding is not None
    if not placed:
        return np.empty(data.shape, data.dtype)
    return jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=leaf.sharding)


def _restore_args(target: tp.Any) -> ocp.RestoreArgs:
    if isinstance(target, np.ndarray):
        return ocp.RestoreArgs(restore_type=np.ndarray)
    return ocp.ArrayRestoreArgs(sharding=target.sharding, global_shape=target.shape)


def _like(stored: tp.Any, example: tp.Any) -> tp.Any:
    """A stored array as the kind of leaf that the example is."""
    if isinstance(example, bool | int | float):
        return type(example)(stored.item())
    if isinstance(example, np.ndarray | np.generic):
        return stored if isinstance(example, np.ndarray) else stored[()]
    array = jnp.array(stored) if isinstance(stored, np.ndarray) else stored
    if digests_lib.is_key(example):
        return jax.random.wrap_key_data(array, impl=_key_impl(example))
    return array


def _key_impl(key: tp.Any) -> str:
    """The name of a typed key's generator; of a ShapeDtypeStruct too, hence the trace."""
    names: list[tp.Any] = []
    jax.eval_shape(lambda key: names.append(jax.random.key_impl(key)), key)
    return str(names[0])


def _signature(leaf: tp.Any) -> dict[str, tp.Any]:
    """dtype and shape as stored; a typed key is stored as its data and says its generator."""
    target = _target(leaf)
    kind = {"key": _key_impl(leaf)} if digests_lib.is_key(leaf) else {}
    return {"dtype": str(target.dtype), "shape": list(target.shape), **kind}


def _describe(leaves: Leaves, stored: Leaves) -> dict[str, tp.Any]:
    """The manifest's entry for every leaf.  Raises: CheckpointError if replicas differ."""
    regions = {name: digests_lib.regions(array) for name, array in stored.items()}
    digests = iter(digests_lib.gathered(digests_lib.of_regions(stored, regions)))
    described = {}
    for name, leaf in leaves.items():
        hashes = []
        for region in regions[name]:
            seen = next(digests)
            if len(seen) != 1:
                raise CheckpointError(
                    f"not saved: {name} differs between processes that hold copies of it; "
                    "the processes have run apart, so restart from an earlier step"
                )
            hashes.append((region, seen.pop().hex()))
        described[name] = {**_signature(leaf), "hashes": hashes}
    return described


def _mismatch(hashes: dict[str, Hashes], digests: list[bytes | None]) -> str:
    """Names the first leaf whose bytes are not those of the manifest; "" when all are."""
    expected = [(name, want) for name in hashes for _, want in hashes[name]]
    unseen = 0
    for (name, want), seen in zip(expected, digests_lib.gathered(digests), strict=True):
        unseen += not seen
        if seen and seen != {bytes.fromhex(want)}:
            return f"{name} does not match its hash"
    if unseen:
        logging.warning(
            "checkpoints: %d of %d pieces could not be verified, since the processes hold "
            "other pieces now than when they were saved",
            unseen,
            len(expected),
        )
    return ""


def _check_fit(step: int, saved: dict[str, tp.Any], wanted: Leaves, partial: bool) -> None:
    """Raises ValueError that names leaves in which a checkpoint and the example differ."""
    wrong = [f"{name} is not in the checkpoint" for name in wanted if name not in saved]
    if not partial:
        wrong += [f"{name} is only in the checkpoint" for name in saved if name not in wanted]
    for name in wanted.keys() & saved.keys():
        want = _signature(wanted[name])
        got = {key: value for key, value in saved[name].items() if key != "hashes"}
        if got != want:
            wrong.append(f"{name} is {got} in the checkpoint, expected {want}")
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ValueError(
            f"checkpoint step {step} does not fit this run: {'; '.join(sorted(wrong)[:5])}{more}. "
            "Use the model, optimizer and methods that it was made with."
        )


def _check_json(host_state: dict[str, Json]) -> None:
    """Raises ValueError for what would not come back from JSON as it is."""
    for name, value in host_state.items():
        try:
            same = json.loads(json.dumps({name: value}, allow_nan=False)) == {name: value}
        except (TypeError, ValueError) as e:
            raise ValueError(f"host state {name!r} is not strict JSON: {e}") from e
        if not same:
            raise ValueError(
                f"host state {name!r} would come back from JSON changed: use lists instead of "
                "tuples and strings as keys"
            )


def _unused(path: epath.Path) -> epath.Path:
    """The path, or path.2, path.3, ... when it is taken."""
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}.{number}")
    return candidate
