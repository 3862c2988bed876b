"""A tree's leaves as they are stored, and hashes of the pieces that devices and processes hold."""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
import typing as tp

import jax
import numpy as np
from jax.experimental import multihost_utils

Leaves = dict[str, tp.Any]  # by path
Region = tp.Sequence[tp.Sequence[int]]  # (start, stop) along every axis


def flatten(tree: tp.Any) -> Leaves:
    """{"params/layers/q": leaf}; raises ValueError when two paths read alike."""
    named: Leaves = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name in named:
            raise ValueError(f"two leaves of the state are both called {name!r}; rename one")
        named[name] = leaf
    return named


def is_key(leaf: tp.Any) -> bool:
    """Whether a leaf is a typed random key."""
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)


def stored(leaf: tp.Any) -> jax.Array | np.ndarray:
    """The array that is written for a leaf."""
    if is_key(leaf):
        return jax.random.key_data(leaf)
    if isinstance(leaf, jax.Array):
        return leaf
    array = np.array(leaf)  # a copy: the caller may go on writing to it
    if array.dtype.kind in "OSUMm":
        raise ValueError(f"got a leaf {leaf!r}, expected numbers; put it into the host state")
    return array


def regions(array: tp.Any) -> tp.Sequence[Region]:
    """The distinct regions that the devices of all processes hold, the same on each process."""
    if not isinstance(array, jax.Array):
        return [_whole(array)]
    indices = array.sharding.devices_indices_map(array.shape).values()
    return sorted({_region(index, array.shape) for index in indices})


def _region(index: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    return tuple(cut.indices(size)[:2] for cut, size in zip(index, shape, strict=True))


def _whole(array: tp.Any) -> tuple[tuple[int, int], ...]:
    return tuple((0, size) for size in array.shape)


def of_regions(leaves: Leaves, regions: tp.Mapping[str, tp.Sequence[Region]]) -> list[bytes | None]:
    """Hash of each region of each leaf, None where this process does not hold it."""

    def of_leaf(name: str) -> list[bytes | None]:
        array = leaves[name]
        if isinstance(array, jax.Array) and not array.is_fully_addressable:
            shards = array.addressable_shards
            blocks = [(_region(s.index, array.shape), np.asarray(s.data)) for s in shards]
        else:
            blocks = [(_whole(array), np.asarray(array))]
        return [_digest(blocks, region) for region in regions[name]]

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing frees the GIL
        return [digest for digests in pool.map(of_leaf, leaves) for digest in digests]


def _digest(blocks: tp.Sequence[tuple[Region, np.ndarray]], region: Region) -> bytes | None:
    """blake2b of dtype, shape and bytes of a region that one of the blocks contains."""
    for place, block in blocks:
        bounds = list(zip(region, place, strict=True))
        if all(low <= start and stop <= high for (start, stop), (low, high) in bounds):
            piece = block[
                tuple(slice(start - low, stop - low) for (start, stop), (low, _) in bounds)
            ]
            digest = hashlib.blake2b(f"{piece.dtype}{piece.shape}".encode(), digest_size=16)
            digest.update(np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data)
            return digest.digest()
    return None


def gathered(digests: list[bytes | None]) -> list[set[bytes]]:
    """The distinct digests that the processes have for each region."""
    if jax.process_count() == 1:
        return [{digest} if digest else set() for digest in digests]
    packed = np.stack([np.frombuffer(b"\1" + d if d else bytes(17), np.uint8) for d in digests])
    everyones = np.asarray(multihost_utils.process_allgather(packed))
    return [{row[1:].tobytes() for row in rows if row[0]} for rows in everyones.swapaxes(0, 1)]
