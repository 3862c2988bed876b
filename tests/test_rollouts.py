"""Rollouts on the toy model: groups that span blocks, dynamic sampling, carried blocks."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from rlpt import build, columns, metrics, records
from rlpt import tools as tools_lib
from rlpt import train as train_lib
from rlpt.config import ConfigError
from rlpt.models.load import load
from rlpt.rollouts import dynamic, replay, sample
from rlpt.settings import missing_by_verifier
from rlpt.tasks.stream import Stream
from rlpt.verifiers.pool import VerifierPool
from tests.test_train import lines, params_of, same, toy

CONFIG = toy()
SIZE = dict(prompts=4, group=8)


@pytest.fixture(scope="module")
def pools():
    """By verifier: workers are started once."""
    made = {}
    for fn in ("starts_with_digit", "always"):
        made[fn] = VerifierPool([dict(fn=f"tests.toy:{fn}", name="digit")], workers=1)
    yield made
    for pool in made.values():
        pool.close()


@pytest.fixture
def make(pools):
    loaded = load("toy")
    params = jax.tree.map(jax.numpy.asarray, loaded.params)

    def tools(verifier="starts_with_digit", **law):
        out = tools_lib.Tools(
            loaded.config, loaded.tokenizer, pools[verifier],
            toy(**{f"sampling__{k}": v for k, v in law.items()}).sampling,
            missing_by_verifier(CONFIG), ["digit"], jax.random.key(2),
        )  # fmt: skip
        out.params = params
        return out

    return tools


def stream():
    return Stream(build.load_tasks(CONFIG)[0], seed=0)


class Repeating:
    """A stream that gives the same prompts again and again, as if for the first time."""

    def __init__(self):
        self.prompts = stream().take(SIZE["prompts"])

    def take(self, n):
        return self.prompts[:n]


def test_a_prompt_that_fills_two_blocks_has_the_draws_of_one_wide_block(make):
    wide, _ = sample.on_policy(stream(), make(), None, 0, prompts=4, group=8)
    two, _ = sample.on_policy(stream(), make(), None, 0, prompts=4, group=4, group_blocks=2)
    wide, two = wide["policy"], two["policy"]
    columns.check(two.table)
    assert two.table["group"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    for name in ("completion_tokens", "row_id", "verdict/digit", "sampler_logp"):
        shape = wide.table[name].shape
        np.testing.assert_allclose(
            two.table[name].reshape(shape), wide.table[name], atol=1e-5, err_msg=name
        )
    assert [p.id for p in two.text.prompts] == [p.id for p in wide.text.prompts for _ in "ab"]
    assert sum(two.text.completions, []) == sum(wide.text.completions, [])
    assert sum(two.outcomes.values()) == 32


def test_grpo_over_two_blocks_is_grpo_over_one_wide_block(make):
    got = []
    for changes in (dict(group=8), dict(group=4, group_blocks=2)):
        config = toy(**{f"rollout__{k}": v for k, v in changes.items()})
        batches, _ = build.rollout_of(config)(stream(), make(), None, 0)
        chain, _ = build.check(config)
        table, _ = chain(
            batches["policy"].table, chain.init(), chain.numbers(0), jax.random.key(0), 0
        )
        got.append(np.asarray(table["advantages"]).reshape(4, 8, -1))
    assert np.abs(got[0]).max() > 0.5
    np.testing.assert_allclose(got[1], got[0], atol=1e-6)


def refill(tools, steps=1, source=None, state=None, first=0, **settings):
    """The batches of some steps and the last state."""
    source, out = source or stream(), []
    for step in range(first, first + steps):
        batches, state = dynamic.refill(source, tools, state, step, **{**SIZE, **settings})
        columns.check(batches["policy"].table)
        out.append(batches["policy"])
    return out, state


def test_kept_groups_are_those_whose_verdicts_differ(make):
    plain, _ = sample.on_policy(stream(), make(), None, 0, **SIZE)
    spread = np.ptp(plain["policy"].table["verdict/digit"], axis=1)
    assert (spread == 0).any() and (spread > 0).any(), "the toy run has both kinds"
    (batch,), _ = refill(make())
    assert (np.ptp(batch.table["verdict/digit"], axis=1) > 0).all()
    assert batch.table["row_mask"].all() and batch.table["row_mask"].shape == (4, 8)
    ids = [p.id for p in plain["policy"].text.prompts]
    kept = [i for i, s in zip(ids, spread, strict=True) if s > 0]
    assert [p.id for p in batch.text.prompts][: len(kept)] == kept
    n = batch.outcomes
    assert n["dynamic/generated"] == 4 * n["dynamic/batches"] > 4
    assert n["digit/correct"] + n["digit/incorrect"] == 8 * n["dynamic/generated"]
    assert n["dynamic/kept"] >= 4 and n["dynamic/empty"] == 0
    (batch,), _ = refill(make(), carry=False)
    heard = len(batch.left_out) + int(batch.table["row_mask"].sum())
    assert heard == 8 * batch.outcomes["dynamic/generated"], "of a curriculum: of surplus too"


def test_it_stops_at_max_batches_with_empty_blocks(make):
    source = stream()
    (batch,), state = refill(make("always"), source=source, max_batches=3)
    n = batch.outcomes
    assert (n["dynamic/batches"], n["dynamic/kept"], n["dynamic/empty"]) == (3, 0, 4)
    assert not batch.table["row_mask"].any() and batch.table["group"].tolist() == [-1] * 4
    assert batch.text.prompts == [None] * 4 and state == {"carried": []}
    follows = stream()
    follows.take(12)
    assert source.get_state() == follows.get_state()
    with pytest.raises(ValueError, match="max_batches=0, expected at least 1"):
        refill(make(), max_batches=0)


def test_some_blocks_are_empty_where_too_few_are_found(make):
    (batch,), _ = refill(make(), max_batches=1)
    empty = batch.outcomes["dynamic/empty"]
    assert 0 < empty < 4
    filled = batch.table["row_mask"].any(1)
    assert filled.tolist() == [True] * (4 - empty) + [False] * empty
    assert (batch.table["temperature"] == 1).all()


def test_attempts_at_the_same_prompt_draw_anew(make):
    (batch,), _ = refill(make(), source=Repeating())
    texts = {}
    for prompt, completions in zip(batch.text.prompts, batch.text.completions, strict=True):
        texts.setdefault(prompt.id, []).append(tuple(completions))
    twice = [t for t in texts.values() if len(t) > 1]
    assert twice and all(len(set(t)) == len(t) for t in twice)


def carried_run(make, **settings):
    batches, states, state, source = [], [], None, stream()
    for step in range(4):
        (batch,), state = refill(make(), source=source, state=state, first=step, **settings)
        batches.append(batch)
        states.append(state)
    return batches, states


def test_surplus_comes_back_once_as_older_weights_rows(make):
    batches, states = carried_run(make)
    step = next(i for i, s in enumerate(states[:-1]) if s["carried"])
    rows, after = states[step]["carried"], batches[step + 1]
    n = len({r["block"] for r in rows})
    assert 0 < n < 4 and after.outcomes["dynamic/carried"] == n and len(rows) == 8 * n
    assert (after.table["origin"][:n] == 2).all() and (after.table["origin"][n:] == 0).all()
    np.testing.assert_array_equal(after.table["old_logp"], after.table["sampler_logp"])
    for r in rows:
        live = after.table["completion_mask"][r["block"], r["sample"]]
        tokens = after.table["completion_tokens"][r["block"], r["sample"]]
        assert tokens[live].tolist() == r["tokens"]
        assert after.text.completions[r["block"]][r["sample"]] == r["completion"]
    assert (np.ptp(after.table["verdict/digit"], axis=1) > 0).all()
    seen = [tuple(c) for b in batches for c in b.text.completions]
    assert len(set(seen)) == len(seen), "a block came back twice"


def test_surplus_is_dropped_if_it_is_not_carried(make):
    batches, states = carried_run(make, carry=False)
    assert all(s == {"carried": []} for s in states)
    assert all((b.table["origin"] == 0).all() and "old_logp" not in b.table for b in batches)
    assert sum(b.outcomes["dynamic/dropped"] for b in batches) > 0


def test_state_survives_json(make):
    _, states = carried_run(make)
    step = next(i for i, s in enumerate(states[:-1]) if s["carried"])
    state = states[step]
    again = json.loads(json.dumps(state))
    (one,), next_one = refill(make(), state=state, first=step + 1)
    (two,), next_two = refill(make(), state=again, first=step + 1)
    assert next_one == next_two
    for name, column in one.table.items():
        np.testing.assert_array_equal(two.table[name], column, err_msg=name)


def test_a_verdict_has_to_spread_more_than_min_std(make):
    (batch,), _ = refill(make(), min_std=0.4)  # of 8 rows: at least 2 of each kind
    filled = batch.table["row_mask"].any(1)
    assert filled.any() and (batch.table["verdict/digit"][filled].std(1) > 0.4).all()
    (batch,), _ = refill(make(), min_std=0.6, max_batches=2)
    assert batch.outcomes["dynamic/empty"] == 4
    tools = make()
    tools.counted_names = ()  # as of a verifier of weight 0
    (batch,), _ = refill(tools, max_batches=1)
    assert batch.outcomes["dynamic/kept"] == 0, "what is only measured makes no group worth it"


@pytest.mark.slow  # as do the runs of tests/test_faults.py, which carry rows too
def test_training_with_carried_blocks_resumes_exactly(tmp_path):
    def run(name, steps):
        config = toy(steps=steps, rollout__fn="dynamic.refill", rollout__group=8, export=False)
        config.model.source = "toy:layers=1,width=16,heads=2,kv_heads=1,ff=16"
        config.rollout.options = dict(max_batches=6)
        config.eval.prompts = config.eval.samples = 1
        config.log.tensorboard = False
        train_lib.train(config, tmp_path / name)

    run("whole", 4)
    run("broken", 2)
    run("broken", 4)
    whole, broken = (lines(tmp_path / d / "rollouts.jsonl") for d in ("whole", "broken"))
    assert whole == broken
    after = next(
        m for m in lines(tmp_path / "broken" / "metrics.jsonl") if m["step"] == 3 and len(m) > 20
    )
    assert after["verify/dynamic/carried"] > 0, "nothing crossed the break: choose another seed"
    assert same(params_of(tmp_path / "whole"), params_of(tmp_path / "broken"))


def test_strings_that_no_text_shows_are_refused(make):
    for wrong, message in (
        ("<user>", "with the special token '<user>', which"),
        ("", "every text"),
    ):
        with pytest.raises(ConfigError, match=f"stop_strings: .*{message}"):
            make(stop_strings=(wrong,))
        with pytest.raises(ConfigError, match=f"until: .*{message}"):
            make().generate(stream().take(1), group=1, step=0, until=(wrong,))


def test_blocks_are_taken_and_put_together(make):
    tools = make()
    draws = stream().take(3)
    first = tools.verify(tools.generate([draws[0], None], group=4, step=0))
    second = tools.verify(tools.generate([draws[1], draws[2]], group=4, step=1))
    second.table["prompt_tokens"] = second.table["prompt_tokens"][:, 8:]  # a narrower bucket
    second.table["prompt_mask"] = second.table["prompt_mask"][:, 8:]
    both = tools.concatenate([first, second])
    columns.check(both.table)
    assert both.table["group"].tolist() == [0, -1, 2, 3]
    assert both.table["row_id"].ravel().tolist() == list(range(16))
    assert sum(both.outcomes.values()) == 12
    for i, (draw, block) in enumerate([(draws[0], 0), (draws[1], 2), (draws[2], 3)]):
        tokens = both.table["prompt_tokens"][block][both.table["prompt_mask"][block]]
        assert tokens.tolist() == tools.encode(draw[0]), i
    taken = tools.take_blocks(both, [3, -1, 0])
    columns.check(taken.table)
    assert [p and p.id for p in taken.text.prompts] == [draws[2][0].id, None, draws[0][0].id]
    assert taken.table["group"].tolist() == [0, -1, 2]
    assert np.isnan(taken.table["verdict/digit"][1]).all() and not taken.outcomes
    np.testing.assert_array_equal(
        taken.table["completion_tokens"][0], second.table["completion_tokens"][1]
    )
    del second.table["origin"]
    with pytest.raises(ValueError, match=r"only some have the columns \['origin'\]"):
        tools.concatenate([first, second])


def test_rows_and_back(make):
    tools = make()
    batch = tools.verify(tools.generate(stream().take(2), group=4, step=0))
    back = tools.from_rows(json.loads(json.dumps(tools.to_rows(batch))))
    assert set(back.table) == set(batch.table)
    for name, column in batch.table.items():
        np.testing.assert_array_equal(back.table[name], column, err_msg=name)
    assert back.text.completions == batch.text.completions
    assert back.text.prompt_text == batch.text.prompt_text
    assert [[v["digit"].outcome for v in rows] for rows in back.text.verdicts] == [
        [v["digit"].outcome for v in rows] for rows in batch.text.verdicts
    ]


def test_rows_keep_group_and_origin_and_those_of_older_files_have_none(make):
    tools = make()
    batch, _ = sample.on_policy(stream(), tools, None, 0, prompts=2, group=4, group_blocks=2)
    batch = batch["policy"]
    batch.table["origin"][0, 1] = 3
    rows = json.loads(json.dumps(tools.to_rows(batch)))
    back = tools.from_rows(rows, origin=2)
    assert back.table["group"].tolist() == batch.table["group"].tolist() == [0, 0, 1, 1]
    assert back.table["origin"].tolist() == [[2, 3, 2, 2]] + [[2] * 4] * 3
    np.testing.assert_array_equal(back.table["row_id"], batch.table["row_id"])
    for row in rows:
        for key in ("group", "origin", "row_id"):
            del row[key]
    old = tools.from_rows(rows)
    assert old.table["group"].tolist() == [0, 1, 2, 3] and not old.table["origin"].any()
    assert old.table["row_id"].ravel().tolist() == list(range(16))


def test_rows_of_empty_blocks_are_not_written(make):
    tools = make()
    draws = stream().take(2)
    batch = tools.verify(tools.generate([draws[0], None, draws[1]], group=2, step=0))
    assert [r["block"] for r in tools.to_rows(batch)] == [0, 0, 2, 2]


def test_a_batch_is_widened_by_empty_slots(make):
    tools = make()
    batch = tools.verify(tools.generate(stream().take(2), group=4, step=0))
    wide = tools.widen(batch, 6)
    columns.check(wide.table)
    assert set(wide.table) == set(batch.table)
    assert wide.table["row_mask"].tolist() == [[True] * 4 + [False] * 2] * 2
    assert np.isnan(wide.table["verdict/digit"][:, 4:]).all()
    assert (wide.table["temperature"] == 1).all() and (wide.table["answer_id"] == -1).all()
    np.testing.assert_array_equal(wide.table["prompt_tokens"], batch.table["prompt_tokens"])
    np.testing.assert_array_equal(
        wide.table["completion_tokens"][:, :4], batch.table["completion_tokens"]
    )
    assert [len(c) for c in wide.text.completions] == [6, 6] == [len(v) for v in wide.text.verdicts]
    with pytest.raises(ValueError, match="got blocks of 4 rows, expected at most 3"):
        tools.widen(batch, 3)


def test_carried_blocks_and_a_truncated_law_refuse_each_other(make):
    tools = make()
    tools.sampling = tools.sampling.copy_and_resolve_references()
    tools.sampling.top_p = 0.9
    with pytest.raises(ValueError, match="refill carry=True: got top_k=0, top_p=0.9"):
        refill(tools)
    (batch,), _ = refill(tools, max_batches=1, carry=False)
    assert batch.outcomes["dynamic/batches"] == 1


def test_what_is_carried_keeps_its_masks_and_details(make):
    tools = make()
    batch = sample.on_policy(stream(), tools, None, 0, prompts=2, group=4)[0]["policy"]
    batch.table["train_mask"][0, 1] = False
    name, verdict = next(iter(batch.text.verdicts[1][2].items()))
    batch.text.verdicts[1][2][name] = dataclasses.replace(verdict, detail="looked at twice")
    again = tools.from_rows(json.loads(json.dumps(tools.to_rows(batch))))
    np.testing.assert_array_equal(again.table["train_mask"], batch.table["train_mask"])
    assert again.text.verdicts == batch.text.verdicts


def test_the_masks_of_a_recording_are_those_of_the_rollout(make):
    batch = sample.on_policy(stream(), make(), None, 0, prompts=2, group=4)[0]["policy"]
    batch.table["train_mask"][0, 1] = False
    shape = batch.table["completion_mask"].shape
    shaped = {
        **batch.table,
        "row_mask": batch.table["row_mask"] & False,
        "train_mask": batch.table["train_mask"] & False,
        "rewards": np.zeros(shape[:2], np.float32),
        "advantages": np.zeros(shape, np.float32),
    }
    rows = records.rollout_rows(batch, shaped)
    assert [r["rollout_masks"]["row_mask"] for r in rows] == [True] * 8
    assert [r["rollout_masks"]["train_mask"] for r in rows] == [True, False] + [True] * 6
    assert {r["rows_of_step"] for r in rows} == {8}


def test_purposes_and_seeds_have_draws_of_their_own(make):
    tools, items = make(), stream().take(2)
    drawn = [
        tools.generate(items, group=4, step=0, purpose=purpose).table["completion_tokens"]
        for purpose in (tools_lib.ROLLOUT, tools_lib.EVALUATE, tools_lib.ROLLOUT)
    ]
    assert (drawn[0] == drawn[2]).all() and (drawn[0] != drawn[1]).any()
    chance = tools.uniform("x", 1)
    tools.key = jax.random.key(3)
    assert tools.uniform("x", 1) != chance


def test_replay_of_blocks_that_share_a_group(make, tmp_path):
    tools = make()
    size = dict(prompts=2, group=4, group_blocks=2)
    batch = sample.on_policy(stream(), tools, None, 0, **size)[0]["policy"]
    batch.table["origin"][1, 0] = 3
    with metrics.RolloutLog(tmp_path) as log:
        log.write(1, tools.to_rows(batch))
        cut = [r | {"rows_of_step": 16} for r in tools.to_rows(batch) if r["block"] < 3]
        log.write(2, cut)
    again, _ = replay.recorded(stream(), tools, None, 0, **size, path=str(log.path))
    with pytest.raises(ValueError, match="has 12 rows of step 2, expected 16: the file was cut"):
        replay.recorded(stream(), tools, None, 1, **size, path=str(log.path))
    table = again["policy"].table
    assert table["group"].tolist() == [0, 0, 1, 1] and table["origin"].sum() == 3
    np.testing.assert_array_equal(table["old_logp"], table["sampler_logp"])
    np.testing.assert_array_equal(table["completion_tokens"], batch.table["completion_tokens"])
    table["row_mask"][0, 1] = False  # by shaping
    rows = tools.to_rows(again["policy"])
    for row in rows:
        row["rollout_masks"] = {"row_mask": True, "train_mask": row["sample"] != 2}
    back = tools.from_rows([r for r in rows if r["block"] != 1], blocks=6).table
    assert back["row_mask"].any(1).tolist() == [True, False, True, True, False, False]
    assert back["row_mask"][0].all() and back["train_mask"][0].tolist() == [True, True, False, True]
    assert back["group"].tolist() == [0, -1, 1, 1, -1, -1]
    columns.check(back)
    with pytest.raises(ValueError, match="got 15 rows of 4 blocks, expected 4 samples of each"):
        tools.from_rows(rows[:-1])
    with pytest.raises(ValueError, match=r"holds \(4, 4\) blocks x group, the config has \(2, 4\)"):
        replay.recorded(stream(), tools, None, 0, prompts=2, group=4, path=str(log.path))
