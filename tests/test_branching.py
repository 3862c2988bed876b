"""Rollouts that start inside a completion: beginnings, branches, forced endings; solutions."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt import build, columns
from rlpt import tools as tools_lib
from rlpt.advantages import tree
from rlpt.models.load import load
from rlpt.rewards import nodes, progress, shaping
from rlpt.rollouts import branch, cure, experts, mrt, sample
from rlpt.settings import missing_by_verifier
from rlpt.tasks.stream import Stream
from rlpt.verifiers.pool import VerifierPool
from tests.numeric import both, close
from tests.test_train import toy

WIDTH = 8
CONFIG = toy(sampling__completion_buckets=(WIDTH,))
MODEL = "toy:layers=1,width=16,heads=2,kv_heads=1,ff=16"


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def make():
    loaded = load(MODEL)
    params = jax.tree.map(jax.numpy.asarray, loaded.params)
    with VerifierPool([dict(fn="tests.toy:starts_with_digit", name="digit")], workers=1) as pool:

        def tools(**sampling):
            settings = CONFIG.sampling.copy_and_resolve_references()
            settings.update(sampling)
            out = tools_lib.Tools(
                loaded.config, loaded.tokenizer, pool, settings, missing_by_verifier(CONFIG),
                ["digit"], jax.random.key(3),
            )  # fmt: skip
            out.params = params
            return out

        yield tools


def stream():
    return Stream(build.load_tasks(CONFIG)[0], seed=0)


def live(batch, i, j):
    """The tokens of a row."""
    return batch.table["completion_tokens"][i, j][batch.table["completion_mask"][i, j]].tolist()


def context(batch, i):
    return batch.table["prompt_tokens"][i][batch.table["prompt_mask"][i]].tolist()


# ---- completions that begin with given tokens


@pytest.fixture(scope="module")
def plain(make):
    """Tools, two prompts, and four completions of each."""
    tools, items = make(), stream().take(2)
    batch = tools.generate(items, group=4, step=0)
    assert (batch.table["completion_mask"].sum(-1) == WIDTH).any(), "long rows to go on from"
    return tools, items, batch


def test_a_row_that_goes_on_from_its_own_first_tokens_is_the_same_row(plain):
    tools, items, batch = plain
    cut = 3
    at = [(i, j) for i, j in np.ndindex(2, 4) if len(live(batch, i, j)) > cut]
    again = tools.generate(
        [items[i] for i, _ in at],
        group=1,
        step=0,
        first_sample=[j for _, j in at],
        prefixes=[live(batch, i, j)[:cut] for i, j in at],
    )
    columns.check(again.table)
    for b, (i, j) in enumerate(at):
        row = live(batch, i, j)
        assert context(again, b) == tools.encode(items[i][0]) + row[:cut]
        assert live(again, b, 0) == row[cut:]
        assert again.text.completions[b][0] == batch.text.completions[i][j]
        assert again.text.prompt_text[b] == batch.text.prompt_text[i]
        close(
            again.table["sampler_logp"][b, 0, : len(row) - cut],
            batch.table["sampler_logp"][i, j, cut : len(row)],
            atol=1e-5,
        )
        assert again.table["truncated"][b, 0] == batch.table["truncated"][i, j]


def test_another_attempt_meets_other_noise(plain):
    tools, items, batch = plain
    prefixes = [live(batch, i, 0)[:2] for i in range(2)]
    made = [tools.generate(items, group=4, step=0, attempt=a, prefixes=prefixes) for a in (1, 1, 2)]
    tokens = [m.table["completion_tokens"] for m in made]
    np.testing.assert_array_equal(tokens[0], tokens[1])
    own = batch.table["completion_tokens"][:, :1, 2:]
    for other in (tokens[2], np.pad(own, ((0, 0), (0, 0), (0, 2)))):
        assert (tokens[0][..., :6] != other[..., :6]).any(-1).all(), "a row met the same noise"


def test_a_prefix_takes_its_room_from_the_budget(plain, make):
    _, items, batch = plain
    tools = make(completion_buckets=(2, WIDTH))
    row = next(live(batch, 0, j) for j in range(4) if len(live(batch, 0, j)) == WIDTH)
    short = tools.generate(items, group=4, step=0, prefixes=[row[:7], row[:6]])
    assert short.table["completion_mask"].shape[-1] == WIDTH, "as wide as any other"
    lengths = short.table["completion_mask"].sum(-1)
    assert (lengths[0] == 1).all() and lengths[1].max() == 2
    first = short.table["completion_tokens"][0, :, 0]
    ended = np.isin(first, tools.tokenizer.eos_ids)
    np.testing.assert_array_equal(short.table["truncated"][0], ~ended)
    narrow = tools.generate(items, group=4, step=0, prefixes=[row, []], max_tokens=2)
    assert narrow.table["completion_mask"].shape == (2, 4, 2)
    with pytest.raises(ValueError, match="block 0 has room for 0 tokens behind a prefix of 8"):
        tools.generate(items, group=1, step=0, prefixes=[row, []])


def test_stop_strings_across_the_border_of_a_prefix(plain, make):
    _, items, batch = plain
    tokenizer = make().tokenizer
    row = next(live(batch, 0, j) for j in range(4) if len(live(batch, 0, j)) > 4)
    j = next(j for j in range(4) if live(batch, 0, j) == row)
    text = tokenizer.decode(row)
    stop = text[2:4]
    assert text.find(stop) == 2 and len(text) > 4
    tools = make(stop_strings=(stop,))
    out = tools.generate(items[:1], group=1, step=0, first_sample=j, prefixes=[row[:3]])
    assert live(out, 0, 0) == row[3:4] and not out.table["truncated"].any()
    assert out.text.completions[0][0] == text[:2]
    with pytest.raises(ValueError, match="contains one of config.sampling.stop_strings"):
        tools.generate(items[:1], group=1, step=0, prefixes=[row[:5]])


def test_stop_strings_are_looked_for_in_what_is_new(make):
    """Row by row what a whole decoding at every look would find."""
    tools, rng = make(stop_strings=("12", "+=")), np.random.default_rng(0)
    stops, look = ("12", "+="), tools_lib._CHECK_EVERY
    ids = tools.tokenizer.encode("012+= 345")
    tokens = rng.choice(ids, (1, 40, 4 * look)).astype(np.int32)
    start = [tools.tokenizer.encode("+")]
    done = np.zeros((1, 40), bool)
    for n in range(look, 4 * look + 1, look):
        lengths = np.full((1, 40), n)
        found = done | tools._stopped(tokens, lengths, done, start, stops)
        for j in range(40):
            text = tools.tokenizer.decode(start[0] + tokens[0, j, :n].tolist())
            assert found[0, j] == any(s in text for s in stops), (n, text)
        done = found
    assert done.sum() > 0, "nothing stopped"
    tools.tokenizer = None  # rows that are done are not decoded at all
    assert not tools._stopped(tokens, lengths, np.ones((1, 40), bool), start, stops).any()


def test_tokens_until_a_string(make):
    tools = make()
    row = tools.tokenizer.encode("a\n\nb\n\n\n\nc")
    got = [tools.tokens_until(row, ("\n\n",), n) for n in (1, 2, 3, 4)]
    assert got == [3, 6, 8, None]
    assert tools.tokens_until(row, ("c", "b")) == 4 and tools.tokens_until([], ("a",)) is None
    assert mrt._ends(tools, row, 4, 0, "\n\n") == [3, 6, 8]
    assert mrt._ends(tools, row[:8], 4, 0, "\n\n") == [3, 6], "the row's own end is none"
    assert mrt._ends(tools, row, 2, 3, "") == [3, 6]


# ---- branches


def grow(tools, step=0, **settings):
    batches, state = branch.branching(stream(), tools, None, step, prompts=2, group=8, **settings)
    assert state is None
    batch = batches["policy"]
    columns.check(batch.table)
    return batch


def parents(table, i):
    """By the columns: a row's parent owns the node of the token before the branch."""
    group = table["row_mask"].shape[1]
    at = table["branch_at"][i]
    owner = {}
    for j in range(group):
        for node in table["node_id"][i, j, at[j] : table["completion_mask"][i, j].sum()]:
            owner[int(node)] = j
    return [owner[int(table["node_id"][i, j, k - 1])] if k else -1 for j, k in enumerate(at)]


