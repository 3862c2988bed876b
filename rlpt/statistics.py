"""Estimators for judged completions, and how sure one may be of them: numpy, no model.

pass@k, pass^k, maj@k and best-of-k are exact: the mean over all subsets of k of the n
completions of a prompt (drawn without replacement), not a bootstrap that draws with
replacement and so stays below the truth (1 of 4 correct: best@4 is 1, the bootstrap says
0.684).  Intervals and tests take prompts, or seeds, as the independent draws.
"""

from __future__ import annotations

import collections
import collections.abc
import math
import typing as tp

import numpy as np

LEVEL, RESAMPLES = 0.95, 2000
BINS = 10


def _check(n: int, k: int, what: str) -> None:
    if not 1 <= k <= n:
        raise ValueError(f"{what}: got k={k} with n={n} samples, expected 1 <= k <= n")


def pass_at_k(n: int, correct: np.ndarray, k: int) -> np.ndarray:
    """Unbiased estimate of P(at least one of k samples is correct), per prompt.

    1 - C(n-c, k) / C(n, k) for c correct of n samples.

    Reference: Chen et al., "Evaluating Large Language Models Trained on Code",
    arXiv 2107.03374.
    Raises: ValueError for k > n.
    """
    _check(n, k, "pass@k")
    i = np.arange(k)
    left = np.maximum(n - np.asarray(correct)[..., None] - i, 0)
    return 1.0 - np.prod(left / (n - i), axis=-1)


def pass_all_k(n: int, correct: np.ndarray, k: int) -> np.ndarray:
    """pass^k, the unbiased estimate of P(all of k samples are correct), per prompt.

    C(c, k) / C(n, k) for c correct of n samples.

    Reference: Yao et al., "tau-bench", arXiv 2406.12045.
    Raises: ValueError for k > n.
    """
    _check(n, k, "pass^k")
    i = np.arange(k)
    return np.prod(np.maximum(np.asarray(correct)[..., None] - i, 0) / (n - i), axis=-1)


