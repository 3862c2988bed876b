"""Runs of several processes: how they find each other, share host work and stop together.

Every process runs the same program over one mesh of all devices.  Host decisions (what is
sampled next, what is judged again, when to stop) follow from values that are the same on every
process, because whatever only one of them can know (a verdict, a signal) goes through `join` or
`agree`.  With one process these do nothing.
"""

from __future__ import annotations

import collections.abc
import json
import os
import pathlib
import re
import sys
import time
import typing as tp
import uuid

import jax
import numpy as np
from jax.experimental import multihost_utils

PEER_LOST = 75  # exit status (EX_TEMPFAIL): this process is fine, start all of them again

_BROKEN = re.compile("(UNKNOWN|UNAVAILABLE|ABORTED|CANCELLED|INTERNAL|DEADLINE_EXCEEDED): ")
_HEARTBEAT = 30  # seconds without a sign of life after which a process counts as dead


def initialize(
    mode: str = "auto",
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
) -> None:
    """Joins the other processes of this run, before anything else uses jax.

    Args:
      mode: auto: where the arguments, RLPT_COORDINATOR, RLPT_PROCESSES and RLPT_PROCESS, or a
        step of Slurm or Open MPI or the environment of a TPU slice say that there are several
        processes; on: in any case (a TPU VM is asked for its slice); off: never.
      coordinator: HOST:PORT at which process 0 listens.  processes: how many there are.
      process: the index of this one, from 0.
    Raises: ValueError for arguments that do not fit together; RuntimeError where the others do
      not come within five minutes.
    """
    if mode not in ("auto", "on", "off"):
        raise ValueError(f"distributed: got {mode!r}, expected auto, on or off")
    own = os.environ.get
    coordinator = coordinator or own("RLPT_COORDINATOR")
    processes = _number("RLPT_PROCESSES") if processes is None else processes
    process = _number("RLPT_PROCESS") if process is None else process
    given = {"coordinator": coordinator, "processes": processes, "process": process}
    missing = [name for name, value in given.items() if value is None]
    if mode == "off" or (mode == "auto" and len(missing) == len(given) and not _several()):
        return
    if 0 < len(missing) < len(given):
        raise ValueError(
            f"distributed: {', '.join(missing)} is not given; give all of {', '.join(given)}, or "
            "none where Slurm, Open MPI or a TPU slice knows them"
        )
    if process is not None and not 0 <= process < tp.cast(int, processes):
        raise ValueError(
            f"distributed: got process {process} of {processes}, expected an index from 0"
        )
    # jax's own handler of SIGTERM would take the place of the one that saves a checkpoint
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        coordinator,
        processes,
        process,
        heartbeat_timeout_seconds=_HEARTBEAT,
        shutdown_timeout_seconds=_HEARTBEAT,
    )


def _several() -> bool:
    """Whether the environment is that of one process among several."""
    own = os.environ.get
    slurm = "SLURM_PROCID" in os.environ and int(own("SLURM_STEP_NUM_TASKS", "1")) > 1
    mpi = int(own("OMPI_COMM_WORLD_SIZE", "1")) > 1
    # without a TPU jax puts a sentence there
    hosts = re.fullmatch(r"[^,\s]+(,[^,\s]+)+", own("TPU_WORKER_HOSTNAMES", ""))
    return slurm or mpi or hosts is not None


def _number(variable: str) -> int | None:
    text = os.environ.get(variable)
    try:
        return int(text) if text else None
    except ValueError as e:
        raise ValueError(f"{variable}: got {text!r}, expected an integer") from e


def need_connection() -> None:
    """Raises: ValueError where there are several processes that have not joined each other."""
    if count() > 1 and not jax.distributed.is_initialized():
        raise ValueError(
            f"this is one of {count()} processes over {jax.device_count()} devices, which have not "
            "joined each other: start all of them with --distributed on"
        )


def count() -> int:
    """How many processes this run has."""
    return jax.process_count()


def primary() -> bool:
    """Whether this is the process that writes files and prints."""
    return jax.process_index() == 0


def agree(value: int) -> int:
    """The largest of the values that the processes have; every process calls it."""
    if count() == 1:
        return value
    return int(np.max(multihost_utils.process_allgather(np.int32(value))))


def part(items: collections.abc.Sequence[tp.Any]) -> collections.abc.Sequence[tp.Any]:
    """This process' part of host work on items that every process has; see `join`."""
    n, i = count(), jax.process_index()
    return items[len(items) * i // n : len(items) * (i + 1) // n]


def join(results: list[tp.Any]) -> list[tp.Any]:
    """The results of all parts in the order of the items; every process calls it.

    results: of this process' part, a result an item, which JSON can carry.
    Returns: with several processes, what came back from JSON.
    """
    if count() == 1:
        return results
    parts = map(json.loads, _exchange(json.dumps(results).encode()))
    return [result for part in parts for result in part]


def alike(values: collections.abc.Mapping[str, str]) -> None:
    """Compares what each process has loaded; every process calls it.

    Raises: ValueError, in all of them, naming what differs and where.
    """
    everyones = join([dict(values)])
    for i, other in enumerate(everyones):
        if differ := sorted(k for k in values if other.get(k) != everyones[0].get(k)):
            raise ValueError(
                f"process {i} of {count()} has loaded another {', '.join(differ)} than process 0: "
                f"{other[differ[0]]} and {everyones[0][differ[0]]}; copy the same model, data and "
                "rlpt to every host, or start the run where all of them see the same files"
            )


def share(directory: pathlib.Path) -> None:
    """Has every process see what process 0 writes in a directory; every process calls it.

    Raises: ValueError, in all of them, where one does not.
    """
    if count() == 1:
        return
    (name,) = join([f".seen-{uuid.uuid4().hex}"] if primary() else [])
    if primary():
        (directory / name).touch()
    try:
        sees(directory / name)
    finally:
        if primary():
            (directory / name).unlink(missing_ok=True)


def sees(path: pathlib.Path, seconds: float = 60.0) -> None:
    """Waits until every process sees what process 0 has written; every process calls it.

    Raises: ValueError, in all of them, where one does not within so many seconds.
    """
    if count() == 1:
        return
    end = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.2)
    if agree(int(not path.exists())):
        raise ValueError(
            f"{path} is not seen by every process of this run: its workdir has to be a directory "
            "that all hosts share"
        )


def _exchange(data: bytes) -> list[bytes]:
    """The bytes of every process, by index.  Padded to powers of two, so that few programs do."""
    lengths = np.asarray(multihost_utils.process_allgather(np.int32(len(data)))).ravel()
    padded = np.zeros(1 << int(lengths.max()).bit_length(), np.uint8)
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    gathered = np.asarray(multihost_utils.process_allgather(padded))
    return [row[:n].tobytes() for row, n in zip(gathered, lengths, strict=True)]


def _chain(error: BaseException | None) -> list[BaseException]:
    """An error and those that it came of."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def leave(status: int, error: BaseException | None = None) -> None:
    """Ends one process of several at once; returns where there is only one.

    The usual end waits for the other processes, which may wait for this one.

    Args:
      status: of the exit.  error: what ended it; a broken connection of jax's runtime means
        that another process is gone, and the status is PEER_LOST.  (Where process 0 is gone,
        the runtime itself aborts the others.)
    """
    if not jax.distributed.is_initialized():
        return
    if any(_BROKEN.match(str(e)) for e in _chain(error)):
        status = PEER_LOST
        print(
            "another process of this run is gone, or broke off: start all of them again with the "
            "same command, which goes on from the last checkpoint",
            file=sys.stderr,
        )
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
