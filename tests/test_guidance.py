"""Guide and Scaf-GRPO: who gets a hint, what is trained under which prompt, exact gradients."""

import itertools
import json
import pathlib
import re
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt import build, chain, columns, learners
from rlpt import tools as tools_lib
from rlpt.advantages import tree
from rlpt.losses import aggregate, off_policy, ratios, surrogates
from rlpt.models.load import load
from rlpt.rewards import noise
from rlpt.rollouts import _hints, guide, sample, scaf, stages, steps
from rlpt.settings import missing_by_verifier
from rlpt.tasks import arithmetic, base
from rlpt.tasks.stream import Source, Stream
from rlpt.verifiers.base import Verdict, judged
from tests.numeric import both, close
from tests.test_train import toy

ROOT = pathlib.Path(__file__).parents[1]
MODEL = "toy:layers=1,width=16,heads=2,kv_heads=1,ff=16"
CONFIG = toy(sampling__prompt_buckets=(64, 128), model__source=MODEL)
SIZE = dict(prompts=4, group=4, group_blocks=2)


class Judge:
    """A pool that says what it is told: 1 right, 0 wrong, u unparsable, x a timeout, row by row.

    One text a call of `verify`; spaces are for people.
    """

    def __init__(self, *calls):
        self.calls, self.seen = [c.replace(" ", "") for c in calls], []

    def verify(self, trajectories, prompts):
        said = self.calls[len(self.seen)]
        assert len(said) == len(trajectories), f"{said} of {len(trajectories)} rows"
        self.seen.append(list(zip(trajectories, prompts, strict=True)))
        missing = {"u": Verdict(None, "unparsable"), "x": Verdict(None, "timeout")}
        return [{"digit": missing.get(c) or judged(c == "1")} for c in said]


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def make():
    loaded = load(MODEL)
    params = jax.tree.map(jnp.asarray, loaded.params)

    def tools(*calls, names=("digit",)):
        out = tools_lib.Tools(
            loaded.config, loaded.tokenizer, Judge(*calls), CONFIG.sampling,
            missing_by_verifier(CONFIG), list(names), jax.random.key(5),
        )  # fmt: skip
        out.params = params
        out.asked = []
        generate = out.generate

        def noted(items, **settings):
            out.asked.append(list(items))
            return generate(items, **settings)

        out.generate = noted
        return out

    return tools


def prompt(i, **meta):
    return base.Prompt(f"p{i}", base.chat(f"{i} + {i} ="), answer=str(2 * i), meta=meta)


def stream(*prompts):
    """In this order, as if for the first time."""

    class Given:
        def take(self, n):
            return [(p, 0) for p in prompts[:n]]

    return Given()


TIERS = {"K": ["a", "b", "c", "d"], "P": ["e", "f", "g", "h"], "S": ["i", "j", "k", "l"]}
PROMPTS = [prompt(i, hint=f"see {i}", tiers=TIERS) for i in range(4)]
FIRST = "0000 1000 0000 0101"  # prompts 0 and 2 fail


def rows(batch, block):
    """The columns of a block, without what numbers it."""
    return {
        k: v[block]
        for k, v in batch.table.items()
        if k not in ("row_id", "group", "old_logp", "prompt_tokens", "prompt_mask")
    }


def context(tools, batch, block):
    table = batch.table
    return tools.tokenizer.decode(
        table["prompt_tokens"][block][table["prompt_mask"][block]], skip_special=False
    )


def credit(table, **settings):
    """Advantages of each row, [blocks, G], as a run with groups of two blocks makes them."""
    config = toy(advantage=(dict(fn="group.grpo", **settings),), rollout__group_blocks=2)
    made = chain.build(config, 2)
    table, _ = made(table, made.init(), made.numbers(0), jax.random.key(0), 0)
    return np.asarray(table["advantages"])[..., 0]


# ---- hints of sums


