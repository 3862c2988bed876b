"""Tree credit: TEMPO against a tree of pointers, mutants, memory, explicit trees."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt.advantages import tree
from tests.numeric import both, close

# --- the reference: one node object per prefix ---------------------------------------------------


class Node:
    def __init__(self):
        self.children, self.rewards = {}, []

    def value(self):
        return np.mean(self.rewards)


def reference(
    rewards, tokens, completion, loss, rows, *, td_coef=1.0, scale="std", ddof=0, eps=1e-6,
    end_symbol=True, ignore_rows=False, merge_duplicates=False, skip_tools=False,
    credit_tools=False,
):  # fmt: skip
    """TEMPO for one group by walking a tree; the last line of flags plants mistakes."""
    g, t = tokens.shape
    live = [i for i in range(g) if rows[i] or ignore_rows]
    root, paths, seen = Node(), {}, set()
    for i in live:
        used = completion[i] & (loss[i] if skip_tools else True)
        symbols = [*tokens[i][used].tolist(), *(["end"] if end_symbol else [])]
        if merge_duplicates and tuple(symbols) in seen:
            continue
        seen.add(tuple(symbols))
        node = root
        node.rewards.append(rewards[i])
        for s in symbols:
            node = node.children.setdefault(s, Node())
            node.rewards.append(rewards[i])
    for i in live:
        node = paths[i] = [root]
        for s in [*tokens[i][completion[i]].tolist(), *(["end"] if end_symbol else [])]:
            node.append(node[-1].children.get(s, node[-1]) if skip_tools else node[-1].children[s])
    out = np.zeros((g, t))
    r = np.array([rewards[i] for i in live])
    if len(live) <= ddof or np.ptp(r) == 0:
        return out
    std = r.std(ddof=ddof) + eps if scale == "std" else 1.0
    for i in live:
        if not rows[i]:
            continue
        values = [n.value() for n in paths[i]]
        change = np.diff(values)
        length = completion[i].sum()
        if end_symbol and length:
            change[length - 1] += change[length]
        for k in range(length):
            if loss[i, k] or credit_tools:
                out[i, k] = (rewards[i] - r.mean() + td_coef * change[k]) / std
    return out


@functools.cache
def tempo(**settings):
    """tree.tempo under jit, one compilation for each settings and shapes."""
    return jax.jit(functools.partial(tree.tempo, **settings))


def test_rows_under_several_prompts_are_a_tree_each():
    """The root is the prompt: what another prompt is worth is no token's doing."""
    tokens = jnp.asarray([[[5, 6], [5, 7], [5, 6], [5, 7]]])
    mask, contexts = jnp.ones((1, 4, 2), bool), jnp.asarray([[0, 0, 1, 1]])
    settled = jnp.asarray([[0.0, 0, 1, 1]])
    got = both(tree.tempo, settled, tokens, mask, mask, None, contexts)
    close(got, [[[-1, -1], [-1, -1], [1, 1], [1, 1]]], 1e-5, "what GRPO gives")
    open_ = jnp.asarray([[0.0, 1, 1, 1]])
    got = both(tree.tempo, open_, tokens, mask, mask, None, contexts, scale="none")
    close(got, [[[-0.75, -1.25], [0.25, 0.75], [0.25, 0.25], [0.25, 0.25]]], 1e-6)
    shares = both(tree.tree_metrics, tokens, mask, None, contexts)["metrics/tree/branch_fraction"]
    close(shares, 0.5)


# --- metrics ------------------------------------------------------------------------------------

TOKENS = jnp.asarray([[[1, 2, 3, 9], [1, 2, 4, 9], [1, 5, 9, 0], [1, 2, 3, 9]]])
MASK = jnp.asarray([[[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]]], bool)
REWARDS = jnp.asarray([[1.0, 0, 0, 1]])


def test_metrics_numbers():
    def measured(*masks):
        out = both(tree.tree_metrics, TOKENS, *masks)
        return {k.removeprefix("metrics/tree/"): v for k, v in out.items()}

    got = measured(MASK)
    close(got["branch_fraction"], 7 / 15), close(got["depth"], (4 + 2 + 1 + 4) / 4)
    close(got["nodes"], 8), close(got["duplicates"], 0.5)
    one_out = measured(MASK, jnp.asarray([[1, 1, 1, 0]], bool))
    close(one_out["nodes"], 8), close(one_out["duplicates"], 0)
    close(one_out["depth"], (2 + 2 + 1) / 3)
    empty = tree.tree_metrics(TOKENS, MASK, jnp.zeros((1, 4), bool))
    assert all(float(v) == 0 for v in empty.values()), empty


# --- against the reference ----------------------------------------------------------------------

