"""How the blocks of a batch divide: into minibatches, micro-batches and the parts of the mesh."""

from __future__ import annotations

import collections.abc
import typing as tp

from rlpt import settings, sharding
from rlpt.config import ConfigError
from rlpt.rollouts import _inner


def of_tables(config: tp.Any) -> dict[str, set[int]]:
    """How many blocks each table of a batch may have: {table: numbers}, see `_inner.blocks`."""
    return _inner.blocks(
        _inner.outermost(config), config.rollout.prompts, config.rollout.group_blocks
    )


def _layouts(config: tp.Any) -> collections.abc.Iterator[tuple[str, tp.Any, int]]:
    """(where in the config, layout, blocks) of every learner, for all that its table may have."""
    numbers = of_tables(config)
    layouts = {"learner": (config.learner, "policy")}
    for name in config.learners:
        entry = settings.learner_entry(config, name)
        layouts[f"learners.{name}"] = entry, entry["table"]
    for where, (layout, table) in layouts.items():
        for blocks in sorted(numbers.get(table, ())):
            yield where, layout, blocks
        if table != "policy" and layout["writes"]:  # its column of the policy's table: see `score`
            for blocks in sorted(numbers.get("policy", ())):
                yield where, {**layout, "minibatches": 1}, blocks


def check(config: tp.Any) -> None:
    """Raises: ConfigError where minibatches or micro_blocks do not divide the blocks they cut."""
    for where, layout, blocks in _layouts(config):
        rows, rest = divmod(blocks, layout["minibatches"])
        if rest:
            raise ConfigError(
                f"config.{where}.minibatches: {layout['minibatches']} does not "
                f"divide the {blocks} blocks of a batch"
            )
        if layout["micro_blocks"] and rows % layout["micro_blocks"]:
            raise ConfigError(
                f"config.{where}.micro_blocks: {layout['micro_blocks']} does not "
                f"divide the {rows} blocks of a minibatch"
            )


def make_mesh(config: tp.Any) -> tp.Any:
    """The mesh of config.mesh over all devices; None: there is one device.

    Raises: ValueError for sizes that do not fit the devices, ConfigError for blocks that do not
      divide over them.
    """
    sizes = {axis: config.mesh[axis] for axis in sharding.AXES}
    mesh = sharding.make_mesh(sizes)
    parts = sharding.shards(mesh)
    counts = []
    for table, numbers in of_tables(config).items():
        what = "rollout.prompts x rollout.group_blocks" if table == "policy" else f"table {table!r}"
        counts += [(what, blocks) for blocks in sorted(numbers)]
    counts.append(("eval.blocks", config.eval.blocks or config.rollout.prompts))
    for where, layout, blocks in _layouts(config):
        rows = blocks // layout["minibatches"]
        counts.append((f"{where}: minibatch", rows))
        counts.append((f"{where}.micro_blocks", layout["micro_blocks"] or rows))
    for name, count in counts:
        if count % parts:
            raise ConfigError(
                f"config.mesh: {name} is {count} blocks, which do not divide over the {parts} "
                f"parts of data x fsdp; change one of them"
            )
    return mesh if mesh.size > 1 else None
