"""Multiple choice: the letter of an option."""

from __future__ import annotations

import re
import typing as tp

from rlpt.tasks import base as tasks_base
from rlpt.verifiers import base


def _gold(prompt: tasks_base.Prompt, *, letters: str = "ABCD", **_: tp.Any) -> None:
    _reference(prompt.answer, letters)


@base.traits(pure=True, gold=_gold)
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
      extract: "last": the last of "answer: B", "answer is B", "(B)", and a letter that
        ends the reply (so the article in "A good guess" is no choice);
        "boxed", "tag", "whole": the span must begin with the letter, as in "B",
        "(B)", "B. Paris" or "\text{B}".
      tag: the tag's name.
      letters: the options; the reference is one of them, or its index from 0.
    Returns: correct or incorrect; unparsable without a letter.
    Raises: ValueError for a reference that is no option, or a bad setting.
    """
    wanted = _reference(prompt.answer, letters)
    one = f"([{re.escape(letters)}])"
    if extract == "last":
        found = re.findall(
            rf"(?i:answer)(?:\s+(?i:is)|\s*:)?\s*[*(]*{one}(?![\w'])"
            rf"|\({one}\)|(?<!\w){one}[.)*\s]*\Z",
            trajectory.text,
        )
        letter = "".join(found[-1]) if found else None
    else:
        span = base.extract(trajectory.text, extract, tag)
        match = re.match(rf"\s*(?:\\text\{{)?\(?{one}(?![\w'])(?!\s+\w)", span or "")
        letter = match[1] if match else None
    if letter is None:
        return base.unparsable(f"no letter of {letters} ({extract})")
    return base.judged(letter == wanted, f"got {letter}, expected {wanted}")


def _reference(answer: tp.Any, letters: str) -> str:
    if type(answer) is int and 0 <= answer < len(letters):
        return letters[answer]
    if type(answer) is str and len(answer.strip()) == 1 and answer.strip() in letters:
        return answer.strip()
    raise ValueError(f"answer: got {answer!r:.80}, expected one of {letters} or an index from 0")
