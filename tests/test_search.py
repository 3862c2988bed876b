"""Best-of-n, weighted majority, step beam search: the choices, and the rollout that makes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt import build, columns, evaluate, results, search, statistics
from rlpt import tools as tools_lib
from rlpt.models.load import load
from rlpt.rollouts import beam
from rlpt.settings import missing_by_verifier
from rlpt.tasks.stream import Stream
from rlpt.verifiers.pool import VerifierPool
from tests.numeric import close
from tests.test_train import toy

# ---- choosing


def test_aggregates_of_steps():
    want = {"min": 0.5, "prod": 0.36, "last": 0.8, "mean": 0.733333}
    for how, value in want.items():
        assert search.aggregate([0.9, 0.5, 0.8], how) == pytest.approx(value, abs=1e-6)
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores = rng.random(rng.integers(1, 6)).tolist()
        low, product, mean = (search.aggregate(scores, how) for how in ("min", "prod", "mean"))
        assert product <= low + 1e-12 and low <= mean + 1e-12
        for how in ("min", "prod"):  # a perfect step more changes neither
            longer = search.aggregate([*scores, 1.0], how)
            assert longer == pytest.approx(search.aggregate(scores, how))
        assert search.aggregate([*scores, 1.0], "last") == 1.0
    for how in search.AGGREGATES:
        assert search.aggregate([0.5, float("nan")], how) == -np.inf, "the worst"
    assert search.best([0.2, float("nan"), 0.9, -np.inf], 4) == [2, 0, 3, 1]
    assert search.weighted_majority(["a", "b"], [float("nan"), 0.5]) == ["b"]
    for scores, how in (([0.5], "sum"), ([], "min")):
        with pytest.raises(ValueError, match="expected one of min, prod, last, mean of at least"):
            search.aggregate(scores, how)


def test_survivors_are_the_best_of_those_that_differ():
    assert search.best([1.0, 3.0, 2.0, 3.0], 3) == [1, 3, 2]
    assert search.distinct(["a", "b", "a", "c", "b"]) == [0, 1, 3]
    assert search.survivors([1.0, 3.0, 2.0, 3.0], ["a", "b", "c", "b"], 2) == [1, 2]
    assert search.survivors([1.0, -np.inf], ["a", "b"], 4) == [0, 1]
    assert search.repeated(2, 5) == [0, 1, 0, 1, 0] and search.repeated(0, 3) == []


def test_expected_best_of_k_by_rank():
    """P(rank i is the best of k) = C(n-i, k-1) / C(n, k): 2/3, 1/3, 0 for n=3, k=2."""
    for place, chance in enumerate((2 / 3, 1 / 3, 0)):
        hits = [i == place for i in range(3)]
        assert statistics.best_of_k(hits, [3.0, 2.0, 1.0], 2) == pytest.approx(chance)
    rng = np.random.default_rng(1)
    for _ in range(20):  # a score that says what is right: more samples are better
        hits = rng.random(8) < 0.4
        rates = [statistics.best_of_k(hits, hits.astype(float), k) for k in range(1, 9)]
        want = [statistics.pass_at_k(8, np.array([hits.sum()]), k)[0] for k in range(1, 9)]
        close(rates, want, 1e-12, "a perfect score reaches pass@k")


def test_weighted_majority_by_hand():
    answers, scores = ["a", "a", "b", None, "c"], [0.2, 0.3, 0.6, 9.0, None]
    assert search.weighted_majority(answers, scores) == ["b"]
    assert search.weighted_majority(answers[:2], scores[:2]) == ["a"]
    assert search.weighted_majority(["a", "b"], [0.5, 0.5]) == ["a", "b"]
    assert search.weighted_majority([None], [1.0]) == []
    hits = [False, False, True, True, False]
    assert search.weighted_at_k(hits, answers, scores, 5) == 1.0
    assert search.weighted_at_k(hits, answers, scores, 1) == pytest.approx(1 / 5)
    assert search.weighted_at_k([True, False], ["a", "b"], [1.0, 1.0], 2) == 0.5
    for k in (0, 6):
        with pytest.raises(ValueError, match=f"weighted@k: got k={k} with n=5"):
            search.weighted_at_k(hits, answers, scores, k)


def test_weighted_majority_of_equal_scores_is_the_majority():
    rng = np.random.default_rng(0)
    for _ in range(15):
        n = int(rng.integers(1, 7))
        answers = [(None, "a", "b", "c")[i] for i in rng.integers(0, 4, n)]
        hits = rng.integers(0, 2, n).astype(bool).tolist()
        for k in range(1, n + 1):
            got = search.weighted_at_k(hits, answers, [0.5] * n, k)
            assert got == pytest.approx(statistics.majority_at_k(hits, answers, k))


def test_many_subsets_are_sampled(monkeypatch):
    rng = np.random.default_rng(0)
    hits, scores = rng.random(10) < 0.5, rng.random(10).tolist()
    answers = [str(i) for i in rng.integers(0, 3, 10)]
    exact = search.weighted_at_k(hits, answers, scores, 5)
    monkeypatch.setattr(search, "SUBSETS", 200)  # of 252
    assert search.weighted_at_k(hits, answers, scores, 5) == pytest.approx(exact, abs=0.12)


def test_measures_have_the_weighted_votes():
    rows = [
        {"samples": 2, "correct": 1, "hits": [True, False], "answers": ["1", "2"],
         "verdicts": {"prm": [[0.9, "correct"], [0.3, "correct"]]}, "chosen": True},
        {"samples": 2, "correct": 1, "hits": [False, True], "answers": ["1", "2"],
         "verdicts": {"prm": [[0.9, "correct"], [0.3, "correct"]]}, "chosen": False},
    ]  # fmt: skip
    found = results.measures(rows, best_of="prm")
    assert found["weighted@2"].tolist() == found["best@2"].tolist() == [1, 0]
    assert found["chosen"].tolist() == [1, 0] and "weighted@2" not in results.measures(rows)


# ---- step beam search

WIDTH = 12
CONFIG = toy(sampling__completion_buckets=(WIDTH,))
MODEL = "toy:vocab=24,layers=1,width=16,heads=2,kv_heads=1,ff=16"
STEP = "1"  # what ends a step


SPECS = (
    dict(fn="tests.toy:starts_with_digit", name="digit"),
    dict(fn="reasoning.patterns", name="signs", phrases=("+", "-", "*", "/"), full_count=4),
)


@pytest.fixture(scope="module")
def make():
    loaded = load(MODEL)
    params = jax.tree.map(jnp.asarray, loaded.params)
    with VerifierPool(SPECS, workers=1) as pool:

        def tools(**sampling):
            settings = CONFIG.sampling.copy_and_resolve_references()
            settings.update(sampling)
            out = tools_lib.Tools(
                loaded.config, loaded.tokenizer, pool, settings, missing_by_verifier(CONFIG),
                ["digit", "signs"], jax.random.key(3),
            )  # fmt: skip
            out.params = params
            return out

        yield tools


def items():
    return Stream(build.load_tasks(CONFIG)[0], seed=0).take(4)


def live(batch, i, j):
    return batch.table["completion_tokens"][i, j][batch.table["completion_mask"][i, j]].tolist()


def found(tools, group=4, **settings):
    settings = dict(by="signs", expand=2, separator=STEP, rounds=4) | settings
    batch = beam.complete(tools, items(), group=group, step=0, **settings)
    columns.check(batch.table)
    return batch


def signs(text):
    return len(set(text) & set("+-*/")) / 4


def test_without_a_choice_it_is_plain_sampling(make):
    tools = make()
    plain = tools.generate(items(), group=4, step=0)
    batch = found(tools, expand=1, rounds=9)
    assert batch.outcomes["beam/rounds"] > 1, "there are steps"
    for i in range(4):
        want = sorted(live(plain, i, j) for j in range(4))
        assert sorted(live(batch, i, j) for j in range(4)) == want
        texts = [batch.text.completions[i][j] for j in range(4)]
        assert sorted(texts) == sorted(plain.text.completions[i])
        order = [signs(t) for t in texts]
        assert order == sorted(order, reverse=True), "best first"
        close(batch.table["beam_score"][i], order)


def test_rows_are_draws_of_the_policy(make):
    tools = make()
    for settings in (dict(), dict(diverse=True), dict(expand=4), dict(lookahead=1)):
        table = found(tools, **settings).table
        logp = tools.score(table)["logp"]
        close(logp[table["loss_mask"]], table["sampler_logp"][table["loss_mask"]], 1e-4)
        assert (table["loss_mask"] == table["completion_mask"]).all()
        assert (table["completion_tokens"][~table["completion_mask"]] == 0).all()


@pytest.mark.parametrize("lookahead", [0, 1])
def test_the_best_beginning_goes_on(make, lookahead):
    """One search by hand: two rounds, all of the group from the best first step."""
    tools = make()
    batch = found(tools, expand=4, rounds=2, lookahead=lookahead)
    first = tools.generate(items(), group=4, step=0, until=(STEP,))
    checked = 0
    for i in range(4):
        texts = first.text.completions[i]
        going = [j for j in range(4) if STEP in texts[j] and len(live(first, i, j)) < WIDTH]
        ended = [j for j in range(4) if j not in going]
        rows = [live(batch, i, j) for j in range(4)]
        if not going:
            continue
        checked += 1
        begins = [live(first, i, j) for j in going]
        seen = [texts[j] for j in going]
        if lookahead:  # judged with one more step, greedy, that is not kept
            ahead = tools.generate(
                items()[i : i + 1] * len(going), group=1, step=0, until=(STEP,), temperature=0.0,
                first_sample=[0] * len(going), prefixes=begins,
            )  # fmt: skip
            more = [live(ahead, k, 0) for k in range(len(going))]
            assert all(more), "a step of its own"
            seen = [tools.tokenizer.decode(a + b) for a, b in zip(begins, more, strict=True)]
        best = going[max(range(len(going)), key=lambda k: signs(seen[k]))]
        begin = live(first, i, best)
        again = tools.generate(  # samples 0 to 3, a block each as in the search
            items()[i : i + 1] * 4, group=1, step=0, attempt=1, first_sample=list(range(4)),
            prefixes=[begin] * 4,
        )  # fmt: skip
        candidates = [begin + live(again, j, 0) for j in range(4)]
        candidates += [live(first, i, j) for j in ended]
        assert all(row in candidates for row in rows)
        top = max(signs(tools.tokenizer.decode(c)) for c in candidates)
        assert signs(batch.text.completions[i][0]) == top
    assert checked, "no prompt had a second step"


def test_search_beats_sampling_by_its_own_score(make):
    """The first row is the best of the group's; more choice on the way is better still."""
    tools = make()
    plain, beams = (found(tools, expand=n, rounds=9).table["beam_score"] for n in (1, 4))
    assert plain.mean() < plain[:, 0].mean() == plain.max(1).mean()
    assert plain.mean() < beams.mean() and plain[:, 0].mean() <= beams[:, 0].mean()