def test_branches_start_at_the_least_expected_tokens(make):
    tools = make()
    batch, alone = grow(tools), sample.on_policy(stream(), tools, None, 0, prompts=2, group=2)
    first, table = alone[0]["policy"].table, batch.table
    for i in range(2):
        np.testing.assert_array_equal(
            table["completion_tokens"][i, :2], first["completion_tokens"][i]
        )
        want = []
        for tree_of in (0, 1):
            n = int(first["completion_mask"][i, tree_of].sum())
            surprise = -first["sampler_logp"][i, tree_of, 1:n]
            best = np.argsort(-surprise, kind="stable")[:3] + 1
            want.append([(tree_of, int(k)) for k in best] + [(-1, 0)] * (3 - len(best)))
        got = list(zip(parents(table, i), table["branch_at"][i].tolist(), strict=True))
        assert got[2:] == [pair for both in zip(*want, strict=True) for pair in both]
    assert batch.outcomes["branch/forks"] == 12
    assert batch.outcomes["branch/at_prompt"] == sum(
        parents(table, i)[2:].count(-1) for i in range(2)
    )


def test_a_branch_is_its_parent_and_then_its_own(make):
    tools = make()
    batch = grow(tools)
    table = batch.table
    logp = tools.score(table)["logp"]
    close(logp, table["sampler_logp"], atol=2e-5, what="copied log-probs are those of the context")
    for i in range(2):
        for j, (p, k) in enumerate(zip(parents(table, i), table["branch_at"][i], strict=True)):
            assert live(batch, i, j)[:k] == live(batch, i, p)[:k]
            assert not table["loss_mask"][i, j, :k].any()
            n = table["completion_mask"][i, j].sum()
            assert n > k and table["loss_mask"][i, j, k:n].all()
            assert batch.text.completions[i][j] == tools.tokenizer.decode(live(batch, i, j))
    assert table["loss_mask"].sum() == batch.outcomes["branch/sampled_tokens"], "trained once"
    assert table["branch_at"].sum() == batch.outcomes["branch/copied_tokens"] > 0
    digit = np.char.isdigit(np.array([[t[:1] for t in row] for row in batch.text.completions]))
    np.testing.assert_array_equal(table["verdict/digit"], digit)
    everywhere = grow(tools, train_prefix=True).table
    np.testing.assert_array_equal(everywhere["loss_mask"], table["completion_mask"])
    np.testing.assert_array_equal(everywhere["completion_tokens"], table["completion_tokens"])


