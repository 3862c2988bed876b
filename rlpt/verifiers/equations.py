"""Whether the arithmetic that a completion writes down is true."""

from __future__ import annotations

import fractions
import operator
import re

from rlpt.tasks import base as tasks_base
from rlpt.verifiers import base

_NUMBER = r"[0-9]{1,18}(?:\.[0-9]{1,18})?"
_SIGNS = {
    "+": operator.add, "-": operator.sub, "\u2212": operator.sub, "*": operator.mul,
    "x": operator.mul, "\u00d7": operator.mul, "/": operator.truediv, "\u00f7": operator.truediv,
}  # fmt: skip
# 7 + 5 = 12, alone: what stands before may not be an operand, what follows may not go on.
_EQUATION = re.compile(
    rf"(?<![\w.,])(?<![-+*/^\u2212\u00d7\u00f7])(?<![-+*/^x\u2212\u00d7\u00f7] )"
    rf"({_NUMBER})(\s?[-+*/\u2212\u00d7\u00f7]\s?|\sx\s)({_NUMBER})\s?=\s?([-\u2212]?{_NUMBER})"
    r"(?![\w%]|\.[0-9]|,[0-9]|\s?[-+*/^\u2212\u00d7\u00f7]\s?[0-9(]|\sx\s)",
    re.ASCII,
)


@base.traits(pure=True)
def equations(trajectory: base.Trajectory, prompt: tasks_base.Prompt) -> base.Verdict:
    """Flags a reply that states a false equation of two operands, such as "3 + 4 = 8".

    A cheap check by rule of what otherwise a judge model has to find: it sees slips of arithmetic
    and nothing else, and a reply without an equation passes.  Read are non-negative decimals with
    one of + - * / between them; longer expressions are not.  A quotient may be cut or rounded to
    the digits that it is written with.

    Returns: score 1 for a flaw, with the outcome incorrect; 0, with the outcome correct.
    """
    for match in _EQUATION.finditer(trajectory.text):
        left, sign, right, stated = match.groups()
        if not _holds(left, sign.strip(), right, stated.replace("\u2212", "-")):
            return base.Verdict(1.0, "incorrect", f"false: {match[0]!r:.80}")
    return base.Verdict(0.0, "correct")


def _holds(left: str, sign: str, right: str, stated: str) -> bool:
    a, b, c = map(fractions.Fraction, (left, right, stated))
    operation = _SIGNS[sign]
    if operation is not operator.truediv:
        return bool(operation(a, b) == c)
    decimals = len(stated.partition(".")[2])
    return b != 0 and abs(a / b - c) < fractions.Fraction(1, 10**decimals)