def test_trees_do_not_meet(make):
    """Diverse search: two searches of half the size, whose rows come best first."""
    tools = make()
    batch = found(tools, diverse=True, rounds=3)
    first = tools.generate(items(), group=4, step=0, until=(STEP,))
    for i in range(4):
        left = [live(batch, i, j) for j in range(4)]
        for tree in range(2):
            own = [live(first, i, 2 * tree + j) for j in range(2)]
            texts = [first.text.completions[i][2 * tree + j] for j in range(2)]
            going = [j for j in range(2) if STEP in texts[j] and len(own[j]) < WIDTH]
            kept = [own[j] for j in range(2) if j not in going]
            kept += [own[max(going, key=lambda j: signs(texts[j]))]] if going else []
            rows = [row for row in left if any(row[: len(k)] == k for k in kept)]
            assert len(rows) >= 2, "a tree's rows go on from what it kept"
        scores = batch.table["beam_score"][i]
        assert (np.diff(scores) <= 0).all(), "what the search puts first is the first row"


def test_steps_that_are_looked_ahead_do_not_count_as_drawn(make):
    """The log-prob of a greedy token is 0: with it in the mean, short beginnings would win."""
    tools = make()
    plain, ahead = (found(tools, by="", rounds=3, lookahead=n) for n in (0, 2))
    for name in ("completion_tokens", "beam_score"):
        np.testing.assert_array_equal(plain.table[name], ahead.table[name])