def test_branches_share_more_than_independent_samples(make):
    tools = make()
    deep = []
    for batch in (
        grow(tools),
        sample.on_policy(stream(), tools, None, 0, prompts=2, group=8)[0]["policy"],
    ):
        measured = tree.tree_metrics(
            batch.table["completion_tokens"], batch.table["completion_mask"]
        )
        deep.append(float(measured["metrics/tree/depth"]))
    assert deep[0] > 2 * deep[1], deep


class Backwards:
    """The first prompts of the stream in the other order."""

    def take(self, n):
        return stream().take(n)[::-1]


def test_a_prompt_grows_the_same_tree_in_any_place(make):
    one = grow(make()).table
    two = branch.branching(Backwards(), make(), None, 0, prompts=2, group=8)[0]["policy"].table
    for name in (
        "completion_tokens",
        "branch_at",
        "node_id",
        "leaf_parent",
        "fork_parent",
        "loss_mask",
    ):
        np.testing.assert_array_equal(one[name], two[name][::-1], err_msg=name)


def test_later_rounds_fork_branches_too(make):
    tools = make()
    grand = 0
    for step in (2, 1, 0):
        batch = grow(tools, step, children=2, rounds=3, by="entropy")
        for i in range(2):
            up, at = parents(batch.table, i), batch.table["branch_at"][i]
            pairs = [(p, k) for p, k in zip(up, at, strict=True) if p >= 0]
            assert len(set(pairs)) * 2 == len(pairs), "a position was forked twice"
            for j, p in enumerate(up):
                assert p < j and (p < 0 or at[j] > at[p])
            grand += sum(p > 1 for p in up)
    assert grand > 0, "no branch of a branch"
    first = tools.widen(tools.generate(stream().take(2), group=2, step=0), 8)
    entropy = tools.score(first.table)["entropy"]
    for i in range(2):
        n = len(live(first, i, 0))
        best = int(np.argmax(entropy[i, 0, 1:n])) + 1 if n > 1 else 0
        assert batch.table["branch_at"][i, 2] == best


