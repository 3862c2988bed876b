"""Regular expressions and required tags.

A pattern can take exponential time on text made for it: judge a model's text in
a `VerifierPool`, whose deadline ends that.
"""

from __future__ import annotations

import re
import typing as tp

from rlpt.tasks import base as tasks_base
from rlpt.verifiers import base


def _gold(prompt: tasks_base.Prompt, *, pattern: str = "", **_: tp.Any) -> None:
    if not pattern:
        _compiled(prompt.answer)
    elif "answer" in _compiled(pattern).groupindex and prompt.answer is None:
        raise ValueError("answer: got None, expected what the group 'answer' shall match")


@base.traits(pure=True, gold=_gold)
def regex(
    trajectory: base.Trajectory, prompt: tasks_base.Prompt, *, pattern: str = ""
) -> base.Verdict:
    """Whether the completion matches a pattern anywhere.

    Args:
      pattern: Python syntax, with inline flags such as (?s).  If it has a group named
        answer, what that holds in the last match must equal the reference, spaces at
        the ends aside.  "": the reference itself is the pattern.
    Returns: correct or incorrect; unparsable where the group answer was not found.
    Raises: ValueError for a pattern that does not compile.
    """
    compiled = _compiled(pattern or prompt.answer)
    if not pattern or "answer" not in compiled.groupindex:
        return base.judged(compiled.search(trajectory.text) is not None)
    found = [match["answer"] for match in compiled.finditer(trajectory.text)]
    if not found or found[-1] is None:
        return base.unparsable("the pattern's group 'answer' was not found")
    got, wanted = found[-1].strip(), str(prompt.answer).strip()
    return base.judged(got == wanted, f"got {got!r:.80}, expected {wanted!r:.80}")


@base.traits(pure=True)
def format(
    trajectory: base.Trajectory,
    prompt: tasks_base.Prompt,
    *,
    tags: tuple[str, ...] = ("think", "answer"),
    strict: bool = True,
) -> base.Verdict:
    """Whether the completion has each tag once, in order, and closed.

    Args:
      tags: names; ("think", "answer") is <think>...</think> <answer>...</answer>.
      strict: nothing but white space outside the tags, and no empty tag.
    Returns: correct or incorrect, never unparsable.
    """
    text, position = trajectory.text, 0
    outside = []
    for tag in tags:
        opening, closing = f"<{tag}>", f"</{tag}>"
        if text.count(opening) != 1 or text.count(closing) != 1:
            return base.judged(False, f"<{tag}> or </{tag}> is not there exactly once")
        begin, end = text.index(opening), text.index(closing)
        inside = text[begin + len(opening) : end]
        if not position <= begin < end:
            return base.judged(False, f"<{tag}> is out of order")
        if strict and not inside.strip():
            return base.judged(False, f"<{tag}> is empty")
        outside.append(text[position:begin])
        position = end + len(closing)
    outside.append(text[position:])
    if strict and "".join(outside).strip():
        return base.judged(False, "text outside the tags")
    return base.judged(True)


def _compiled(pattern: tp.Any) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except (re.error, TypeError) as e:
        raise ValueError(f"pattern {pattern!r:.80} does not compile: {e}") from e
