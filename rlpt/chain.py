"""The device chain between rollout and update: shaping, then credit.

Both are ordered tuples of bound methods run inside one jit.  Methods with
memory (`columns.Transform`) carry a pytree of state.  Where groups span blocks
the methods see them gathered to one row a group.
"""

from __future__ import annotations

import dataclasses
import typing as tp

import jax
import jax.numpy as jnp
import numpy as np

from rlpt import columns as columns_lib
from rlpt import config as config_lib
from rlpt import sharding
from rlpt.columns import Table
from rlpt.config import Bound, ConfigError

State = dict[str, tp.Any]
_OF_THE_LOG = ("reward", "rollout", "verdict", "advantage", "policy", "loss", "time", "eval")


@dataclasses.dataclass(frozen=True)
class Chain:
    """Bound methods in order.

    group_blocks > 1: groups span up to that many blocks.  of_blocks: columns of a block, not of its
    rows, whose second axis may be as long as a block has rows.
    """

    shaping: tuple[Bound, ...]
    credit: tuple[Bound, ...]
    group_blocks: int = 1
    of_blocks: frozenset[str] = frozenset()

    @property
    def methods(self) -> tuple[tuple[str, Bound], ...]:
        return tuple(
            (f"{kind}/{i}", m)
            for kind, ms in (("shaping", self.shaping), ("advantage", self.credit))
            for i, m in enumerate(ms)
        )

    def init(self) -> State:
        """State of the methods that have memory, by their place in the chain."""
        return {
            # numbers become arrays too, as a checkpoint gives them back
            name: jax.tree.map(jnp.array, m.init(**m.settings_of(m.init)))
            for name, m in self.methods
            if m.init is not None
        }

    def numbers(self, step: int) -> dict[str, dict[str, float]]:
        return {name: m.numbers_at(step) for name, m in self.methods}

    def __call__(
        self,
        table: Table,
        state: State,
        numbers: dict[str, tp.Any],
        key: jax.Array,
        step: jax.Array,
    ) -> tuple[Table, State]:
        """The table with rewards, masks and advantages [P,G,T] float32.

        Columns `metrics/<name>` that methods wrote are scalars for the log.  A state that would
        hold a NaN, which a checkpoint would keep, stays as it was; metrics/chain/nan_states counts.
        """
        state, spoilt = dict(state), []
        by_block, slot, written = table, None, {"advantages"}
        if self.group_blocks > 1:
            groups = -(-len(table["group"]) // self.group_blocks)
            table, slot = columns_lib.gather_groups(
                table, groups, self.group_blocks, self.of_blocks
            )
            # XLA does not cut a scatter whose index is data: all devices would compute all behind
            table = sharding.cut_blocks(table)
        for i, (name, method) in enumerate(self.methods):
            given: dict[str, tp.Any] = {"key": jax.random.fold_in(key, i), "step": step}
            if method.init is not None:
                given["state"] = state[name]
            out = method(table, numbers[name], **given)
            begun = step >= method.since
            if method.init is not None:
                out, new_state = _of_transform(method, out, state[name])
                nan = _any_nan(new_state) & begun
                spoilt.append(nan)
                state[name] = _when(begun & ~nan, new_state, state[name])
            if not isinstance(out, dict) and not hasattr(out, "shape"):
                raise ConfigError(
                    f"{method.name} returned {type(out).__name__}, expected an array, or a dict of "
                    "columns"
                )
            if method.writes and isinstance(out, dict):
                raise ConfigError(
                    f"{method.name}: got writes={method.writes!r}, but it writes "
                    f"{', '.join(map(repr, sorted(out)))} by name; leave writes= out"
                )
            credit = name.startswith("advantage/")
            new = (
                out
                if isinstance(out, dict)
                else {method.writes or ("advantages" if credit else "rewards"): out}
            )
            new = _fit(method.name, new, table)
            if method.since:
                new = {k: _when(begun, v, table[k]) if k in table else v for k, v in new.items()}
            table = {**table, **new}
            written |= set(new)
        if "advantages" not in table:
            raise ConfigError(
                "config.advantage: no method wrote 'advantages'; add e.g. dict(fn='group.grpo')"
            )
        if spoilt:
            table["metrics/chain/nan_states"] = jnp.sum(jnp.stack(spoilt))
            written.add("metrics/chain/nan_states")
        live = table["loss_mask"] & table["row_mask"][..., None]
        table["advantages"] = jnp.where(live, table["advantages"], 0.0).astype(jnp.float32)
        if slot is not None:
            scalars = {k: table[k] for k in written if k.startswith("metrics/")}
            # sorted: every process compiles the same program
            rows = {k: table[k] for k in sorted(written - set(scalars))}
            back = columns_lib.scatter_groups(rows, slot, self.group_blocks)
            table = {**by_block, **scalars, **back}
        return table, state


def _when(begun: jax.Array, new: tp.Any, old: tp.Any) -> tp.Any:
    """The new tree once it has begun, the old one before."""
    return jax.tree.map(lambda a, b: jnp.where(begun, a, b), new, old)


def _of_transform(method: Bound, out: tp.Any, old: tp.Any) -> tuple[tp.Any, tp.Any]:
    """(columns, state) of a method with memory.

    Raises: ConfigError for anything else, or a state of other names, shapes or types than `init`'s,
      with which a checkpoint could not be resumed.
    """
    if not (isinstance(out, tuple) and len(out) == 2):
        raise ConfigError(
            f"{method.name} is a Transform, whose update returns (columns, state); it returned "
            + (f"{len(out)} values" if isinstance(out, tuple) else "one value")
        )
    columns, new = out
    (was, now) = (jax.tree_util.tree_flatten_with_path(x) for x in (old, new))
    if str(was[1]) != str(now[1]):
        raise ConfigError(f"{method.name}: its update returned the state {now[1]}, init {was[1]}")
    for (path, a), (_, b) in zip(was[0], now[0], strict=True):
        got, want = ((jnp.shape(x), jnp.result_type(x)) for x in (b, a))
        if got != want:
            raise ConfigError(
                f"{method.name}: its update returned the state{jax.tree_util.keystr(path)} as "
                f"{got[1]}{list(got[0])}, init as {want[1]}{list(want[0])}"
            )
    return columns, jax.tree.map(jnp.asarray, new)


def _any_nan(tree: tp.Any) -> jax.Array:
    found = [
        jnp.isnan(x).any() for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)
    ]
    return jnp.stack(found).any() if found else jnp.bool_(False)