def majority_at_k(
    hits: collections.abc.Sequence[bool], answers: collections.abc.Sequence[str | None], k: int
) -> float:
    """maj@k of one prompt: how often the most frequent answer of k samples is correct.

    The mean over all subsets of k.  Ties are broken at random, each tied answer with the same
    chance (as an expectation, nothing is drawn).  Completions without an answer have no vote;
    without any vote the subset counts as wrong.  An answer is worth the share of its
    completions that were judged correct.

    Args:
      hits: n verdicts.  answers: n canonical answers, None: no answer.
    Reference: Wang et al., "Self-Consistency Improves Chain of Thought Reasoning",
      arXiv 2203.11171.
    Raises: ValueError for k > n.
    """
    n = len(hits)
    _check(n, k, "maj@k")
    votes: dict[str | None, list[bool]] = collections.defaultdict(list)
    for hit, answer in zip(hits, answers, strict=True):
        votes[answer].append(hit)
    silent = len(votes.pop(None, []))

    def share(size: int, drawn: int) -> float:
        """comb(size, drawn), which may be beyond a float, times what cancels: a chance."""
        return math.comb(size, drawn) * k**drawn * (n - k) ** (size - drawn) / n**size

    total = 0.0
    for most in range(1, k + 1):  # votes of the winner
        # By (samples drawn, winners): the share of subsets, and the sum of their winners' worth.
        ways = np.zeros((k + 1, k // most + 2))
        worth = np.zeros_like(ways)
        for drawn in range(min(silent, k) + 1):
            ways[drawn, 0] = share(silent, drawn)
        for own in votes.values():
            new_ways, new_worth = np.zeros_like(ways), np.zeros_like(ways)
            for a in range(min(len(own), most) + 1):
                choices, wins = share(len(own), a), int(a == most)
                rows, columns = k + 1 - a, ways.shape[1] - wins
                old_ways, old_worth = ways[:rows, :columns], worth[:rows, :columns]
                new_ways[a:, wins:] += choices * old_ways
                new_worth[a:, wins:] += choices * (old_worth + wins * np.mean(own) * old_ways)
            ways, worth = new_ways, new_worth
        winners = np.arange(1, ways.shape[1])
        total += float((worth[k, 1:] / winners).sum())
    return total / share(n, k)


def best_of_k(
    hits: collections.abc.Sequence[bool], scores: collections.abc.Sequence[float | None], k: int
) -> float:
    """best-of-k of one prompt: how often the completion with the highest score is correct.

    The mean over all subsets of k; completions with equal scores are chosen with equal chance;
    one without a score is chosen only where none has a score.

    Args:
      hits: n verdicts.  scores: n numbers, None: no score.
    Raises: ValueError for k > n.
    """
    n = len(hits)
    _check(n, k, "best-of-k")
    values = np.array([-math.inf if s is None else s for s in scores])
    total = 0.0
    for value in set(values.tolist()):
        upto, below = int((values <= value).sum()), int((values < value).sum())
        share = (math.comb(upto, k) - math.comb(below, k)) / math.comb(n, k)
        total += share * float(np.mean(np.asarray(hits)[values == value]))
    return total


def calibration(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> dict[str, tp.Any]:
    """How well stated confidences agree with what was right.

    Args:
      confidence: [N] in [0, 1].  correct: [N] bool.  bins: of equal width; 1.0 is in the last.
    Returns: ece (sum over bins of their share of rows x |accuracy - mean confidence|), brier
      (mean of (confidence - correct)^2), rows, and bins: [{low, high, rows, confidence,
      accuracy}] for those that are not empty.
    Reference: Guo et al., "On Calibration of Modern Neural Networks", arXiv 1706.04599 (ECE).
    Raises: ValueError for no rows or a confidence outside [0, 1].
    """
    q, hit = np.asarray(confidence, float), np.asarray(correct, float)
    if not len(q) or not ((q >= 0) & (q <= 1)).all():
        raise ValueError(
            f"calibration: got {len(q)} confidences in "
            f"[{q.min(initial=np.inf)}, {q.max(initial=-np.inf)}], expected some, within [0, 1]"
        )
    places = np.minimum((q * bins).astype(int), bins - 1)
    found = [
        {
            "low": i / bins,
            "high": (i + 1) / bins,
            "rows": int((places == i).sum()),
            "confidence": float(q[places == i].mean()),
            "accuracy": float(hit[places == i].mean()),
        }
        for i in sorted(set(places.tolist()))
    ]
    ece = sum(b["rows"] * abs(b["accuracy"] - b["confidence"]) for b in found) / len(q)
    return {"ece": ece, "brier": float(((q - hit) ** 2).mean()), "rows": len(q), "bins": found}


def bootstrap(
    values: np.ndarray, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """A percentile bootstrap interval of the mean: rows are resampled with replacement.

    The same numbers give the same interval.  With few rows it is too narrow (10 rows: about
    90 % instead of 95 %), and where all values are equal it is a point.

    Args:
      values: [N], one a prompt.  level: of confidence, in (0, 1).
    Raises: ValueError for no values.
    """
    values = np.asarray(values, float)
    if not len(values):
        raise ValueError("bootstrap: got no values, expected at least one prompt")
    rng = np.random.default_rng(seed)
    n = len(values)
    means = [values[rng.integers(0, n, n)].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def sign_test(differences: np.ndarray) -> tuple[int, int, float]:
    """The exact sign test: are differences above 0 as frequent as those below?

    For differences of two verdicts (1, 0, -1) it is McNemar's exact test.  Zeros are left out.

    Returns: wins (above 0), losses, and the two-sided p-value; 1 where all are zero.
    """
    differences = np.asarray(differences)
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    n = wins + losses
    tail = sum(math.comb(n, i) for i in range(min(wins, losses) + 1))
    return wins, losses, min(1.0, 2 * tail / 2**n)


def paired(new: np.ndarray, base: np.ndarray) -> dict[str, float]:
    """Compares two scores of the same prompts, pair by pair.

    Args:
      new, base: [N].
    Returns: new and base (means), difference, low and high (`bootstrap` of the differences, so
      of pairs), wins, losses and p (`sign_test`: whether more prompts got better than worse,
      however much).
    Raises: ValueError for other shapes or no pairs.
    """
    new, base = np.asarray(new, float), np.asarray(base, float)
    if new.shape != base.shape:
        raise ValueError(f"paired: got shapes {new.shape} and {base.shape}, expected the same")
    differences = new - base
    differences[np.abs(differences) < 1e-12] = 0.0  # equal but for rounding
    low, high = bootstrap(differences)
    wins, losses, p = sign_test(differences)
    return {
        "new": float(new.mean()),
        "base": float(base.mean()),
        "difference": float(differences.mean()),
        **{"low": low, "high": high, "wins": wins, "losses": losses, "p": p},
    }


def t_quantile(probability: float, freedom: int) -> float:
    """The quantile of Student's t for a probability in [0.5, 1), by bisection of its CDF.

    Reference: Abramowitz and Stegun, 26.7.3 and 26.7.4, the CDF for whole degrees of freedom.
    Raises: ValueError for freedom < 1 or another probability.
    """
    if freedom < 1 or not 0.5 <= probability < 1:
        raise ValueError(
            f"t_quantile: got probability {probability}, freedom {freedom}; expected [0.5, 1), >= 1"
        )

    def cdf(t: float) -> float:
        angle = math.atan(t / math.sqrt(freedom))
        odd = freedom % 2
        term, total = (math.cos(angle), 0.0) if odd else (1.0, 0.0)
        for i in range(2 + odd, freedom + 1, 2):  # cos + 2/3 cos^3 + ..., 1 + 1/2 cos^2 + ...
            total += term
            term *= (i - 1) / i * math.cos(angle) ** 2
        inside = 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
        return 0.5 + inside / 2

    low, high = 0.0, 1.0
    while cdf(high) < probability:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if cdf(middle) < probability else (low, middle)
    return high


def t_interval(values: np.ndarray, level: float = LEVEL) -> tuple[float, float] | None:
    """Student's interval of the mean of a few independent runs (seeds); None for fewer than 2.

    mean +- t(level, N - 1) s / sqrt(N), with the unbiased variance.
    """
    values = np.asarray(values, float)
    if len(values) < 2:
        return None
    half = t_quantile((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return float(values.mean() - half), float(values.mean() + half)
