"""Exact comparison of numbers: no floats, no expressions, no code."""

from __future__ import annotations

import fractions
import re
import typing as tp

from rlpt.tasks import base as tasks_base
from rlpt.verifiers import base

MAX_LENGTH = 64  # characters of a number; longer ones are unparsable

# 12  1,234  0.5  .5 : what follows may not continue the number (1.2.3, 1,2345, 1e5, 1/2/3)
_PLAIN = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|(?<!\.)\.[0-9]+"
_END = r"(?![0-9]|[.,][0-9]|[eE][-+]?[0-9]|\s?/\s?[0-9.])"
_START = r"(?<!\w)(?<![0-9][.,/])"
# In "7-5" the minus is an operator, in "= -5" a sign.
_SIGN = r"(?:(?<![\w)\]}])[-+\u2212])?"
_NUMBER = re.compile(
    rf"{_SIGN}\$?{_START}(?P<top>{_PLAIN})(?:\s?/\s?(?P<bottom>{_PLAIN}))?{_END}", re.ASCII
)


_MORE = re.compile(r"(?<![\w.,/])[0-9]", re.ASCII)  # a number that cannot be read begins here


def to_fraction(text: str) -> fractions.Fraction | None:
    """The exact value of 12, -5, 1,234, 0.5, 3/4 or $12, alone in a text; None otherwise."""
    match = _NUMBER.fullmatch(text.strip().rstrip("%").removesuffix("."))
    return _value(match) if match else None


def last_number(text: str) -> fractions.Fraction | None:
    """The exact value of the last number in a text; None: there is none, or it cannot be read.

    "35; no: 12,5" and "7 apples, 1.5e3 in all" end in numbers that cannot be read: the ones before
    are not what the text ends with.
    """
    match = None
    for match in _NUMBER.finditer(text):  # noqa: B007
        pass
    if match is None or _MORE.search(text, match.end()):
        return None
    return _value(match)


def _value(match: re.Match[str]) -> fractions.Fraction | None:
    if len(match[0]) > MAX_LENGTH:
        return None
    top, bottom = (
        fractions.Fraction((match[part] or "1").replace(",", "")) for part in ("top", "bottom")
    )
    if bottom == 0:
        return None
    return (-top if match[0][0] in "-\u2212" else top) / bottom


def _reference(answer: tp.Any) -> fractions.Fraction:
    value = to_fraction(str(answer)) if type(answer) in (str, int, float) else None
    if value is None:
        raise ValueError(
            f"answer: got {answer!r:.80}, expected a number such as '12', '1,234', '0.5' or '3/4'"
        )
    return value


def _gold(prompt: tasks_base.Prompt, **_: tp.Any) -> None:
    _reference(prompt.answer)


@base.traits(pure=True, gold=_gold)
def number(
    trajectory: base.Trajectory,
    prompt: tasks_base.Prompt,
    *,
    extract: str = "last",
    tag: str = "answer",
    tolerance: str = "0",
) -> base.Verdict:
    r"""Whether the completion's number equals the reference, as exact fractions.

    Args:
      extract: "last": the last number of the reply; "boxed": what stands in the
        last \boxed{}; "tag": in the last <answer></answer>; "whole": the reply.
        Except for "last", the span must be a number and nothing else.
      tag: the tag's name.
      tolerance: largest accepted distance, a decimal or fraction as a string.
    Returns: correct or incorrect; unparsable without a number.
    Raises: ValueError for a reference that is not a number, or a bad setting.
    """
    allowed = to_fraction(tolerance)
    if allowed is None or allowed < 0:
        raise ValueError(f"tolerance: got {tolerance!r}, expected a string such as '0' or '0.01'")
    wanted = _reference(prompt.answer)
    if extract == "last":
        value = last_number(trajectory.text)
    else:
        span = base.extract(trajectory.text, extract, tag)
        value = None if span is None else to_fraction(span)
    if value is None:
        return base.unparsable(f"no number ({extract})")
    return base.judged(abs(value - wanted) <= allowed, f"got {value}, expected {wanted}")
