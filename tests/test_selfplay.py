"""Self-play: rewards of proposers and solvers, cells, what runs the programs, and the rollout."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt import build, chain, columns
from rlpt import tools as tools_lib
from rlpt.advantages import batch as batch_lib
from rlpt.advantages import cells
from rlpt.models.load import load
from rlpt.rewards import selfplay
from rlpt.rollouts import propose
from rlpt.settings import missing_by_verifier
from rlpt.tasks import triplets
from rlpt.verifiers import base, calculator, executor
from rlpt.verifiers.pool import VerifierPool
from tests.numeric import both, close
from tests.test_train import toy

# ---- rewards


def absolute_zero(rate, formed=True, proposes=True, **settings):
    rate = jnp.asarray([rate], jnp.float32)
    flags = [jnp.broadcast_to(jnp.asarray(x), rate.shape) for x in (formed, proposes)]
    return both(selfplay.absolute_zero, rate, *flags, **settings)["rewards"][0]


def test_rewards_of_proposals():
    close(absolute_zero([0, 0.25, 0.5, 1]), [-0.5, 0.75, 0.5, -0.5])
    close(absolute_zero([0, 0.25, 0.5, 1], no_signal=0.0), [0, 0.75, 0.5, 0], what="the text's")
    close(absolute_zero([0.5, 0.5, 1.0], [True, False, False]), [0.5, -1, -1])


def test_rewards_of_solutions():
    got = absolute_zero([1, 0, 1, 0], [True, True, False, False], False)
    close(got, [1, -0.5, -1, -1])


def test_rewards_keep_dead_rows_out():
    rows = jnp.array([[True, False]])
    rate = jnp.array([[0.5, jnp.nan]])
    flags = jnp.ones((1, 2), bool)
    close(selfplay.absolute_zero(rate, flags, flags, rows)["rewards"], [[0.5, 0]])
    got = selfplay.absolute_zero(rate, flags, flags)
    assert got["row_mask"].tolist() == [[True, False]], "not judged is not wrong"
    assert selfplay.absolute_zero(rate, ~flags, flags)["row_mask"].all(), "malformed is"


def random_batch(seed=0, p=6, g=8, count=3):
    rng = np.random.default_rng(seed)
    rewards = rng.normal(size=(p, g)).astype(np.float32)
    return rewards, rng.integers(0, count, (p, g)), rng.random((p, g)) < 0.8


def test_cells_are_standardised_by_themselves():
    rewards, cell, rows = random_batch()
    got = both(cells.task_relative, rewards, cell, rows, cells=3, eps=0.0, atol=1e-5)
    for k in range(3):
        own = got[rows & (cell == k)]
        close(own.mean(), 0, 1e-5), close(own.std(ddof=1), 1, 1e-5)
    assert (got[~rows] == 0).all()
    other = np.where(cell == 1, 100 * rewards + 7, rewards)  # a scale of its own
    close(cells.task_relative(other, cell, rows, cells=3, eps=0.0), got, 1e-4)
    garbage = np.where(rows, rewards, np.nan)
    close(cells.task_relative(garbage, cell, rows, cells=3, eps=0.0), got, 1e-5)


def test_cells_do_not_depend_on_the_order_of_rows():
    rewards, cell, rows = random_batch(1)
    got = np.asarray(cells.task_relative(rewards, cell, rows, cells=3)).ravel()
    order = np.random.default_rng(2).permutation(rewards.size)
    mixed = [x.ravel()[order].reshape(x.shape) for x in (rewards, cell, rows)]
    close(cells.task_relative(*mixed, cells=3).ravel(), got[order], 1e-5)


def test_one_cell_is_reinforce_pp_of_rows_of_one_token():
    rewards, _, rows = random_batch(3)
    got = cells.task_relative(rewards, np.zeros(rewards.shape, int), rows, cells=1)
    mask = np.ones((*rewards.shape, 1), bool)
    close(got, batch_lib.reinforce_pp(rewards, mask, rows)[..., 0], 1e-5)


def test_cells_without_a_signal():
    cell = jnp.array([[0, 0, 1, 2, -1]])
    close(cells.task_relative(jnp.array([[0.3, 0.3, 5.0, 1.0, 9.0]]), cell, cells=2), [[0.0] * 5])
    with pytest.raises(ValueError, match="cells: got 0"):
        cells.task_relative(jnp.ones((1, 2)), jnp.zeros((1, 2), int), cells=0)


# ---- what runs the programs


def proposal(text, kind="deduction", program="", language="arithmetic"):
    prompt = triplets.ask_for_task(language, kind, (), program, 3, "0", "executor")
    return executor.executor(base.Trajectory(text), prompt, language=language, seconds=1.0)


def written(program, *inputs, message=""):
    text = f"<program>{program}</program>" if program else ""
    text += "".join(f"\n<input>{i}</input>" for i in inputs)
    return text + (f"\n<message>{message}</message>" if message else "")


def solution(task, text, language="arithmetic"):
    prompt = triplets.ask_for_solution(task, "executor")
    reply = base.Trajectory(f"so <answer>{text}</answer>")
    return executor.executor(reply, prompt, language=language, seconds=1.0)


@pytest.mark.parametrize(
    ("text", "outcome", "detail"),
    [
        (written("x * 3 + 2", 5), "correct", '["17"]'),
        (written("x / 4", "-1"), "correct", '["-1/4"]'),
        ("Sure!\n" + written(" (x - 1) ** 2 ", " 2.5 "), "correct", '["9/4"]'),
        (written("x / 0", 5), "incorrect", "division by zero"),
        (written("y + 1", 5), "incorrect", "unknown name 'y'"),
        (written("x", "2 + 2"), "incorrect", "not a number"),
        (written("x ** 90", "999"), "incorrect", "a number is too large"),
        ("x * 3 with 5", "unparsable", "no task in the form that was asked for"),
        ("<program>x</program>", "unparsable", "no task in the form that was asked for"),
        (written("", 5), "unparsable", "no task in the form that was asked for"),
    ],
)
def test_proposals_of_arithmetic(text, outcome, detail):
    verdict = proposal(text)
    assert (verdict.outcome, verdict.detail) == (outcome, detail)


def test_proposals_of_induction():
    text = written("", 1, 2, 7, message="twice and one")
    verdict = proposal(text, "induction", "2 * x + 1")
    assert json.loads(verdict.detail) == ["3", "5", "15"]
    twice = written("", 1, 1, message="m")
    assert proposal(twice, "induction", "x").detail == "an input occurs twice"
    assert proposal(written("", 1, 2), "induction", "x").outcome == "unparsable"
    assert proposal(written("", 1, message="m"), "induction", "x").outcome == "unparsable"


TASK = {"type": "deduction", "program": "x * x", "inputs": ["3"], "outputs": ["9"], "message": ""}


def test_solutions_of_arithmetic():
    judged = lambda kind, text: solution({**TASK, "type": kind}, text).outcome  # noqa: E731
    assert judged("deduction", "9") == judged("deduction", "9.0") == "correct"
    assert judged("deduction", "3 * 3") == "incorrect", "the answer is worked out by the solver"
    assert judged("deduction", "8") == "incorrect"
    assert judged("abduction", "3") == judged("abduction", "-3") == "correct", "by what comes out"
    assert judged("abduction", "9") == "incorrect"
    many = {**TASK, "type": "induction", "inputs": ["1", "2", "5"], "outputs": ["1", "4", "25"]}
    assert solution(many, "x ** 2").outcome == "correct"
    for wrong in ("3 * x - 2", "x x", "1"):  # the first fits the two that are shown
        assert solution(many, wrong).outcome == "incorrect"
    prompt = triplets.ask_for_solution(TASK, "executor")
    assert executor.executor(base.Trajectory("9"), prompt).outcome == "unparsable"


def test_half_of_the_cases_are_hidden():
    many = {**TASK, "type": "induction", "inputs": list("1257"), "outputs": ["1", "4", "25", "49"]}
    question = triplets.ask_for_solution(many, "executor").question
    assert "<input>2</input> <output>4</output>" in question
    assert "25" not in question and "49" not in question and "x * x" not in question
    assert "<output>" not in triplets.ask_for_solution(TASK, "executor").question
    back = triplets.ask_for_solution({**TASK, "type": "abduction"}, "executor").question
    assert "<output>9</output>" in back and "<input>" not in back


REVERSED = "def f(a, n):\n    return a[::-1] * n"


@pytest.mark.parametrize(
    ("program", "given", "detail"),
    [
        (REVERSED, "'ab', 2", "[\"'baba'\"]"),
        ("import math\ndef f(x):\n    return math.sqrt(x)", "4", '["2.0"]'),
        ("def f(x):\n    return {1, x}", "1", '["{1}"]'),
        ("def f(x):\n    return None", "4", "no output that can be written down"),
        ("def f(x):\n    return float('nan')", "4", "not Python literals"),
        ("def f(x):\n    return str(object())", "4", "another output when run again"),
        ("import random\ndef f(x):\n    return random.random()", "4", "uses random"),
        ("from os import path\ndef f(x):\n    return open('a')", "4", "uses open, os"),
        ("def f(x):\n    while True: pass", "4", "Failed: no answer within 1.0 s"),
        ("def f(x):\n    return x[0]", "[]", "IndexError: list index out of range"),
        ("def f(x):\n    return 'a' * 1000", "1", "more than 100 characters"),
        ("def f(x: return x", "1", "not a Python program"),
        ("def f(x):\n    return x", "open('a')", "not Python literals"),
    ],
)
def test_proposals_of_python(program, given, detail):
    verdict = proposal(written(program, given), language="python")
    assert verdict.detail == detail
    assert (verdict.outcome == "correct") == detail.startswith("[")


def test_solutions_of_python():
    task = {**TASK, "program": REVERSED, "inputs": ["'ab', 2"], "outputs": ["'baba'"]}
    judged = lambda kind, text: solution({**task, "type": kind}, text, "python").outcome  # noqa: E731
    assert judged("deduction", "'baba'") == judged("deduction", '"baba"') == "correct"
    assert judged("deduction", "'ab'[::-1] * 2") == judged("deduction", "baba") == "incorrect"
    assert judged("abduction", "'ab', 2") == judged("abduction", "'abab', 1") == "correct"
    assert judged("abduction", "'ba', 2") == judged("abduction", "'ab'") == "incorrect"
    assert judged("induction", "def f(a, n): return ''.join(reversed(a)) * n") == "correct"
    assert judged("induction", "def f(a, n): return a") == "incorrect"
    task = {
        **TASK,
        "program": "def f(x):\n    return [x]",
        "inputs": ["True"],
        "outputs": ["[True]"],
    }
    assert judged("deduction", "[True]") == "correct"
    assert judged("deduction", "[1]") == "incorrect", "types count inside of values too"


def test_what_is_taught_is_right():
    splits = [triplets.taught(split, size=300) for split in ("train", "eval")]
    for prompt in splits[0] + splits[1]:
        verdict = executor.executor(base.Trajectory(prompt.meta["reply"]), prompt)
        assert verdict.outcome == "correct", (prompt.question, prompt.meta["reply"])
    kinds = [{(p.meta["role"], p.meta["type"]) for p in split} for split in splits]
    assert [len(k) for k in kinds] == [6, 3]

    def functions(split):  # as their values at two places
        shown = [p.answer["program"] for p in split if p.meta["role"] == triplets.SOLVE]
        return {tuple(str(calculator.evaluate(f.replace("x", n))) for n in "27") for f in shown}

    train, held_out = map(functions, splits)
    assert train and held_out and not train & held_out


def test_a_program_is_known_by_its_language(make):
    with pytest.raises(ValueError, match="language: got 'lisp', expected one of arithmetic, pyth"):
        executor._prepare(language="lisp")
    with pytest.raises(ValueError, match="language: got 'lisp'"):
        triplets.seed("lisp", "deduction")
    assert executor._prepare() == {} and executor._prepare(language="python")["sandbox"]


# ---- the rollout: the policy's words are given, all else is real

CONFIG = toy(
    sampling__prompt_buckets=(700,), sampling__completion_buckets=(64,), rollout__prompts=5,
    rollout__group=4, verifiers=(dict(fn="executor.executor", name="executor"),),
    rollout__fn="propose.self_play",
    shaping=("selfplay.absolute_zero",), advantage=("cells.task_relative",),
)  # fmt: skip
CONFIG.rollout.options = dict(proposers=2)


class Scripted(tools_lib.Tools):
    """Tools whose completions say what `script` makes of prompt and sample."""

    def generate(self, items, **how):
        batch = super().generate(items, **how, max_tokens=1)
        p, g = batch.table["row_mask"].shape
        for name in ("completion_tokens", "completion_mask", "loss_mask", "sampler_logp"):
            old = batch.table[name]
            batch.table[name] = np.zeros((p, g, self.width), old.dtype)
        for i, j in np.argwhere(batch.table["row_mask"]).tolist():
            text = self.script(items[i][0], j)
            tokens = self.tokenizer.encode(text)[: self.width]
            batch.table["completion_tokens"][i, j, : len(tokens)] = tokens
            for name in ("completion_mask", "loss_mask"):
                batch.table[name][i, j, : len(tokens)] = True
            batch.text.completions[i][j] = text
        return batch


@pytest.fixture(scope="module")
def make():
    loaded = load("toy:layers=1,width=16,heads=2,kv_heads=1,ff=16")
    params = jax.tree.map(jnp.asarray, loaded.params)
    with VerifierPool([dict(v) for v in CONFIG.verifiers], workers=1, deadline=20.0) as pool:

        def tools(script):
            out = Scripted(
                loaded.config, loaded.tokenizer, pool, CONFIG.sampling,
                missing_by_verifier(CONFIG), ["executor"], jax.random.key(3),
            )  # fmt: skip
            out.params, out.script = params, script
            return out

        yield tools


def script(prompt, j):
    """Row j proposes: nothing; a broken task; x + 1 of 2; x * 7 of j. Solves every second time."""
    if prompt.meta["role"] == triplets.PROPOSE:
        return ["?", written("x / 0", 1), written("x + 1", 2), written("x * 7", j)][j]
    if prompt.answer["program"] == "x + 1":
        right = j == 0  # one of four
    else:
        right = prompt.answer["program"] == "x"
    if j == 3:
        return "no idea"
    return f"<answer>{prompt.answer['outputs'][0] if right else 'none'}</answer>"


def play(make, state=None, step=0, script=script, **settings):
    settings = dict(prompts=5, group=4, proposers=2, types=("deduction",)) | settings
    batches, state = propose.self_play(None, make(script), state, step, **settings)
    batch = batches["policy"]
    columns.check(batch.table)
    assert json.loads(json.dumps(state)) == state
    return batch, state


def test_proposals_are_worth_what_solutions_of_them_say(make):
    batch, state = play(make)
    table = batch.table
    # both proposers say the same: two tasks, one solved by one of four, one by nobody
    want = [[1, 1, 0.25, 0]] * 2
    np.testing.assert_allclose(table["solve_rate"][:2], want)
    assert table["formed"][:2].tolist() == [[False, True, True, True]] * 2
    assert table["proposes"].tolist() == [[True] * 4] * 2 + [[False] * 4] * 3
    assert table["cell"].tolist() == [[0] * 4] * 2 + [[3] * 4] * 3
    assert (batch.outcomes["selfplay/valid"], batch.outcomes["selfplay/learnable"]) == (4, 2)
    programs = [p.answer["program"] for p in batch.text.prompts[2:]]
    assert sorted(programs[:2]) == ["x * 7", "x + 1"] and programs[2] == "x", "filled up"
    for i, program in enumerate(programs, 2):
        right = {"x + 1": [1, 0, 0, 0], "x * 7": [0, 0, 0, 0], "x": [1, 1, 1, 0]}[program]
        assert table["solve_rate"][i].tolist() == right
        assert table["formed"][i].tolist() == [True] * 3 + [False]
    assert [t["program"] for t in state["tasks"]] == programs[:2]
    rewards = selfplay.absolute_zero(
        table["solve_rate"], table["formed"], table["proposes"], table["row_mask"]
    )["rewards"]
    close(rewards[:2], [[-1, -0.5, 0.75, -0.5]] * 2)
    assert table["row_mask"].all() and (table["group"] == np.arange(5)).all()
    assert table["prompt_mask"].shape == (5, 700)


def test_the_chain_of_the_config(make):
    batch, _ = play(make)
    made, _ = build.check(CONFIG)
    assert isinstance(made, chain.Chain)
    table, _ = made(batch.table, made.init(), made.numbers(0), jax.random.key(0), 0)
    advantages = np.asarray(table["advantages"])[..., 0]
    close(advantages[:2].sum(), 0, 1e-5), close(advantages[2:].sum(), 0, 1e-5)
    assert advantages[0, 2] > 0 > advantages[0, 0]
    assert (np.asarray(table["advantages"])[~batch.table["loss_mask"]] == 0).all()


def test_tasks_are_remembered_and_shown(make):
    _, state = play(make)
    asked = []

    def listen(prompt, j):
        if prompt.meta["role"] == triplets.PROPOSE and j == 0:
            asked.append(prompt.question)
        return "nothing"

    batch, later = play(make, state, 1, listen, references=1)
    assert all("<program>x + 1</program>" in q or "<program>x * 7</program>" in q for q in asked)
    assert later == state, "nothing new"
    programs = {p.answer["program"] for p in batch.text.prompts[2:]}
    assert programs == {"x + 1", "x * 7", "x"}, "earlier tasks are solved again"
    asked.clear()
    play(make, None, 1, listen)
    assert all("<program>x</program>" in q for q in asked), "the identity comes first"
    _, few = play(make, state, 1, lambda p, j: written(f"x - {j}", 1), remember=3)
    assert [t["program"] for t in few["tasks"]][-1] != "x * 7" and len(few["tasks"]) == 3
    _, none = play(make, state, 1, lambda p, j: written(f"x - {j}", 1), remember=0)
    assert none["tasks"] == []


def test_references_give_way_to_the_prompt_bucket(make):
    long = {**TASK, "program": "x" + " + 1" * 40}
    asked = []

    def listen(prompt, j):
        asked.append(prompt.question)
        return written("x" + " * 1" * 15, 1)

    play(make, {"tasks": [long, {**long, "inputs": ["4"]}]}, 0, listen, references=2)
    assert any("Others have made up" not in q or q.count(" + 1 + 1") > 0 for q in asked)
    assert max(map(len, asked)) < 700
    asked.clear()
    play(make, {"tasks": [{**long, "program": "x" + " + 1" * 139}]}, 0, listen, references=0)
    assert max(map(len, asked)) < 700, "a program that leaves the proposer no room"


def test_types_come_in_turn(make):
    kinds = []

    def listen(prompt, j):
        if prompt.meta["role"] == triplets.PROPOSE and j == 0:
            kinds.append(prompt.meta["type"])
        return "nothing"

    for step in range(3):
        batch, _ = play(make, None, step, listen, types=triplets.TYPES)
        want = [[triplets.TYPES.index(k)] * 4 for k in kinds[-2:]]
        assert batch.table["cell"][:2].tolist() == want
    assert kinds == [*triplets.TYPES, *triplets.TYPES]
    for wrong in (dict(proposers=5), dict(proposers=0), dict(types=()), dict(types=("guess",))):
        with pytest.raises(ValueError, match="self_play: got proposers="):
            play(make, **wrong)
