"""Which answer a completion gives, as a number: for rewards that compare rows with each other."""

from __future__ import annotations

import hashlib

from rlpt.tasks import base as tasks_base
from rlpt.verifiers import _latex, base, number
from rlpt.verifiers import math as math_lib

IDS = 2**24  # what float32 holds exactly


@base.traits(pure=True, high=IDS - 1)
def answer(
    trajectory: base.Trajectory,
    prompt: tasks_base.Prompt,
    *,
    extract: str = "any",
    tag: str = "answer",
) -> base.Verdict:
    """The identity of the answer in [1, 2**24); `rewards.answers.of_verdict` makes it a column.

    It is a hash of the `canonical` answer, the same for equal answers everywhere; of two different
    ones it is the same with a chance of 6e-8.  Give it weight=0, since it says nothing about right
    and wrong.  A completion without an answer is unparsable, which by default counts as 0: that is
    no answer there too.

    Args:
      extract, tag: as `canonical`.
    """
    found = canonical(trajectory.text, extract, tag)
    if found is None:
        return base.unparsable(f"no answer ({extract})")
    digest = hashlib.blake2b(found.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    score = 1 + int.from_bytes(digest, "big") % (IDS - 1)
    return base.Verdict(float(score), "correct", f"answer {found!r:.80}")


def canonical(text: str, extract: str = "any", tag: str = "answer") -> str | None:
    r"""The answer of a completion in one form; None: none.

    Numbers are exact fractions: 12, 12.0, 24/2, $12$, x = 12, 12\text{ cm} and \frac{24}{2} are the
    same.  So are words in capitals or not.  Other text is without spacing and outer delimiters.

    Args:
      extract: "boxed": what stands in the last \boxed{}; "tag": in the last <answer></answer>;
        "whole": the text; "last": its last number; "any": boxed, or else tag, or else last.
      tag: the tag's name.
    Raises: ValueError for an unknown extract.
    """
    if extract == "any":
        span = base.extract(text, "boxed") or base.extract(text, "tag", tag)
    else:
        span = None if extract == "last" else base.extract(text, extract, tag)
    if span is None and extract not in ("any", "last"):
        return None
    if span is None:
        value = number.last_number(text)
        return None if value is None else str(value)
    value = number.of_span(span)
    if value is not None:
        return str(value)
    span = _latex.clean(span)
    return "".join((span.casefold() if math_lib.is_word(span) else span).split()) or None