G, T = 5, 6
SETTINGS = {
    "paper": {},
    "sample std, half credit": {"td_coef": 0.5, "ddof": 1},
    "unscaled": {"td_coef": 2.0, "scale": "none", "eps": 1e-3},
}


@st.composite
def groups(draw):
    """One group: few symbols, so that prefixes, ties and duplicates are common."""
    tokens = draw(st.lists(st.lists(st.integers(0, 2), min_size=T, max_size=T),
                           min_size=G, max_size=G))  # fmt: skip
    lengths = draw(st.lists(st.integers(0, T), min_size=G, max_size=G))
    tools = draw(st.lists(st.lists(st.integers(0, 3), min_size=T, max_size=T),
                          min_size=G, max_size=G))  # fmt: skip
    rewards = draw(st.lists(st.sampled_from([0.0, 1.0, 1.0, 0.5, -0.3]), min_size=G, max_size=G))
    rows = draw(st.lists(st.integers(0, 4), min_size=G, max_size=G))
    tokens = np.array(tokens)
    for copy in range(G):  # an exact duplicate of another row now and then
        source = draw(st.integers(0, 3 * G))
        if source < G:
            tokens[copy], lengths[copy] = tokens[source], lengths[source]
    completion = np.arange(T) < np.array(lengths)[:, None]
    return (
        np.array(rewards, np.float32),
        tokens.astype(np.int32),
        completion,
        completion & (np.array(tools) > 0),
        np.array(rows) > 0,
    )


def as_batch(case):
    return [jnp.asarray(x)[None] for x in case]


@pytest.mark.parametrize("name", sorted(SETTINGS))
@hypothesis.settings(max_examples=500, deadline=None, derandomize=True, database=None)
@hypothesis.given(case=groups())
def test_tempo_equals_the_tree(name, case):
    got = tempo(**SETTINGS[name])(*as_batch(case))[0]
    close(got, reference(*case, **SETTINGS[name]), atol=1e-5, what=f"{name}: {case}")


def test_rows_under_other_prompts_share_the_root_only():
    tokens = jnp.array([[[1, 2], [1, 2], [1, 2], [1, 3]]])
    mask = jnp.ones(tokens.shape, bool)
    rewards = jnp.array([[1.0, 0.0, 1.0, 0.0]])
    plain = dict(scale="none")
    together = tree.tempo(rewards, tokens, mask, mask, **plain)
    apart = tree.tempo(rewards, tokens, mask, mask, None, jnp.array([[0, 0, 1, 1]]), **plain)
    close(together[0, :, 0], [0.5, -0.5, 0.5, -0.5], what="all begin alike")
    close(together[0, 0, 1], 0.5 + 1 / 6, what="V goes from 1/2 to 2/3, three of four rows")
    close(apart[0, 2:, 1], [1.0, -1.0], what="alone with their prompt")
    one = tree.tempo(rewards, tokens, mask, mask, None, jnp.zeros((1, 4), jnp.int32), **plain)
    close(one, together)
    depth = lambda *c: float(tree.tree_metrics(tokens, mask, None, *c)["metrics/tree/depth"])
    assert depth() == 7 / 4 and depth(jnp.array([[0, 0, 1, 1]])) == 6 / 4


def random_groups(count, seed=0, g=G, t=T, symbols=2):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        completion = np.arange(t) < rng.integers(1, t + 1, (g, 1))
        tokens = rng.integers(0, symbols, (g, t)).astype(np.int32)
        if rng.random() < 0.5:
            tokens[1], completion[1] = tokens[0], completion[0]
        loss = completion & (rng.random((g, t)) < 0.8)
        rewards = rng.integers(0, 3, g).astype(np.float32) / 2
        yield rewards, tokens, completion, loss, rng.random(g) < 0.8


@pytest.mark.parametrize(
    "mistake",
    [{"end_symbol": False}, {"ddof": 1}, {"ignore_rows": True}, {"merge_duplicates": True},
     {"skip_tools": True}, {"credit_tools": True}, {"td_coef": 0.0}, {"eps": 0.1},
     {"scale": "none"}],
    ids=lambda m: next(iter(m)),
)  # fmt: skip
def test_planted_mistakes_are_caught(mistake):
    """The cases above are rich enough: a reference with one mistake disagrees on some."""
    wrong = 0
    for case in random_groups(40):
        got = np.asarray(tempo()(*as_batch(case))[0])
        close(got, reference(*case), atol=1e-5, what="the reference itself")
        wrong += not np.allclose(got, reference(*case, **mistake), atol=1e-4)
    assert wrong >= 3, f"{mistake} is seen in {wrong} of 40 groups only"