def test_hints_of_sums():
    found = {p.id: p for p in arithmetic.sums("train", digits=2, hints=True, size=4000)}
    say = lambda *row: arithmetic._hints(row).get("hint")
    assert say(7, 5) == "7 + 4 = 11, 11 + 1 ="
    assert say(37, 58) == "37 + 50 = 87, 87 + 8 ="
    assert say(7, 5, 30) == "7 + 5 = 12, 12 + 30 ="
    assert say(4, -23) == "4 + -20 = -16, -16 + -3 ="
    assert say(7, 1) is say(7, 0) is None, "one step is all there is"
    none = 0
    for p in found.values():
        if not p.meta:
            none += 1
            continue
        assert json.loads(json.dumps(p.meta)) == p.meta
        assert [len(parts) for parts in p.meta["tiers"].values()] == [4, 4, 4]
        told = " ".join([p.meta["hint"], *p.meta["tiers"]["solution"]])
        for a, b, total in re.findall(r"(-?\d+) \+ (-?\d+) = (-?\d+)", told):
            assert int(a) + int(b) == int(total)
        assert p.answer not in re.findall(r"-?\d+", told), "the answer is not told"
        left = re.fullmatch(r"(\d+) \+ (\d+) =", p.meta["step"])
        assert p.meta["hint"].endswith(p.meta["step"])
        assert int(left[1]) + int(left[2]) == int(p.answer), "and follows in one step"
    assert 0 < none < 0.1 * len(found)
    plain = arithmetic.sums("train", digits=2, size=4000)
    assert [p.id for p in plain] == list(found) and not any(p.meta for p in plain)


def test_a_hint_takes_the_place_of_the_last_user_message():
    chat = ({"role": "system", "content": "s"}, *base.chat("{hint} is {x}?"))
    got = _hints.with_hint(base.Prompt("a", chat), "{question} | {hint}", hint="{question}")
    assert [m["content"] for m in got.messages] == ["s", "{hint} is {x}? | {question}"]
    assert chat[1]["content"] == "{hint} is {x}?" and got.id == "a"
    with pytest.raises(ValueError, match="prompt 'b': got no user message"):
        _hints.with_hint(base.Prompt("b", chat[:1]), "{question}")


# ---- Guide


@pytest.fixture(scope="module")
def guided(make):
    """Tools and batch: prompts 0 and 2 fail, the hint helps the first of them."""
    tools = make(FIRST, "0110 0000")
    batches, state = guide.guided(stream(*PROMPTS), tools, "kept", 0, **SIZE)
    assert state == "kept"
    return tools, batches["policy"]


def test_hints_are_for_failed_groups_only(guided, make):
    tools, batch = guided
    columns.check(batch.table)
    own, hinted = tools.asked
    assert [x and x[0].id for x in hinted] == ["p0", None, "p2", None], "no call for the others"
    assert hinted[0][0].messages[-1]["content"] == "0 + 0 =\nHint: see 0"
    assert batch.table["group"].tolist() == [0, 0, 1, -1, 2, -1, 3, -1]
    assert batch.table["row_mask"].any(1).tolist() == [1, 1, 1, 0, 1, 0, 1, 0]
    assert batch.table["origin"].tolist() == [[0] * 4, [1] * 4] + [[0] * 4] * 6
    assert batch.table["verdict/digit"][:2].tolist() == [[0, 0, 0, 0], [0, 1, 1, 0]]
    counts = {k[6:]: v for k, v in batch.outcomes.items() if k.startswith("guide/")}
    assert counts == dict(failed=2, no_hint=0, too_long=0, asked=2, solved=1, rows=8, correct=2)
    assert batch.outcomes["digit/correct"] == 3, "of the unguided rows"
    plain = sample.on_policy(stream(*PROMPTS), make(FIRST), None, 0, prompts=4, group=4)
    for i in range(4):  # the own halves are what they would have been
        for name, column in rows(plain[0]["policy"], i).items():
            np.testing.assert_array_equal(rows(batch, 2 * i)[name], column, err_msg=name)


def test_no_guided_call_where_every_group_has_a_success(make):
    tools = make("0001 1000 0100 1111")
    batch = guide.guided(stream(*PROMPTS), tools, None, 0, **SIZE)[0]["policy"]
    assert len(tools.asked) == len(tools.pool.seen) == 1
    assert batch.table["group"].tolist() == [0, -1, 1, -1, 2, -1, 3, -1]
    assert not batch.table["origin"].any() and batch.outcomes["guide/failed"] == 0


