"""The order in which prompts come: mixed, shuffled, and exactly resumable.

Every draw follows from the seed and counters alone, so all hosts that call
alike get the same prompts, and the state is a few numbers of JSON.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import math
import typing as tp

import numpy as np

from rlpt.tasks import base

Draws = list[tuple[base.Prompt, int]]


@dataclasses.dataclass(frozen=True)
class Source:
    """Prompts under a name. weight: share of the draws, relative to the other sources."""

    name: str
    prompts: collections.abc.Sequence[base.Prompt]
    weight: float = 1.0


class Stream:
    """Endless draws from several sources.

    A source is chosen by weight at each draw; within a source all prompts come
    once an epoch, in an order that the seed and the epoch fix.
    """

    def __init__(self, tasks: collections.abc.Iterable[Source], seed: int = 0):
        """Raises: TaskError for no sources, an empty one, a bad weight, or an id used twice."""
        self.sources = tuple(tasks)
        self.seed = seed
        if not self.sources:
            raise base.TaskError("stream: no sources; expected at least one Source")
        owner: dict[str, str] = {}
        for source in self.sources:
            if not source.prompts:
                raise base.TaskError(f"stream: the source {source.name!r} has no prompts")
            if not (0.0 < source.weight < math.inf):
                raise base.TaskError(
                    f"stream: source {source.name!r}: weight {source.weight}, expected > 0"
                )
            for prompt in source.prompts:
                if prompt.id in owner:
                    raise base.TaskError(
                        f"stream: the id {prompt.id!r} is in {owner[prompt.id]!r} and again in "
                        f"{source.name!r}; ids must be unique"
                    )
                owner[prompt.id] = source.name
        names = [source.name for source in self.sources]
        if len(set(names)) != len(names):
            raise base.TaskError(f"stream: sources need different names, got {names}")
        weights = np.array([source.weight for source in self.sources], np.float64)
        self._bounds = np.cumsum(weights / weights.sum())
        self._ids = {
            source.name: f"{base.hash_int(*(prompt.id for prompt in source.prompts)):016x}"
            for source in self.sources
        }
        self._texts = {
            source.name: f"{base.hash_int(*map(base.content_id, source.prompts)):016x}"
            for source in self.sources
        }
        self._draws = 0
        self._taken = [0] * len(self.sources)
        self._orders: dict[int, tuple[int, np.ndarray]] = {}  # source -> (epoch, order)

    def take(self, n: int) -> Draws:
        """The next n prompts, each with its occurrence: how often it has come before."""
        return [self._next() for _ in range(n)]

    def get_state(self) -> dict[str, tp.Any]:
        """Counters as JSON; `set_state` on a stream made alike goes on from here."""
        return {
            "seed": self.seed,
            "draws": self._draws,
            "sources": {
                source.name: {
                    "epoch": taken // len(source.prompts),
                    "position": taken % len(source.prompts),
                    "ids": self._ids[source.name],
                    "texts": self._texts[source.name],
                }
                for source, taken in zip(self.sources, self._taken, strict=True)
            },
        }

    def set_state(self, state: dict[str, tp.Any]) -> None:
        """Goes on where `get_state` was called.

        Raises: TaskError if the seed, the sources or their prompts are not the same.
        """
        mine = self.get_state()
        for what, got, expected in (
            ("seed", state["seed"], mine["seed"]),
            ("sources", sorted(state["sources"]), sorted(mine["sources"])),
            *(
                (f"prompts of {name!r}", s[key], mine["sources"].get(name, {}).get(key))
                for name, s in state["sources"].items()
                for key in ("ids", "texts")
            ),
        ):
            if got != expected:
                raise base.TaskError(
                    f"stream: the state was saved with other {what}: {got}, now {expected}; "
                    "resume with the data and the seed of the run, or start a new one"
                )
        self._draws = state["draws"]
        self._taken = [
            state["sources"][s.name]["epoch"] * len(s.prompts)
            + state["sources"][s.name]["position"]
            for s in self.sources
        ]

    def _next(self) -> tuple[base.Prompt, int]:
        u = _uniform(self.seed, "source", self._draws)
        i = min(int(np.searchsorted(self._bounds, u, side="right")), len(self.sources) - 1)
        prompts = self.sources[i].prompts
        epoch, position = divmod(self._taken[i], len(prompts))
        self._draws += 1
        self._taken[i] += 1
        return prompts[int(self._order(i, epoch)[position])], epoch

    def _order(self, i: int, epoch: int) -> np.ndarray:
        """The permutation of a source for an epoch; the last one is kept."""
        if self._orders.get(i, (-1,))[0] != epoch:
            key = base.hash_int(self.seed, "order", self.sources[i].name, epoch, bits=128)
            # Raw bits and a stable sort: unlike Generator.permutation the same in any numpy.
            raw = np.random.Philox(key=key).random_raw(len(self.sources[i].prompts))
            self._orders[i] = (epoch, np.argsort(raw, kind="stable"))
        return self._orders[i][1]


class Curriculum:
    """Prefers prompts by their running pass rate r: inside a band, or as uncertain as may be.

    Wraps a stream: other prompts are passed over, unless it is their turn to be
    tried again, or too few others are left.
    """

    def __init__(
        self,
        stream: Stream,
        low: float = 0.0,
        high: float = 1.0,
        momentum: float = 0.5,
        revisit: float = 0.1,
        patience: int = 4,
        by: str = "band",
    ):
        """
        Args:
          by: "band", or "uncertainty": a prompt is taken with the chance 2 sqrt(r (1 - r)), the
            standard deviation of a binary reward by its largest, and with `revisit` at least;
            after the prioritized sampling of Xu & Ding, "Single-stream Policy Optimization",
            arXiv:2509.13232, whose running rate is another.
          low, high: the band; a rate is inside if low < rate < high.  So the default
            passes over only what has always failed or always succeeded.
          momentum: weight of the old rate in `update`; 0: only the last one counts.
          revisit: chance that a prompt outside the band is taken all the same, since
            its rate moves only when it is tried.
          patience: at most patience * n prompts are looked at for n; then those
            nearest to the band fill up.
        """
        if not (0.0 <= low < high <= 1.0 and 0.0 <= momentum < 1.0):
            raise base.TaskError(
                f"curriculum: got low={low}, high={high}, momentum={momentum}; expected "
                "0 <= low < high <= 1 and 0 <= momentum < 1"
            )
        if not 0.0 <= revisit <= 1.0 or patience < 1:
            raise base.TaskError(
                f"curriculum: got revisit={revisit}, patience={patience}; expected a revisit "
                "in [0, 1] and patience >= 1"
            )
        if by not in ("band", "uncertainty"):
            raise base.TaskError(f"curriculum: got by={by!r}, expected 'band' or 'uncertainty'")
        if by == "uncertainty" and (low, high) != (0.0, 1.0):
            raise base.TaskError(
                f"curriculum: got low={low}, high={high} with by='uncertainty', which has no band"
            )
        self.stream, self.by = stream, by
        self.low, self.high = low, high
        self.momentum, self.revisit, self.patience = momentum, revisit, patience
        self._rates: dict[str, float] = {}
        self._looked = 0
        self._seed = getattr(stream, "seed", 0)

    def take(self, n: int) -> Draws:
        """The next n prompts, each with its occurrence (prompts passed over count too)."""
        taken: Draws = []
        passed: Draws = []
        for _ in range(self.patience * n):
            if len(taken) == n:
                break
            (draw,) = self.stream.take(1)
            again = _uniform(self._seed, "revisit", self._looked)
            self._looked += 1
            (taken if again < self._chance(draw[0].id) else passed).append(draw)
        passed.sort(key=lambda draw: self._distance(draw[0].id))  # stable: ties as they came
        return taken + passed[: n - len(taken)]

    def update(self, prompt_id: str, pass_rate: float) -> None:
        """Notes the share of correct completions of a prompt; NaN (no verdicts) changes nothing.

        Call it with the same values on all hosts.
        """
        if math.isnan(pass_rate):
            return
        if not 0.0 <= pass_rate <= 1.0:
            raise base.TaskError(
                f"curriculum: pass rate {pass_rate} of {prompt_id!r}, expected in [0, 1]"
            )
        old = self._rates.get(prompt_id, pass_rate)
        self._rates[prompt_id] = self.momentum * old + (1.0 - self.momentum) * pass_rate

    def get_state(self) -> dict[str, tp.Any]:
        """JSON: the stream's state and the running rates."""
        return {
            "stream": self.stream.get_state(),
            "looked": self._looked,
            "rates": dict(self._rates),
        }

    def set_state(self, state: dict[str, tp.Any]) -> None:
        """Goes on where `get_state` was called."""
        self.stream.set_state(state["stream"])
        self._looked = state["looked"]
        self._rates = dict(state["rates"])

    def _chance(self, prompt_id: str) -> float:
        """The chance, in [0, 1], with which a prompt is taken when it comes."""
        distance = self._distance(prompt_id)
        if self.by == "uncertainty":
            return max(self.revisit, 1.0 - distance)
        return self.revisit if distance else 1.0

    def _distance(self, prompt_id: str) -> float:
        """How far a prompt's rate is from the band; 0.0 inside, and for untried prompts.

        By uncertainty it is 1 - 2 sqrt(r (1 - r)).

        On the border of the open band the distance is tiny, not zero.
        """
        rate = self._rates.get(prompt_id)
        if rate is not None and self.by == "uncertainty":
            return 1.0 - 2.0 * math.sqrt(rate * (1.0 - rate))
        if rate is None or self.low < rate < self.high:
            return 0.0
        return max(self.low - rate, rate - self.high, 1e-9)


