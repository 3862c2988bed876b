r"""What stands around an answer: delimiters, spacing, wrappers, units, notation."""

from __future__ import annotations

import re

_SPACING = re.compile(r"\\(?:left|right)(?![a-zA-Z])|\\[,;: ]|\\displaystyle(?![a-zA-Z])|~")
_DEGREES = re.compile(r"\^(?:\\circ|\{\\circ\})|\\degree(?![a-zA-Z])|\u00b0")
_TEXT = r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox)\s*"
_WRAPPER = re.compile(rf"{_TEXT}\{{([^{{}}]*)\}}")
_MATH_MODE = re.compile(r"(?s)\$(.*)\$|\\\((.*)\\\)|\\\[(.*)\\\]")
_COMMA = re.compile(r"(?<=[0-9])\{,\}(?=[0-9])")  # 1{,}000
_SUBSCRIPT = re.compile(r"(?<=[0-9])_\{\s*([0-9])\s*\}")  # 413_{5}


def clean(span: str) -> str:
    """Without what has no meaning: outer delimiters, spacing, a final stop, degrees, percent."""
    span = span.strip()
    if match := _MATH_MODE.fullmatch(span):
        span = next(group for group in match.groups() if group is not None)
    span = _DEGREES.sub("", _SPACING.sub(" ", span.replace(r"\!", "")))
    span = _SUBSCRIPT.sub(r"_\1", _COMMA.sub(",", span))
    span = re.sub(r"\\[dt]frac(?![a-zA-Z])", r"\\frac", span).replace(r"\$", "")
    span = span.strip().removesuffix(".").removesuffix(r"\%").removesuffix("%")
    if match := _WRAPPER.fullmatch(span.strip()):
        span = match[1]
    return re.sub(r"\s+", " ", span).strip().removesuffix(".")


_NAME = re.compile(r"[a-zA-Z]\s*=\s*")  # x = 12
_LENGTH = (
    r"[kcdm]m|in|ft|yd|mi|inch(?:es)?|f(?:ee|oo)t|yards?|miles?"
    r"|(?:kilo|centi|milli)?met(?:er|re)s?|units?"
)
_KNOWN = rf"{_LENGTH}|[gms]|[km]g|dollars?|cents?|hours?|minutes?|seconds?|days?"
# \text{ million} and \text{ or more} are no units.
_NO_UNIT = (
    r"(?:hundred|thousand|[mbtr]+illion|dozen|k|bn|squared|cubed|base|percent"
    r"|or|and|not|is|was|more|less|than)"
)
_UNIT = re.compile(
    rf"\s?(?:(?i:{_TEXT}\{{\s*(?![a-z /]*\b{_NO_UNIT}\b)[a-z]+(?:[ /][a-z]+){{0,3}}\.?\s*\}})"
    rf"|(?<![A-Za-z])(?:{_KNOWN}))$"
)


# Units that are not each other, by each of their names.
_UNITS = {
    name: names[0]
    for names in (
        ("mm", "millimeter", "millimetre"), ("cm", "centimeter", "centimetre"),
        ("dm", "decimeter", "decimetre"), ("m", "meter", "metre"),
        ("km", "kilometer", "kilometre"), ("in", "inch", "inche"), ("ft", "foot", "feet"),
        ("yd", "yard"), ("mi", "mile"), ("g", "gram"), ("mg", "milligram"), ("kg", "kilogram"),
        ("oz", "ounce"), ("lb", "pound"), ("s", "sec", "second"), ("min", "minute"),
        ("h", "hr", "hour"), ("day",), ("week",), ("year",), ("dollar",), ("cent",),
    )
    for name in names
}  # fmt: skip
_PLURAL = {f"{name}s": unit for name, unit in _UNITS.items() if len(name) > 2}


def known_unit(span: str) -> str:
    """The unit behind a number, "" where there is none, or none that is known: cm for 5 cm."""
    match = re.fullmatch(rf"-?\$?[0-9.,/ ]*[0-9]\s?(?:{_TEXT}\{{\s*)?([A-Za-z]+)\.?\s*\}}?", span)
    word = match[1].casefold() if match else ""
    return _UNITS.get(word) or _PLURAL.get(word, "")


def bare(span: str) -> str:
    r"""A clean span without the name or unit of a number: x = 5, 5\text{ apples}, 5 cm^2.

    A unit is any few words in a \text{} of their own; among plain letters, a common one.
    """
    span = _SQUARED.sub(r"\1", span)
    return _UNIT.sub("", span[match.end() :] if (match := _NAME.match(span)) else span).strip()