def test_no_fork_behind_given_words(make):
    tools = make()
    free = grow(tools)
    letter = max("abcdefghijklmnopqrstuvwxyz", key=str(free.text.completions).count)
    batch = grow(tools, until=(letter,))
    texts = [text[:k] for i in range(2) for text, k in zip(
        batch.text.completions[i], batch.table["branch_at"][i], strict=True)]  # fmt: skip
    assert any(texts) and not any(letter in t for t in texts)
    before = [text[:k] for i in range(2) for text, k in zip(
        free.text.completions[i], free.table["branch_at"][i], strict=True)]  # fmt: skip
    assert any(letter in t for t in before), "the letter decides nothing"


def test_rows_without_a_position_start_at_the_prompt():
    score = np.full((1, 4, 3), -np.inf)
    score[0, 0, 1] = 1.0
    chosen = branch._choose(score, np.array([0, 0, 0, 0]), np.array([1, 2]))
    assert chosen == [(0, 1, 0, 1), (0, 2, -1, 0)]
    assert score[0, 0, 1] == 1.0, "the caller's scores are changed"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(first=3, children=2), "group - first a multiple of children"),
        (dict(first=8), "at least one fork a round"),
        (dict(first=0), "positive numbers"),
        (dict(children=0), "positive numbers"),
        (dict(rounds=7), "rounds=7"),
        (dict(by="luck"), "got 'luck', expected 'surprise' or 'entropy'"),
    ],
)
def test_branching_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        branch.branching(None, None, None, 0, prompts=2, group=8, **settings)


# ---- trees of segments


def test_segments_by_hand():
    """Row 1 leaves row 0 at 2, row 2 at 4, row 3 leaves row 1 at 3; row 4 leaves row 0 at 2."""
    parent, at = np.array([[-1, 0, 0, 1, 0]]), np.array([[0, 2, 4, 3, 2]])
    mask = np.arange(5) < np.array([[[5], [4], [5], [4], [3]]])
    out = branch.segments(parent, at, mask)
    assert out["node_id"].tolist() == [[
        [6, 6, 7, 7, 0],  # node 5 + 1 ends where row 1 leaves, 5 + 2 where row 2 does
        [6, 6, 8, 1, -1],
        [6, 6, 7, 7, 2],
        [6, 6, 8, 3, -1],
        [6, 6, 4, -1, -1],
    ]]  # fmt: skip
    assert out["leaf_parent"].tolist() == [[7, 8, 7, 8, 6]]
    assert out["fork_parent"].tolist() == [[-1, -1, 6, 6, -1]]


def test_treerl_of_a_branched_tree():
    """The tree root -> {a, b}, a -> {1, 0}, b -> {0, 0} as four rows of two branches."""
    parent, at = np.array([[-1, 0, -1, 2]]), np.array([[0, 2, 0, 1]])
    mask = np.ones((1, 4, 3), bool)
    rewards = np.array([[1.0, 0, 0, 0]], np.float32)
    made = branch.segments(parent, at, mask)
    parents_of = made["leaf_parent"], made["fork_parent"]
    nodes_of = both(nodes.leaf_rewards, rewards, *parents_of)
    got = tree.treerl(**nodes_of, node_id=made["node_id"], loss_mask=mask)
    a, a1, a2, b, b1 = 0.353553, 1.25, -0.75, -0.353553, -0.25
    close(got[0], [[a, a, a1], [a, a, a2], [b, b1, b1], [b, b1, b1]])
    masked = nodes.leaf_rewards(rewards, *parents_of, np.array([[True, False, True, True]]))
    assert np.isnan(masked["node_reward"][0, [1, 4, 5, 6, 7]]).all()
    close(
        tree.tree_advantages(masked["node_parent"][0], masked["node_reward"][0])[0][:3], [1, 0, 0]
    )


def test_rows_that_never_branch_are_trees_of_one_node():
    rewards, mask = np.array([[1.0, 0, 0, 0]], np.float32), np.ones((1, 4, 3), bool)
    made = branch.segments(np.full((1, 4), -1), np.zeros((1, 4), int), mask)
    flat = nodes.leaf_rewards(rewards, made["leaf_parent"], made["fork_parent"])
    got = tree.treerl(**flat, node_id=made["node_id"], loss_mask=mask)
    close(got[0], np.repeat(2 * (rewards[0] - 0.25)[:, None], 3, 1))


