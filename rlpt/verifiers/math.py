r"""Equality of mathematical answers, by Math-Verify behind guards.

Only the span in the last \boxed{} (or answer tag) is read.  Plain words and
numbers are compared exactly and without SymPy, which judges most rows.  The rest
goes to Math-Verify, which is refused what is known to run away (towers, large
factorials) and overruled where it is known to be wrong (values that differ only
below its absolute rounding, nan).  SymPy can run for ever all the same: call this
in a `VerifierPool` where the text is a model's.
"""

from __future__ import annotations

import fractions
import functools
import logging
import re
import typing as tp

from rlpt.tasks import base as tasks_base
from rlpt.verifiers import _latex, base
from rlpt.verifiers import number as number_lib

MAX_LENGTH = 512  # characters of an answer
MAX_NESTING = 32  # brackets
MAX_DIGITS = 100  # of a literal
MAX_EXPONENT = 10_000  # also the product of the numbers in an exponent
MAX_COMBINATORIAL = 1000  # largest literal beside a factorial or binomial


def _prepare(**_: tp.Any) -> None:
    """Imports SymPy before the first deadline runs (half a second)."""
    import math_verify  # noqa: F401


def _gold(prompt: tasks_base.Prompt, **_: tp.Any) -> None:
    span = _reference(prompt.answer)
    if not is_word(span) and rational(span) is None and _undefined(_parse(span)):
        raise ValueError(f"answer: Math-Verify cannot read {span!r:.80}")


@base.traits(pure=True, gold=_gold)
def math(
    trajectory: base.Trajectory,
    prompt: tasks_base.Prompt,
    *,
    extract: str = "boxed",
    tag: str = "answer",
) -> base.Verdict:
    r"""Whether the completion's answer equals the reference as mathematics.

    An unevaluated answer counts: \boxed{7+5} equals 12.  A reference of three or
    more plain letters is a word, not a product, and compared as text.  Where one of the two has
    a percent sign, 50\% equals 0.5 and 50.  413_5 equals no number in another base, or in none.

    Args:
      extract: "boxed": what stands in the last \boxed{}, however many there are;
        "tag": in the last <answer></answer>.
      tag: the tag's name.
    Returns: correct or incorrect; unparsable where there is no span, or one that the
      guards or Math-Verify refuse.
    Raises: ValueError for a reference that cannot be read, or a bad setting.
    """
    if extract not in ("boxed", "tag"):
        raise ValueError(f"extract: got {extract!r}, expected boxed or tag")
    reference = _reference(prompt.answer)
    span = base.extract(trajectory.text, extract, tag)
    if span is None:
        return base.unparsable(f"no complete {extract} answer")
    if len(span) > MAX_LENGTH:
        return base.unparsable(f"an answer of {len(span)} characters, at most {MAX_LENGTH}")
    percent = _is_percent(span)
    span = _latex.clean(span)
    detail = f"got {span!r:.80}, expected {reference!r:.80}"
    if span == reference:
        return base.judged(True, detail)
    units = {_latex.known_unit(x) for x in (span, reference)} - {""}
    if _differ(span, reference) or len(units) > 1:
        return base.judged(False, detail)
    if is_word(reference):
        return base.judged(span.casefold() == reference.casefold(), detail)
    ours, theirs = rational(span), rational(reference)
    if ours is not None and theirs is not None:
        equal = ours == theirs
        if percent != _is_percent(_answer(prompt.answer)):  # 50 % is 0.5; to some it is 50
            equal |= ours == theirs * 100 if percent else ours * 100 == theirs
        return base.judged(equal, detail)
    if refusal := _refusal(span):
        return base.unparsable(refusal)
    gold = _parse(reference)
    try:
        parsed = _parse(span)
        if _undefined(parsed):
            return base.unparsable(f"cannot read {span!r:.80}")
        if _is_equation(reference, gold) and not _is_relation(parsed):
            return base.judged(False, detail)  # 0 for x + y + z = 0, of which it is the right side
        return base.judged(_equal(gold, parsed), detail)
    except MemoryError:
        raise
    except Exception as e:  # SymPy's, over what the completion says: it is no crash of ours
        return base.unparsable(f"cannot compare {span!r:.80}: {type(e).__name__}")


def _reference(answer: tp.Any) -> str:
    """The reference as a clean span. Raises: ValueError."""
    if type(answer) not in (str, int, float):
        raise ValueError(f"answer: got {answer!r:.80}, expected a string or a number")
    span = _latex.clean(_answer(answer))
    if not span or span.casefold() == "nan":
        raise ValueError(f"answer: got {answer!r:.80}, which has no value")
    if len(span) > MAX_LENGTH:
        raise ValueError(f"answer: got {len(span)} characters, expected at most {MAX_LENGTH}")
    if refusal := _refusal(span):
        raise ValueError(f"answer: got {span!r:.80}: {refusal}")
    return span


