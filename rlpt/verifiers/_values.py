"""When two values of programs are the same."""

from __future__ import annotations

import typing as tp


def same(a: tp.Any, b: tp.Any) -> bool:
    """Whether two values are equal and of the same types all the way down."""
    if type(a) is not type(b):
        return False
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, set | frozenset):
        return {_typed(x) for x in a} == {_typed(x) for x in b}
    if isinstance(a, dict):
        other = {_typed(k): v for k, v in b.items()}
        return len(a) == len(b) and all(
            _typed(k) in other and same(v, other[_typed(k)]) for k, v in a.items()
        )
    return bool(a == b)


def _typed(key: tp.Any) -> tp.Any:
    """A hashable value with its types, so that 1, 1.0 and True differ."""
    if isinstance(key, tuple):
        return (tuple, *map(_typed, key))
    if isinstance(key, frozenset):
        return (frozenset, frozenset(map(_typed, key)))
    return (type(key), key)
