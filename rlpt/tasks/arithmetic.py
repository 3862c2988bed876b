"""Generated arithmetic, small enough to learn on a laptop.

An unordered set of operands is in one split only: when 7 + 5 is held out, so is
5 + 7.  Small spaces are enumerated; of large ones at most `size` prompts are
sampled.  Prompts come in a fixed random order, so that the first n are a fair
sample.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import itertools
import math
import typing as tp

import numpy as np

from rlpt.tasks import base

SYSTEM = "Answer with a number."
_ENUMERATE = 20_000  # ordered operand tuples; above this, sample


def sums(
    split: str,
    *,
    digits: int = 1,
    terms: int = 2,
    low: int = 0,
    high: int | None = None,
    eval_fraction: float = 0.3,
    size: int = 10_000,
    system: str = SYSTEM,
    hints: bool = False,
    seed: int = 0,
) -> list[base.Prompt]:
    """Prompts "7 + 5 =" with the answer "12".

    Args:
      digits: operands go from low to 10**digits - 1.
      terms: how many operands, at least 2.
      low, high: the range of the operands, both included; high replaces digits.
      eval_fraction: share of the unordered operand sets that is held out.
      size: most prompts in a split.
      system: system message; "": none.
      hints: with meta: "hint", the sum up to its last step, as in "7 + 4 = 11, 11 + 1 =",
        "step", that step alone, and "tiers", parts of hints that reveal more and more; none where
        that step is all there is.
      seed: which operand sets are held out, and the order.
    """
    rows = _operands(split, digits, terms, low, high, eval_fraction, size, seed)
    prompts = _prompts("sums", " + ", rows, sum, system)
    if hints:
        prompts = [
            dataclasses.replace(prompt, meta=_hints(row))
            for prompt, row in zip(prompts, rows, strict=True)
        ]
    return prompts


def products(
    split: str,
    *,
    digits: int = 1,
    terms: int = 2,
    low: int = 0,
    high: int | None = None,
    eval_fraction: float = 0.3,
    size: int = 10_000,
    system: str = SYSTEM,
    seed: int = 0,
) -> list[base.Prompt]:
    """Prompts "7 * 5 =" with the answer "35"; settings as in `sums`."""
    rows = _operands(split, digits, terms, low, high, eval_fraction, size, seed)
    return _prompts("products", " * ", rows, math.prod, system)


def differences(
    split: str,
    *,
    digits: int = 1,
    low: int = 0,
    high: int | None = None,
    negative: bool = False,
    eval_fraction: float = 0.3,
    size: int = 10_000,
    system: str = SYSTEM,
    seed: int = 0,
) -> list[base.Prompt]:
    """Prompts "9 - 4 =" with the answer "5"; settings as in `sums`.

    negative: also ask "4 - 9 =", which is in the same split.
    """
    rows = _operands(split, digits, 2, low, high, eval_fraction, size, seed)
    rows = [(a, b) for a, b in rows if negative or a >= b]
    return _prompts("differences", " - ", rows, lambda row: row[0] - row[1], system)


def larger(
    split: str,
    *,
    digits: int = 1,
    low: int = 0,
    high: int | None = None,
    eval_fraction: float = 0.3,
    size: int = 10_000,
    system: str = SYSTEM,
    seed: int = 0,
) -> list[base.Prompt]:
    """Prompts "Which is larger, 7 or 5?" with the answer "7"; settings as in `sums`."""
    rows = _operands(split, digits, 2, low, high, eval_fraction, size, seed)
    prompts = [
        base.Prompt(
            id=f"larger:{a},{b}",
            messages=base.chat(f"Which is larger, {a} or {b}?", system),
            answer=str(max(a, b)),
            task="larger",
        )
        for a, b in rows
        if a != b
    ]
    return base.checked(prompts, "larger")


def _prompts(
    task: str,
    sign: str,
    rows: list[tuple[int, ...]],
    value: collections.abc.Callable[[tuple[int, ...]], int],
    system: str,
) -> list[base.Prompt]:
    prompts = [
        base.Prompt(
            id=f"{task}:{sign.strip().join(map(str, row))}",
            messages=base.chat(f"{sign.join(map(str, row))} =", system),
            answer=str(value(row)),
            task=task,
        )
        for row in rows
    ]
    return base.checked(prompts, task)


# Hints that fit every sum, the less revealing tier first; each part goes on from the one before.
_TIERS = {
    "knowledge": [
        "Tens are added to tens and ones to ones.",
        "Ten ones are one ten.",
        "A full ten is carried to the next place.",
        "The order of the numbers does not matter.",
    ],
    "planning": [
        "Start with the first number.",
        "Add the others to it one by one.",
        "Add a number place by place, the largest place first.",
        "The last total is the answer.",
    ],
}


def _hints(row: tuple[int, ...]) -> dict[str, tp.Any]:
    """The meta of a sum, see `sums`; {} where one addition is all there is."""
    steps = _additions(row)
    if len(steps) < 2:
        return {}
    *done, (total, rest) = steps
    known = ", ".join(f"{a} + {b} = {a + b}" for a, b in done)
    solution = [
        f"Start with {row[0]}.",
        f"{known}.",
        f"Then {rest} is left to add.",
        f"{total} + {rest} =",
    ]
    return {
        "hint": f"{known}, {total} + {rest} =",
        "step": f"{total} + {rest} =",
        "tiers": {**_TIERS, "solution": solution},
    }


def _additions(row: tuple[int, ...]) -> list[tuple[int, int]]:
    """A sum as additions of two numbers: the last operand place by place, the others whole.

    Where that is one addition, of more than 1, its second number is cut once more: 7 + 5 is
    (7, 4), (11, 1).
    """
    *first, last = row
    sign = -1 if last < 0 else 1
    digits = str(abs(last))[::-1]
    places = [sign * int(d) * 10**k for k, d in enumerate(digits) if d != "0"][::-1]
    if len(first) + len(places) == 2 and abs(last) > 1:
        places = [last - sign, sign]
    terms = [*first[1:], *places]
    totals = itertools.accumulate(terms, initial=first[0])
    return list(zip(totals, terms, strict=False))


def _operands(
    split: str,
    digits: int,
    terms: int,
    low: int,
    high: int | None,
    eval_fraction: float,
    size: int,
    seed: int,
) -> list[tuple[int, ...]]:
    """At most `size` ordered operand tuples of a split, in a fixed random order."""
    base.check_split(split)
    high = 10**digits - 1 if high is None else high
    if digits < 1 or terms < 2 or size < 1 or not 0 <= high - low < 2**60:
        raise base.TaskError(
            f"arithmetic: got digits={digits}, terms={terms}, size={size}, low={low}, high={high};"
            " expected digits in 1..18, terms >= 2, size >= 1 and low <= high"
        )
    if not 0.0 < eval_fraction < 1.0:
        raise base.TaskError(f"eval_fraction: got {eval_fraction}, expected between 0 and 1")
    if (high - low + 1) ** terms <= _ENUMERATE:
        rows = _enumerated(split, terms, low, high, eval_fraction, seed)
    else:
        rows = _sampled(split, terms, low, high, eval_fraction, size, seed)
    return sorted(rows, key=lambda row: base.hash_int(seed, "order", row))[:size]


def _enumerated(
    split: str, terms: int, low: int, high: int, eval_fraction: float, seed: int
) -> list[tuple[int, ...]]:
    """All tuples of a split; the held-out share is exact, not only in expectation."""
    sets = list(itertools.combinations_with_replacement(range(low, high + 1), terms))
    sets.sort(key=lambda row: base.hash_int(seed, "split", row))
    held_out = math.ceil(eval_fraction * len(sets))
    chosen = set(sets[:held_out] if split == "eval" else sets[held_out:])
    rows = itertools.product(range(low, high + 1), repeat=terms)
    return [row for row in rows if tuple(sorted(row)) in chosen]


def _sampled(
    split: str, terms: int, low: int, high: int, eval_fraction: float, size: int, seed: int
) -> list[tuple[int, ...]]:
    """Up to `size` distinct tuples of a split; both splits sample the same sequence."""
    rows: dict[tuple[int, ...], None] = {}
    for round_ in range(100):
        bits = np.random.Philox(key=base.hash_int(seed, "sample", round_, bits=128))
        draws = bits.random_raw(size * terms).reshape(size, terms)
        for draw in draws.tolist():
            row = tuple(low + d % (high - low + 1) for d in draw)
            unordered = ",".join(map(str, sorted(row)))
            if base.split_of(unordered, eval_fraction, seed) == split:
                rows[row] = None
                if len(rows) == size:
                    return list(rows)
    return list(rows)