def test_without_a_hint_or_a_verdict_there_is_no_guidance(make):
    given = [prompt(0), prompt(1, hint="x" * 200), prompt(2, hint="y"), prompt(3, hint="z")]
    tools = make("0000 0u00 xxxx x0x0", "1000")
    batch = guide.guided(stream(*given), tools, None, 0, **SIZE)[0]["policy"]
    assert [x and x[0].id for x in tools.asked[1]] == [None, None, None, "p3"]
    n = batch.outcomes
    assert (n["guide/failed"], n["guide/no_hint"], n["guide/too_long"], n["guide/asked"]) == (
        3, 1, 1, 1,
    )  # fmt: skip
    assert batch.table["row_mask"].sum(1).tolist() == [4, 0, 4, 0, 0, 0, 2, 4]


def test_groups_that_span_blocks_inside_other_rollouts(make):
    """Credit, the mesh and every inner rollout read one number of blocks."""
    guided = dict(fn="guide.guided")
    recipe = (
        dict(fn="tests.test_guidance:plain", steps=1),
        guided,
    )
    for fn, at, options in (
        (stages.by_step, 1, dict(stages=recipe)),
        (stages.beside, 0, dict(tables=dict(policy=guided))),
        (steps.split, 0, dict(separator="x", inner=guided)),
    ):
        made = make(FIRST, "1101 0000", FIRST, "1101 0000")
        direct = guide.guided(stream(*PROMPTS), made, None, at, **SIZE)[0]["policy"]
        batch = fn(stream(*PROMPTS), made, None, at, **SIZE, **options)[0]["policy"]
        for name, column in direct.table.items():
            np.testing.assert_array_equal(batch.table[name], column, err_msg=f"{fn} {name}")
        config = toy(rollout__fn=f"{fn.__module__.rpartition('.')[2]}.{fn.__name__}")
        config.rollout.group_blocks, config.rollout.options = 2, options
        build.check(config)
    first = stages.by_step(stream(*PROMPTS), make(FIRST), None, 0, **SIZE, stages=recipe)[0]
    table = first["policy"].table
    assert table["group"].tolist() == [0, -1, 1, -1, 2, -1, 3, -1], "one block of two is empty"
    assert table["row_mask"].any(1).tolist() == [True, False] * 4
    np.testing.assert_array_equal(table["verdict/digit"][::2].sum(1), [0, 1, 0, 2])
    alone = credit(table)[::2]
    np.testing.assert_allclose(alone[1], [1.5, -0.5, -0.5, -0.5], atol=1e-5)
    pairs = dict(fn="pairs.best_worst", group=2)
    judge = dict(output="value", table="pairs", loss=(dict(fn="preference.bradley_terry"),))
    config = toy(rollout__fn="stages.beside", rollout__group_blocks=2, learners__judge=judge)
    config.rollout.options = dict(tables=dict(policy=guided, pairs=pairs))
    build.check(config)  # its pairs are in blocks of their own
    config = toy(rollout__fn="stages.by_step", rollout__group_blocks=2)
    config.rollout.options = dict(stages=(dict(fn="branch.branching", steps=1), guided))
    with pytest.raises(ValueError, match="nodes of its tree are numbered within one block"):
        build.check(config)
    for options, fn in (
        (dict(group_blocks=2), "guide.guided"),
        (dict(stages=(guided | dict(group_blocks=2),)), "stages.by_step"),
    ):
        config = toy(rollout__fn=fn)
        config.rollout.options = options
        with pytest.raises(ValueError, match="config.rollout.group_blocks"):
            build.check(config)


def plain(stream, tools, state, step, *, prompts, group):
    """A rollout that knows of no groups that span blocks."""
    return sample.on_policy(stream, tools, state, step, prompts=prompts, group=group)


def test_the_trigger_is_one_verifier(make):
    both_names = ("digit", "format")
    with pytest.raises(ValueError, match="verifier='', expected one of digit, format"):
        guide.guided(stream(*PROMPTS), make(names=both_names), None, 0, **SIZE)
    with pytest.raises(ValueError, match="group_blocks=1, expected 2"):
        guide.guided(stream(*PROMPTS), make(), None, 0, prompts=4, group=4, group_blocks=1)
    table = {
        "row_mask": np.ones((3, 2), bool),
        "verdict/digit": np.array([[0, 0], [0, np.nan], [0.5, 0]], np.float32),
        "verdict/format": np.ones((3, 2), np.float32),
    }
    assert _hints.failed(table, "digit", 0.0) == [0, 1]
    unheard = table | {"verdict/digit": np.full((3, 2), np.nan, np.float32)}
    assert _hints.failed(unheard, "digit", 0.0) == [], "nobody has judged them"
    assert (
        _hints.failed(table, "digit", 0.5) == [0, 1, 2] and _hints.failed(table, "format", 0) == []
    )


