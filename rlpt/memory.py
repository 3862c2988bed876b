"""Out of device memory: in which stage, how much was asked for, and which settings lower it.

XLA's own message has the bytes, and a list of buffers that says nothing to whoever set
`learner.micro_blocks`.
"""

from __future__ import annotations

import collections.abc
import contextlib
import math
import re
import typing as tp

import jax

from rlpt import sharding
from rlpt.blocks import of_tables

_SIZE = r"([\d.]+) ?([KMGT]?)"
# in the messages of CPU, of GPU (two allocators) and of TPU (at run time)
_ASKED = re.compile(rf"(?:allocat(?:e|ing)(?: request for)?|reserve) {_SIZE}", re.IGNORECASE)
_COMPILED = re.compile(rf"Used {_SIZE} of {_SIZE} hbm", re.IGNORECASE)  # a program for TPU
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class DeviceMemoryError(RuntimeError):
    """A device has too little memory for a stage; the message says which settings lower it."""


class Remedy(tp.NamedTuple):
    """A setting, what it is now, and a value with which a stage needs less."""

    setting: str
    now: tp.Any
    lower: tp.Any

    def __str__(self) -> str:
        now = "0, all at once" if self.now == 0 else self.now
        return f"--config.{self.setting}={self.lower} (now {now})"


@contextlib.contextmanager
def explain_oom(stage: str, config: tp.Any) -> collections.abc.Iterator[None]:
    """Turns XLA's RESOURCE_EXHAUSTED into a DeviceMemoryError.

    A computation that fails on the device does so where its result is first waited for; a
    stage should end with such a place.

    Args:
      stage: start (weights and optimizer), generate, score, update or evaluate.
      config: of the run.
    """
    if stage not in _STAGES:
        raise ValueError(f"stage: got {stage!r}, expected one of {', '.join(_STAGES)}")
    try:
        yield
    except jax.errors.JaxRuntimeError as e:
        if "RESOURCE_EXHAUSTED" not in str(e):
            raise
        raise DeviceMemoryError(_explanation(stage, config, str(e))) from e


def remedies(stage: str, config: tp.Any) -> list[Remedy]:
    """The settings with which a stage needs less memory, in the order in which to try them.

    Those that cost nothing but time come first, then those that change the batch, the
    devices or the optimizer.  A setting that is at its end is left out.
    """
    blocks = config.rollout.prompts * config.rollout.group_blocks
    common = {table: math.gcd(*numbers) for table, numbers in of_tables(config).items()}
    parts = sharding.shards(sharding.make_mesh({a: config.mesh[a] for a in sharding.AXES}))
    own = config.learner  # what a smaller batch has still to divide into
    unit = math.lcm(parts, own.minibatches * max(own.micro_blocks, 1))
    of = {
        "micro_blocks": _micro_blocks("learner", config.learner, common["policy"], parts)
        + [
            remedy
            for name, entry in config.learners.items()
            for remedy in _micro_blocks(
                f"learners.{name}", entry, common[entry.get("table", "policy")], parts
            )
        ],
        "remat": _next("model.remat", config.model.remat, ("none", "dots", "full")),
        "logits_chunk": _half("model.logits_chunk", config.model.logits_chunk),
        "lanes": _half("sampling.lanes", config.sampling.lanes, config.rollout.group),
        "slots": _half("sampling.slots", config.sampling.slots, blocks)
        if config.sampling.lanes
        else [],
        "blocks": _half("eval.blocks", config.eval.blocks, config.rollout.prompts, parts),
        "prompts": _half("rollout.prompts", config.rollout.prompts, unit=unit),
        "mesh": _mesh(config),
        "moments": _next("optim.moments", config.optim.moments, ("float32", "bfloat16", "factored"))
        if config.optim.name == "adamw"
        else [],
    }
    return [remedy for kind in _STAGES[stage] for remedy in of[kind]]


_STAGES = {
    "start": ("mesh", "moments"),
    "generate": ("lanes", "slots", "prompts", "mesh"),
    "score": ("micro_blocks", "logits_chunk", "prompts", "mesh"),
    "update": ("micro_blocks", "remat", "logits_chunk", "prompts", "mesh", "moments"),
    "evaluate": ("lanes", "slots", "blocks", "mesh"),
}


def _micro_blocks(where: str, layout: tp.Any, blocks: int, parts: int) -> list[Remedy]:
    """The next divisor of a minibatch's blocks that divides over the parts of the mesh."""
    rows = blocks // layout.get("minibatches", 1)
    now = layout.get("micro_blocks", 0)
    lower = [n for n in range(1, now or rows) if rows % n == 0 and n % parts == 0]
    return [Remedy(f"{where}.micro_blocks", now, lower[-1])] if lower else []


def _half(setting: str, now: int, whole: int = 0, unit: int = 1) -> list[Remedy]:
    """Half of a number in units; whole: what 0 stands for."""
    lower = (now or whole) // 2 // unit * unit
    return [Remedy(setting, now, lower)] if lower else []


def _next(setting: str, now: str, order: tuple[str, ...]) -> list[Remedy]:
    later = order[order.index(now) + 1 :]
    return [Remedy(setting, now, later[0])] if later else []


def _mesh(config: tp.Any) -> list[Remedy]:
    """The weights cut over all devices, where some hold the same parts."""
    copies = sharding.make_mesh({a: config.mesh[a] for a in sharding.AXES}).shape["data"]
    fsdp = config.mesh.fsdp
    if copies == 1:
        return []
    return [Remedy("mesh.data=1 --config.mesh.fsdp", f"{config.mesh.data} and {fsdp}", -1)]


def _explanation(stage: str, config: tp.Any, message: str) -> str:
    asked, limit = _bytes(message)
    device = jax.local_devices()[0]
    limit = limit or (device.memory_stats() or {}).get("bytes_limit", 0)
    told = f"asked for {_readable(asked)}" if asked else "asked for more than there is"
    has = f"has {_readable(limit)}" if limit else "does not tell how much it has"
    changes = remedies(stage, config)
    tried = "; ".join(map(str, changes))
    return (
        f"{stage}: out of device memory: {told}; the device ({device.device_kind}) {has}. "
        + (f"What lowers it, in this order: {tried}. " if changes else "")
        + "Beyond that: shorter buckets, more devices or a smaller model."
        + f"\nXLA: {message.splitlines()[0]}"
    )


def _bytes(message: str) -> tuple[int, int]:
    """(bytes asked for, bytes of the device), 0 where a message does not tell."""
    if found := _COMPILED.search(message):
        a, unit_a, b, unit_b = found.groups()
        return _count(a, unit_a), _count(b, unit_b)
    if found := _ASKED.search(message):
        return _count(*found.groups()), 0
    return 0, 0


def _count(number: str, unit: str) -> int:
    return int(float(number.rstrip(".")) * _UNITS[unit.upper()])


def _readable(count: int) -> str:
    unit = next((u for u in "TGMK" if count >= _UNITS[u]), "")
    return f"{count / _UNITS[unit]:.4g} {unit + 'iB' if unit else 'bytes'}"
