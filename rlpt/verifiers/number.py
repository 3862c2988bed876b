"""Exact comparison of numbers: no floats, no expressions, no code."""

from __future__ import annotations

import fractions
import re
import typing as tp

from rlpt.tasks import base as tasks_base
from rlpt.verifiers import _latex, base

MAX_LENGTH = 64  # characters of a number; longer ones are unparsable

# 12  1,234  1 234  0.5  .5 : what follows may not continue the number (1.2.3, 1,2345, 1e5, 1/2/3,
# 10^3, 413_7)
_BLANK = "[ \u00a0\u2009\u202f]"
_BY_BLANKS = rf"[1-9][0-9]{{0,2}}(?:{_BLANK}[0-9]{{3}}){{1,6}}(?!{_BLANK}?[0-9])"
_PLAIN = rf"(?:{_BY_BLANKS}|[0-9]{{1,3}}(?:,[0-9]{{3}})+|[0-9]+)(?:\.[0-9]+)?|(?<!\.)\.[0-9]+"
_RAISED = "\u00b2\u00b3\u00b9\u2070-\u2079"
_VULGAR = "\u00bc-\u00be\u2150-\u215e"
_END = (
    r"(?![0-9]|[.,:'\u2019][0-9]|[eE][-+]?[0-9]|x[0-9A-Fa-f]|\s?/\s?[-0-9.(\\]|_[0-9{]"
    r"|\s?(?:\\(?:pi|sqrt|[dtc]?frac)(?![a-zA-Z])|[\u03c0\u221a])|\s?pi\b"
    r"|[biknxyzBKM]\b|\s?(?:hundred|thousand|[mbtr]+illion|dozen)"
    rf"|[{_RAISED}{_VULGAR}]|\s?\^(?!\{{?\s?(?:\\circ|\\text|st|nd|rd|th)))"
)
_START = r"(?<!\w)(?<![0-9][.,/:'\u2019])(?<![0-9][eE][-+])"
# In "7-5" the minus is an operator, in "= -5" a sign.
_SIGN = r"(?:(?<![\w)\]}])[-+\u2212\u2013])?"
_MIXED = rf"(?:(?P<whole>[0-9]{{1,3}}(?:,[0-9]{{3}}){{0,5}}|[0-9]{{1,18}}){_BLANK}(?=[0-9]+\s?/))?"
_NUMBER = re.compile(
    rf"{_SIGN}\$?{_START}{_MIXED}(?P<top>{_PLAIN})(?:\s?/\s?(?P<bottom>{_PLAIN}))?{_END}",
    re.ASCII,
)


_MORE = re.compile(rf"(?<![\w.,/])\d|[{_VULGAR}]")  # one begins that cannot be read
# Digits in front of the digits: groups of thousands, but not as they are written (1 000 00).
_TORN = re.compile(rf"[0-9]{_BLANK}(?:[0-9]{{3}}{_BLANK}|(?P<group>))$", re.ASCII)


_TEXT = re.compile(r"\\text\s*\{\s*([0-9][0-9.,/]*)((?:\s[A-Za-z]+)+)\s*\}$")  # \text{12 cm}


def to_fraction(text: str) -> fractions.Fraction | None:
    """The exact value of 12, -5, 1,234, 1 234, 0.5, 3/4, 1 1/2 or $12, alone in a text, or None."""
    match = _NUMBER.fullmatch(text.strip().rstrip("%").removesuffix("."))
    return _value(match) if match else None


def of_span(span: str) -> fractions.Fraction | None:
    r"""The exact value of a delimited answer, also in LaTeX, with a name or a unit; or None.

    As `to_fraction`, and $12$, x = 12, 1{,}234, \frac{3}{4}, \text{12}, 12\text{ apples}.
    """
    span = _TEXT.sub(r"\1\\text{\2}", span.strip())
    return to_fraction(_latex.plain(_latex.bare(_latex.clean(span))).replace("- ", "-", 1))


def last_number(text: str) -> fractions.Fraction | None:
    r"""The exact value of the last number in a text; None: there is none, or it cannot be read.

    "35; no: 12,5", "7 apples, 1.5e3 in all" and "7 = \sqrt{49}" end in numbers that cannot be
    read: neither the ones before nor their parts are what the text ends with.
    """
    text = _latex.plain(text)
    match = None
    for match in _NUMBER.finditer(text):  # noqa: B007
        pass
    if match is None or _MORE.search(text, match.end()) or _is_part(match):
        return None
    return _value(match)


def _is_part(match: re.Match[str]) -> bool:
    """Whether a number is only a part of one: an exponent, a denominator, a group of digits."""
    start = match.start()
    torn = _TORN.search(match.string[max(start - 8, 0) : start])
    grouped = re.match(r"[0-9]{3}(?![0-9])", match[0]) is not None
    if torn and (grouped or torn["group"] is None):
        return True
    return _latex.is_argument(match.string, start)


def _value(match: re.Match[str]) -> fractions.Fraction | None:
    if len(match[0]) > MAX_LENGTH:
        return None
    whole, top, bottom = (
        fractions.Fraction(re.sub(rf",|{_BLANK}", "", match[part] or default))
        for part, default in (("whole", "0"), ("top", "1"), ("bottom", "1"))
    )
    if bottom == 0 or (match["whole"] and top >= bottom):
        return None
    value = whole + top / bottom
    return -value if match[0][0] in "-\u2212\u2013" else value


def _reference(answer: tp.Any) -> fractions.Fraction:
    value = to_fraction(str(answer)) if type(answer) in (str, int, float) else None
    if value is None:
        raise ValueError(
            f"answer: got {answer!r:.80}, expected a number such as '12', '1,234', '0.5' or '3/4'"
        )
    return value


def _gold(prompt: tasks_base.Prompt, **_: tp.Any) -> None:
    _reference(prompt.answer)


def _reads(text: str, *, extract: str = "last", tag: str = "answer") -> str | None:
    """The number that a completion gives, as an exact fraction."""
    if extract == "last":
        value = last_number(text)
    else:
        span = base.extract(text, extract, tag)
        value = None if span is None else of_span(span)
    return None if value is None else str(value)


@base.traits(pure=True, gold=_gold, reads=_reads)
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
        Except for "last", the span must be a number and nothing else but its name or
        unit and LaTeX around it: x = 5, \$5, 5\text{ apples}.
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
        value = None if span is None else of_span(span)
    if value is None:
        return base.unparsable(f"no number ({extract})")
    return base.judged(abs(value - wanted) <= allowed, f"got {value}, expected {wanted}")