def _answer(answer: str | int | float) -> str:
    """The reference as it is written, or what its box holds."""
    text = str(answer)
    boxed = base.last_boxed(text)
    return text if boxed is None else boxed


_BASE = re.compile(r"(?<![\w^])[0-9]+_\W*(?:(?:text|mathrm)\W+)?(\w+)")  # 413_5, 413_{\text{five}}
_PAIR = re.compile(r"\([^()]*,[^()]*\)")
_SET = re.compile(r"\\\{[^()]*\\\}")
_ELEMENT = re.compile(r"[A-Za-z]\s?\\in\s?")  # x \in (1,2)


def _differ(a: str, b: str) -> bool:
    """Whether numerals have other bases, or one is an ordered pair, one a set; read as equal."""
    if sorted(_BASE.findall(a)) != sorted(_BASE.findall(b)):
        return True
    a, b = (_ELEMENT.sub("", x, count=1) for x in (a, b))
    return any(_PAIR.fullmatch(x) and _SET.fullmatch(y) for x, y in ((a, b), (b, a)))


def _is_percent(span: str) -> bool:
    return span.rstrip(" .$").endswith("%")


def is_word(span: str) -> bool:
    return re.fullmatch(r"[A-Za-z]{3,}(?:[ '-][A-Za-z]+)*", span) is not None


_FRACTION = re.compile(
    r"([-+]?)\s?\\frac\s?(?:([0-9])\s?([0-9])|\{\s?(-?[0-9]+)\s?\}\s?\{\s?(-?[0-9]+)\s?\})"
)


def rational(span: str) -> fractions.Fraction | None:
    r"""The exact value of 12, -0.5, 1,234, 3/4 or \frac{3}{4}; None for anything else."""
    if match := _FRACTION.fullmatch(span):
        top, bottom = (int(match[a] or match[a + 2]) for a in (2, 3))
        if bottom == 0 or len(span) > MAX_DIGITS:
            return None
        return fractions.Fraction(-top if match[1] == "-" else top, bottom)
    return number_lib.to_fraction(span)


_UNBOUNDED = re.compile(r"\\(?:sum|prod|i*int|oint|lim|Gamma)(?![a-zA-Z])|\*\*")
_SEPARATOR = re.compile(r"(?<=[0-9])(?:\{,\}|[,\s])+(?=[0-9])")  # 10,000 or 10 000
_COMBINATORIAL = re.compile(r"\\[dt]?binom|\\choose|!")


def _refusal(span: str) -> str:
    """Why a span must not reach SymPy, since its cost has no bound; "": it may."""
    depth = deepest = 0
    for character in span:
        depth += (character in "{[(") - (character in "}])")
        deepest = max(deepest, depth)
    if deepest > MAX_NESTING:
        return f"brackets {deepest} deep, at most {MAX_NESTING}"
    braces = re.sub(r"\\.", "", span)
    while braces != (braces := re.sub(r"\{[^{}]*\}", "", braces)):
        pass
    if "{" in braces or "}" in braces:
        return "unbalanced braces"
    if re.search(rf"[0-9]{{{MAX_DIGITS + 1}}}", span):
        return f"a number of more than {MAX_DIGITS} digits"
    span = _SEPARATOR.sub("", span)
    literals = re.findall(r"[0-9]+", span)
    if match := _UNBOUNDED.search(span):
        return f"{match[0]!r} in an answer"
    if _COMBINATORIAL.search(span):
        large = any(int(literal) > MAX_COMBINATORIAL for literal in literals)
        if large or "^" in span or span.count("!") > len(re.findall(r"[0-9a-zA-Z)}]!(?!!)", span)):
            return f"a factorial or binomial of large numbers (at most {MAX_COMBINATORIAL})"
        if re.search(r"[)}]\s*!", span):
            return "a factorial of an expression"
    grown = 1
    for match in re.finditer(r"\^\s*", span):
        exponent = _token(span, match.end())
        size = 1
        for literal in re.findall(r"([0-9]+)(?:\.[0-9]+)?", exponent):
            size *= max(int(literal), 1)
        if re.search(r"[0-9)}\]]\s*\^", exponent) or exponent.count("^") > 1:
            return "a tower of powers"
        if re.search(r"[)}\]]\s*$", span[: match.start()]):
            grown *= size
        if max(size, grown) > MAX_EXPONENT:
            return f"an exponent above {MAX_EXPONENT}"
    return ""


def _token(span: str, start: int) -> str:
    """What LaTeX takes as an argument at `start`: a braced group, or what follows unbraced."""
    if span[start : start + 1] not in ("{", "("):
        match = re.compile(r"-?[0-9]+(?:\^\S*)?|\\?[a-zA-Z]+(?:\^\S*)?|.?").match(span, start)
        return match[0] if match else ""
    depth = 0
    for i in range(start, len(span)):
        depth += (span[i] in "{(") - (span[i] in "})")
        if depth == 0:
            return span[start + 1 : i]
    return span[start + 1 :]