def test_advantages_are_over_both_halves(make):
    tools = make("0000 1111 1111 1111", "1101")
    batch = guide.guided(stream(*PROMPTS), tools, None, 0, **SIZE)[0]["policy"]
    got = credit(batch.table, ddof=0)
    fails, right = -0.774597, 1.290994
    close(got[:2], [[fails] * 4, [right, right, fails, right]], atol=1e-5)
    assert not got[2:].any(), "constant groups and empty blocks"


def test_guidance_that_does_not_help_leaves_no_row(make):
    tools = make("0000 1111 1111 1111", "0000")
    batch = guide.guided(stream(*PROMPTS), tools, None, 0, **SIZE)[0]["policy"]
    assert not batch.table["row_mask"][1].any() and not credit(batch.table).any()
    assert (batch.outcomes["guide/asked"], batch.outcomes["guide/solved"]) == (1, 0)


def test_tempo_and_a_noise_correction_see_both_halves(guided):
    """The chain of configs/guide_tempo.py, against its parts on the rows of each group by hand."""
    config = runpy.run_path(str(ROOT / "configs/guide_tempo.py"))["get_config"]()
    config.shaping = config.shaping[1:]  # without the injected noise, the last is the correction
    batch = guided[1].table
    made = chain.build(config, 2)
    table, _ = made(
        batch | {"verdict/number": batch["verdict/digit"]},
        made.init(), made.numbers(0), jax.random.key(0), 0,
    )  # fmt: skip
    names = ("completion_tokens", "completion_mask", "loss_mask", "row_mask")
    for blocks in ([0, 1], [2], [4], [6]):
        whole = {k: np.concatenate(batch[k][blocks])[None] for k in (*names, "verdict/digit")}
        rewards = noise.backward(whole.pop("verdict/digit"), fp_rate=0.1, fn_rate=0.2)
        close(np.unique(rewards), np.array([-1 / 7, 9 / 7])[: len(np.unique(rewards))], atol=1e-6)
        want = tree.tempo(rewards, **whole, scale="none")
        got = np.concatenate(np.asarray(table["advantages"])[blocks])[None]
        close(got, want, atol=1e-5)
    assert np.abs(np.asarray(table["advantages"])[:2]).max() > 0.1
    assert not np.asarray(table["advantages"])[[3, 5, 7]].any()


# ---- which context: sampled under, trained under, ratio against


def under(tools, batch, block, messages):
    """Log-probs of a block's completions under another prompt, [G,T]."""
    table = {k: v[block : block + 1].copy() for k, v in batch.table.items()}
    tokens = tools.tokenizer.chat(list(messages))
    table["prompt_tokens"] = np.array([tokens], np.int32)
    table["prompt_mask"] = np.ones((1, len(tokens)), bool)
    return np.asarray(tools.score(table)["logp"][0])


@pytest.fixture(scope="module")
def scaffolded(make):
    """Tools and batch: of prompt 0 the levels 7, 9 and 12 succeed, of prompt 2 none."""
    tools = make(FIRST, "000000101001 0000", "0000 0000")
    options = dict(tiers=("K", "P", "S"))
    batch = scaf.rescued(stream(*PROMPTS), tools, None, 0, **SIZE, **options)[0]["policy"]
    return tools, batch


def test_the_ratio_of_a_guided_row_is_against_the_law_under_the_hint(guided):
    tools, batch = guided
    table, mask = batch.table, batch.table["completion_mask"][1]
    np.testing.assert_array_equal(table["old_logp"], table["sampler_logp"])
    hinted = under(tools, batch, 1, tools.asked[1][0][0].messages)
    close(table["old_logp"][1][mask], hinted[mask], atol=1e-4)
    plain = under(tools, batch, 1, PROMPTS[0].messages)
    assert np.abs(plain - hinted)[mask].max() > 1e-3, "the hint changes the law"


