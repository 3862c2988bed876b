"""Rewards from agreement: worked numbers, what must not matter, answers as numbers."""

import runpy
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt import build
from rlpt.advantages import group
from rlpt.rewards import answers, consensus
from rlpt.rollouts import views
from rlpt.tasks.base import Prompt, chat
from rlpt.verifiers import answer as answer_lib
from rlpt.verifiers import base
from tests.numeric import both, close
from tests.test_train import ROOT

NAN = np.nan
A, B, C, NONE = 11, 5, 70, -1


def ids(*groups):
    return jnp.asarray(groups, jnp.int32)


def truth(answer_id, *right):
    """Rewards of groups whose right answers these are."""
    return (answer_id == jnp.asarray(right)[:, None]).astype(jnp.float32)


# ---- majority


def test_ttrl_numbers():
    votes = ids([A, A, B, C, A, B])
    out = both(consensus.majority, votes, truth(votes, B))
    close(out["vote"], [[1, 1, 0, 0, 1, 0]])
    close(out["metrics/vote/share"], 0.5)
    close(out["metrics/vote/label_accuracy"], 0)
    close(out["metrics/vote/accuracy"], 1 / 6, what="only C is wrong under both labels")
    assert out["row_mask"].all() and out["train_mask"].all()
    right = both(consensus.majority, votes, truth(votes, A))
    close([right["metrics/vote/label_accuracy"], right["metrics/vote/accuracy"]], [1, 1])
    lucky = ids([A, A, B, C, 3, 4])
    out = both(consensus.majority, lucky, truth(lucky, B))
    assert out["metrics/vote/accuracy"] == pytest.approx(0.5), "more than the labels, all wrong"


def test_no_answer_is_no_vote():
    votes = ids([NONE, NONE, NONE, A, B, A], [NONE] * 6)
    out = both(consensus.majority, votes, truth(votes, A, A))
    close(out["vote"], [[0, 0, 0, 1, 0, 1], [0] * 6])
    close(out["metrics/vote/share"], 2 / 3, what="of the votes that there are")
    assert out["train_mask"].tolist() == [[True] * 6, [False] * 6], "without a label nothing trains"
    dead = jnp.asarray([[True, True, True, False, True, False], [False] * 6])
    out = both(consensus.majority, votes, truth(votes, A, A), dead)
    close(out["vote"][0], [0, 0, 0, 0, 1, 0], what="rows that are out do not vote")


def test_ties_go_to_the_first():
    for row, want in (([B, A, A, B], [1, 0, 0, 1]), ([A, B, A, B], [1, 0, 1, 0])):
        close(both(consensus.majority, ids(row), jnp.zeros((1, 4)))["vote"], [want])


def test_only_the_first_rows_go_on():
    votes = ids([A, B, C, B, B, B])
    out = both(consensus.majority, votes, truth(votes, B), keep=3)
    close(out["vote"], [[0, 1, 0, 1, 1, 1]], what="all have voted")
    assert out["row_mask"].tolist() == [[True] * 3 + [False] * 3]
    got = group.grpo(out["vote"], out["row_mask"])
    close(got[:, :3], group.grpo(out["vote"][:, :3]), what="GRPO among those that go on")
    with pytest.raises(ValueError, match="keep: got 7, expected 0 to G = 6"):
        consensus.majority(votes, truth(votes, B), keep=7)


def test_srt_numbers():
    votes = ids([A, A, B, NONE])
    zeros = jnp.zeros((1, 4))
    soft = both(consensus.majority, votes, zeros, soft=True)
    close(soft["vote"], [[2 / 3, 2 / 3, 1 / 3, 0]])
    out = both(consensus.majority, votes, zeros, threshold=0.7)
    close(out["vote"], [[0] * 4])
    assert not out["train_mask"].any(), "0.667 < 0.7: no label"
    out = both(consensus.majority, votes, zeros, threshold=0.66, soft=True)
    close(out["vote"], soft["vote"])
    both_ways = both(consensus.majority, votes, zeros, threshold=0.7, soft=True)
    close(both_ways["vote"], [[0] * 4])


def test_easy_prompts_first():
    votes = ids([A, A, B, C], [A, A, A, B], [NONE] * 4, [A, A, A, A], [B, B, C, C])
    live = jnp.ones((5, 4), bool).at[3].set(False)
    out = both(consensus.most_agreed, votes, live, fraction=0.5)["train_mask"]
    assert out.all(1).tolist() == [True, True, False, False, False], (
        "2 of 4, of equal ones the first"
    )
    held = live.at[1, 0].set(False)
    out = both(consensus.most_agreed, votes, live, held, fraction=1.0)["train_mask"]
    assert out.tolist() == (held & live).tolist()


