"""Choosing among completions, and among their beginnings: numbers in, indices out.

Beam search over steps keeps the beginnings that a process reward model likes and lets each go on
several times; best-of-n and weighted majority choose among completions that are whole.  Which of
them the policy draws is `rollouts.beam`; exact expectations of best-of-k and maj@k are in
`statistics`.
"""

from __future__ import annotations

import collections
import collections.abc
import itertools
import math

import numpy as np

AGGREGATES = ("min", "prod", "last", "mean")
SUBSETS = 2000  # beyond so many subsets, as many are drawn


def aggregate(scores: collections.abc.Sequence[float], how: str) -> float:
    """One number for the scores of the steps of a solution.

    Args:
      scores: of its steps in order, at least one; in [0, 1] for 'prod'.
      how: min, prod, last or mean.
    Raises: ValueError for another word or no scores.

    Reference: Snell et al., arXiv:2408.03314 (last); Lightman et al., arXiv:2305.20050 (prod, min).
    """
    if how not in AGGREGATES or not len(scores):
        raise ValueError(
            f"aggregate: got {how!r} of {len(scores)} scores, expected one of "
            f"{', '.join(AGGREGATES)} of at least one"
        )
    values = np.asarray(scores[-1:] if how == "last" else scores, float)
    if (np.isneginf(values) | np.isnan(values)).any():  # a step without a score is the worst
        return -np.inf
    found = {"min": values.min(), "prod": values.prod(), "mean": values.mean(), "last": values[-1]}
    return float(found[how])


def best(scores: collections.abc.Sequence[float], keep: int) -> list[int]:
    """The indices of the `keep` highest scores, highest first; of equal ones the earlier first.

    NaN, no score, is behind all others.
    """
    own = [-math.inf if math.isnan(x) else x for x in scores]
    return sorted(range(len(own)), key=lambda i: (-own[i], math.isnan(scores[i])))[:keep]


def distinct(items: collections.abc.Sequence[collections.abc.Hashable]) -> list[int]:
    """The index of the first of each kind of item, in order."""
    first: dict[collections.abc.Hashable, int] = {}
    for i, item in enumerate(items):
        first.setdefault(item, i)
    return list(first.values())


def survivors(
    scores: collections.abc.Sequence[float],
    beginnings: collections.abc.Sequence[collections.abc.Hashable],
    keep: int,
) -> list[int]:
    """The `keep` best beginnings, of equal ones only the first; indices, best first."""
    unlike = distinct(beginnings)
    return [unlike[i] for i in best([scores[i] for i in unlike], keep)]


def repeated(count: int, size: int) -> list[int]:
    """0 .. count - 1 in turn, again and again, `size` in all; none of none."""
    return list(itertools.islice(itertools.cycle(range(count)), size))


def weighted_majority(
    answers: collections.abc.Sequence[str | None],
    scores: collections.abc.Sequence[float | None],
) -> list[str]:
    """The answers with the largest sum of scores; several where they tie, none of none.

    Completions without an answer or a score have no vote; scores that may be negative are best
    put through a sigmoid before.
    """
    votes: dict[str, list[float]] = collections.defaultdict(list)
    for answer, score in zip(answers, scores, strict=True):
        if answer is not None and score is not None and not math.isnan(score):
            votes[answer].append(score)
    sums = {answer: math.fsum(own) for answer, own in votes.items()}
    most = max(sums.values(), default=0.0)
    return [answer for answer, total in sums.items() if total == most]


def weighted_at_k(
    hits: collections.abc.Sequence[bool],
    answers: collections.abc.Sequence[str | None],
    scores: collections.abc.Sequence[float | None],
    k: int,
    seed: int = 0,
) -> float:
    """How often the answer with the largest sum of scores among k samples is correct.

    The mean over all subsets of k, or over `SUBSETS` that are drawn where there are more.  Ties are
    broken at random, as an expectation; a subset without votes counts as wrong.  An answer is worth
    the share of its completions that were judged correct.  With equal scores above 0 it is maj@k.

    Args:
      hits: n verdicts.  answers: n canonical answers, None: none.  scores: n, None: none.
    Raises: ValueError for k outside 1..n.

    Reference: Li et al., "Making Large Language Models Better Reasoners with Step-Aware Verifier",
    arXiv:2206.02336 (votes weighted by a verifier).
    """
    n = len(hits)
    if not 1 <= k <= n:
        raise ValueError(f"weighted@k: got k={k} with n={n} samples, expected 1 <= k <= n")
    worth = {a: np.mean([hits[i] for i in range(n) if answers[i] == a]) for a in set(answers)}
    subsets: collections.abc.Iterable[collections.abc.Sequence[int]]
    if math.comb(n, k) <= SUBSETS:
        subsets = itertools.combinations(range(n), k)
    else:
        rng = np.random.default_rng(seed)
        subsets = (rng.choice(n, k, replace=False).tolist() for _ in range(SUBSETS))
    found = []
    for subset in subsets:
        won = weighted_majority([answers[i] for i in subset], [scores[i] for i in subset])
        found.append(np.mean([worth[a] for a in won]) if won else 0.0)
    return float(np.mean(found))
