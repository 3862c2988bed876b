"""Multiple choice: the letter of an option."""

from __future__ import annotations

import re
import typing as tp

from rlpt.tasks import base as tasks_base
from rlpt.verifiers import base


def _gold(prompt: tasks_base.Prompt, *, letters: str = "ABCD", **_: tp.Any) -> None:
    _reference(prompt.answer, letters)


def _reads(
    text: str, *, extract: str = "last", tag: str = "answer", letters: str = "ABCD"
) -> str | None:
    """The letter that a completion chooses."""
    if extract == "last":
        return _last(_unwrapped(text), f"[{re.escape(letters)}]")
    span = base.extract(text, extract, tag)
    return _only(_unwrapped(span or "").strip(), f"[{re.escape(letters)}]")


@base.traits(pure=True, gold=_gold, reads=_reads)
def choice(
    trajectory: base.Trajectory,
    prompt: tasks_base.Prompt,
    *,
    extract: str = "last",
    tag: str = "answer",
    letters: str = "ABCD",
) -> base.Verdict:
    r"""Whether the completion chose the reference's letter.

    Args:
      extract: "last": the last "answer: B" or "answer is B"; without one the last of
        "(B)", "\boxed{B}" and a letter that ends the reply (so the article in "A good
        guess" is no choice); or else the only line "B) Paris".  Not those behind "not";
        "boxed", "tag", "whole": the span must begin with the letter, as in "B",
        "(B)", "B. Paris" or "\text{B}", and name no other, as "A, B" does.
      tag: the tag's name.
      letters: the options; the reference is one of them, or its index from 0.
    Returns: correct or incorrect; unparsable without a letter.
    Raises: ValueError for a reference that is no option, or a bad setting.
    """
    wanted = _reference(prompt.answer, letters)
    letter = _reads(trajectory.text, extract=extract, tag=tag, letters=letters)
    if letter is None:
        return base.unparsable(f"no letter of {letters} ({extract})")
    return base.judged(letter == wanted, f"got {letter}, expected {wanted}")


_WRAPPER = re.compile(r"\\(boxed|fbox|text[a-z]*|math[a-z]+|mbox)\s?\{([^{}]*)\}")
_NOT = re.compile(r"(?i)(?:\bnot|n[\u2019']t|\bcannot|\bnever|\bneither|\bnor)(?:\s+be)?\s+[*_(]*$")
_JOINED = re.compile(r"(?i)[*)\s]*(?:,?\s*\b(?:or|and)\b|[,;/&+])[*(\s]*")  # A, B; (A) and (B)


def _unwrapped(text: str) -> str:
    r"""Without LaTeX around letters: (B) for \boxed{\text{B}}, B for $B$."""
    for _ in range(3):  # wrappers in wrappers
        text = _WRAPPER.sub(lambda m: f"({m[2]})" if m[1] in ("boxed", "fbox") else m[2], text)
    return re.sub(r"\$|\\[()\[\]]", "", text)


def _last(text: str, one: str) -> str | None:
    """The letter that a reply ends up with. one: the pattern of a letter."""
    said = list(
        re.finditer(
            rf"(?i:answer)(?:\s+(?i:is)\b\s*:?|\**\s*:)\s*[*(_]*\s?(?P<letter>{one})(?![\w'])"
            # "A, B" and "A and B" name two; "A, B is too small" and "A and B is not" one
            rf"(?P<more>[*)]*\s*(?:\b(?i:or)\b|[/&+]|[,;](?:\s*(?i:or|and)\b)?|\b(?i:and)\b)"
            rf"\s*[*(]*{one}(?![\w'])(?!\)?\**\s+(?:is|was|has|does|can|would|will|seems)\b))?",
            text,
        )
    )
    if said:
        return None if said[-1]["more"] else said[-1]["letter"]
    bare = (
        rf"\((?P<a>{one})\)|(?i:answer)\s*[*(]*(?P<b>{one})(?![\w'])|(?<!\w)(?P<c>{one})[.)*\s]*\Z"
    )
    found = [
        m
        for m in re.finditer(bare, text)
        if not _NOT.search(text[max(m.start() - 32, 0) : m.start()])
    ]
    letters = [m["a"] or m["b"] or m["c"] for m in found]
    if len(found) > 1 and letters[-2] != letters[-1]:
        ends = [m.span(str(m.lastgroup)) for m in found[-2:]]
        between = text[ends[0][1] : ends[1][0]]
        if _JOINED.fullmatch(between):
            return None
    if found:
        return letters[-1]
    lines = re.findall(rf"(?m)^[ *]*({one})\)", text)
    return lines[0] if len(lines) == 1 else None


def _only(span: str, one: str) -> str | None:
    """The letter with which a span begins, if it names no other."""
    match = re.match(rf"[*(]*({one})(?![\w'])(?!\s+\w)", span)
    if match is None:
        return None
    another = rf"(?!{re.escape(match[1])}){one}(?![\w'])"
    # "B: A good one" and "B. Vitamin C" name one; "A, B", "A. or B." and "A. Rome B. Paris" two
    second = (
        rf"(?:[/,;:&|+.(\n]|\b(?:or|and))\s*[*(]*{another}(?!\s+[a-z])|(?<!\w){another}[.):]\s+\w"
    )
    return None if re.search(second, span[match.end() :]) else match[1]


def _reference(answer: tp.Any, letters: str) -> str:
    if type(answer) is int and 0 <= answer < len(letters):
        return letters[answer]
    if type(answer) is str and len(answer.strip()) == 1 and answer.strip() in letters:
        return answer.strip()
    raise ValueError(f"answer: got {answer!r:.80}, expected one of {letters} or an index from 0")