@functools.lru_cache(maxsize=256)
def _parse(span: str) -> tp.Any:
    """The span as a SymPy object; None where Math-Verify cannot read it."""
    import math_verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns of parsing_timeout=None
    parsed = math_verify.parse(
        f"\\boxed{{{span}}}",  # an anchor: unanchored text is read as something else
        extraction_config=[math_verify.LatexExtractionConfig(boxed_match_priority=0)],
        fallback_mode="no_fallback",
        extraction_mode="first_match",
        parsing_timeout=None,  # its alarm would be the pool's
    )
    return parsed[0] if parsed else None


def _undefined(value: tp.Any) -> bool:
    import sympy

    if value is None:
        return True
    return isinstance(value, sympy.Basic) and bool(value.has(sympy.nan, sympy.zoo))


def _equal(gold: tp.Any, target: tp.Any) -> bool:
    import math_verify
    import sympy

    pairs = _pairs(gold, target)
    sides = _sides(target)
    # First the numbers, which is quick; SymPy can take seconds over a wrong answer.
    if not all(_close(a, b) for a, b in [*pairs, *zip(sides, sides[1:], strict=False)]):
        return False
    if math_verify.verify(gold, target, timeout_seconds=None):
        return True
    # It takes (1,2) for 1 < x < 2, but not the other way round.
    turned = isinstance(gold, sympy.Interval) and isinstance(target, sympy.And | sympy.Rel)
    return turned and math_verify.verify(target, gold, timeout_seconds=None)


def _is_relation(value: tp.Any) -> bool:
    import sympy

    return isinstance(value, sympy.Eq | sympy.And)


def _is_equation(span: str, value: tp.Any) -> bool:
    r"""Whether it says more than what a name stands for, as x = 5 or AB = 5 do."""
    import sympy
    from sympy.core.function import AppliedUndef

    if not isinstance(value, sympy.Eq):
        return False
    left = value.lhs
    letters = re.sub(r"\\[a-zA-Z]+|[^a-zA-Z+*/^-]", "", span.partition("=")[0])
    segment = letters.isalpha() and letters.isupper()
    return bool(left.free_symbols) and not (
        segment or isinstance(left, (sympy.Symbol, AppliedUndef))
    )


def _pairs(gold: tp.Any, target: tp.Any) -> list[tuple[tp.Any, tp.Any]]:
    """Values that are the same if two answers are, as far as that can be said."""
    import sympy

    if isinstance(gold, sympy.Eq) and isinstance(target, sympy.Eq) and gold.lhs != target.lhs:
        return []
    try:
        ours, theirs = _parts(gold), _parts(target)
    except (TypeError, AttributeError):  # elements without an order, such as oo - oo
        return []
    return list(zip(ours, theirs, strict=True)) if len(ours) == len(theirs) else []


def _sides(value: tp.Any) -> list[tp.Any]:
    """The numbers of a chain such as 3*4 = 12, which must all be the same."""
    import sympy

    sides = [
        side
        for relation in getattr(value, "_unsorted_args", [value])
        if isinstance(relation, sympy.Eq)
        for side in relation.args
    ]
    return [side for side in sides if not side.free_symbols]


def _parts(value: tp.Any) -> list[tp.Any]:
    """The values that an answer consists of; those of a set are sorted."""
    import sympy

    if isinstance(value, sympy.Eq):
        return [value.rhs]
    if isinstance(value, sympy.Interval):
        return [value.start, value.end]
    if isinstance(value, sympy.MatrixBase):
        return list(value.flat())
    if isinstance(value, sympy.FiniteSet | sympy.Tuple):
        parts = [part.rhs if isinstance(part, sympy.Eq) else part for part in value.args]
        return sorted(parts, key=_order)
    return [value]


def _order(part: tp.Any) -> tp.Any:
    """By the numbers: sqrt(2) and 1.414... have one place. Raises: TypeError, AttributeError."""
    import sympy

    if isinstance(part, sympy.Tuple):  # an ordered pair, which has no value of its own
        return sympy.default_sort_key(sympy.Tuple(*map(sympy.N, part.args)))
    return sympy.default_sort_key(sympy.N(part))


def _close(gold: tp.Any, target: tp.Any) -> bool:
    """False for two values that differ, also where Math-Verify's absolute rounding hides it.

    Symbols get fixed values; what has no numeric value is left to Math-Verify.
    """
    import sympy

    try:
        values = []
        for expr in (gold, target):
            names = {s: sympy.Rational(7, 5 + len(s.name)) for s in expr.free_symbols}
            values.append(sympy.N(expr.doit().subs(names), 40))
        if not all(v.is_number and v.is_finite for v in values):
            return True
        rounded = any(expr.has(sympy.Float) for expr in (gold, target))
        tolerance = sympy.Float("1e-5" if rounded else "1e-25", 40)
        return bool(abs(values[0] - values[1]) <= tolerance * max(map(abs, values)))
    except (TypeError, ValueError, AttributeError):
        return True