def _fit(name: str, new: Table, table: Table) -> Table:
    """Checks shapes and types; advantages of [P,G] are spread over the tokens."""
    shape = table["completion_tokens"].shape
    out = {}
    for key, value in new.items():
        if key.startswith("metrics/"):
            if jnp.ndim(value):
                raise ConfigError(
                    f"{name} wrote {key!r} with shape {tuple(value.shape)}, expected a scalar"
                )
            if key.split("/")[1] in _OF_THE_LOG:
                raise ConfigError(
                    f"{name} wrote {key!r}, but {key.split('/')[1]}/* is what the log itself "
                    "measures; call it something else"
                )
            out[key] = value
            continue
        if jnp.ndim(value) == 0:
            raise ConfigError(
                f"{name} wrote the scalar {key!r}, expected a column, or metrics/{key} for the log"
            )
        if key == "advantages" and value.shape == shape[:2]:
            value = jnp.broadcast_to(value[..., None], shape)
        axes, kind, _ = columns_lib.LEGEND.get(key, ("", "", ""))
        want = {"PG": shape[:2], "PGT": shape, "P": shape[:1]}.get(axes)
        either = "[P,G] or " if key == "advantages" else ""
        if want is not None and tuple(value.shape) != tuple(want):
            raise ConfigError(
                f"{name} wrote {key!r} with shape {tuple(value.shape)}, expected {either}"
                f"[{','.join(axes)}] = {tuple(want)}"
            )
        if kind in ("b", "i") and np.dtype(value.dtype).kind not in columns_lib.KINDS[kind]:
            want_type = "bool" if kind == "b" else "int32"
            raise ConfigError(f"{name} wrote {key!r} as {value.dtype}, expected {want_type}")
        out[key] = value.astype(jnp.float32) if kind == "f" else value
    return out


def build(config: tp.Any, group_blocks: int = 1, of_blocks: frozenset[str] = frozenset()) -> Chain:
    """The chain of config.verifiers, config.shaping and config.advantage; see `Chain`."""
    # NaN adds nothing: a verifier that does not judge this prompt leaves NaN and the row
    # stays; where a verdict is missing the rollout has set row_mask to False.
    weights = {v["name"]: float(v.get("weight", 1.0)) for v in config.verifiers}
    prelude = config_lib.resolve("rewards", "combine.weighted_sum", weights=weights, missing=0.0)
    shaping = (prelude, *(config_lib.entry("rewards", s) for s in config.shaping))
    return Chain(
        shaping, tuple(config_lib.entry("advantages", a) for a in config.advantage), group_blocks,
        of_blocks,
    )  # fmt: skip
