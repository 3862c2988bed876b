"""The table's check, and groups that span blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt import chain as chain_lib
from rlpt import columns
from rlpt import config as config_lib

P, G, L, T = 4, 2, 3, 5


def table(**changes):
    """A small correct table; `changes` replace columns."""
    length = np.array([[1, 2], [3, 4], [5, 1], [2, 0]])
    mask = np.arange(T) < length[..., None]
    rows = length > 0
    made = {
        "prompt_tokens": np.ones((P, L), np.int32),
        "prompt_mask": np.tile([False, True, True], (P, 1)),
        "completion_tokens": np.where(mask, 7, 0).astype(np.int32),
        "completion_mask": mask,
        "loss_mask": mask.copy(),
        "sampler_logp": np.where(mask, -1.0, 0.0).astype(np.float32),
        "temperature": np.ones((P, G), np.float32),
        "row_mask": rows,
        "group": np.arange(P, dtype=np.int32),
        "row_id": np.arange(P * G, dtype=np.int32).reshape(P, G),
        "rewards": np.array([[1, 0], [0, 1], [1, 1], [0, 0]], np.float32),
        "verdict/number": np.full((P, G), np.nan, np.float32),
    }
    return made | changes


def test_a_correct_table_passes():
    columns.check(table())
    columns.check(jax.tree.map(jnp.asarray, table()))
    empty = table(prompt_mask=np.zeros((P, L), bool), row_mask=np.zeros((P, G), bool))
    columns.check(empty)
    assert columns.sizes(table()) == {"P": P, "G": G, "L": L, "T": T}
    assert list(columns.under(table(), "verdict")) == ["number"]


def with_value(name, at, value):
    column = table()[name].copy()
    column[at] = value
    return {name: column}


WRONG = [
    (dict(rewards=np.zeros(P, np.float32)), r"'rewards': got shape \(4,\), expected \[P,G\]"),
    (dict(row_mask=np.ones((P, G), np.int32)), "'row_mask': got dtype int32, expected bool"),
    (dict(group=np.zeros(P, np.float32)), "'group': got dtype float32, expected int32"),
    ({"verdict/number": np.zeros((G, P), np.float32)}, r"'verdict/number': got shape \(2, 4\)"),
    (with_value("completion_mask", (1, 0, 1), False), "'completion_mask': got a gap"),
    (with_value("prompt_mask", (0, 2), False), "'prompt_mask': got right padding"),
    (with_value("loss_mask", (0, 0, 4), True), "'loss_mask': got True where completion_mask"),
    (with_value("prompt_mask", (0, slice(None)), False), "'row_mask': got True in a block with"),
    (with_value("rewards", (0, 0), np.nan), "'rewards': got NaN or inf in a live row"),
    (with_value("temperature", (0, 0), np.inf), "'temperature': got NaN or inf in a live row"),
    (with_value("sampler_logp", (0, 0, 0), np.nan), "'sampler_logp': got NaN or inf at a trained"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=lambda x: str(x)[:24])
def test_a_wrong_table_says_what_is_wrong(changes, message):
    with pytest.raises(ValueError, match=message):
        columns.check(table(**changes))


def test_values_are_looked_at_only_if_asked_and_only_in_live_rows():
    columns.check(table(**with_value("rewards", (0, 0), np.nan)), values=False)
    columns.check(table(**with_value("rewards", (3, 1), np.nan)))  # row_mask is False there
    columns.check(table(**with_value("sampler_logp", (0, 0, 4), np.nan)))  # padding


GROUPS = np.array([1, 0, -1, 1], np.int32)  # two blocks, one block, an empty block


def test_rows_of_a_group_come_side_by_side():
    made = table(group=GROUPS)
    got, slot = columns.gather_groups(made, 2, 2)
    assert slot.tolist() == [2, 0, 4, 3]
    assert got["row_id"].tolist() == [[2, 3, 0, 0], [0, 1, 6, 7]]
    assert got["row_mask"].tolist() == [[True, True, False, False], [True, True, True, False]]
    assert got["completion_tokens"].shape == (2, 4, T)
    np.testing.assert_array_equal(got["completion_tokens"][1, 2], made["completion_tokens"][3, 0])
    assert got["prompt_tokens"].shape == (2, L) and got["group"].tolist() == [0, 1]


def test_prompt_columns_stay_block_columns_when_they_are_as_wide_as_a_group():
    made = table(prompt_tokens=np.ones((P, G), np.int32), prompt_mask=np.ones((P, G), bool))
    got, _ = columns.gather_groups(made, 2, 2)
    assert got["prompt_tokens"].shape == (2, G) and got["rewards"].shape == (2, 2 * G)


def test_a_column_of_blocks_may_be_as_wide_as_a_block_has_rows():
    made = table(group=GROUPS) | {"answer_scored": np.ones((4, G), bool)}
    got, _ = columns.gather_groups(made, 2, 2, {"answer_scored"})
    assert got["answer_scored"].shape == (2, G) and got["row_mask"].shape == (2, 2 * G)


def test_scatter_undoes_gather():
    made = table(group=GROUPS)
    got, slot = columns.gather_groups(made, 2, 2)
    names = ("rewards", "row_id", "completion_tokens", "row_mask")
    back = columns.scatter_groups({k: got[k] for k in names}, slot, 2)
    for k in names:
        want = made[k].copy()
        want[2] = 0  # the empty block
        np.testing.assert_array_equal(back[k], want)


def test_blocks_that_do_not_fit_are_left_out():
    got, slot = columns.gather_groups(table(group=np.array([0, 0, 0, 5], np.int32)), 2, 2)
    assert slot.tolist() == [0, 1, 4, 4]
    assert got["row_mask"].tolist() == [[True] * 4, [False] * 4]


def test_rows_of_a_group_say_under_which_prompt_they_are():
    made = table(group=np.array([0, 0, 1, 1], np.int32))
    made["prompt_tokens"] = made["prompt_tokens"].copy()
    made["prompt_tokens"][1] = 9
    got, _ = columns.gather_groups(made, 2, 2)
    assert got["context_id"].tolist() == [[0, 0, 1, 1], [0, 0, 0, 0]]
    made["group"] = np.zeros(4, np.int32)  # question, hint, hint, question
    made["prompt_tokens"][:] = np.array([1, 9, 9, 1])[:, None]
    got, _ = columns.gather_groups(made, 1, 4)
    assert got["context_id"].tolist() == [[0, 0, 1, 1, 1, 1, 0, 0]], "the same where it is the same"


def credited(made, group_blocks, shaping=(), advantage=(dict(fn="group.grpo"),)):
    c = config_lib.default()
    c.verifiers = (dict(fn="number.number", name="number"),)
    c.shaping, c.advantage = shaping, advantage
    chain = chain_lib.build(c, group_blocks)
    run = jax.jit(lambda t: chain(t, chain.init(), chain.numbers(0), jax.random.key(0), 0)[0])
    return jax.device_get(run(made))


def test_names_that_would_be_passed_over():
    """A column that is asked for by name has to be there; a method that names its own has none."""
    made = table() | {"verdict/number": np.zeros((P, G), np.float32)}
    rates = dict(fn="noise.backward", reads=dict(fn_rates="fnrates"))
    with pytest.raises(config_lib.ConfigError, match="needs the column 'fnrates'"):
        credited(made, 1, advantage=(rates,))
    style = dict(fn="combine.weighted_sum", weights={"number": 1.0}, writes="style")
    with pytest.raises(config_lib.ConfigError, match="writes='style', but it writes 'rewards', 'r"):
        credited(made, 1, shaping=(style,))


def test_since_says_from_which_step_on_a_method_changes_columns():
    c = config_lib.default()
    c.verifiers = (dict(fn="number.number", name="number"),)
    votes = dict(fn="consensus.majority", reads=dict(answer_id="answer"), keep=1, since=3)
    c.shaping = (dict(fn="likelihood.std_filter", since=3, ignore=0, collect=1), votes)
    c.advantage = (dict(fn="group.rloo"),)
    chain = chain_lib.build(c)
    made = table() | {"answer": np.full((P, G), -1), "train_mask": np.ones((P, G), bool)}
    made["verdict/number"] = np.zeros((P, G), np.float32)
    made["verdict/number"][0] = 0, 1
    run = jax.jit(lambda s, t: chain(made, s, chain.numbers(0), jax.random.key(0), t))
    state = chain.init()
    for step in (0, 2):
        out, new = run(state, step)
        np.testing.assert_array_equal(out["row_mask"], made["row_mask"])
        np.testing.assert_array_equal(out["train_mask"], made["train_mask"])
        assert jax.tree.map(float, new) == jax.tree.map(float, state), (
            "no memory of what was before"
        )
        assert out["vote"].shape == (P, G), "what nobody wrote before is there from the start"
    out, new = run(state, 3)
    assert not out["train_mask"].any() and out["row_mask"].sum(1).max() == 1
    assert jax.tree.map(float, new) != jax.tree.map(float, state)
    for wrong in (-1, 1.5, True):
        with pytest.raises(config_lib.ConfigError, match="since: got"):
            config_lib.entry("rewards", votes | dict(since=wrong))
    with pytest.raises(config_lib.ConfigError, match="unknown setting 'since'"):
        config_lib.entry("losses", dict(fn="surrogates.ppo_clip", since=1))


def wide_and_narrow():
    """The same 2 groups of 8 rows as 2 blocks x 8 and as 4 blocks x 4."""
    rng = np.random.default_rng(0)
    length = rng.integers(1, T + 1, (2, 8))
    mask = np.arange(T) < length[..., None]
    wide = {
        "completion_tokens": rng.integers(1, 3, (2, 8, T)).astype(np.int32) * mask,
        "completion_mask": mask,
        "loss_mask": mask,
        "row_mask": np.ones((2, 8), bool),
        "row_id": np.arange(16, dtype=np.int32).reshape(2, 8),
        "verdict/number": rng.integers(0, 2, (2, 8)).astype(np.float32),
    }
    wide["row_mask"][1, 3] = False
    narrow = {k: v.reshape(4, 4, *v.shape[2:]) for k, v in wide.items()}
    more = {
        "temperature": np.ones((4, 4), np.float32),
        "prompt_id": np.array([5, 5, 6, 6], np.int32),
        "group": np.array([0, 0, 1, 1], np.int32),
    }
    narrow |= more
    wide |= {"temperature": np.ones((2, 8), np.float32), "prompt_id": np.array([5, 6], np.int32)}
    wide["group"] = np.arange(2, dtype=np.int32)
    return wide, narrow


@pytest.mark.parametrize("advantage", ["group.grpo", "tree.tempo", "batch.reinforce_pp_baseline"])
def test_a_group_in_two_blocks_is_credited_like_one_in_one(advantage):
    wide, narrow = wide_and_narrow()
    settings = dict(advantage=(dict(fn=advantage),))
    shaping = (dict(fn="selection.subsample", keep=3),)
    one, two = credited(wide, 1, shaping, **settings), credited(narrow, 2, shaping, **settings)
    assert np.abs(one["advantages"]).max() > 0.5
    for name in ("advantages", "rewards", "train_mask", "row_mask"):
        got = two[name].reshape(one[name].shape)
        np.testing.assert_allclose(got, one[name], atol=1e-6, err_msg=name)
    apart = credited(narrow, 1, **settings)  # each block for itself is something else
    assert np.abs(apart["advantages"].reshape(2, 8, T) - one["advantages"]).max() > 0.1


def test_only_what_methods_wrote_is_scattered_back():
    """An empty block keeps its columns: a temperature of 0 would be divided by."""
    _, narrow = wide_and_narrow()
    narrow["group"] = np.array([0, 0, 1, -1], np.int32)
    narrow["row_mask"][3] = False
    got = credited(narrow, 2)
    np.testing.assert_array_equal(got["temperature"], narrow["temperature"])
    np.testing.assert_array_equal(got["completion_tokens"], narrow["completion_tokens"])
    assert (got["advantages"][3] == 0).all() and not got["row_mask"][3].any()
    assert got["prompt_id"].tolist() == [5, 5, 6, 6]
