"""Tools: the calculator, the interpreter, and rollouts that call them in the middle of a row."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt import build, columns, evaluate
from rlpt import tools as tools_lib
from rlpt.advantages import _tokens
from rlpt.models.load import load
from rlpt.rewards import turns as gates
from rlpt.rollouts import sample, turns
from rlpt.settings import missing_by_verifier
from rlpt.tasks.base import Prompt
from rlpt.tasks.stream import Stream
from rlpt.verifiers import base, calculator, interpreter
from rlpt.verifiers.pool import VerifierPool
from tests.numeric import close
from tests.test_train import toy

WIDTH = 12
CONFIG = toy(sampling__completion_buckets=(WIDTH,))
MODEL = "toy:vocab=24,layers=1,width=16,heads=2,kv_heads=1,ff=16"  # it writes digits and signs


@base.traits(on_request=True)
def echo(trajectory, prompt):
    """A tool that repeats what it is asked in brackets; it does not like the digit 7."""
    if "7" in trajectory.text:
        return base.judged(False, "7")
    return base.judged(True, f"({trajectory.text[-1:]})")


VERIFIERS = (
    dict(fn="tests.toy:starts_with_digit", name="digit"),
    dict(fn="tests.test_turns:echo", name="echo", weight=0.0),
    dict(fn="calculator.calculator", name="calculator", weight=0.0),
)


@pytest.fixture(scope="module")
def make():
    loaded = load(MODEL)
    params = jax.tree.map(jnp.asarray, loaded.params)
    with VerifierPool(VERIFIERS, workers=1, deadline=20.0) as pool:

        def tools(**sampling):
            settings = CONFIG.sampling.copy_and_resolve_references()
            settings.update(sampling)
            out = tools_lib.Tools(
                loaded.config, loaded.tokenizer, pool, settings,
                missing_by_verifier(toy(verifiers=VERIFIERS)), [v["name"] for v in VERIFIERS],
                jax.random.key(3), counted_names=["digit"],
            )  # fmt: skip
            out.params = params
            return out

        yield tools


def stream():
    return Stream(build.load_tasks(CONFIG)[0], seed=0)


def live(batch, i, j):
    return batch.table["completion_tokens"][i, j][batch.table["completion_mask"][i, j]].tolist()


# ---- the calculator


def call(text, tool=calculator.calculator, **settings):
    return tool(base.Trajectory(text), Prompt("p", ()), **settings)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12*34", "408"),
        (" 7 + 5 ", "12"),
        ("(2+3)*4-6/2", "17"),
        ("1/3", "0.3333333333"),
        ("0.1+0.2", "0.3"),  # exact, unlike floats
        ("2^10", "1024"),
        ("-7//2", "-4"),
        ("7 % 4", "3"),
        ("3×4÷2−1", "5"),
        ("2**-1", "0.5"),
        ("1_000*2", "2000"),
        ("12 * 34 =", "408"),
    ],
)
def test_calculator(text, value):
    assert call(text) == base.Verdict(1.0, "correct", value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1/0", "division by zero"),
        ("0**-1", "division by zero"),
        ("9**9**9", "an exponent that is too large or not whole"),
        ("2**0.5", "an exponent that is too large or not whole"),
        ("9" * 199, "a number is too large"),
        ("1e999", "a number is too large"),
        ("x+1", "unknown name 'x'"),
        ("__import__('os').system('true')", "not an arithmetic expression"),
        ("[1,2]", "not an arithmetic expression"),
        ("True+1", "not an arithmetic expression"),
        ("1 if 2 else 3", "not an arithmetic expression"),
        ("(" * 150, "not an arithmetic expression"),
        ("7 +", "not an arithmetic expression"),
        ("", "an expression of 0 characters, expected 1 to 200"),
        ("1+" * 150 + "1", "an expression of 301 characters, expected 1 to 200"),
    ],
)
def test_calculator_refuses(text, reason):
    assert call(text) == base.Verdict(0.0, "incorrect", reason)


# ---- the interpreter


@pytest.mark.parametrize(
    ("program", "correct", "said"),
    [
        ("print(6 * 7)", True, "42"),
        ("import math\nprint(math.factorial(5), end=' ')\nprint('ok')", True, "120 ok"),
        ("print('early')\nraise SystemExit(1)", True, "early"),
        ("print('so far')\n1 / 0", False, "so far\nZeroDivisionError: division by zero"),
        ("print(", False, "SyntaxError: '(' was never closed (call, line 1)"),
        ("x = 1", False, "no output: print what is wanted"),
        ("while True: pass", False, "no answer within 1.0 s"),
    ],
)
def test_interpreter(program, correct, said):
    verdict = call(program, interpreter.python, seconds=1.0)
    assert (verdict.outcome == "correct", verdict.detail) == (correct, said)


def test_a_tool_is_asked_by_name_alone(make):
    tools = make()
    prompts = [Prompt("a", ()), Prompt("b", ())]
    texts = [base.Trajectory("1+1"), base.Trajectory("x")]
    assert [set(row) for row in tools.judge(texts, prompts)] == [{"digit"}] * 2
    said = tools.ask("calculator", ["1+1", "1+"], prompts)
    assert [v.detail for v in said] == ["2", "not an arithmetic expression"]
    assert tools.ask("echo", [], []) == []
    with pytest.raises(ValueError, match="asks for the verifier 'abacus'; the config has: digit"):
        tools.ask("abacus", ["1"], prompts[:1])


# ---- completions that end at a string, and go on


def test_rows_end_behind_a_string_that_stays(make):
    tools, items = make(), stream().take(4)
    plain = tools.generate(items, group=8, step=0)
    until = tools.generate(items, group=8, step=0, until=("9", "+="))
    columns.check(until.table)
    cut = 0
    for i, j in np.ndindex(4, 8):
        row, text = live(plain, i, j), plain.text.completions[i][j]
        end = tools.tokens_until(row, ("9", "+="))
        assert live(until, i, j) == row[:end]
        assert text.startswith(until.text.completions[i][j])
        if end is not None:
            cut += 1
            assert until.text.completions[i][j].endswith(("9", "+="))
            assert not until.table["truncated"][i, j]
            again = tools.generate(
                items[i : i + 1], group=1, step=0, first_sample=j, prefixes=[row[:end]],
                until=("9",),
            )  # fmt: skip
            assert (row[:end] + live(again, 0, 0)) == row[: end + len(live(again, 0, 0))]
            break
    assert cut, "no row was cut"


# ---- turns

SETTINGS = dict(prompts=4, group=8, tool="echo", opening="", closing="9", reply="{}=", turns=2)


@pytest.fixture(scope="module")
def played(make):
    tools = make()
    batches, state = turns.with_tool(stream(), tools, None, 0, **SETTINGS)
    assert state is None
    batch = batches["policy"]
    columns.check(batch.table)
    return tools, batch


def test_rows_are_what_was_sampled_and_what_the_tool_said(played):
    """Each turn again, from the tokens before it: the same tokens as in the row."""
    tools, batch = played
    table, text = batch.table, batch.text
    calls = table["tool_calls"]
    assert (calls > 0).sum() > 3 and calls.max() == 2, "the toy run calls the tool"
    np.testing.assert_array_equal(
        table["loss_mask"], table["completion_mask"] & (table["step_id"] >= 0)
    )
    items = list(zip(text.prompts, [0] * 4, strict=True))
    for i, j in np.argwhere(calls > 0).tolist():
        row, step = live(batch, i, j), table["step_id"][i, j]
        assert text.completions[i][j] == tools.tokenizer.decode(row)
        n = int((step == 0).sum())
        own = tools.tokenizer.decode(row[:n])
        assert own.endswith("9") and own.count("9") == 1
        if n == len(row):
            assert table["truncated"][i, j], "no room for the answer"
            continue
        wrong = "7" in own
        said = tools.tokenizer.encode("error: 7=" if wrong else f"({own[-2:-1]})=")
        said = [t for t in said if tools.tokenizer.decode([t])]  # what it has characters for
        assert row[n : n + len(said)] == said
        assert not table["loss_mask"][i, j, n : n + len(said)].any()
        assert (table["sampler_logp"][i, j, n : n + len(said)] == 0).all()
        begin = n + len(said)
        again = tools.generate(
            [items[i]], group=1, step=0, attempt=1, first_sample=j, prefixes=[row[:begin]],
            until=("9",),
        )  # fmt: skip
        second = live(again, 0, 0)
        assert row[begin : begin + len(second)] == second
        assert (step[begin : begin + len(second)] == 1).all()


def test_what_the_tool_said_is_attended_to(played):
    """The log-probs of the draws are those of the whole row, read at once."""
    tools, batch = played
    table = batch.table
    logp, trained = tools.score(table)["logp"], table["loss_mask"]
    close(logp[trained], table["sampler_logp"][trained], 1e-4)
    silent = {**table, "completion_tokens": np.where(trained, table["completion_tokens"], 5)}
    other = tools.score(silent)["logp"]
    behind = trained & (table["step_id"] >= 1)
    assert np.abs(other - logp)[behind].max() > 1e-3, "the answer makes no difference"


def test_turns_are_bounded(make, played):
    _, batch = played
    counts, table = batch.outcomes, batch.table
    assert counts["tool/calls"] == table["tool_calls"].sum()
    assert counts["tool/errors"] == table["tool_errors"].sum() > 0
    heard = (table["completion_mask"] & (table["step_id"] < 0)).any(-1)
    assert (counts["tool/calls"] - counts["tool/unheard"]) >= heard.sum() > 0
    assert table["step_id"].max() <= 2
    none, _ = turns.with_tool(stream(), make(), None, 0, **SETTINGS | dict(turns=0))
    plain, _ = sample.on_policy(stream(), make(), None, 0, prompts=4, group=8)
    for name in ("completion_tokens", "loss_mask", "sampler_logp", "verdict/digit"):
        np.testing.assert_array_equal(none["policy"].table[name], plain["policy"].table[name])
    assert none["policy"].table["tool_calls"].sum() == 0
    once, _ = turns.with_tool(stream(), make(), None, 0, **SETTINGS | dict(turns=1))
    assert once["policy"].table["tool_calls"].max() == 1


def test_an_answer_without_room_ends_the_row(make):
    settings = SETTINGS | dict(reply="0123456789{}", turns=1)
    batch = turns.with_tool(stream(), make(), None, 0, **settings)[0]["policy"]
    called = batch.table["tool_calls"] > 0
    late = called & (batch.table["step_id"][..., 2] == 0)  # three tokens of its own, and ten more
    assert late.any() and batch.table["truncated"][late].all()
    assert (batch.table["loss_mask"] == batch.table["completion_mask"])[late].all()
    assert batch.outcomes["tool/unheard"] >= late.sum()


def test_what_a_tool_may_not_say(make):
    tools = make(stop_strings=("(1",))
    clean = turns._plain(tools, "12<eos>3<pad><user>" + chr(0xDC80))
    assert clean == tools.tokenizer.encode("123")
    batch = turns.with_tool(stream(), tools, None, 0, **SETTINGS)[0]["policy"]
    assert not any("(1" in text for texts in batch.text.completions for text in texts)
    for wrong in (dict(closing=""), dict(reply="="), dict(turns=-1), dict(longest=0)):
        with pytest.raises(ValueError, match="with_tool: got closing="):
            turns.with_tool(stream(), tools, None, 0, **SETTINGS | wrong)
    with pytest.raises(ValueError, match=r"the stop strings \['\(1'\] are in closing"):
        turns.with_tool(stream(), tools, None, 0, **SETTINGS | dict(reply="(1{}"))


def test_the_reference_answer_is_there_for_the_belief(make):
    tools = make()
    settings = SETTINGS | dict(turns=0, answer="={answer}", width=2)
    batch = turns.with_tool(stream(), tools, None, 0, **settings)[0]["policy"]
    for i, prompt in enumerate(batch.text.prompts):
        own = batch.table["answer_tokens"][i][batch.table["answer_mask"][i]].tolist()
        fits = len(prompt.answer) == 1
        assert own == (tools.tokenizer.encode("=" + prompt.answer) if fits else [])
    assert batch.outcomes["tool/no_answer"] == sum(len(p.answer) > 1 for p in batch.text.prompts)
    table = build.abstract_table(toy(rollout__fn="turns.with_tool"))
    assert set(turns.with_tool.columns) <= set(table) & set(batch.table)


# ---- evaluation with the tool


def test_evaluation_completes_as_the_rollout_does(make):
    config = toy(rollout__fn="turns.with_tool", verifiers=VERIFIERS)
    config.rollout.options = {k: v for k, v in SETTINGS.items() if k not in ("prompts", "group")}
    tools, complete = make(), build.completion_of(config)
    prompts = [p for p, _ in stream().take(4)]
    rows = evaluate.Local(tools, 4, complete)(prompts, 8, 1.0)
    plain = evaluate.Local(tools, 4)(prompts, 8, 1.0)
    called = [(a.text, b.text) for x, y in zip(rows, plain, strict=True)
              for a, b in zip(x, y, strict=True) if "9" in b.text[:4]]  # fmt: skip
    assert called and all(a.startswith(b.partition("9")[0] + "9") for a, b in called)
    assert any(a != b for a, b in called), "nobody heard the tool"
    assert build.completion_of(toy()) is None
    entry = dict(fn=config.rollout.fn, **config.rollout.options)
    plain_entry = dict(fn="sample.on_policy")
    for stages, found in (((plain_entry, entry), complete), ((entry, plain_entry), None)):
        staged = toy(rollout__fn="stages.by_step", verifiers=VERIFIERS)
        staged.rollout.options = dict(stages=(stages[0] | dict(steps=1), stages[1]))
        build.check(staged)
        last = build.completion_of(staged)
        assert found is last is None or (last.func, last.keywords) == (found.func, found.keywords)
    for fn, options in (
        ("stages.beside", dict(tables=dict(policy=entry | dict(task="sums"), more=plain_entry))),
        ("steps.split", dict(inner=entry)),
    ):
        staged = toy(rollout__fn=fn, verifiers=VERIFIERS)
        staged.rollout.options = options
        last = build.completion_of(staged)
        assert (last.func, last.keywords) == (complete.func, complete.keywords)
    result = evaluate.evaluate(tools, prompts, samples=8, blocks=4, greedy=False, complete=complete)
    heard = [[c.text[:1].isdigit() for c in group] for group in rows]
    assert result["pass@1"] == pytest.approx(np.mean(heard)) and "chosen" not in result


# ---- rewards of turns


def test_gated_accumulation_of_turn_rewards():
    """Outcome 0 and 1, turns of .3 and .3, threshold 1: 0 and 1.6."""
    rewards = jnp.array([[0.0, 1.0, 0.99]])
    dense = jnp.array([[[0.3, 0, 0.3]] * 3])
    mask = jnp.ones(dense.shape, bool)
    for run in (gates.gate_steps, jax.jit(gates.gate_steps)):
        gated = run(rewards, dense, threshold=1.0)["step_rewards"]
        total = _tokens.token_rewards(mask, rewards, gated).sum(-1)
        close(total, [[0, 1.6, 0.99]])
    close(gates.gate_steps(rewards, dense, threshold=0.0)["step_rewards"], dense, what="open")


def test_configs_run_with_the_real_tool():
    """The interpreter's arm of the config is one that the pool can start."""
    import runpy

    config = runpy.run_path("configs/tool_calculator.py")["get_config"]("python")
    build.check(config)
    json.loads(config.to_json())
    assert config.verifiers[1]["fn"] == "interpreter.python"