@pytest.mark.parametrize("old_logp", ["recompute", "sampler"])
def test_the_law_under_the_hint_is_never_computed_again(guided, old_logp):
    """Where old_logp is written for all rows, guided ones keep what they brought."""
    tools, batch = guided
    config = toy(model__source=MODEL, learner__old_logp=old_logp, learner__epochs=2)
    loaded = load(MODEL)
    made = learners.Learners(
        config, build.make_learners(config, loaded.config, None), (), loaded, set(),
        jax.random.key(0),
    )  # fmt: skip
    table = dict(batch.table) | {"old_logp": batch.table["old_logp"] - 1}
    made.prepare(table)
    own = batch.table["sampler_logp"] - (batch.table["origin"] == 1)[..., None]
    live = batch.table["completion_mask"] & batch.table["row_mask"][..., None]
    close(np.asarray(table["old_logp"])[live], own[live], atol=1e-4)
    assert (batch.table["origin"] == 1).any()


def test_rows_marked_on_policy_have_the_training_law(guided, scaffolded):
    for tools, batch in (guided, scaffolded):
        table = batch.table
        gap = np.asarray(tools.score(table)["logp"]) - table["sampler_logp"]
        live = table["loss_mask"] & table["row_mask"][..., None]
        own = live & (table["origin"] == 0)[..., None]
        assert abs(gap[own].mean()) < 1e-5 and np.abs(gap[own]).max() < 1e-4
        if (table["origin"] == 1).any():
            assert abs(gap[live & ~own].mean()) > 1e-3


def test_hint_tokens_carry_no_loss(guided, scaffolded):
    """What trains is what was sampled; a hint stands in a prompt, and in Guide not even there."""
    for tools, batch in (guided, scaffolded):
        table = batch.table
        np.testing.assert_array_equal(table["loss_mask"], table["completion_mask"])
        for i, j in zip(*table["row_mask"].nonzero(), strict=True):
            tokens = table["completion_tokens"][i, j][table["loss_mask"][i, j]]
            assert tools.tokenizer.decode(tokens) == batch.text.completions[i][j]
    tools, batch = guided
    contexts = [context(tools, batch, i) for i in (0, 1)]
    assert contexts[0] == contexts[1] == batch.text.prompt_text[1] == "<user>0 + 0 =<assistant>"
    tools, batch = scaffolded
    assert context(tools, batch, 0) == "<user>0 + 0 =<assistant>"
    assert context(tools, batch, 1) == "<user>0 + 0 =\nP: e f g<assistant>"
    assert context(tools, batch, 1) == batch.text.prompt_text[1]


def test_another_training_prompt_changes_the_numerator_of_guided_rows_only(guided, scaffolded):
    """Ratios as the learner forms them, before and after a block's context changes."""
    learner = build.make_learner(CONFIG, guided[0].model)
    loss = jax.jit(learner.loss)
    cases = ((guided, 1, True), (guided, 0, False), (scaffolded, 1, False))  # GRPO: block 0
    for (tools, batch), at, moves in cases:
        block = {k: v[at : at + 1] for k, v in batch.table.items()}
        tokens = tools.tokenizer.chat(list(base.chat("9 + 9 = ?")))
        changed = {k: block[k].copy() for k in ("prompt_tokens", "prompt_mask")}
        changed["prompt_tokens"][0, -len(tokens) :] = tokens
        changed["prompt_mask"][0] = np.arange(changed["prompt_mask"].size)[::-1] < len(tokens)
        found = []
        for table in (block, block | changed):
            weights = aggregate.token_mean(table["loss_mask"], table["row_mask"])
            given = {**table, "advantages": np.ones(weights.shape)}
            given |= dict.fromkeys(("_of_all", "_of_sampler"), weights)
            given |= dict.fromkeys(("_of_own_context", "_of_other_context"), weights)
            _, metrics = loss(tools.params, None, given, [weights], learner.numbers(0))
            logp = np.asarray(tools.score(table)["logp"])
            live = np.asarray(weights) > 0
            found.append((float(metrics["policy/ratio"]), logp[live], table["old_logp"][live]))
        (ratio, logp, old), (ratio_after, logp_after, old_after) = found
        assert np.abs(logp - logp_after).max() > 1e-3, "the numerator moves"
        np.testing.assert_array_equal(old, old_after)
        if moves:
            assert ratio == pytest.approx(np.exp(logp - old).mean(), abs=1e-4)
            assert ratio_after == pytest.approx(np.exp(logp_after - old).mean(), abs=1e-4)
            assert abs(ratio - ratio_after) > 1e-3 and abs(ratio - 1) > 1e-3
        else:  # the denominator moves along: it starts at 1 under whatever prompt
            assert ratio == pytest.approx(1, abs=1e-6) and ratio_after == pytest.approx(1, abs=1e-6)


