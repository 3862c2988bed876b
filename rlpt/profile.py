"""`rlpt train --profile`: a trace of some steps, and where all steps spent their time."""

from __future__ import annotations

import os
import pathlib
import typing as tp

import jax

FIRST = 2  # step whose trace is the first: those before compile


class Profile:
    """Traces steps with jax's profiler, for TensorBoard or Perfetto.

    Args:
      directory: gets the trace, once.  steps: how many are traced, from the third on; 0: none.
    """

    def __init__(self, directory: str | os.PathLike[str], steps: int):
        self.directory = pathlib.Path(directory)
        self._left, self._running = steps, False
        self._seconds: dict[str, float] = {}
        self._steps = 0

    def begin(self, done: int) -> None:
        """Before a step. done: steps since the process started."""
        if self._left and done >= FIRST and not self._running:
            jax.profiler.start_trace(self.directory)
            self._running = True

    def end(self, seconds: tp.Mapping[str, float], done: int) -> None:
        """After a step. seconds: by stage; done: steps before it since the process started."""
        if done >= FIRST:
            self._steps += 1
            for stage, spent in seconds.items():
                self._seconds[stage] = self._seconds.get(stage, 0.0) + spent
        if self._running:
            self._left -= 1
            if not self._left:
                self.close()

    def close(self) -> None:
        """Writes a trace that is under way; harmless a second time."""
        if self._running:
            jax.profiler.stop_trace()
            self._left, self._running = 0, False

    def table(self) -> str:
        """Seconds a step and share by stage, as text; "" before the third step."""
        total = sum(self._seconds.values())
        rows = [
            f"{stage:>20}  {spent / self._steps:8.3f} s  {spent / total:6.1%}"
            for stage, spent in sorted(self._seconds.items(), key=lambda x: -x[1])
        ]
        return "\n".join([f"{'stage':>20}  {'a step':>10}  {'share':>6}", *rows]) if rows else ""

    def __enter__(self) -> Profile:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
