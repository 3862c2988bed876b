"""Credit from the tree of shared prefixes that the completions of a prompt form.

A node is a prefix, its value the mean reward of the completions below it; a
token is credited with the change of value that it makes, which is nonzero only
where completions part.  The end of a row is a symbol of its own: a completion
that is a prefix of another parts from it there, stripped stop strings and
truncated rows included.  Explicit trees (branching rollouts, search, agent
steps) come as a table of nodes.
"""

from __future__ import annotations

import math

import chex
import jax
import jax.numpy as jnp

from rlpt import masks
from rlpt.advantages import _stats

_COMPARISONS = 2**24  # token pairs compared at a time: bounds memory, not the result
_END = -1  # no token has this id


def _common_prefixes(tokens: jax.Array, lengths: jax.Array) -> jax.Array:
    """Symbols that two completions share from the start, the end symbol included.

    Compares chunks of tokens and stops once every pair has parted or ended, so that the cost is
    that of the longest common prefix; memory is O(G^2 + G T) a prompt.

    Args:
      tokens: [P,G,T] int32, _END behind the last token of a row.  lengths: [P,G] int32.

    Returns: [P,G,G] int32; length + 1 for identical rows.
    """
    p, g, t = tokens.shape
    chunk = min(t, max(1, _COMPARISONS // (p * g * g)))
    chunks = math.ceil(t / chunk)
    padding = ((0, 0), (0, 0), (0, chunks * chunk - t))
    padded = jnp.pad(tokens, padding, constant_values=_END)
    offsets = jnp.arange(chunk)
    diagonal = jnp.eye(g, dtype=bool)

    def unfinished(carry: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        i, _, same = carry
        open_pairs = same & ~diagonal & (i * chunk <= lengths[:, :, None])
        return (i < chunks) & jnp.any(open_pairs)

    def advance(
        carry: tuple[jax.Array, jax.Array, jax.Array],
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        i, shared, same = carry
        part = jax.lax.dynamic_slice_in_dim(padded, i * chunk, chunk, axis=2)
        differ = part[:, :, None, :] != part[:, None, :, :]
        first = jnp.min(jnp.where(differ, offsets, chunk), axis=-1)
        return i + 1, shared + jnp.where(same, first, 0), same & (first == chunk)

    start = (jnp.int32(0), jnp.zeros((p, g, g), jnp.int32), jnp.ones((p, g, g), bool))
    _, shared, same = jax.lax.while_loop(unfinished, advance, start)
    return jnp.where(same | diagonal, lengths[:, :, None] + 1, shared)


def _below(
    completion_tokens: jax.Array,
    completion_mask: jax.Array,
    rows: jax.Array,
    value: jax.Array,
    context_id: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """How many live rows lie below each prefix of each row, and the sum of their values.

    Args:
      completion_tokens, completion_mask: [P,G,T].  rows: [P,G] bool.
      value: [P,G] float32, 0 outside rows.
      context_id: [P,G] int32; rows under different prompts share nothing: a tree each.

    Returns: count [P,G,T+2] int32 and total [P,G,T+2] float32 at depth 0 (the root) to T, and at
      depth length + 1 (the end symbol).
    """
    p, g, t = completion_tokens.shape
    tokens = jnp.where(completion_mask, completion_tokens, _END)
    lengths = jnp.sum(completion_mask, axis=-1)
    depth = _common_prefixes(tokens, lengths)
    alike = jnp.ones((p, g, g), bool)
    if context_id is not None:
        alike = context_id[:, :, None] == context_id[:, None, :]
    block = jnp.arange(p)[:, None, None]
    row = jnp.arange(g)[None, :, None]

    def histogram(x: jax.Array) -> jax.Array:
        """Sum of x over the rows that share at least d symbols, for every depth d."""
        cells = jnp.zeros((p, g, t + 2), x.dtype)
        cells = cells.at[block, row, depth].add(jnp.where(alike, x[:, None, :], 0))
        return jax.lax.cumsum(cells, axis=2, reverse=True)

    return histogram(rows.astype(jnp.int32)), histogram(value)


def tempo(
    rewards: jax.Array,
    completion_tokens: jax.Array,
    completion_mask: jax.Array,
    loss_mask: jax.Array,
    row_mask: jax.Array | None = None,
    context_id: jax.Array | None = None,
    *,
    td_coef: float = 1.0,
    scale: str = "std",
    ddof: int = 0,
    eps: float = 1e-6,
    allow_singleton: bool = False,
) -> jax.Array:
    """TEMPO: the group's advantage plus the change of prefix value at each token.

    V(s) = mean reward of the live rows that start with s, and

        A_it = [r_i - mean(r) + td_coef (V(s_{t+1}) - V(s_t))] / (std(r) + eps).

    The change of value at the end symbol (where a completion is a prefix of another) goes to the
    row's last token.  Identical rows share a leaf and count as often as they occur.  Tokens outside
    loss_mask (tool output) are part of a prefix and get 0; a change of value there is not the
    policy's credit and is dropped.  td_coef = 0 is GRPO with the same ddof and eps.

    Args:
      rewards: [P,G] float32.
      completion_tokens: [P,G,T] int32, ids >= 0.
      completion_mask: [P,G,T] bool, contiguous from the left.
      loss_mask: [P,G,T] bool, a subset of completion_mask.
      row_mask: [P,G] bool; False: not in the tree.
      context_id: [P,G] int32, where a group has rows under several prompts (`gather_groups`): those
        of each are a tree of their own, whose root has their mean reward; mean(r) and std(r) are
        of the whole group.
      td_coef: weight of the change of value; the paper has 1.
      scale: 'std', or 'none': no division.
      ddof: of the std.  eps: added to it.
      allow_singleton: accept G=1, where A = r.

    Returns: [P,G,T] float32; 0 outside loss_mask and row_mask, and in a group of equal rewards.

    Raises: ValueError for an unknown scale, or G=1 without allow_singleton.

    Reference: Tran, Yao, Yu, "TEMPO", arXiv:2509.18314.  The division of the value change by the
    std follows reviews and third-party code; ddof, eps and the end symbol are choices made here.
    """
    chex.assert_rank(rewards, 2)
    chex.assert_equal_shape([completion_tokens, completion_mask, loss_mask])
    if scale not in ("std", "none"):
        raise ValueError(f"tempo scale: got {scale!r}, expected 'std' or 'none'")
    _stats.require_group(rewards, allow_singleton)
    rows = masks.live(rewards, row_mask)
    trained = loss_mask & rows[..., None]
    if rewards.shape[1] == 1:
        return jnp.where(trained, rewards[..., None], 0.0)

    centred, group_size = _stats.centre(rewards, rows)
    count, total = _below(completion_tokens, completion_mask, rows, centred, context_id)
    value = total / jnp.maximum(count, 1)
    parted = (count[..., 1:] < count[..., :-1]) & (count[..., 1:] > 0)
    change = jnp.where(parted, value[..., 1:] - value[..., :-1], 0.0)  # of symbol t, [P,G,T+1]
    at_end = jnp.sum(completion_mask, axis=-1, keepdims=True)  # where the end symbol stands
    end_change = jnp.take_along_axis(change, at_end, axis=-1)
    last = jnp.arange(completion_tokens.shape[-1]) == at_end - 1
    change = change[..., :-1] + jnp.where(last, end_change, 0.0)

    advantage = centred[..., None] + td_coef * change
    if scale == "std":
        advantage = advantage / (_stats.std(centred, group_size, ddof) + eps)[..., None]
    return jnp.where(trained, advantage, 0.0)


def tree_metrics(
    completion_tokens: jax.Array,
    completion_mask: jax.Array,
    row_mask: jax.Array | None = None,
    context_id: jax.Array | None = None,
) -> dict[str, jax.Array]:
    """How much of a tree the completions form.

    Args:
      completion_tokens, completion_mask: [P,G,T].  row_mask: [P,G] bool.  context_id: as `tempo`.

    Returns: scalars metrics/tree/<name> over the live rows.
      branch_fraction: share of tokens at which other completions part from the row.
      depth: mean over rows of the longest prefix shared with another row of the group, in tokens.
      nodes: mean over prompts with a live row of the number of distinct non-empty prefixes.
      duplicates: share of rows that equal another row of their group.
    """
    rows = masks.live(completion_mask[..., 0], row_mask)
    mask = completion_mask & rows[..., None]
    count, _ = _below(completion_tokens, completion_mask, rows, jnp.zeros(rows.shape), context_id)
    at_token, before = count[..., 1:-1], count[..., :-2]
    tokens, live_rows = jnp.sum(mask), jnp.maximum(jnp.sum(rows), 1)
    length = jnp.sum(completion_mask, axis=-1, keepdims=True)
    leaf = jnp.take_along_axis(count, length + 1, axis=-1)[..., 0]
    prefixes = jnp.sum(jnp.where(mask, 1.0 / jnp.maximum(at_token, 1), 0.0))
    return {
        "metrics/tree/branch_fraction": jnp.sum(mask & (at_token < before))
        / jnp.maximum(tokens, 1),
        "metrics/tree/depth": jnp.sum(mask & (at_token > 1)) / live_rows,
        "metrics/tree/nodes": prefixes / jnp.maximum(jnp.sum(jnp.any(rows, axis=1)), 1),
        "metrics/tree/duplicates": jnp.sum(rows & (leaf > 1)) / live_rows,
    }


def _tree_sums(parent: jax.Array, leaf_reward: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Number of leaves at or below each node and the sum of their rewards, [N] each."""
    nodes = parent.shape[0]
    leaf = ~jnp.isnan(leaf_reward)
    first = jnp.stack([leaf.astype(jnp.float32), jnp.where(leaf, leaf_reward, 0.0)])
    target = jnp.where(parent < 0, nodes, parent)

    def climb(
        carry: tuple[jax.Array, jax.Array, jax.Array],
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        level, sums, moving = carry
        moving = jnp.zeros((2, nodes + 1)).at[:, target].add(moving)[:, :nodes]
        return level + 1, sums + moving, moving

    def climbing(carry: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        return (carry[0] < nodes) & jnp.any(carry[2][0] > 0)

    _, (count, total), _ = jax.lax.while_loop(climbing, climb, (jnp.int32(0), first, first))
    return count, total


def _differences(
    parent: jax.Array, count: jax.Array, total: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    top = parent < 0
    leaves = jnp.maximum(jnp.sum(jnp.where(top, count, 0.0)), 1.0)
    root = jnp.sum(jnp.where(top, total, 0.0)) / leaves
    known = count > 0
    value = jnp.where(known, total / jnp.maximum(count, 1.0), 0.0)
    above = jnp.where(top, root, value[jnp.maximum(parent, 0)])
    return value, jnp.where(known, value - root, 0.0), jnp.where(known, value - above, 0.0)


def tree_advantages(
    parent: jax.Array, leaf_reward: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Values and differences of value on an explicit tree or forest.

    Args:
      parent: [N] int32, index of the parent in any order; -1: a root.  The root of a forest is
        virtual: its value is the mean over all leaves.
      leaf_reward: [N] float32, NaN at inner nodes and unused entries.

    Returns: V, GA = V - V(root), LA = V - V(parent), each [N] float32; 0 at a node without leaves.
    """
    chex.assert_equal_shape([parent, leaf_reward])
    return _differences(parent, *_tree_sums(parent, leaf_reward))


def treerl_step_reward(parent: jax.Array, leaf_reward: jax.Array) -> jax.Array:
    """TreeRL's reward of a step: R = (GA + LA) / sqrt(leaves below).

    Args, shapes: as `tree_advantages`.

    Returns: [N] float32.

    Reference: Hou et al., "TreeRL", arXiv:2506.11902.  Differs from the authors' code in: leaf
    rewards are not centred first and values are not divided before differences are taken.
    """
    chex.assert_equal_shape([parent, leaf_reward])
    count, total = _tree_sums(parent, leaf_reward)
    _, global_advantage, local_advantage = _differences(parent, count, total)
    return (global_advantage + local_advantage) / jnp.sqrt(jnp.maximum(count, 1.0))


def _to_tokens(step_value: jax.Array, node_id: jax.Array, trained: jax.Array) -> jax.Array:
    """step_value [P,N] of the node that each token belongs to, 0 where there is none."""
    flat = node_id.reshape(node_id.shape[0], -1)
    value = jnp.take_along_axis(step_value, jnp.maximum(flat, 0), axis=1).reshape(node_id.shape)
    return jnp.where(trained & (node_id >= 0), value, 0.0)


def treerl(
    node_parent: jax.Array,
    node_reward: jax.Array,
    node_id: jax.Array,
    loss_mask: jax.Array,
    row_mask: jax.Array | None = None,
) -> jax.Array:
    """`treerl_step_reward` on every token of a step.

    Args:
      node_parent: [P,N] int32, -1: a root.  node_reward: [P,N] float32, NaN: not a leaf.
      node_id: [P,G,T] int32, the node that a token belongs to; -1: none.
      loss_mask: [P,G,T] bool.  row_mask: [P,G] bool.

    Returns: [P,G,T] float32; no std.

    Reference: as `treerl_step_reward`.
    """
    chex.assert_equal_shape([node_id, loss_mask])
    trained = masks.trained(loss_mask, row_mask)
    return _to_tokens(jax.vmap(treerl_step_reward)(node_parent, node_reward), node_id, trained)


def treeps(
    node_parent: jax.Array,
    node_reward: jax.Array,
    node_id: jax.Array,
    loss_mask: jax.Array,
    row_mask: jax.Array | None = None,
    *,
    ddof: int = 0,
    eps: float = 1e-6,
) -> jax.Array:
    """TreePS: GA + LA of each agent step, standardised over the steps of the prompt's tree.

    Args: as `treerl`; put observations (tool output) outside loss_mask.  ddof, eps: of the std.

    Returns: [P,G,T] float32.

    Reference: "TreePS-RAG", arXiv:2601.06922.  The paper's exact combination and normalisation
    were not confirmed; this one is TreeRL's numerator, standardised.
    """
    chex.assert_equal_shape([node_id, loss_mask])
    trained = masks.trained(loss_mask, row_mask)
    count, total = jax.vmap(_tree_sums)(node_parent, node_reward)
    _, global_advantage, local_advantage = jax.vmap(_differences)(node_parent, count, total)
    centred, size = _stats.centre(global_advantage + local_advantage, count > 0)
    return _to_tokens(centred / (_stats.std(centred, size, ddof) + eps), node_id, trained)