# ---- the surrogate of guided rows


def slope(fn, *columns, **settings):
    return jax.grad(lambda x: jnp.sum(fn(x, *columns, **settings)))


def test_clip_numbers_of_guided_rows():
    logp, old = jnp.log(jnp.full((1, 1, 1), 0.2)), jnp.log(jnp.full((1, 1, 1), 0.8))
    one = jnp.ones((1, 1, 1), bool)
    for advantage, value, gradient in (
        (1.290994, 0.322748, 0.322748), (-0.774597, -0.619677, 0.0),
    ):  # fmt: skip
        objective = lambda x, a=advantage: surrogates.ppo_clip(
            ratios.token(x, old, one), jnp.full((1, 1, 1), a), low=0.2, high=0.2
        )
        close(objective(logp), [[[value]]], atol=1e-6)
        close(slope(objective)(logp), [[[gradient]]], atol=1e-6)
    tiny = slope(lambda x: surrogates.ppo_clip(ratios.token(x, old, one), jnp.ones((1, 1, 1))))
    assert np.isfinite(tiny(logp - 200)).all(), "a ratio may be tiny"


def test_shaped_numbers():
    guided_row, own_row = jnp.full((1, 1), 1), jnp.zeros((1, 1), jnp.int32)
    ones = jnp.ones((1, 1, 1))
    for rho, gamma, value, gradient in (
        (0.2, 0.1, 0.666667, 0.222222), (1.25, 1.0, 0.555556, 0.246914), (1.0, 1.0, 0.5, 0.25),
    ):  # fmt: skip
        x = jnp.log(ones * rho)
        close(both(off_policy.shaped, x, ones, guided_row, gamma=gamma), [[[value]]], atol=1e-6)
        got = slope(off_policy.shaped, ones, guided_row, gamma=gamma)(x)
        close(got, [[[gradient]]], atol=1e-6)
        close(got, ones * rho * gamma / (rho + gamma) ** 2, atol=1e-6)
        close(
            both(off_policy.shaped, x, ones, own_row, gamma=gamma, high=0.1),
            surrogates.ppo_clip(x, ones, high=0.1),
        )
    wide = jnp.array([[[-300.0, 0.0, 300.0]]])
    got = off_policy.shaped(wide, jnp.ones((1, 1, 3)), guided_row, gamma=0.1)
    assert (np.asarray(got) > 0).all() and (np.asarray(got) < 1 + 1e-6).all()


class TableLM:
    """Sequences of T tokens out of V, laws from a table of logits by prefix: all countable."""

    V = 3

    def __init__(self, length):
        self.sequences = np.array(list(itertools.product(range(self.V), repeat=length)))
        prefixes = [tuple(s[:t]) for s in self.sequences.tolist() for t in range(length)]
        number = {x: i for i, x in enumerate(dict.fromkeys(prefixes))}
        self.prefix = np.array([number[x] for x in prefixes]).reshape(self.sequences.shape)
        self.size = (len(number), self.V)

    def logp(self, logits):
        """Of every token of every sequence, [1, V^T, T]."""
        return jax.nn.log_softmax(logits)[self.prefix, self.sequences][None]


@pytest.mark.parametrize("length", [1, 2, 3])
def test_exact_gradient_under_guidance(length):
    """sum_o pi_old(o|q,h) rho f grad log pi(o|q) is grad sum_o pi(o|q) f: with the row's ratio."""
    lm, rng = TableLM(length), np.random.default_rng(length)
    theta, hinted = (jnp.asarray(rng.normal(size=lm.size), jnp.float32) for _ in range(2))
    old = lm.logp(hinted)
    value = jnp.asarray(rng.normal(size=(1, len(lm.sequences), 1)), jnp.float32)
    advantages = jnp.broadcast_to(value, old.shape)
    mask = jnp.ones(old.shape, bool)
    # rows as often as the guided policy draws them; of a batch the weights are 1 / rows
    drawn = jnp.exp(old.sum(-1, keepdims=True)) * len(lm.sequences)
    weights = aggregate.sequence_mean_token_mean(mask) * drawn

    def surrogate(ratio):
        def objective(theta):
            log_ratio = ratio(lm.logp(theta), old, mask)
            return jnp.sum(weights * surrogates.ppo_clip(log_ratio, advantages, low=1.0, high=1e9))

        return jax.grad(objective)(theta)

    exact = jax.grad(lambda theta: jnp.sum(jnp.exp(lm.logp(theta).sum(-1)) * value[..., 0]))(theta)
    close(surrogate(off_policy.product), exact, atol=1e-6)
    by_token = np.abs(surrogate(ratios.token) - exact).max()
    if length == 1:
        assert by_token < 1e-6, "one token is a row"
    else:
        assert by_token > 1e-3, "biased, and seen to be"