def test_collapse_is_seen():
    """One answer to every prompt, and one answer each."""
    zeros = jnp.zeros((4, 3))
    same = both(consensus.majority, ids(*[[A, A, A]] * 4), zeros)
    other = both(consensus.majority, ids(*[[x, x, A] for x in (1, 2, 3, 4)]), zeros)
    assert same["metrics/vote/label_entropy"] == 0 and same["metrics/vote/share"] == 1
    assert other["metrics/vote/label_entropy"] == pytest.approx(np.log(4), rel=1e-6)
    two = both(consensus.majority, ids([A] * 3, [A] * 3, [B] * 3, [NONE] * 3), zeros)
    want = -(2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3))
    assert two["metrics/vote/label_entropy"] == pytest.approx(want, rel=1e-6)


# ---- semantic entropy


def test_empo_numbers():
    out = both(consensus.empo, ids([A, A, B, C]))
    close(out["vote"], [[0.5, 0.5, 0.25, 0.25]])
    close(out["metrics/vote/entropy"], 1.039721)
    assert np.log(4) > 1.039721 and out["train_mask"].all()
    none = both(consensus.empo, ids([A, B, C, 9]))
    close(none["vote"], [[0] * 4], what="all differ")
    close(none["metrics/vote/entropy"], np.log(4))
    close(both(consensus.empo, ids([A, A, NONE, NONE]))["vote"], [[0.5, 0.5, 0, 0]])
    close(both(consensus.empo, ids([A, B, NONE, NONE]))["vote"], [[0] * 4], what="nobody agrees")
    close(both(consensus.empo, ids([A] * 4))["metrics/vote/entropy"], 0)


def test_empo_bounds():
    groups = ids([A, A, B, C], [A] * 4, [A, B, C, 9], [NONE] * 4)  # H / log 4: .75, 0, 1, 1
    for low, high, want in ((0.0, 1.0, [1, 1, 1, 1]), (0.1, 0.9, [1, 0, 0, 0]),
                            (0.0, 0.75, [1, 1, 0, 0]), (1.0, 1.0, [0, 0, 1, 1])):  # fmt: skip
        out = both(consensus.empo, groups, low=low, high=high)
        assert out["train_mask"].all(1).tolist() == [bool(x) for x in want], (low, high)


# ---- two wordings


def test_co_reward_numbers():
    votes = ids([3, 3, 4, 5], [4, 4, 3, 4])
    out = both(consensus.co_reward, votes, jnp.array([1, 0]))
    close(out["vote"], [[0, 0, 1, 0], [0, 0, 1, 0]])
    empty = both(consensus.co_reward, ids([3, NONE, 4, 5], [NONE] * 4), jnp.array([1, 0]))
    close(empty["vote"], np.zeros((2, 4)), what="no answer is no label, and gets none")
    alone = both(consensus.co_reward, votes, jnp.array([-1, 0]))
    close(alone["vote"], [[0] * 4, [0, 0, 1, 0]])


def test_two_wordings_side_by_side():
    asked = []

    def generate(items, group, step):
        asked.extend(items)
        return types.SimpleNamespace(table={}, outcomes={})

    tools = types.SimpleNamespace(
        generate=generate, verify=lambda batch: batch, max_prompt=5,
        encode=lambda prompt: prompt.question.split(),
    )  # fmt: skip
    prompts = [
        (Prompt("a", chat("1 + 2 =", "Answer."), "3", {"rephrased": "2 + 1 ="}), 4),
        (Prompt("b", chat("2 + 2 ="), "4", {"rephrased": "twice 2 ="}), 0),
    ]
    stream = types.SimpleNamespace(take=lambda n: prompts[:n])
    batches, _ = views.two(stream, tools, None, 0, prompts=4, group=2)
    assert batches["policy"].table["other_view"].tolist() == [1, 0, 3, 2]
    assert [p.question for p, _ in asked] == ["1 + 2 =", "2 + 1 =", "2 + 2 =", "twice 2 ="]
    assert len({p.id for p, _ in asked}) == 4, "draws of their own"
    assert [p.answer for p, _ in asked] == ["3", "3", "4", "4"] and asked[1][1] == 4
    assert asked[1][0].messages[0] == {"role": "system", "content": "Answer."}
    asked.clear()
    views.two(stream, tools, None, 0, prompts=2, group=2, template="Say {question}")
    assert asked[1][0].question == "Say 1 + 2 ="
    asked.clear()
    long = dict(template="{question} or {question}")
    batches, _ = views.two(stream, tools, None, 0, prompts=2, group=2, **long)
    assert asked == [None, None] and batches["policy"].outcomes == {"views/too_long": 1}
    for changes, match in (
        (dict(prompts=3), "prompts=3, expected an even number"),
        (dict(template="Say it"), r"expected one with \{question\}"),
        (dict(key="other"), "'a' has meta.'other'. = None, expected its "),
    ):
        with pytest.raises(ValueError, match=match):
            views.two(stream, tools, None, 0, **{**dict(prompts=4, group=2), **changes})