def test_long_groups_in_small_chunks(monkeypatch):
    """Many chunks, early exit, several prompts at once."""
    cases = list(random_groups(3, seed=1, g=12, t=40))
    cases += list(random_groups(3, seed=2, g=12, t=40, symbols=30))
    batch = [jnp.stack(x) for x in zip(*map(as_batch, cases), strict=True)]
    batch = [x[:, 0] for x in batch]
    want = np.stack([reference(*case) for case in cases])
    for budget in (2**24, 6 * 12 * 12 * 7, 1):
        monkeypatch.setattr(tree, "_COMPARISONS", budget)
        got = jax.jit(lambda *a: tree.tempo(*a))(*batch)
        close(got, want, atol=1e-5, what=f"{budget} comparisons at a time")


def test_memory_is_linear_in_length():
    """G=512, T=32k: far from the [G,G,T] comparisons, which would be 8.6 GB."""
    g, t = 512, 32768
    shapes = [((1, g), jnp.float32), ((1, g, t), jnp.int32), ((1, g, t), bool), ((1, g, t), bool)]
    args = [jax.ShapeDtypeStruct(s, d) for s, d in shapes]
    used = jax.jit(tree.tempo).lower(*args).compile().memory_analysis().temp_size_in_bytes
    assert used < 32 * (g * g + g * t), f"{used / 2**20:.0f} MiB"


# --- rules --------------------------------------------------------------------------------------


def test_a_prefix_of_another_row_is_credited():
    """AB and ABC: AB ends where ABC goes on, with or without an EOS token in the data."""
    tokens, rewards = jnp.asarray([[[1, 2, 0], [1, 2, 3]]]), jnp.asarray([[1.0, 0.0]])
    mask = jnp.asarray([[[1, 1, 0], [1, 1, 1]]], bool)
    got = tempo(scale="none")(rewards, tokens, mask, mask)
    close(got, [[[0.5, 1.0, 0], [-0.5, -0.5, -1.0]]], what="the end's change is on the last token")
    observed = mask.at[0, 0, 1].set(False)
    got = tempo(scale="none")(rewards, tokens, mask, observed)
    close(got[0, 0], [0.5, 0, 0], what="a change on a tool token is dropped")
    empty = tempo(scale="none")(rewards, tokens, mask.at[0, 0].set(False), mask)
    assert np.isfinite(np.asarray(empty)).all(), "an empty row parts from the others at the root"
    close(empty[0, 1], [-1, -0.5, -0.5])


def test_tool_output_tells_prefixes_apart():
    """The same words after different observations are different states."""
    tokens = jnp.asarray([[[1, 7, 2], [1, 8, 2]]])
    mask, loss = jnp.ones((1, 2, 3), bool), jnp.asarray([[[1, 0, 1]] * 2], bool)
    got = tempo(scale="none")(jnp.asarray([[1.0, 0.0]]), tokens, mask, loss)
    close(got, [[[0.5, 0, 0.5], [-0.5, 0, -0.5]]], what="no change of value at the shared words")


def test_value_changes_add_up():
    rng = np.random.default_rng(3)
    for _, tokens, completion, _, _ in random_groups(10, seed=3):
        rows = np.ones(G, bool)
        case = (rng.random(G).astype(np.float32), tokens, completion, completion, rows)
        change = tempo(scale="none")(*as_batch(case))[0]
        base = (case[0] - case[0].mean())[:, None] * completion
        change = np.asarray(change) - base
        keys = [tuple(tokens[i][completion[i]]) for i in range(G)]
        for i in range(G):
            leaf = np.mean([case[0][j] for j in range(G) if keys[j] == keys[i]])
            close(change[i].sum(), leaf - case[0].mean(), atol=1e-5, what="sum = V(leaf) - mean")
        full = np.ones((G, T), bool)
        equal = (case[0], tokens, full, full, rows)
        change = np.asarray(tempo(scale="none")(*as_batch(equal))[0])
        change = change - (case[0] - case[0].mean())[:, None]
        close(change.sum(0), np.zeros(T), atol=1e-5, what="per depth the changes cancel")
        for k in range(T):
            for prefix in {tuple(x[:k]) for x in tokens}:
                below = [i for i in range(G) if tuple(tokens[i][:k]) == prefix]
                close(change[below, k].sum(), 0.0, atol=1e-5, what="below a node they cancel")