@pytest.mark.parametrize("rollout", [branch.branching, mrt.episodes])
def test_columns_of_a_rollout_are_those_it_declares(make, rollout):
    tools = make()
    made = grow(tools) if rollout is branch.branching else measured(tools)
    usual = tools.verify(tools.generate(stream().take(2), group=4, step=0))
    assert set(made.table) - set(usual.table) == set(rollout.columns)
    p, g, t = made.table["completion_mask"].shape
    for name, (axes, kind) in rollout.columns.items():
        column = made.table[name]
        assert column.shape == tuple({"P": p, "G": g, "T": t}[a] for a in axes), name
        assert column.dtype == {"i": np.int32, "f": np.float32}[kind], name


# ---- CURE


def critical(tools, **settings):
    batches, _ = cure.critical(
        stream(), tools, None, 0,
        **dict(prompts=2, group=4, group_blocks=5, children=3, top=1, min_chars=1) | settings,
    )  # fmt: skip
    columns.check(batches["policy"].table)
    return batches["policy"]


def test_critical_tokens_begin_blocks_of_their_own(make, plain):
    tools, items, first = plain
    batch = critical(make())
    table = batch.table
    assert table["group"].tolist() == [0] * 5 + [1] * 5
    assert table["row_mask"].sum(1).tolist() == [4, 3, 3, 3, 3] * 2
    entropy = tools.score(first.table)["entropy"]
    prefixes = 0
    for i in range(2):
        assert [live(batch, 5 * i, j) for j in range(4)] == [live(first, i, j) for j in range(4)]
        for j in range(4):
            b, row = 5 * i + 1 + j, live(first, i, j)
            fit = [t for t in range(1, len(row)) if tools.tokenizer.decode([row[t]])]
            k = max(fit, key=lambda t: entropy[i, j, t], default=0)  # noqa: B023
            assert context(batch, b) == tools.encode(items[i][0]) + row[:k]
            start = tools.tokenizer.decode(row[:k])
            assert all(text.startswith(start) for text in batch.text.completions[b][:3])
            assert batch.text.completions[b][3] == "" and not table["loss_mask"][b, 3].any()
            assert all(k + len(live(batch, b, c)) <= WIDTH for c in range(3))
            prefixes += k
    assert batch.outcomes["cure/prefix_tokens"] == prefixes > 0
    behind, cut = table["prefix_length"], table["truncated"]
    assert behind[:, 0].sum() == prefixes and not behind[[0, 5]].any()
    whole = behind + table["completion_mask"].sum(-1)
    assert (whole[cut] == WIDTH).all() and cut[behind > 0].any()
    budget = dict(max_length=WIDTH, cache=2)
    cost = shaping.soft_overlong(jnp.zeros((10, 4)), table["completion_mask"], behind, **budget)
    assert (np.asarray(cost)[cut] == -1).all(), "a branch has no tokens for free"
    close(tools.score(table)["logp"], table["sampler_logp"], atol=2e-5)


def test_critical_tokens_are_one_of_the_best_at_random(make):
    picks = [critical(make(), top=top).table["prompt_mask"].sum(1) for top in (1, 6, 6)]
    assert (picks[0] != picks[1]).any() and (picks[1] == picks[2]).all()


def test_rows_without_a_fit_token_are_sampled_again(make):
    batch = critical(make(), min_chars=2)  # a token of the toy model is one character
    assert batch.outcomes["cure/at_prompt"] == batch.outcomes["cure/branches"] == 8
    assert all(context(batch, b) == context(batch, 0) for b in range(5))
    texts = [live(batch, b, j) for b in range(5) for j in range(4 if b == 0 else 3)]
    assert len({tuple(t) for t in texts}) > 12, "branches repeat the first rows"
    with pytest.raises(ValueError, match="expected 2 to 5 blocks"):
        critical(make(), group_blocks=6)


def test_all_blocks_of_a_prompt_are_one_group(make):
    config = toy(
        rollout__fn="cure.critical", rollout__prompts=2, rollout__group=4, rollout__group_blocks=5
    )
    config.rollout.options = dict(children=3, min_chars=1)
    chain, _ = build.check(config)
    table = build.rollout_of(config)(stream(), make(), None, 0)[0]["policy"].table
    rows = table["row_mask"].reshape(2, 20)
    reward = np.random.default_rng(0).random((2, 20)).astype(np.float32)
    table["verdict/digit"] = np.where(rows, reward, np.nan).reshape(10, 4)
    out, _ = chain(table, chain.init(), chain.numbers(0), jax.random.key(0), 0)
    advantage = np.asarray(out["advantages"])[..., 0].reshape(2, 20)
    for i in range(2):
        own = reward[i][rows[i]]
        close(advantage[i][rows[i]], (own - own.mean()) / own.std(ddof=1), atol=1e-4)