# ---- what must not matter


def test_rows_that_agree_get_the_same_and_the_order_does_not_matter():
    rng = np.random.default_rng(0)
    votes = rng.choice([A, B, C, NONE], (60, 5))
    order = rng.permutation(5)
    wide = np.pad(votes, ((0, 0), (0, 2)), constant_values=A)
    live = np.pad(np.ones(votes.shape, bool), ((0, 0), (0, 2)))
    for fn in (
        lambda v, rows=None: consensus.empo(v, rows)["vote"],
        lambda v, rows=None: consensus.majority(v, 0.0 * v, rows, soft=True)["vote"],
    ):
        got = np.asarray(fn(ids(*votes)))
        close(fn(ids(*votes[:, order])), got[:, order])
        assert ((got >= 0) & (got <= 1)).all() and (got[votes == NONE] == 0).all()
        agree = (votes[:, :, None] == votes[:, None, :]) & (votes != NONE)[:, None, :]
        assert np.ptp(np.where(agree, got[:, None, :], got[:, :, None]), axis=-1).max() == 0
        close(fn(ids(*np.where(votes == NONE, NONE, 1000 - votes))), got, what="names")
        close(fn(ids(*wide), jnp.asarray(live))[:, :5], got, what="rows that are out")


# ---- answers as numbers


def found(text, **settings):
    verdict = answer_lib.answer(base.Trajectory(text), Prompt("p", chat("?")), **settings)
    checked = base.validated(verdict.score, verdict.outcome, verdict.detail, 0, 2**24 - 1)
    assert checked == verdict and np.float32(verdict.score or 0) == (verdict.score or 0)
    return verdict.score


def test_equal_answers_have_one_number():
    same = ["7 + 5 = 12", "12", "it is 12.0.", "\\boxed{24/2}", "no 3 <answer> 12 </answer> 5"]
    assert len({found(text) for text in same}) == 1 and found("12") >= 1
    assert found("\\boxed{x + y}") == found("so \\boxed{x+y}") != found("\\boxed{x+z}")
    assert found("1 2", extract="whole") == found("12", extract="whole")
    assert found("<a>3</a> 4", extract="tag", tag="a") == found("3", extract="last")
    assert found("nothing") is found("3", extract="boxed") is found("\\boxed{ }") is None
    with pytest.raises(ValueError, match="expected boxed, tag or whole"):
        found("3", extract="first")
    spread = {found(str(i)) for i in range(500)}
    assert len(spread) == 500 and max(spread) > 2**23


def test_numbers_become_columns():
    answer = jnp.array([[3.0, 3.0, 2.0**24 - 1, NAN], [3.0, 0.0, -1.0, 7.0]])
    prompt = jnp.array([10, 20])
    out = both(answers.of_verdict, answer, prompt)
    assert out["answer_id"].tolist() == [[3, 3, 2**24 - 1, -1], [3, -1, -1, 7]]
    key = out["answer_key"]
    assert key[0, 0] == key[0, 1] != key[1, 0], "the key is the prompt's too"
    assert (key[out["answer_id"] < 0] == -1).all() and (key < 2**24).all()
    live = jnp.array([[True, False, True, True], [True] * 4])
    out = both(answers.of_verdict, answer, prompt, live)
    assert out["answer_id"][0].tolist() == [3, -1, 2**24 - 1, -1]
    counted, _ = jax.jit(answers.visits.update)(out["answer_key"], answers.visits.init())
    assert counted["answer_visits"].tolist()[0] == [1, 0, 1, 0]


def test_the_arm_of_the_config():
    config = runpy.run_path(str(ROOT / "configs/ttrl.py"))["get_config"]("srt")
    assert [dict(s).get("threshold") for s in config.shaping if dict(s).get("threshold")] == [0.5]
    build.check(config)