def test_invariants():
    cases = list(random_groups(4, seed=5))
    batch = [jnp.concatenate(x) for x in zip(*map(as_batch, cases), strict=True)]
    rewards, tokens, completion, loss, rows = batch
    fn = tempo()
    base = np.asarray(fn(*batch))
    order = np.array([3, 0, 4, 2, 1])
    close(fn(*(x[:, order] for x in batch)), base[:, order], atol=1e-5, what="rows permute")
    prompts = np.array([2, 0, 3, 1])
    close(fn(*(x[prompts] for x in batch)), base[prompts], what="prompts do not meet")
    pad = ((0, 0), (0, 0), (0, 3))
    wide = fn(rewards, jnp.pad(tokens, pad, constant_values=1),
              jnp.pad(completion, pad), jnp.pad(loss, pad), rows)  # fmt: skip
    close(wide[..., :T], base, atol=1e-5, what="right padding")
    assert (wide[..., T:] == 0).all()
    slots = ((0, 0), (0, 2))
    more = fn(jnp.pad(rewards, slots, constant_values=jnp.nan), jnp.pad(tokens, (*slots, (0, 0))),
              jnp.pad(completion, (*slots, (0, 0))), jnp.pad(loss, (*slots, (0, 0))),
              jnp.pad(rows, slots))  # fmt: skip
    close(more[:, :G], base, atol=1e-5, what="empty slots")
    garbage = jnp.where(completion, tokens, 77)
    close(fn(rewards, garbage, *batch[2:]), base, what="tokens behind the mask")
    for value in (0.1, 1e6):
        constant = fn(jnp.full_like(rewards, value), *batch[1:])
        assert (np.asarray(constant) == 0).all(), "equal rewards: exactly 0"
    nothing = fn(rewards * jnp.nan, *batch[1:4], rows & False)
    assert (np.asarray(nothing) == 0).all(), "all rows dead: 0, not NaN"


def test_singletons_and_settings():
    one = (jnp.asarray([[0.7]]), TOKENS[:, :1], MASK[:, :1], MASK[:, :1])
    with pytest.raises(ValueError, match="G=1"):
        tree.tempo(*one)
    close(tempo(allow_singleton=True)(*one), np.full((1, 1, 4), 0.7))
    with pytest.raises(ValueError, match="expected 'std' or 'none'"):
        tree.tempo(REWARDS, TOKENS, MASK, MASK, scale="batch")


# --- explicit trees -----------------------------------------------------------------------------

NAN = np.nan
PARENT = [-1, 0, 0, 1, 1, 2, 2]  # root -> a, b; a -> a1, a2; b -> b1, b2
LEAVES = [NAN, NAN, NAN, 1, 0, 0, 0]


def test_tree_order_forest_and_unused_nodes():
    order = np.array([4, 2, 6, 0, 3, 5, 1])  # new position -> old node; parents may come later
    place = np.argsort(order)
    parent = np.array([-1 if PARENT[o] < 0 else place[PARENT[o]] for o in order])
    got = tree.treerl_step_reward(jnp.asarray(parent), jnp.asarray(np.array(LEAVES)[order]))
    want = np.asarray(tree.treerl_step_reward(jnp.asarray(PARENT), jnp.asarray(LEAVES)))
    close(got, want[order], what="any order of nodes")
    forest = np.array(PARENT[1:]) - 1  # a and b become roots of a forest
    v, ga, la = tree.tree_advantages(jnp.asarray(forest), jnp.asarray(LEAVES[1:]))
    close(ga, np.asarray(v) - 0.25, what="a virtual root over both trees")
    close(la[:2], ga[:2], what="at a root GA = LA")
    padded = tree.treerl_step_reward(
        jnp.asarray([*PARENT, -1, 0]), jnp.asarray([*LEAVES, NAN, NAN])
    )
    close(padded, [*want, 0, 0], what="nodes without leaves")
    chain = jnp.arange(-1, 30)
    v, _, _ = tree.tree_advantages(chain, jnp.full(31, NAN).at[30].set(2.0))
    close(v, np.full(31, 2.0), what="a deep chain")


def test_steps_to_tokens():
    parent, reward = jnp.asarray([PARENT, PARENT]), jnp.asarray([LEAVES, LEAVES])
    node = jnp.asarray([[[1, 1, 3, -1], [2, 2, 5, 5]]] * 2)
    loss = jnp.asarray([[[1, 1, 1, 1], [1, 0, 1, 1]]] * 2, bool)
    got = both(tree.treerl, parent, reward, node, loss, jnp.asarray([[1, 1], [1, 0]], bool))
    a, b = 0.353553, -0.353553
    close(got[0], [[a, a, 1.25, 0], [b, 0, -0.25, -0.25]])
    assert (got[1, 1] == 0).all(), "a dead row"
    steps = np.array([0, 0.5, -0.5, 1.25, -0.75, -0.25, -0.25])
    z = (steps - steps.mean()) / (steps.std() + 1e-6)
    got = both(tree.treeps, parent, reward, node, loss)
    close(got[0], [[z[1], z[1], z[3], 0], [z[2], 0, z[5], z[5]]], atol=1e-5)
    more = ((0, 0), (0, 3))
    padded = tree.treeps(
        jnp.pad(parent, more, constant_values=-1),
        jnp.pad(reward, more, constant_values=jnp.nan), node, loss,
    )  # fmt: skip
    close(padded, got, what="nodes that are not there are in no mean")
