"""Chips: what they have, with sources, and how counts become seconds.

The time of a program is a roofline and not a measurement:

  compute = FLOPs / (PEAK * peak rate)      memory = bytes / (PEAK_MEMORY * bandwidth)
  links   = bytes on the wire / (PEAK_LINKS * bandwidth of a ring)

"overlapped", where the compiler hides all communication, is the largest of the three, and
"serial", where it hides none, max(compute, memory) + links.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import typing as tp

import jax

GIB = 2**30
PEAK, PEAK_MEMORY, PEAK_LINKS = 0.6, 0.8, 0.8  # assumed shares of the peaks that are reached
USABLE = 0.97  # of the memory: the rest is the runtime's


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device. memory: bytes; bandwidth, link: bytes/s; peak: bf16 FLOP/s, dense.

    link: what one device sends and receives in a ring along one axis of the torus, both
    directions together (TPU), or over NVLink one way (GPU).
    """

    name: str
    memory: float
    bandwidth: float
    peak: float
    link: float
    source: str


_TPU = "Austin et al., How to Scale Your Model (2025), table of TPUs; cloud.google.com/tpu/docs"
CHIPS = {
    "v4": Chip("TPU v4", 32 * GIB, 1.2e12, 2.75e14, 9e10, _TPU),
    "v5e": Chip("TPU v5e", 16 * GIB, 8.1e11, 1.97e14, 9e10, _TPU),
    "v5p": Chip("TPU v5p", 95 * GIB, 2.8e12, 4.59e14, 1.8e11, _TPU),
    "v6e": Chip("TPU v6e", 32 * GIB, 1.6e12, 9.2e14, 1.8e11, _TPU),
    "a100": Chip("A100 SXM 80GB", 80e9, 2.04e12, 3.12e14, 3e11, "NVIDIA A100 data sheet"),
    "h100": Chip("H100 SXM", 80e9, 3.35e12, 9.89e14, 4.5e11, "NVIDIA H100 data sheet"),
    "h200": Chip("H200 SXM", 141e9, 4.8e12, 9.89e14, 4.5e11, "NVIDIA H200 data sheet"),
}


def find(topology: str) -> tuple[str, Chip, int]:
    """Kind, chip and number of chips of "v5p:4x4x8" or "h200:8".

    Raises: ValueError for a chip or shape that there is not.
    """
    kind, _, shape = topology.partition(":")
    sizes = shape.split("x")
    if kind not in CHIPS or not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise ValueError(
            f"topology: got {topology!r}, expected CHIP:SHAPE such as v5p:4x4x8 or h200:8, with a "
            f"chip among {', '.join(CHIPS)}"
        )
    count = 1
    for size in sizes:
        count *= int(size)
    return kind, CHIPS[kind], count


def seconds(chip: Chip, flops: float, moved: float, wire: float) -> dict[str, tp.Any]:
    """The roofline of one program on one device: FLOPs, bytes of memory, bytes on the wire."""
    parts = {
        "compute": flops / (PEAK * chip.peak),
        "memory": moved / (PEAK_MEMORY * chip.bandwidth),
        "links": wire / (PEAK_LINKS * chip.link),
    }
    overlapped = max(parts.values())
    serial = max(parts["compute"], parts["memory"]) + parts["links"]
    return {**parts, "overlapped": overlapped, "serial": serial}


def compiler(kind: str) -> str:
    """libtpu for a TPU where it is installed, else cpu: fake devices."""
    tpu = kind.startswith("v") and importlib.util.find_spec("libtpu") is not None
    return "libtpu" if tpu else "cpu"


def prepare(topology: str) -> None:
    """Makes jax, whose backends are not yet in use, compile for a topology from a CPU.

    Raises: as `find`.
    """
    kind, _, count = find(topology)
    jax.config.update("jax_platforms", "cpu")
    if compiler(kind) == "cpu":
        jax.config.update("jax_num_cpu_devices", count)
        return
    os.environ |= {  # libtpu is not to lock, nor to ask a metadata server
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
        "TPU_ACCELERATOR_TYPE": "v5litepod-1",  # any: the topology is given by name
    }
