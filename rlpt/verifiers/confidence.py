"""How sure a completion says that it is."""

from __future__ import annotations

import re

from rlpt.tasks import base as tasks_base
from rlpt.verifiers import base

# 0.8  .8  1  1.0  0 ; not 80%, 1e-1, +0.8, nan, or a comma
_DECIMAL = re.compile(r"[0-9]*\.?[0-9]+|[0-9]+\.", re.ASCII)
MALFORMED = -1.0


@base.traits(pure=True, low=MALFORMED)
def confidence(
    trajectory: base.Trajectory, prompt: tasks_base.Prompt, *, tag: str = "confidence"
) -> base.Verdict:
    """The number q in <confidence>q</confidence>, a plain decimal in [0, 1].

    Args:
      tag: the tag's name; it has to stand in the text once, opened and closed.
    Returns: the score q with the outcome correct; or -1 with the outcome incorrect where there is
      no such number.  That is a score and not unparsable, since what config.missing lets a missing
      verdict count as, such as 0, would be a confidence; `rewards.outcomes.rlcr` takes -1 for
      malformed.
    """
    text = trajectory.text
    opening, closing = f"<{tag}>", f"</{tag}>"
    span = base.last_tag(text, tag)
    if span is None or text.count(opening) != 1 or text.count(closing) != 1:
        return base.Verdict(MALFORMED, "incorrect", f"{opening}...{closing} is not there once")
    if not _DECIMAL.fullmatch(span.strip()) or not 0.0 <= float(span) <= 1.0:
        return base.Verdict(MALFORMED, "incorrect", f"got {span!r:.80}, expected 0 to 1")
    return base.Verdict(float(span), "correct", f"confidence {float(span):g}")
