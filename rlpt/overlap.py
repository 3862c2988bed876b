"""Batches for the update, sampled in turn with it or, with rollout.overlap, one ahead of it.

With overlap=1 the next batch is sampled while this one is still being judged, so that a step takes
as long as the longer of the two.  That batch is then one update old: its rows have origin 2 and
bring the sampler's log-probs as old_logp, so that the ratio is against the weights that sampled.
"""

from __future__ import annotations

import collections.abc
import typing as tp

import numpy as np

from rlpt.tools import Batch, Tools

Batches = dict[str, Batch]


class Rollouts:
    """Calls the rollout step by step, and holds the batch that is ahead.

    Args:
      rollout: (stream, tools, state, step) -> (batches, state).
      stream: of prompts, with get_state and set_state.
      params: gives the weights to sample with, which stay as they are.
      steps: of the run.  ahead: 0 or 1 (`config.rollout.overlap`).
    """

    def __init__(
        self,
        rollout: collections.abc.Callable[..., tuple[Batches, tp.Any]],
        stream: tp.Any,
        tools: Tools,
        params: collections.abc.Callable[[], tp.Any],
        steps: int,
        ahead: int,
    ):
        self._rollout, self._stream, self._tools = rollout, stream, tools
        self._params, self._steps, self._far = params, steps, ahead
        self._state: tp.Any = None
        self._next: Batches | None = None
        tools.defer = bool(ahead)

    def __call__(self, step: int) -> Batches:
        """The judged batches of a step."""
        batches = self._sample(step, 0) if self._next is None else self._next
        self._next = None
        if self._far and step + 1 < self._steps:
            self._next = self._sample(step + 1, 2)
        for batch in batches.values():
            self._tools.settle(batch)
        return batches

    def _sample(self, step: int, origin: int) -> Batches:
        self._tools.params = self._params()
        batches, self._state = self._rollout(self._stream, self._tools, self._state, step)
        self._tools.params = None
        if self._far:
            for batch in batches.values():
                _complete(batch, origin)
        return batches

    def get_state(self) -> dict[str, tp.Any]:
        """As JSON: the stream, the rollout's own state and, judged, the batch that is ahead."""
        ahead = None
        if self._next is not None:
            ahead = {}
            for name, batch in self._next.items():
                self._tools.settle(batch)
                rows = self._tools.to_rows(batch)
                counts = dict(batch.outcomes)
                ahead[name] = {"rows": rows, "outcomes": counts, "left_out": batch.left_out}
        return {"stream": self._stream.get_state(), "rollout": self._state, "ahead": ahead}

    def set_state(self, state: dict[str, tp.Any]) -> None:
        """Goes on from what `get_state` gave."""
        self._stream.set_state(state["stream"])
        self._state, self._next = state["rollout"], None
        if ahead := state.get("ahead"):
            self._next = {}
            for name, saved in ahead.items():
                batch = self._tools.from_rows(saved["rows"])
                batch.outcomes.update(saved["outcomes"])
                batch.left_out = [(name, own) for name, own in saved.get("left_out", ())]
                _complete(batch, 2)
                self._next[name] = batch


def _complete(batch: Batch, origin: int) -> None:
    """The origin of rows that were sampled on policy, and the columns of a batch that is ahead."""
    table = batch.table
    table["origin"] = np.where(table["origin"] == 0, origin, table["origin"]).astype(np.int32)
    table["old_logp"] = table["sampler_logp"].copy()  # read where the origin is not 0
