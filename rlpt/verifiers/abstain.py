"""Whether a completion declines to answer."""

from __future__ import annotations

import functools
import re

from rlpt.tasks import base as tasks_base
from rlpt.verifiers import base

PATTERNS = (
    r"\bI (?:do not|don't|can not|cannot|can't) (?:really )?(?:know|answer|say|tell)\b",
    r"\bI(?: am|'m) (?:not sure|unsure|not certain|unable to answer)\b",
    r"\bI have no idea\b",
    r"\bnot enough information\b",
)


@base.traits(pure=True)
def abstain(
    trajectory: base.Trajectory,
    prompt: tasks_base.Prompt,
    *,
    patterns: tuple[str, ...] = PATTERNS,
    extract: str = "whole",
    tag: str = "answer",
) -> base.Verdict:
    """Whether one of the patterns stands in the reply, such as "I don't know".

    The score is 1 for an abstention; the outcome says whether the reply is an answer: pass@k,
    which counts rows that every verifier calls correct, does not count abstentions.

    Args:
      patterns: regular expressions, Python syntax; case and the form of the apostrophe do not
        matter.
      extract: "whole": look everywhere, so a doubt that is thought aloud counts as well; "tag" or
        "boxed": in the last <answer></answer> or boxed span, and without one it is no abstention.
      tag: the tag's name.
    Returns: score 1 with the outcome incorrect, or 0 with the outcome correct.
    Raises: ValueError for patterns that are none or do not compile, or an unknown extract.
    """
    compiled = _compiled(tuple(patterns))
    span = base.extract(trajectory.text, extract, tag)
    match = compiled.search((span or "").replace("\u2019", "'"))
    if match is None:
        return base.Verdict(0.0, "correct")
    return base.Verdict(1.0, "incorrect", f"abstains: {match[0]!r:.80}")


@functools.cache
def _compiled(patterns: tuple[str, ...]) -> re.Pattern[str]:
    if not patterns or "" in patterns:
        raise ValueError(f"patterns: got {patterns!r}, expected regular expressions")
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as e:
            raise ValueError(f"patterns: {pattern!r:.80} does not compile: {e}") from e
    return re.compile("|".join(f"(?:{p})" for p in patterns), re.IGNORECASE)
