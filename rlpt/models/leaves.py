"""The parameter tree and the tensors of a file: which is which, and reading them when asked.

A file has one tensor a layer and [out, in] kernels; the tree of
`transformer.param_shapes` stacks the layers and has [in, out] kernels.  A `Leaf` stands
for one array of the tree and reads from the file no more than the slice that it is
asked for, so that a host with some of the devices of a run reads their parts alone.
"""

from __future__ import annotations

import dataclasses
import math
import typing as tp

import jax
import jax.numpy as jnp
import numpy as np

from rlpt.models import transformer
from rlpt.models.transformer import ModelConfig

Params = dict[str, tp.Any]
Read = tp.Callable[[str], np.ndarray]
Fetch = tp.Callable[[tp.Any], tp.Any]


class Slot(tp.NamedTuple):
    """Where a tensor of a file goes: a leaf of the tree, one layer of it or all (None)."""

    leaf: tuple[str, ...]
    layer: int | None
    transposed: bool

    def of(self, tree: tp.Mapping[str, tp.Any]) -> tp.Any:
        """The leaf of a tree, all its layers."""
        value: tp.Any = tree
        for part in self.leaf:
            value = value[part]
        return value

    def view(self, tree: tp.Mapping[str, tp.Any], fetch: Fetch = lambda x: x) -> tp.Any:
        """This part of a tree in the layout of the file.  fetch: what makes it numpy, first."""
        leaf = self.of(tree)
        value = fetch(leaf if self.layer is None else leaf[self.layer])
        return value.T if self.transposed else value

    def shape(self, cfg: ModelConfig) -> tuple[int, ...]:
        """Of the tensor in the file."""
        whole: tuple[int, ...] = self.of(transformer.param_shapes(cfg))
        shape = whole if self.layer is None else whole[1:]
        return shape[::-1] if self.transposed else shape


def slots(
    cfg: ModelConfig, layer_names: tp.Mapping[str, str], top_names: tp.Mapping[str, str]
) -> dict[str, Slot]:
    """{tensor name: Slot} for the whole tree.

    layer_names: {leaf: name with {} for the layer}; top_names: {leaf: name}, both
      without the suffix, which is .bias for biases and .weight for the rest.
    """
    out = {}
    shapes = transformer.param_shapes(cfg)
    for leaf, shape in shapes["layers"].items():
        for i in range(cfg.num_layers):
            name = layer_names[leaf.removesuffix("_bias")].format(i)
            name += ".bias" if leaf.endswith("_bias") else ".weight"
            out[name] = Slot(("layers", leaf), i, len(shape) == 3)
    for leaf in shapes:
        if leaf != "layers":
            out[top_names[leaf] + ".weight"] = Slot((leaf,), None, False)
    return out


@dataclasses.dataclass(frozen=True)
class Leaf:
    """An array of the tree that stays in its files until it is indexed.

    shape, dtype: of the array.  parts: its layers, or itself alone; each a function whose
      result is indexed at once, such as a memory map.  stacked: whether they are layers.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    parts: tuple[tp.Callable[[], np.ndarray], ...]
    stacked: bool

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __getitem__(self, index: int | slice | tuple[int | slice, ...]) -> np.ndarray:
        """A copy of a part, by integers and slices; nothing else is read into memory."""
        first, *rest = index if isinstance(index, tuple) else (index,)
        if not self.stacked:
            return self._copy(0, (first, *rest))
        if not isinstance(first, slice):
            return self._copy(first, tuple(rest))
        layers = range(*first.indices(self.shape[0]))
        shape = np.broadcast_to(np.int8(0), self.shape)[(first, *rest)].shape
        out = np.empty(shape, self.dtype)
        for i, layer in enumerate(layers):
            out[i] = self.parts[layer]()[tuple(rest)]
        return out

    def __array__(self, dtype: tp.Any = None, copy: bool | None = None) -> np.ndarray:
        """All of it, where one host has room."""
        if copy is False:
            raise ValueError("a Leaf is in files: it cannot be an array without a copy")
        return np.asarray(self[:], dtype)

    def _copy(self, part: int, index: tuple[int | slice, ...]) -> np.ndarray:
        return np.array(self.parts[part]()[index], self.dtype, order="C")

    def pick(self, places: np.ndarray) -> np.ndarray:
        """The values at some places [n] of the flattened array."""
        if not self.stacked:
            return np.array(self.parts[0]()[np.unravel_index(places, self.shape)], self.dtype)
        layer, *inner = np.unravel_index(places, self.shape)
        out = np.empty(places.shape, self.dtype)
        for i in np.unique(layer):
            here = layer == i
            out[here] = self.parts[i]()[tuple(axis[here] for axis in inner)]
        return out


def tree(
    cfg: ModelConfig,
    places: tp.Mapping[str, Slot],
    shapes: tp.Mapping[str, tuple[int, ...]],
    read: Read,
    dtype: tp.Any,
    where: str,
) -> Params:
    """The tree of `transformer.param_shapes` with a Leaf for every array; nothing is read.

    Args:
      shapes: of what the file has, by name.  read: a tensor by name, in the layout of the
        file, called whenever some of it is asked for.  where: the file, for errors.
    Raises: ValueError naming weights that are missing, left over or of the wrong shape.
    """
    missing, extra = sorted(set(places) - set(shapes)), sorted(set(shapes) - set(places))
    if missing or extra:
        raise ValueError(
            f"{where}: weights do not fit the {cfg.family} of {cfg.num_layers} layers. "
            f"Missing {len(missing)}: {few(missing)}. Left over {len(extra)}: {few(extra)}. "
            "Is the download complete and config.json of this model?"
        )
    parts: dict[tuple[str, ...], list[tp.Callable[[], np.ndarray]]] = {}
    for name, slot in places.items():  # the layers in order, see `slots`
        if shapes[name] != slot.shape(cfg):
            raise ValueError(
                f"{where}: {name} has shape {shapes[name]}, "
                f"expected {slot.shape(cfg)} by its configuration"
            )
        parts.setdefault(slot.leaf, []).append(_part(read, name, slot.transposed))

    def leaf(path: tuple[str, ...], shape: tuple[int, ...]) -> Leaf:
        return Leaf(shape, jnp.dtype(dtype), tuple(parts[path]), len(path) > 1)

    whole = transformer.param_shapes(cfg)
    layers = {name: leaf(("layers", name), shape) for name, shape in whole.pop("layers").items()}
    return {"layers": layers} | {name: leaf((name,), shape) for name, shape in whole.items()}


def _part(read: Read, name: str, transposed: bool) -> tp.Callable[[], np.ndarray]:
    return (lambda: read(name).T) if transposed else (lambda: read(name))


def materialise(params: tp.Any) -> tp.Any:
    """The tree with numpy arrays for the Leaves in it."""
    return jax.tree.map(lambda x: x[:] if isinstance(x, Leaf) else x, params)


def few(names: tp.Sequence[str]) -> str:
    """Some names, for errors."""
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "") if names else "none"
