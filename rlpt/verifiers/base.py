"""What a verifier gets and gives."""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import math
import re
import typing as tp

OUTCOMES = ("correct", "incorrect", "unparsable", "timeout", "crash", "invalid")
JUDGED = ("correct", "incorrect")  # the outcomes that carry a score

F = tp.TypeVar("F", bound=collections.abc.Callable[..., tp.Any])


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """One completion as text.

    Attributes:
      text: what the policy wrote, without special tokens.
      prompt_text: the rendered prompt, where a verifier wants it.
      truncated: stopped by the length limit.
      meta: more about the row, JSON values only.
    """

    text: str
    prompt_text: str = ""
    truncated: bool = False
    meta: dict[str, tp.Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A judgement, or the reason why there is none.

    Attributes:
      score: finite for the outcomes correct and incorrect, otherwise None.  None
        is no verdict: the row is masked, unless the config says what it counts as.
      outcome: one of OUTCOMES.  "invalid": the verifier broke its contract.
      detail: for people, at most a line or two.
    """

    score: float | None
    outcome: str
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class Traits:
    """What the pool may assume of a verifier.

    pure: the verdict depends on the row and the settings only, so equal rows of
      one call are judged once.
    low, high: scores outside are "invalid".
    batch: rows in one call, for verifiers over many rows; 0: all rows at once.
    gold: gold(prompt, **settings) raises ValueError for a reference that the
      verifier could not read; None: every reference will do.
    on_request: asked only where `Prompt.verifier` names it, as a tool that a rollout calls is.
    couples_rows: the verdict of a row depends on the others of its call where that is all rows
      (batch=0): a call that fails is not tried row by row, and one process judges all rows.
    reads: reads(text, **those of its settings that it takes) is the answer that a completion gives,
      in one form, None: none, for votes such as maj@k.  True: as `answer.canonical` reads what
      stands where `extract` says.  False: nothing that votes could be counted by, as of a program.
    asks: unparsable says that somebody else, who was asked, gave no verdict; not that the
      completion has no answer.
    """

    pure: bool = False
    low: float = 0.0
    high: float = 1.0
    batch: int = 64
    gold: collections.abc.Callable[..., tp.Any] | None = None
    on_request: bool = False
    couples_rows: bool = False
    reads: collections.abc.Callable[..., str | None] | bool = True
    asks: bool = False


def traits(**noted: tp.Any) -> collections.abc.Callable[[F], F]:
    """Notes Traits on a verifier, which stays the plain function that it is."""

    def note(fn: F) -> F:
        fn.traits = Traits(**noted)  # type: ignore[attr-defined]
        return fn

    return note


def traits_of(fn: tp.Any) -> Traits:
    """The noted Traits of a verifier, or the cautious defaults."""
    return getattr(fn, "traits", Traits())


def is_batched(fn: tp.Any) -> bool:
    """Whether a verifier takes many rows: its first parameter is `trajectories`."""
    return next(iter(inspect.signature(fn).parameters), "") == "trajectories"


def judged(correct: bool, detail: str = "") -> Verdict:
    """The verdict 1.0 "correct" or 0.0 "incorrect"."""
    return Verdict(float(correct), "correct" if correct else "incorrect", detail)


def unparsable(detail: str) -> Verdict:
    """No verdict, since the completion has no answer that can be read."""
    return Verdict(None, "unparsable", detail)


def validated(score: tp.Any, outcome: tp.Any, detail: tp.Any, low: float, high: float) -> Verdict:
    """A Verdict from values that cannot be trusted; "invalid" where they break the contract."""

    def invalid(got: str) -> Verdict:
        return Verdict(None, "invalid", got[:500])

    if type(outcome) is not str or outcome not in OUTCOMES:
        return invalid(f"outcome {outcome!r:.80}, expected one of {', '.join(OUTCOMES)}")
    detail = detail[:500] if type(detail) is str else ""
    if outcome not in JUDGED:
        if score is not None:
            return invalid(f"score {score!r:.80} with outcome {outcome!r}, expected None")
        return Verdict(None, outcome, detail)
    if type(score) not in (int, float):
        return invalid(f"score {score!r:.80} of type {type(score).__name__}, expected a number")
    if type(score) is int and abs(score) > 2**53:
        return invalid(f"score of {score.bit_length()} bits, expected a number in [{low}, {high}]")
    if not math.isfinite(score) or not low <= score <= high:
        return invalid(
            f"score {score!r}, expected a finite number in [{low}, {high}]; where other scores "
            "are meant, give the verifier range=(low, high)"
        )
    return Verdict(float(score), outcome, detail)


_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")


def last_boxed(text: str) -> str | None:
    r"""What stands in the last \boxed{...} of a text, braces balanced; None: no complete one.

    An unclosed last box is no answer; an earlier one does not stand in for it.
    """
    starts = list(_BOXED.finditer(text))
    if not starts:
        return None
    begin = starts[-1].end()
    depth = 1
    for i in range(begin, len(text)):
        if text[i] in "{}" and text[i - 1] != "\\":
            depth += 1 if text[i] == "{" else -1
            if depth == 0:
                return text[begin:i]
    return None


def last_tag(text: str, tag: str) -> str | None:
    """What stands in the last <tag>...</tag> of a text; None: no complete one."""
    close = text.rfind(f"</{tag}>")
    start = text.rfind(f"<{tag}>", 0, max(close, 0))
    if close < 0 or start < 0:
        return None
    return text[start + len(tag) + 2 : close]


def extract(text: str, how: str, tag: str = "answer") -> str | None:
    r"""The span that holds the answer; None: there is none.

    how: "boxed" the last \boxed{}; "tag" the last <tag></tag>; "whole" the text.
    """
    if how == "boxed":
        return last_boxed(text)
    if how == "tag":
        return last_tag(text, tag)
    if how == "whole":
        return text
    raise ValueError(f"extract: got {how!r}, expected boxed, tag or whole")


def correct(
    verdicts: collections.abc.Mapping[str, Verdict],
    counted: collections.abc.Collection[str] | None = None,
) -> bool:
    """Whether every verifier that judged the row and counts found it correct.

    counted: names, see `counted_names`; None: all.
    """
    heard = [v for name, v in verdicts.items() if counted is None or name in counted]
    return bool(heard) and all(v.outcome == "correct" for v in heard)


def counted_names(verifiers: collections.abc.Iterable[tp.Any]) -> tuple[str, ...]:
    """Which of config.verifiers decide what is correct: those whose weight is not 0, or all."""
    weights = {v["name"]: float(v.get("weight", 1.0)) for v in verifiers}
    return tuple(name for name, weight in weights.items() if weight) or tuple(weights)