def filter_long(
    prompts: collections.abc.Iterable[base.Prompt],
    length_fn: collections.abc.Callable[[base.Prompt], int],
    max_len: int,
    policy: str = "drop",
) -> tuple[list[base.Prompt], int]:
    """Leaves out prompts that do not fit.

    Args:
      length_fn: the length of a rendered prompt, in tokens.
      max_len: the longest that fits.
      policy: "drop", or "fail" to raise at the first.
    Returns: the prompts kept, and how many were dropped.
    Raises: TaskError naming a prompt, its length and the limit; also if none is left.
    """
    if policy not in ("drop", "fail"):
        raise base.TaskError(f"filter_long: policy {policy!r}, expected 'drop' or 'fail'")
    kept: list[base.Prompt] = []
    dropped = 0
    longest = (0, "")
    for prompt in prompts:
        length = length_fn(prompt)
        if length <= max_len:
            kept.append(prompt)
            continue
        if policy == "fail":
            raise base.TaskError(
                f"prompt {prompt.id!r} has {length} tokens, the limit is {max_len}; "
                "raise the limit, or drop long prompts"
            )
        dropped += 1
        longest = max(longest, (length, prompt.id))
    if dropped and not kept:
        raise base.TaskError(
            f"all {dropped} prompts are longer than {max_len} tokens (the longest, "
            f"{longest[1]!r}, has {longest[0]}); raise the limit"
        )
    return kept, dropped


def _uniform(*parts: tp.Any) -> float:
    """A number in [0, 1) that follows from `parts`."""
    return base.hash_int(*parts) / 2**64
