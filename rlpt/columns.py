"""The batch is a table of columns: a dict from name to array.

Letters, used in every docstring: P blocks, G completions in a block, L prompt
width (left-padded), T completion width (right-padded), V vocabulary, D model
width.  A block is one context and G completions of it.  This file holds the
legend of the columns, `check` for tests and `--debug`, and the two moves that
let a group span several blocks.
"""

from __future__ import annotations

import typing as tp

import numpy as np

Table = dict[str, tp.Any]

# name -> (axes, dtype kind, what it is). Methods may add columns without listing them.
LEGEND: dict[str, tuple[str, str, str]] = {
    "prompt_tokens": ("PL", "i", "the context that the loss conditions on, left-padded"),
    "prompt_mask": ("PL", "b", "True: a real prompt token"),
    "completion_tokens": ("PGT", "i", "right-padded; EOS, tool output, injected text too"),
    "completion_mask": ("PGT", "b", "True: a real token; contiguous from the left"),
    "loss_mask": ("PGT", "b", "subset of completion_mask: sampled by the policy, trained on"),
    "sampler_logp": ("PGT", "f", "log-prob under the law the token was drawn from"),
    "temperature": ("PG", "f", "sampling temperature, > 0"),
    "truncated": ("PG", "b", "True: stopped by the length limit, not by a stop token"),
    "origin": (
        "PG",
        "i",
        "0 current weights and context; 1 other context; 2 older weights; 3 external",
    ),
    "row_mask": ("PG", "b", "False: empty slot or no reward; out of statistics and loss"),
    "train_mask": ("PG", "b", "False: in the statistics, out of loss and denominator"),
    "group": ("P", "i", "group index of the block within the batch; -1: empty block"),
    "prompt_id": ("P", "i", "identity of the prompt"),
    "row_id": ("PG", "i", "identity of the row within the step; joins with the text"),
    "answer_id": ("PG", "i", "canonical final answer within the group; -1: none"),
    "rewards": ("PG", "f", "what the estimator sees"),
    "step_rewards": ("PGT", "f", "dense rewards, where a method has them"),
    "step_id": ("PGT", "i", "index of the step a token belongs to; -1: none"),
    "old_logp": ("PGT", "f", "log softmax(logits/temperature) at the start of the update"),
    "ref_logp": ("PGT", "f", "the same under the frozen reference"),
    "advantages": ("PGT", "f", "per token"),
}  # plus verdict/<verifier> [P,G] f32, NaN = no verdict

KINDS = {"i": "iu", "b": "b", "f": "f"}


def sizes(table: Table) -> dict[str, int]:
    """{'P','G','L','T'} of a table that has prompt and completion tokens."""
    p, g, t = table["completion_tokens"].shape
    return {"P": p, "G": g, "L": table["prompt_tokens"].shape[1], "T": t}


def under(table: Table, prefix: str) -> Table:
    """The columns `prefix/<name>`, keyed by <name>."""
    return {k[len(prefix) + 1 :]: v for k, v in table.items() if k.startswith(prefix + "/")}


def check(
    table: Table, values: bool = True, own: tp.Mapping[str, tuple[str, str]] | None = None
) -> None:
    """Raises ValueError for a column of the wrong shape, type or content.

    Args:
      table: columns as numpy or jax arrays.
      values: also look at the numbers (finite rewards and log-probs), not at masks alone.
      own: name -> (axes, kind) of columns that have to be there beside those of the legend; letters
        that the table has not (other than P, G, L, T) are any size.
    """
    size = sizes(table)

    def fail(name: str, got: str, want: str) -> tp.NoReturn:
        raise ValueError(f"column {name!r}: got {got}, expected {want}")

    for name in (own or {}).keys() - table.keys():
        fail(name, "none", "it as the rollout's columns declare it")
    declared = {k: (axes, kind, "") for k, (axes, kind) in (own or {}).items()}
    for name, column in table.items():
        axes, kind, _ = (declared | LEGEND).get(
            name, ("PG", "f", "") if name.startswith("verdict/") else ("", "", "")
        )
        if not axes:
            continue
        fits = len(axes) == column.ndim
        want = tuple(size.get(a, n) for a, n in zip(axes, column.shape, strict=False))
        if not fits or tuple(column.shape) != want:
            fail(name, f"shape {tuple(column.shape)}", f"[{','.join(axes)}]" + f" = {want}" * fits)
        if np.dtype(column.dtype).kind not in KINDS[kind]:
            fail(name, f"dtype {column.dtype}", {"i": "int32", "b": "bool", "f": "float32"}[kind])
    mask: tp.Any = np.asarray(table["completion_mask"])
    if (mask[..., 1:] & ~mask[..., :-1]).any():
        fail("completion_mask", "a gap", "contiguous True from the left")
    pmask: tp.Any = np.asarray(table["prompt_mask"])
    if (pmask[..., :-1] & ~pmask[..., 1:]).any():
        fail("prompt_mask", "right padding or a gap", "left padding only")
    if "loss_mask" in table and (np.asarray(table["loss_mask"]) & ~mask).any():
        fail("loss_mask", "True where completion_mask is False", "a subset of completion_mask")
    rows: tp.Any = np.asarray(table.get("row_mask", np.ones(mask.shape[:2], bool)))
    if (rows & ~pmask.any(-1)[:, None]).any():
        fail("row_mask", "True in a block with an empty prompt", "False there")
    if not values:
        return
    for name in ("rewards", "temperature"):
        if name in table and not np.isfinite(np.asarray(table[name])[rows]).all():
            fail(name, "NaN or inf in a live row", "finite numbers (mask the row instead)")
    for name in ("sampler_logp", "old_logp", "ref_logp", "advantages"):
        if name in table:
            live = np.asarray(table.get("loss_mask", mask)) & rows[..., None]
            if not np.isfinite(np.asarray(table[name])[live]).all():
                fail(name, "NaN or inf at a trained token", "finite numbers")


