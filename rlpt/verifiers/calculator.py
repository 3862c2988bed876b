"""A calculator: the value of arithmetic, exact, without running anything.

As a tool it is a verifier of a call: the trajectory's text is what the policy asks, and the detail
of the verdict is what the tool says, an error message where the outcome is not correct.  Tools run
where verifiers do, in processes that can be killed, and are asked by `Tools.ask` alone, never for a
verdict on a completion.
"""

from __future__ import annotations

import ast
import collections.abc
import fractions
import math
import operator

from rlpt.tasks import base as tasks_base
from rlpt.verifiers import base

MAX_LENGTH = 200  # characters of an expression
MAX_BITS = 512  # of a numerator or denominator
DIGITS = 10  # of a number that has no short exact form
_OPERATIONS = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
}  # fmt: skip
_SIGNS = str.maketrans({"\u00d7": "*", "\u00f7": "/", "\u2212": "-", "^": "**"})


def evaluate(
    text: str, values: collections.abc.Mapping[str, fractions.Fraction] | None = None
) -> fractions.Fraction:
    """The exact value of an arithmetic expression; nothing in it is run.

    Numbers, + - * / // % ** (or ^), signs and brackets; ×, ÷ and − as people write them, and a last
    equals sign.

    Args:
      values: of the names that it may use.
    Raises: ValueError saying what is wrong, of numbers too large and divisions by zero too.
    """
    text = text.strip().removesuffix("=").rstrip().translate(_SIGNS)
    if not text or len(text) > MAX_LENGTH:
        raise ValueError(f"an expression of {len(text)} characters, expected 1 to {MAX_LENGTH}")
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError("not an arithmetic expression") from None
    return _value(tree, values or {})


def _value(
    node: ast.expr, values: collections.abc.Mapping[str, fractions.Fraction]
) -> fractions.Fraction:
    if isinstance(node, ast.Constant) and type(node.value) is not bool:
        if not isinstance(node.value, int | float):
            raise ValueError("not an arithmetic expression")
        if not math.isfinite(node.value):
            raise ValueError("a number is too large")
        return _bounded(fractions.Fraction(repr(node.value)))  # 0.1 is a tenth
    if isinstance(node, ast.Name) and node.id in values:
        return values[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
        value = _value(node.operand, values)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left, values), _value(node.right, values)
        if isinstance(node.op, ast.Pow):
            return _bounded(_power(left, right))
        if operation := _OPERATIONS.get(type(node.op)):
            try:
                return _bounded(fractions.Fraction(operation(left, right)))
            except ZeroDivisionError:
                raise ValueError("division by zero") from None
    if isinstance(node, ast.Name):
        raise ValueError(f"unknown name {node.id!r:.40}")
    raise ValueError("not an arithmetic expression")


def _power(base_: fractions.Fraction, exponent: fractions.Fraction) -> fractions.Fraction:
    bits = max(base_.numerator.bit_length(), base_.denominator.bit_length())
    if exponent.denominator != 1 or abs(exponent) * max(bits, 1) > 2 * MAX_BITS:
        raise ValueError("an exponent that is too large or not whole")
    if not base_ and exponent < 0:
        raise ValueError("division by zero")
    return base_**exponent.numerator


def _bounded(value: fractions.Fraction) -> fractions.Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise ValueError("a number is too large")
    return value


def written(value: fractions.Fraction) -> str:
    """A value as digits: whole numbers whole, others with up to `DIGITS` significant digits."""
    if value.denominator == 1:
        return str(value.numerator)
    return f"{float(value):.{DIGITS}g}"


@base.traits(pure=True, on_request=True)
def calculator(trajectory: base.Trajectory, prompt: tasks_base.Prompt) -> base.Verdict:
    """The value of the expression that is the call; incorrect with the reason if it has none."""
    try:
        return base.judged(True, written(evaluate(trajectory.text)))
    except (ValueError, OverflowError) as e:
        return base.judged(False, str(e))
