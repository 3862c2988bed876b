"""How a reply reasons, whatever its answer: a reward from phrases, for studies of noisy rewards."""

from __future__ import annotations

import collections
import collections.abc

from rlpt.tasks import base as tasks_base
from rlpt.verifiers import base

# Planning, checking, looking for another way, drawing conclusions, giving examples.
PHRASES = (
    "i need to", "we need to", "first,", "firstly", "next,", "then,", "finally,", "let me first",
    "let's first", "let us first", "step by step", "let me see", "let me check", "let's check",
    "let me verify", "double-check", "wait", "try again", "let me try", "let's try",
    "alternatively", "another way", "does not work", "doesn't work", "not correct", "makes sense",
    "we know that", "we can see", "note that", "since", "because", "if we", "suppose", "thus",
    "therefore", "hence", "so that", "as a result", "for example", "for instance",
)  # fmt: skip


def repetition(text: str, n: int) -> float:
    """Distinct n-grams of words that occur more than once, as a share of all n-grams; 0 of none."""
    words = text.split()
    grams = collections.Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    return sum(count > 1 for count in grams.values()) / max(grams.total(), 1)


@base.traits(pure=True)
def patterns(
    trajectory: base.Trajectory,
    prompt: tasks_base.Prompt,
    *,
    phrases: collections.abc.Sequence[str] = PHRASES,
    full_count: int = 20,
    ngram: int = 20,
    turn: str = "user: ",
) -> base.Verdict:
    """Reasoning-pattern reward: max(0, min(1, found / full_count) - repetition - turns).

    found: distinct phrases in the lower-cased reply; repetition: see there, of `ngram` words;
    turns: how often the reply plays the user.

    Args:
      phrases: in lower case.  full_count: phrases that earn the full score, at least 1.
      turn: how a turn of the user begins, in lower case.
    Returns: a score in [0, 1], the outcome always correct: nothing is said about the answer, and
      accuracy is left to the other verifiers.
    Raises: ValueError for a full_count or ngram below 1, or an empty turn.

    Reference: Lv et al., "The Climb Carves Wisdom Deeper Than the Summit", arXiv:2505.22653.
    Differs from its code in: the list of phrases, which has as many of the same kinds.
    """
    if full_count < 1 or ngram < 1 or not turn:
        raise ValueError(
            f"patterns: got full_count={full_count}, ngram={ngram}, turn={turn!r}; expected both "
            "numbers >= 1 and a turn that is not empty"
        )
    text = trajectory.text.lower()
    found = sum(phrase in text for phrase in phrases)
    repeated, turns = repetition(text, ngram), text.count(turn)
    score = max(0.0, min(1.0, found / full_count) - repeated - turns)
    detail = f"{found} phrases, repetition {repeated:.2f}, {turns} turns"
    return base.Verdict(score, "correct", detail)