def gather_groups(
    table: Table, num_groups: int, blocks: int, of_blocks: tp.Collection[str] = ()
) -> tuple[Table, tp.Any]:
    """Lays all rows of a group side by side, so that a group statistic is axis=1.

    Args:
      table: must have `group` [P] and `row_mask` [P,G].
      num_groups, blocks: static; blocks of groups >= num_groups, and those of a group
        behind its first `blocks`, are left out like empty ones (group -1).
      of_blocks: columns [P,…] whose second axis is not G, even where it is as long.
    Returns: the gathered table and slot [P] int32, where each block went.  Row columns
      [P,G,...] become [num_groups, blocks*G, ...], with row_mask False where a group has
      fewer blocks; block columns ([P], prompt_*) are those of the group's first block.  One more:
      context_id [num_groups, blocks*G] int32, the same for rows under the same prompt: 0 for that
      of the first block, another number for another one, such as one with a hint.
    """
    import jax.numpy as jnp

    group = table["group"]
    p, g = table["row_mask"].shape
    earlier = jnp.tril(group[:, None] == group[None, :], k=-1)
    rank = jnp.sum(earlier, axis=1)  # blocks of the same group before this one
    fits = (group >= 0) & (group < num_groups) & (rank < blocks)
    slot = jnp.where(fits, group * blocks + rank, num_groups * blocks)  # the last: nowhere
    out: Table = {}
    alike = jnp.ones((num_groups, blocks, blocks), bool)  # blocks under the same prompt
    for name, column in table.items():
        tail = column.shape[1:]
        placed = jnp.zeros((num_groups * blocks + 1, *tail), column.dtype).at[slot].set(column)
        placed = placed[:-1].reshape(num_groups, blocks, *tail)
        if name in ("prompt_tokens", "prompt_mask"):
            alike &= jnp.all(placed[:, :, None] == placed[:, None], axis=3)
        rows = tail[:1] == (g,) and not name.startswith("prompt_") and name not in of_blocks
        out[name] = placed.reshape(num_groups, blocks * g, *tail[1:]) if rows else placed[:, 0]
    if "prompt_tokens" in table:
        context = jnp.argmax(alike, axis=2).astype(jnp.int32)  # the first such block
        out["context_id"] = jnp.repeat(context, g, axis=1)
    return out, slot


def scatter_groups(columns: Table, slot: tp.Any, blocks: int) -> Table:
    """Undoes `gather_groups` for row columns: [num_groups, blocks*G, ...] to [P,G,...].

    Args: slot [P] int32, of `gather_groups`; blocks that were left out get zeros.
    """
    import jax.numpy as jnp

    out: Table = {}
    for name, column in columns.items():
        groups, rows, *tail = column.shape
        flat = column.reshape(groups * blocks, rows // blocks, *tail)
        out[name] = jnp.concatenate([flat, jnp.zeros_like(flat[:1])])[slot]
    return out


class Transform(tp.NamedTuple):
    """A column transform with memory, as in optax.

    init: () -> state pytree of arrays (must be checkpointable).
    update: (columns..., state, *, numbers...) -> (columns, state); its positional
      parameters ask for columns by name as any method's do.
    """

    init: tp.Callable[..., tp.Any]
    update: tp.Callable[..., tp.Any]