def test_bounds_of_a_search(make):
    tools = make()
    one = found(tools, rounds=1)
    plain = tools.generate(items(), group=4, step=0)
    assert sorted(map(sorted, one.text.completions)) == sorted(map(sorted, plain.text.completions))
    assert one.outcomes["beam/rounds"] == 1 and one.outcomes["beam/steps"] == 16
    stopped = found(make(stop_strings=("2",)))
    assert not any("2" in t for texts in stopped.text.completions for t in texts)
    low = found(tools, sign=-1.0, expand=4, rounds=9).table["beam_score"]
    assert (low <= 0).all() and (np.diff(low) <= 0).all()
    by_logp = found(tools, by="").table
    mean = by_logp["sampler_logp"].sum(-1) / by_logp["completion_mask"].sum(-1)
    close(by_logp["beam_score"], mean, 1e-5)
    for wrong in (
        dict(expand=3), dict(rounds=0), dict(lookahead=-1), dict(aggregate="sum"),
        dict(separator=""), dict(aggregate="prod", by=""), dict(aggregate="prod", sign=-1.0),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="steps: got group=4"):
            found(tools, **wrong)


def test_search_in_evaluation_and_as_a_rollout(make):
    config = toy(rollout__fn="beam.steps", rollout__group=4, verifiers=SPECS)
    config.rollout.options = dict(by="signs", expand=2, separator=STEP, rounds=3)
    tools = make()
    batches, _ = build.rollout_of(config)(Stream(build.load_tasks(config)[0]), tools, None, 0)
    batch = batches["policy"]
    columns.check(batch.table)
    assert batch.table["beam_score"].shape == batch.table["verdict/digit"].shape == (4, 4)
    prompts = [p for p, _ in items()]
    complete = build.completion_of(config)
    result = evaluate.evaluate(tools, prompts, samples=4, blocks=4, greedy=False, complete=complete)
    sampler = evaluate.Local(tools, 4, complete)
    assert sampler.ranked and not evaluate.Local(tools, 4).ranked
    tops = [group[0].text[:1].isdigit() for group in sampler(prompts, 4, 1.0)]
    assert result["chosen"] == pytest.approx(np.mean(tops))
    assert [r["chosen"] for r in result["per_prompt"].values()] == tops


def test_evaluation_of_a_model_by_name(tmp_path):
    config = toy(
        rollout__fn="beam.steps", sampling__completion_buckets=(WIDTH,), eval__prompts=4,
        eval__samples=4,
    )  # fmt: skip
    config.rollout.options = dict(expand=2, separator=STEP, rounds=3)
    searched, plain, again = (
        evaluate.evaluate_source(config, MODEL, plain=flag, cache=tmp_path, best_of="digit")
        for flag in (False, True, False)
    )
    assert set(searched["intervals"]) - set(plain["intervals"]) == {"chosen"}
    assert searched["per_prompt"] == again["per_prompt"] != plain["per_prompt"]
    assert len(list(tmp_path.iterdir())) == 2, "a journal each"
    compared = results.compare(searched, plain)["measures"]
    assert {"best@4", "weighted@4", "pass@1"} <= set(compared) and "chosen" not in compared