def test_product_is_the_sum_over_trained_tokens():
    logp, old = jnp.array([[[-1.0, -2.0, -7.0]]]), jnp.array([[[-1.5, -1.0, jnp.nan]]])
    mask = jnp.array([[[True, True, False]]])
    close(both(off_policy.product, logp, old, mask), [[[-0.5, -0.5, 0.0]]])


# ---- Scaf-GRPO


def test_levels_do_not_add_up_over_tiers():
    given = lambda tiers, *names: scaf._levels(prompt(0, tiers=tiers), "tiers", names)
    levels = given(TIERS, "K", "P", "S")
    assert len(levels) == 12
    assert levels[:5] == [("K", "a"), ("K", "a b"), ("K", "a b c"), ("K", "a b c d"), ("P", "e")]
    assert levels[11] == ("S", "i j k l") and given(TIERS, "S") == levels[8:]
    assert given({}, "K") == given(None, "K") == given({"K": None}, "K") == []
    assert scaf._levels(prompt(0), "tiers", ("K",)) == []
    assert given({"K": "a text"}, "K") == [("K", "a text")], "not a level a letter"
    for wrong in (["a"], {"K": [1]}, {"K": 7}):
        with pytest.raises(ValueError, match=r"'tiers' of the prompt .* expected \{tier: \[parts"):
            given(wrong, "K")


def test_the_least_revealing_success_replaces_one_row(scaffolded, make):
    tools, batch = scaffolded
    columns.check(batch.table)
    table, lot = batch.table, [x[0] for x in tools.asked[1]]
    assert [len(x) for x in tools.asked] == [4, 16, 16] and len(tools.pool.seen[1]) == 16
    assert lot[6].messages[-1]["content"] == "0 + 0 =\nP: e f g", "level 7 of 7, 9 and 12"
    assert all(p.messages == base.chat(f"{p.id[1]} + {p.id[1]} =") for _, p in tools.pool.seen[1])
    assert table["group"].tolist() == [0, 0, 1, -1, 2, -1, 3, -1]
    assert table["row_mask"][:2].tolist() == [[True] * 3 + [False], [True] + [False] * 3]
    assert batch.text.completions[1][0] == tools.pool.seen[1][6][0].text
    assert not table["origin"].any()
    reward = np.where(table["row_mask"], table["verdict/digit"], 0)
    assert reward[:2].sum() == 1 and table["row_mask"][:2].sum() == 4, "0 before; size stays"
    plain = sample.on_policy(stream(*PROMPTS), make(FIRST), None, 0, prompts=4, group=4)
    for i in (1, 2, 3):
        for name, column in rows(plain[0]["policy"], i).items():
            np.testing.assert_array_equal(rows(batch, 2 * i)[name], column, err_msg=name)
    counts = {k[5:]: v for k, v in batch.outcomes.items() if k.startswith("scaf/")}
    by_tier = dict(rescued_K=0, rescued_P=1, rescued_S=0)
    assert counts == dict(failed=2, no_hint=0, too_long=0, samples=24, rescued=1, **by_tier)
    assert batch.outcomes["digit/correct"] == 3, "of the unhinted rows"


def test_scaf_advantage_numbers():
    """A group of 8 of which the last row gave way to one in a block of its own."""
    rows = np.array([[True] * 7 + [False], [True] + [False] * 7])
    table = {
        "verdict/digit": np.array([[0.0] * 8, [1.0] + [0.0] * 7], np.float32),
        "row_mask": rows,
        "group": np.array([0, 0], np.int32),
        "completion_tokens": np.ones((2, 8, 1), np.int32),
        "loss_mask": np.ones((2, 8, 1), bool),
    }
    for ddof, right, wrong in ((1, 2.474874, -0.353553), (0, 2.645751, -0.377964)):
        got = credit(table, ddof=ddof)
        close(got, [[wrong] * 7 + [0], [right] + [0] * 7], atol=1e-5)