# ---- forced endings


def measured(tools, source=None, **settings):
    given = dict(prompts=2, group=4, termination=" ", most=3, tokens=2, samples=2, answer_tokens=3)
    return mrt.episodes(source or stream(), tools, None, 0, **given | settings)[0]["policy"]


def test_forced_endings_measure_episodes(make, plain):
    tools, _, first = plain
    batch = measured(make())
    table = batch.table
    columns.check(table)
    np.testing.assert_array_equal(table["completion_tokens"], first.table["completion_tokens"])
    np.testing.assert_array_equal(table["loss_mask"], first.table["loss_mask"])
    value, n = table["episode_value"], table["completion_mask"].sum(-1)
    assert (table["start_value"] == 0).all(), "a blank is no digit"
    ends = 0
    for i, j in np.ndindex(2, 4):
        cuts = [k for k in (2, 4, 6) if k < n[i, j]]
        ends += len(cuts)
        # the first character decides, and each ending has the row's own
        assert np.flatnonzero(~np.isnan(value[i, j])).tolist() == [k - 1 for k in cuts]
        assert (value[i, j, [k - 1 for k in cuts]] == table["verdict/digit"][i, j]).all()
        want = [t // 2 if t < 2 * len(cuts) else -1 for t in range(WIDTH)]
        assert table["step_id"][i, j].tolist() == want
    assert batch.outcomes["mrt/endings"] == ends + 2
    assert 2 * (ends + 2) <= batch.outcomes["mrt/answer_tokens"] <= 6 * (ends + 2)
    assert (measured(make(), termination="7").table["start_value"] == 1).all()


def test_values_do_not_depend_on_how_endings_are_put_together(make):
    """Other endings come together where the prompts come in another order."""
    asked = []

    class Asked(tools_lib.Tools):
        def generate(self, items, **settings):
            out = super().generate(items, **settings)
            if settings.get("prefixes"):
                asked[-1].update(
                    (context(out, b).__repr__(), tuple(out.text.completions[b]))
                    for b, item in enumerate(items) if item
                )  # fmt: skip
            return out

    for source in (stream(), Backwards()):
        tools = make()
        tools.__class__ = Asked
        asked.append(set())
        measured(tools, source=source)
    assert len(asked[0]) > 8 and asked[0] == asked[1]
    assert len({answers for _, answers in asked[0]}) > len(asked[0]) / 2, "endings share noise"


def test_forced_endings_refuse(make):
    with pytest.raises(ValueError, match="samples=0"):
        measured(make(), samples=0)
    tools = make()
    tools.verifier_names = ("digit", "form")
    with pytest.raises(ValueError, match="expected one of digit, form"):
        measured(tools)


def test_progress_by_hand():
    nan = np.nan
    start = np.array([0.1, 0.1, nan], np.float32)
    value = np.array([[0.3, nan, 0.25, 0.7], [nan, 0.25, 0.7, nan], [0.3, nan, 0.25, nan]])
    value = value.astype(np.float32)
    close(
        both(progress.progress, start, value),
        [[0.2, 0, -0.05, 0.45], [0, 0.15, 0.45, 0], [0, 0, -0.05, 0]],
    )
    close(both(progress.regret, value, best=1.0), [1.75, 1.05, 1.45])
    steps = both(progress.progress_steps, start, value, alpha=0.5)["step_rewards"]
    close(steps[0], [0.1, 0, -0.025, 0.225])


def test_progress_bonus_by_hand():
    start = np.array([[0.1, 0.1]], np.float32)
    value = np.array([[[0.3, 0.25, 0.7], [0.2, np.nan, np.nan]]], np.float32)
    rewards, rows = np.array([[1.0, 0.0]], np.float32), np.array([[True, False]])
    out = both(progress.progress_bonus, rewards, start, value, rows, alpha=0.5, best=1.0)
    close(out["rewards"], [[1.3, 0.05]])
    close(out["metrics/progress/bonus"], 0.6)
    close(out["metrics/progress/regret"], 1.75)
    close(out["metrics/progress/episodes"], 3)
    none = progress.progress_bonus(rewards, start, np.full_like(value, np.nan))
    close(none["rewards"], rewards)


# ---- worked solutions


def solutions(tmp_path, rows):
    path = tmp_path / "solutions.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(path)


def test_solutions_take_the_last_rows(make, plain, tmp_path):
    tools, items, first = plain
    ids = [prompt.id for prompt, _ in items]
    path = solutions(
        tmp_path,
        [
            {"id": ids[0], "solution": "4+4"},
            {"id": ids[0], "solution": "x=8"},
            {"id": ids[1], "solution": "far too long a solution"},
            {"id": ids[1], "solution": "12"},
            {"id": "another", "solution": "1"},
        ],
    )
    batches, _ = experts.inject(stream(), tools, None, 0, prompts=2, group=4, path=path, count=2)
    batch = batches["policy"]
    table = batch.table
    columns.check(table)
    assert table["origin"].tolist() == [[0, 0, 3, 3], [0, 0, 0, 3]]
    assert batch.text.completions[0][2:] == ["4+4", "x=8"]
    assert batch.text.completions[1][3] == "12"
    end = tools.tokenizer.eos_ids[0]
    assert live(batch, 1, 3) == [*tools.tokenizer.encode("12"), end]
    own = table["origin"] == 0
    for name in ("completion_tokens", "sampler_logp", "loss_mask", "truncated"):
        np.testing.assert_array_equal(table[name][own], first.table[name][own], err_msg=name)
    assert table["loss_mask"][~own].sum(-1).tolist() == [4, 4, 3]
    assert table["verdict/digit"][~own].tolist() == [1, 0, 1] and not table["truncated"][~own].any()
    close(table["sampler_logp"], tools.score(table)["logp"], atol=2e-5)
    assert (table["sampler_logp"][1, 3, :3] < 0).all() and "old_logp" not in table
    got = {k: v for k, v in batch.outcomes.items() if k.startswith("experts/")}
    assert got == {"experts/rows": 3, "experts/missing": 1, "experts/too_long": 1}


def test_several_solutions_take_turns(make, tmp_path):
    draws = stream().take(2)
    prompt = draws[0][0]
    path = solutions(tmp_path, [{"id": prompt.id, "solution": str(n)} for n in range(3)])

    class Again:
        def __init__(self, occurrence):
            self.occurrence = occurrence

        def take(self, n):
            return [(prompt, self.occurrence)] * n

    seen = []
    for occurrence in range(2):
        batches, _ = experts.inject(
            Again(occurrence), make(), None, 0, prompts=2, group=4, path=path, count=2
        )
        seen.append(batches["policy"].text.completions[0][2:])
    assert seen == [["0", "1"], ["2", "0"]]


def test_no_answer_is_no_solution(make):
    class Unanswered:
        def take(self, n):
            return [(dataclasses.replace(p, answer=None), k) for p, k in stream().take(n)]

    batches, _ = experts.inject(Unanswered(), make(), None, 0, prompts=2, group=4)
    assert batches["policy"].outcomes["experts/missing"] == 2
    assert (batches["policy"].table["origin"] == 0).all(), "not the text None"


def test_the_reference_answer_is_a_solution(make):
    batches, _ = experts.inject(stream(), make(), None, 0, prompts=2, group=4, template="={answer}")
    batch = batches["policy"]
    assert [row[3] for row in batch.text.completions] == [
        f"={p.answer}" for p in batch.text.prompts
    ]


def test_solutions_that_cannot_be_read(tmp_path):
    call = dict(prompts=2, group=4)
    with pytest.raises(ValueError, match="expected 1 to group - 1 = 3"):
        experts.inject(None, None, None, 0, **call, count=4)
    lines = [
        '\ufeff{"id": "a", "solution": "x\u2028y\x85"}',
        "",
        '{"id": "b", "solution": "2"}',
        "",
    ]
    other = tmp_path / "other.jsonl"
    other.write_text("\r\n".join(lines), "utf-8")
    assert experts.read(str(other)) == {"a": ["x\u2028y\x85"], "b": ["2"]}, "as tasks read them"
    for rows, message in (
        ([{"id": "a", "solution": "1"}, {"id": "a"}], "line 2: got .*KeyError"),
        ([{"id": "a", "solution": 7}], "line 1: id and solution must be strings"),
        ([], "no solutions"),
    ):
        directory = tmp_path / str(len(message))
        directory.mkdir()
        with pytest.raises(ValueError, match=message):
            experts.read(solutions(directory, rows))