# In "3m^2" the m may be a variable, in "3 m^2" and "m/s^2" hardly.
_SQUARED = re.compile(
    rf"((?:(?<=[\s{{/])[ms]|(?<![A-Za-z\\])(?:{_LENGTH}))\s?\}}?)\s?"
    r"(?:\^\s?(?:[1-3]|\{\s?-?[1-3]\s?\})|[\u00b2\u00b3])(?![0-9])"
)
_FRACTION = re.compile(
    r"\\[dtc]?frac\s?(?:\{\s?(-?[0-9.,]+)\s?\}\s?\{\s?([0-9.,]+)\s?\}|([0-9])\s?([0-9]))"
)
_EMPHASIS = re.compile(r"(?<![\w)\]}\\])_{1,3}(?=[-+]?\$?\.?[0-9])")  # markdown's _12_
_DASHES = str.maketrans(dict.fromkeys("\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d", "-"))
# "= - 5" is a sign with a blank; "7 - 5" is a difference, and "- 5" in a line of its own an item.
_APART = re.compile(r"((?:[={$(<>\u2248]|\bis|\\approx)[ \u00a0]?-)[ \u00a0]+(?=[$.]?[0-9])")


def plain(text: str) -> str:
    r"""Numbers as plain text has them: 1/2 for \frac{1}{2}, 1,000 for 1{,}000, cm for cm^2."""
    text = text.translate(_DASHES).replace(r"\!", "").replace(r"\$", "$")
    text = re.sub(r"\\(?:left|right)(?![a-zA-Z])", "", text)
    text = re.sub(r"\\[,;: ]|(?<=[0-9])~(?=[0-9])", " ", _COMMA.sub(",", text))
    text = _SQUARED.sub(r"\1", _EMPHASIS.sub("", text))
    text = _APART.sub(r"\1", _FRACTION.sub(_divided, text))
    return re.sub(r"(\\[a-zA-Z]+)(?=[0-9])", r"\1 ", text)  # \approx5 is no word


def _divided(match: re.Match[str]) -> str:
    before = match.string[match.start() - 1 : match.start()] if match.start() else ""
    apart = " " if re.match(r"[\w)\]}]", before) else ""  # 3\frac{1}{2} is 3 1/2, not 31/2
    return f"{apart}{match[1] or match[3]}/{match[2] or match[4]}"


_LOOK_BACK = 256  # characters
_COMMAND = re.compile(
    r"(?:[\^_}\]]|\\(?!(?:boxed|fbox|mbox|hbox|text|math|emph|underline|bf|bm))[a-zA-Z]+\s?[0-9]?)\s?$"
)
_OPERATOR = re.compile(
    r"(?:[\^\u221a]|\\[dtc]?frac|\\sqrt(?:\s?\[[^\]]*\])?|[0-9)]\*\*"
    r"|\\(?:log|ln|lg|exp|sin|cos|tan|cot|sec|csc)|\b(?:log|ln|sqrt|sin|cos|tan)"
    r"|_(?:\{[^{}]*\}|[0-9a-z])|[\w)}]\s?/)\s?$"
)
# f(5), 2^(3), 1/(4), -(5): what is in the bracket is not the number that the text ends with
_CALL = re.compile(r"(?:[A-Za-z0-9\^/\u221a\])}]|[\w)]\*\*|(?<![\w)\]}])-)$")


def is_argument(text: str, at: int) -> bool:
    r"""Whether what begins there is part of a power, root, fraction or subscript: ^{3}, \sqrt3.

    So is what a function or a product has in brackets: log(100), 3(5), 1/(x+4).
    """
    if _OPERATOR.search(text[max(at - 24, 0) : at]):
        return True
    depth = bracket = 0
    for i in range(at - 1, max(at - _LOOK_BACK, 0) - 1, -1):
        if text[i] == "\n":
            break
        if text[i] in "()":
            bracket += 1 if text[i] == ")" else -1
            if bracket < 0:
                if _CALL.search(text[max(i - 3, 0) : i]):
                    return True
                bracket = 0
            continue
        if text[i] not in "{}" or text[i - 1 : i] == "\\":
            continue
        depth += 1 if text[i] == "}" else -1
        if depth < 0:
            if _COMMAND.search(text[max(i - 24, 0) : i]):
                return True
            depth = 0
    return False