def test_forms_of_the_success(make):
    def one(*forms):
        tools = make("0000 1000 1000 1000", "0100")
        out = scaf.rescued(stream(*PROMPTS), tools, None, 0, replace=forms, tiers=("S",), **SIZE)
        columns.check(out[0]["policy"].table)
        return tools, out[0]["policy"]

    tools, plain = one("question")
    table = plain.table
    assert table["origin"][:2].tolist() == [[0, 0, 0, 1], [0] * 4]
    assert table["row_mask"].sum(1).tolist() == [4, 0] * 4
    assert table["verdict/digit"][0].tolist() == [0, 0, 0, 1]
    hinted = under(tools, plain, 0, tools.asked[1][1][0].messages)[3]
    mask = table["loss_mask"][0, 3]
    close(table["old_logp"][0, 3][mask], hinted[mask], atol=1e-4)
    _, two = one("hinted", "question")
    mask = two.table["row_mask"][:2]
    assert mask.sum(1).tolist() == [3, 1] and two.table["origin"][0].tolist() == [0, 0, 0, 1]
    assert np.where(mask, two.table["verdict/digit"][:2], 0).sum() == 2
    assert two.text.completions[0][3] == two.text.completions[1][0] == plain.text.completions[0][3]
    for wrong in (("answer",), ("hinted", "hinted"), ()):
        with pytest.raises(ValueError, match="expected one or both of hinted and question"):
            one(*wrong)
    with pytest.raises(ValueError, match="group_blocks=1, expected 2"):
        scaf.rescued(stream(*PROMPTS), make(), None, 0, prompts=4, group=4, group_blocks=1)


def test_groups_that_cannot_be_rescued_stay(make):
    long = dict(K=["x" * 200])
    given = [prompt(0), prompt(1, tiers=long), *PROMPTS[2:]]
    tools = make("0000 0000 0001 0001")
    run = dict(SIZE, tiers=("K",))
    batch = scaf.rescued(stream(*given), tools, None, 0, **run)[0]["policy"]
    n = batch.outcomes
    assert (n["scaf/failed"], n["scaf/no_hint"], n["scaf/too_long"], n["scaf/samples"]) == (
        2, 1, 1, 0,
    )  # fmt: skip
    assert len(tools.asked) == 1 and batch.table["row_mask"].sum(1).tolist() == [4, 0] * 4
    for step, calls in ((4, 1), (5, 2)):
        tools = make("0000 0001 0001 0001", "1111")
        scaf.rescued(stream(*PROMPTS), tools, None, step, exempt_steps=5, **run)
        assert len(tools.asked) == calls, step


def test_hints_and_a_truncated_law_refuse_each_other(make):
    """A guided row's old_logp is the sampler's, which has to be the model's own."""
    tools = make("0001 0001 0001 0001")
    tools.sampling = tools.sampling.copy_and_resolve_references()
    tools.sampling.min_p = 0.1
    with pytest.raises(ValueError, match=r"guided: got top_k=0, top_p=1, min_p=0.1"):
        guide.guided(stream(*PROMPTS), tools, None, 0, **SIZE)
    with pytest.raises(ValueError, match="rescued replace='question': got top_k"):
        scaf.rescued(stream(*PROMPTS), tools, None, 0, replace=("question",), **SIZE)
    scaf.rescued(stream(*PROMPTS), tools, None, 0, **SIZE)  # the row's own law, by the update


def test_guide_on_a_task(make):
    """Prompts of a stream, whose hints come along."""
    sums = [Source("sums", arithmetic.sums("train", hints=True, system=""))]
    hinted = [bool(p.meta) for p, _ in Stream(sums).take(4)]
    tools = make("0000" * 4, "1000" * sum(hinted))
    n = guide.guided(Stream(sums), tools, None, 0, **SIZE)[0]["policy"].outcomes
    assert n["guide/solved"] == sum(hinted) > 0 and n["guide/no_hint"] == 4 - sum(hinted)
