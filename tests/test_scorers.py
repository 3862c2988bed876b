"""Scorers, and the advantages that stand on them: worked numbers, identities, a real model."""

import functools
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt import build, learners, scoring
from rlpt import config as config_lib
from rlpt.advantages import group, hidden, influence, turns
from rlpt.models import transformer
from rlpt.scorers import answers, policy, trajectory
from rlpt.scorers import influence as influence_scorer
from tests.numeric import both, close

P, G, L, T, A, V = 2, 3, 4, 7, 3, 20
CFG = transformer.ModelConfig(
    V, 1, 16, 16, num_heads=2, num_kv_heads=1, head_dim=8, tie_embeddings=False
)


@pytest.fixture(autouse=True, scope="module")
def _compile_fast():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@functools.cache
def params():
    with jax.ensure_compile_time_eval():
        out = transformer.init_params(CFG, jax.random.key(0))
        return jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(1), x.shape), out)


def head(h):
    return transformer.logits(CFG, params(), h)


def model(table):
    columns = ("prompt_tokens", "prompt_mask", "completion_tokens", "completion_mask")
    given = {k: table[k] for k in (*columns, "temperature")}
    return scoring.outputs(CFG, params(), given, entropy=True)


def critic(table):
    value = scoring.value_params(params())
    kernel = jax.random.normal(jax.random.key(2), value["value_head"]["kernel"].shape)
    return scoring.values(CFG, value | {"value_head": {"kernel": kernel, "bias": 0.5}}, table)


ask = jax.jit(model)


@functools.cache
def table():
    """Ragged rows with tool output inside, an answer for each block, what the model says."""
    rng = np.random.default_rng(0)
    mask = np.arange(T) < np.array([[7, 5, 3], [6, 7, 1]])[..., None]
    trained = mask.copy()
    trained[:, 1, 2] = False  # what a tool said
    columns = {
        "prompt_tokens": rng.integers(0, V, (P, L)),
        "prompt_mask": np.arange(L) >= np.array([[0], [2]]),
        "completion_tokens": rng.integers(0, V, (P, G, T)),
        "completion_mask": mask,
        "loss_mask": trained,
        "row_mask": np.ones((P, G), bool),
        "temperature": np.array([[1.0, 0.7, 1.3]] * P, np.float32),
        "step_id": np.where(trained, np.arange(T) // 3, -1),
        "answer_tokens": rng.integers(0, V, (P, A)),
        "answer_mask": np.arange(A) < np.array([[3], [2]]),
        "judge_tokens": rng.integers(0, V, (P, A)),
        "judge_mask": np.arange(A) >= np.array([[1], [0]]),
        "verdict/exact": np.array([[1.0, 0.0, 1.0], [np.nan, 1.0, 0.0]], np.float32),
    }
    columns = {k: jnp.asarray(v) for k, v in columns.items()}
    return {**columns, **ask(columns)}


@functools.cache
def program(name, **settings):
    bound = config_lib.resolve("scorers", name, **settings)
    return jax.jit(lambda t: bound(t, head=head, models={"policy": model, "critic": critic}))


def score(name, columns=None, **settings):
    """A scorer called as a config would call it, under jit."""
    return program(name, **settings)(table() if columns is None else columns)


def largest(fn, *args):
    """Elements of the largest array that a function makes."""

    def walk(jaxpr):
        sizes = [v.aval.size for e in jaxpr.eqns for v in e.outvars]
        inner = [p for e in jaxpr.eqns for p in jax.tree.leaves(e.params, is_leaf=is_jaxpr)]
        return max(sizes + [walk(getattr(j, "jaxpr", j)) for j in inner if is_jaxpr(j)], default=0)

    def is_jaxpr(x):
        return hasattr(getattr(x, "jaxpr", x), "eqns")

    return walk(jax.make_jaxpr(fn)(*args).jaxpr)


SCORERS = {
    "policy.policy_entropy": {},
    "policy.mean_entropy": {},
    "policy.surprise": {},
    "policy.token_certainty": {"chunk": 4},
    "policy.self_certainty": {"chunk": 4},
    "influence.on_correct": {"chunk": 4},
    "trajectory.effective_rank": {"stride": 2, "last": 5},
    "answers.answer_logp": {},
    "answers.information_gain": {"turns": 3},
    "verification.self_logp": {},
    "verification.in_context": {"model": "policy", "output": "logp"},
    "verification.end_value": {},
}


def test_every_scorer_is_tried():
    assert set(SCORERS) == set(config_lib.accepted_names("scorers"))


@pytest.mark.parametrize("name", SCORERS)
def test_blocks_are_scored_by_themselves(name):
    """They come in slabs: the result for a block may not depend on the others."""
    whole = score(name, **SCORERS[name])
    for i in range(P):
        twice = score(name, {k: v[np.array([i] * P)] for k, v in table().items()}, **SCORERS[name])
        for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(twice), strict=True):
            assert a.dtype in (jnp.float32, bool) and np.isfinite(a).all(), f"{name}: {a}"
            for j in range(P):
                close(b[j], a[i], atol=1e-5, what=f"{name}, block {i} in place {j}")


def test_the_trainer_scores_slabs_of_blocks_with_the_same_result():
    config = config_lib.default()
    names = ["influence.on_correct", "policy.self_certainty", "answers.answer_logp"]
    bound = [config_lib.resolve("scorers", name) for name in names]
    models = {"policy": (build.make_learners(config, CFG)["policy"], params())}
    run = lambda t: learners.score_columns(bound, models, t, [b.numbers_at(0) for b in bound], 1)
    out = jax.jit(run)(table())
    assert set(out) == {"influence", "influence_known", "self_certainty", "answer_logp"}
    for name in names:
        want = score(name, **({"chunk": 4} if name == "influence.on_correct" else {}))
        for column, value in (want if isinstance(want, dict) else {name: want}).items():
            close(out[column.rpartition(".")[2]], value, atol=1e-4, what=column)


# ---- entropy, surprise, certainty


def test_what_the_policy_says_of_its_tokens():
    t = table()
    z = np.asarray(head(t["hidden"])) / np.asarray(t["temperature"])[..., None, None]
    law = np.exp(z - z.max(-1, keepdims=True))
    law /= law.sum(-1, keepdims=True)
    entropy = -np.sum(law * np.log(law), -1)
    mask, trained = np.asarray(t["completion_mask"]), np.asarray(t["loss_mask"])
    close(score("policy.policy_entropy"), np.where(mask, entropy, 0), 1e-5)
    want = np.where(trained, entropy, 0).sum(-1) / trained.sum(-1)
    close(score("policy.mean_entropy"), want, 1e-5, "tool output does not count")
    own = np.take_along_axis(law, np.asarray(t["completion_tokens"])[..., None], -1)[..., 0]
    close(score("policy.surprise"), np.where(mask, -np.log(own), 0), 1e-5)


def test_certainty_numbers():
    z = jnp.array([[[[2.0, 0, 0, 0], [0, 0, 0, 0], [7, 5, 5, 5]]]])
    mask = jnp.ones((1, 1, 3), bool)
    got = policy.token_certainty(z, mask, lambda h: h)
    close(got, [[[0.454459, 0, 0.454459]]], what="KL(U || p), whatever is added to all logits")
    got = policy.self_certainty(z, mask.at[..., 1].set(False), lambda h: h)
    close(got, [[0.454459]], what="mean over the tokens of the mask")
    none = policy.self_certainty(z, jnp.zeros_like(mask), lambda h: h)
    close(none, [[0.0]], what="no token")


@pytest.mark.parametrize("chunk", [4, 1000])
def test_certainty_of_a_model_in_chunks(chunk):
    t = table()
    logp = jax.nn.log_softmax(head(t["hidden"]))  # untempered
    kl = np.where(t["completion_mask"], -np.log(V) - logp.mean(-1), 0)
    got = score("policy.token_certainty", chunk=chunk)
    close(got, kl, atol=1e-5, what="KL(U || p)")
    rows = np.where(t["loss_mask"], kl, 0).sum(-1) / t["loss_mask"].sum(-1)
    close(score("policy.self_certainty", chunk=chunk), rows, atol=1e-5)


def test_logits_exist_for_one_chunk_only():
    h, wide = jnp.ones((2, 4, 64, 3)), jnp.ones((100, 3))
    mask, tokens = jnp.ones((2, 4, 64), bool), jnp.zeros((2, 4, 64), jnp.int32)
    ones = jnp.ones((2, 4))
    project = lambda h: h @ wide.T
    certainty = lambda h: policy.token_certainty(h, mask, project, chunk=16)
    verdict = {"v": ones}
    thr = lambda h, k: influence_scorer.on_correct(
        h, tokens, mask, ones, verdict, project, chunk=16, top_k=k
    )
    for name, fn in (
        ("token_certainty", certainty),
        ("thr", lambda h: thr(h, 0)),
        ("thr, top_k", lambda h: thr(h, 5)),
    ):
        assert largest(fn, h) == 16 * 100, f"{name}: an array of more than chunk x V"


# ---- token hidden reward


def thr_example():
    """3 rows of 2 tokens, the first row correct; the sum of A influence is 3.8568959."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=(5, 3))
    h = rng.normal(size=(6, 3)).reshape(1, 3, 2, 3).astype(np.float32)
    y = rng.integers(0, 5, 6).reshape(1, 3, 2)
    return jnp.asarray(w, jnp.float32), jnp.asarray(h), jnp.asarray(y)


@pytest.mark.parametrize("settings", [{}, {"chunk": 4}, {"top_k": 5}, {"top_k": 9, "chunk": 4}])
def test_thr_number_and_finite_difference(settings):
    w, h, y = thr_example()
    advantages = np.array([[1.0, -0.5, -0.5]])
    columns = (jnp.ones(y.shape, bool), jnp.ones((1, 3)), {"v": jnp.array([[1.0, 0, 0]])})
    score = lambda h, y, *c: influence_scorer.on_correct(h, y, *c, lambda x: x @ w.T, **settings)
    for run in (jax.jit(score), score):
        out = run(h, y, *columns)["influence"]
        total = np.sum(advantages[..., None] * out)
        assert total == pytest.approx(3.8568959, abs=2e-5)

    def correct(w):  # log-likelihood of the correct row, in float64
        z = np.asarray(h, np.float64)[0, 0] @ w.T
        own = np.take_along_axis(z, np.asarray(y)[0, 0][:, None], 1)[:, 0]
        return np.sum(own - np.log(np.exp(z).sum(-1)))

    w64, h64 = np.asarray(w, np.float64), np.asarray(h, np.float64)
    law = np.exp(h64 @ w64.T)
    e = np.eye(5)[np.asarray(y)] - law / law.sum(-1, keepdims=True)
    step = np.einsum("pg,pgtv,pgtd->vd", advantages, e, h64)
    slope = (correct(w64 + 1e-6 * step) - correct(w64 - 1e-6 * step)) / 2e-6
    assert total == pytest.approx(slope, abs=2e-5), "what one step does to the correct row"


def test_thr_of_a_model_is_the_derivative_along_its_own_gradient():
    """Temperatures, tool output, a row without verdict: against automatic differentiation."""
    t = table()
    advantages = jnp.array([[0.7, -1.2, 0.4], [0.3, 1.1, -0.8]])
    out = score("influence.on_correct", chunk=4)["influence"]
    correct = jnp.nan_to_num(t["verdict/exact"]) > 0.5
    trained = t["loss_mask"]

    def weighted(w, block, weight):
        z = (t["hidden"] @ w.T) / t["temperature"][..., None, None]
        logp = jnp.take_along_axis(jax.nn.log_softmax(z), t["completion_tokens"][..., None], -1)
        return jnp.sum(jnp.where(trained, logp[..., 0] * weight[..., None], 0)[block])

    for block in range(P):
        step = jax.grad(weighted)(params()["head"], block, advantages)
        _, want = jax.jvp(
            lambda w, b=block: weighted(w, b, correct.astype(jnp.float32)),
            (params()["head"],),
            (step,),
        )
        got = jnp.sum(advantages[block][:, None] * out[block])
        assert float(got) == pytest.approx(float(want), rel=1e-4), f"block {block}"
    assert (np.asarray(out)[~np.asarray(trained)] == 0).all()


def test_thr_top_k_keeps_the_largest_and_the_sampled():
    t = table()
    temperature = np.asarray(t["temperature"])[..., None, None]
    law = np.asarray(jax.nn.softmax(head(t["hidden"]) / temperature))
    own = np.eye(V)[np.asarray(t["completion_tokens"])]
    kept = (np.argsort(np.argsort(-law)) < 3) | (own > 0)
    e = np.where(kept, own - law, 0) / temperature
    good = np.asarray(t["loss_mask"]) & (np.nan_to_num(t["verdict/exact"]) > 0.5)[..., None]
    h = np.asarray(t["hidden"])
    moved = np.einsum("pgtv,pgtd->pvd", e * good[..., None], h)
    want = np.einsum("pgtv,pvd,pgtd->pgt", e, moved, h) * np.asarray(t["loss_mask"])
    close(score("influence.on_correct", top_k=3, chunk=5)["influence"], want, atol=1e-4)
    exact = score("influence.on_correct")["influence"]
    close(score("influence.on_correct", top_k=V, chunk=5)["influence"], exact, atol=1e-4)


def test_thr_without_a_correct_row_and_of_unknown_verifiers():
    none = {**table(), "verdict/exact": jnp.array([[0, 0, np.nan], [0, 1.0, 0]])}
    out = score("influence.on_correct", none)["influence"]
    assert (out[0] == 0).all() and (out[1] != 0).any()
    dead = {**none, "row_mask": table()["row_mask"].at[1, 1].set(False)}
    assert (score("influence.on_correct", dead)["influence"] == 0).all(), (
        "a row that does not count"
    )
    two = {**table(), "verdict/other": table()["verdict/exact"]}
    with pytest.raises(ValueError, match=r"got '', expected one of \['exact', 'other'\]"):
        score("influence.on_correct", two)
    with pytest.raises(ValueError, match=r"got 'exakt', expected one of"):
        score("influence.on_correct", verifier="exakt")
    same = score("influence.on_correct", two, verifier="other")["influence"]
    close(same, score("influence.on_correct")["influence"])


reweight = jax.jit(influence.thr)


def test_thr_advantages():
    advantages = jnp.array([[1.0, -1.0], [1.0, -1.0]])
    column = jnp.array([[[3.0, -1, 0.5], [2, -4, 9]], [[0, 0, 0], [0, 0, 0]]])
    trained = jnp.ones((2, 2, 3), bool).at[0, 1, 2].set(False)
    # THR of the first group: 3, -1, .5, -2, 4; the second has no correct row
    shaped = {
        (0.5, 1.0): [[1.5, 0.5, 1.5], [-0.5, -1.5, 0]],
        (0.5, 0.6): [[1.5, 0, 0], [-0.5, -1.5, 0]],
        (-0.25, 0.2): [[0, 0, 0], [0, -0.75, 0]],
    }
    for (p, keep), want in shaped.items():
        out = reweight(advantages, column, trained, p=p, keep=keep, tau=0.0)
        close(out["advantages"][0], want, what=f"p={p} keep={keep}")
        close(out["advantages"][1], [[1] * 3, [-1] * 3], what="nothing to steer by")
    out = both(influence.thr, advantages, column, trained, p=0.5, keep=1.0, tau=1.0)
    close(out["advantages"][0], [[1.5, 0, 0], [-0.5, -1.5, 0]], what="tau")
    assert out["metrics/thr_positive"] == pytest.approx(2 / 3)


def test_thr_of_a_group_over_two_blocks():
    """Only the first has a correct row, so that nothing is known of the second's influence."""
    advantages = jnp.array([[1.0, -1.0, -0.5, 0.5]])
    column = jnp.array([[[3.0, -1], [2, -4], [0, 0], [0, 0]]])
    trained, known = jnp.ones((1, 4, 2), bool), jnp.array([[True, True, False, False]])
    out = both(influence.thr, advantages, column, trained, None, known, p=0.5, keep=0.5)
    close(out["advantages"], [[[1.5, 0], [0, -1.5], [-0.5] * 2, [0.5] * 2]])
    alone = both(influence.thr, advantages[:, :2], column[:, :2], trained[:, :2], p=0.5, keep=0.5)
    close(out["advantages"][:, :2], alone["advantages"], what="as if the block were the group")


def test_thr_with_nothing_to_change_is_the_estimator_before():
    t = table()
    given = score("influence.on_correct")["influence"]
    base = jnp.array([[0.7, -1.2, 0.4], [0.3, 1.1, -0.8]])
    out = reweight(base, given, t["loss_mask"], p=0.0, keep=1.0, tau=-1.0)
    trained = np.asarray(t["loss_mask"])
    close(np.asarray(out["advantages"])[trained], np.where(trained, base[..., None], 0)[trained])
    rows = jnp.array([[True, False, True], [True] * 3])
    bad = given.at[0, 1].set(jnp.nan)
    out = reweight(base, bad, t["loss_mask"], rows, p=0.5)["advantages"]
    short = reweight(base[:1, ::2], given[:1, ::2], t["loss_mask"][:1, ::2], p=0.5)
    close(out[0, ::2], short["advantages"][0], what="a row that is out counts nowhere")


# ---- effective rank


def test_effective_rank_number():
    u = np.array([[1, -1, 1, -1], [1, 1, -1, -1]]).T / 2
    z = u @ np.diag([3.0, 1.0]) @ np.eye(2, 5) + 7.0  # the mean is taken off
    mask = jnp.ones((1, 1, 4), bool)
    out = both(trajectory.effective_rank, jnp.asarray(z, jnp.float32)[None, None], mask)
    close(out["effective_rank"], [[1.754765]], atol=1e-5, what="singular values 3 and 1")


def test_motion_numbers():
    ranks = jnp.array([[2.0, 3.0, 3.5, 5.0]] * 4)
    velocity, acceleration = both(trajectory._motion, ranks, jnp.array([4, 2, 1, 0]))
    close(velocity, [1.388889, 1, 0, 0])
    close(acceleration, [0.583333, 0, 0, 0])


def rank_by_numpy(z):
    s = np.linalg.svd(z - z.mean(0), compute_uv=False)
    q = s / s.sum()
    q = q[q > 1e-12]
    return np.exp(-np.sum(q * np.log(q)))


@pytest.mark.parametrize(("stride", "last", "d"), [(2, 9, 4), (2, 9, 30), (3, 0, 6), (1, 512, 6)])
def test_effective_rank_of_prefixes(stride, last, d):
    rng = np.random.default_rng(0)
    lengths = np.array([[13, 6, 1], [9, 4, 0]])
    z = (rng.normal(size=(2, 3, 13, d)) + 5 * rng.normal(size=d)).astype(np.float32)
    mask = np.arange(13) < lengths[..., None]
    fn = functools.partial(trajectory.effective_rank, stride=stride, last=last)
    out = jax.jit(fn)(jnp.asarray(z), jnp.asarray(mask))
    for i in np.ndindex(2, 3):
        row = z[i][: lengths[i]].astype(np.float64)[-(last or 13) :]
        m = [rank_by_numpy(row[: k + 1]) for k in range(stride, len(row), stride)]
        change = [m[j] - np.mean(m[:j]) for j in range(1, len(m))]
        want = {
            "effective_rank": rank_by_numpy(row) if len(row) > 1 else 0,
            "rank_velocity": np.mean(change) if change else 0,
            "rank_acceleration": np.mean(np.diff(change)) if len(change) > 1 else 0,
        }
        for name, value in want.items():
            assert out[name][i] == pytest.approx(value, abs=2e-4), f"{name} of row {i}"


def test_effective_rank_does_not_see_padding():
    t = table()
    wide = {
        k: jnp.pad(t[k], [(0, 0)] * 2 + [(0, 4)] + [(0, 0)] * (t[k].ndim - 3), mode="edge")
        for k in ("hidden", "completion_mask")
    }
    wide["completion_mask"] = wide["completion_mask"].at[..., T:].set(False)
    for name, value in score("trajectory.effective_rank", wide, stride=2).items():
        close(value, score("trajectory.effective_rank", stride=2)[name], atol=1e-4, what=name)
    with pytest.raises(ValueError, match=r"stride: got 0, expected a number in \[1, inf\]"):
        score("trajectory.effective_rank", stride=0)


# ---- VERL


shape = jax.jit(hidden.verl.update, static_argnames="bonus_on")


def verl(advantages, ranks, state=None, masks=(), shape=shape, **settings):
    state = {"means": jnp.ones(3), "updates": jnp.int32(1)} if state is None else state
    ranks = [jnp.asarray(r, jnp.float32) for r in ranks]
    trained, rows = masks or (jnp.ones((1, 1, 2), bool), jnp.ones((1, 1), bool))
    return shape(jnp.asarray(advantages), *ranks, trained, state, rows, **settings)


@pytest.mark.parametrize(("before", "after"), [(1.0, 1.117488), (-0.2, -0.1), (0.0, 0.0)])
def test_verl_numbers(before, after):
    """Deviations .2, -.1 and .5 from means of 1: share .731059, phi .117488."""
    checked = functools.partial(both, hidden.verl.update)
    out, state = verl([[before]], ([[1.2]], [[0.9]], [[1.5]]), shape=checked, rate=0.3)
    assert out["metrics/verl_phi"] == pytest.approx(0.117488, abs=1e-6)
    close(out["advantages"], [[[after] * 2]], what="on every token")
    close(state["means"], [1.06, 0.97, 1.15], what="0.7 before + 0.3 batch")
    last, _ = verl([[before]], ([[1.2]], [[0.9]], [[1.5]]), bonus_on="last")
    close(last["advantages"], [[[before, after]]], what="on the last token")


def test_verl_first_batch_only_sets_the_means():
    ranks = (jnp.array([[4.0, 8, 100]]), jnp.array([[1.0, 3, 100]]), jnp.array([[-2.0, 0, 100]]))
    rows = jnp.array([[True, True, False]])
    masks = jnp.ones((1, 3, 2), bool), rows
    out, state = verl([[1.0, -1, 0]], ranks, hidden.verl.init(), masks)
    close(out["advantages"], [[[1] * 2, [-1] * 2, [0] * 2]], what="no bonus")
    close(state["means"], [6, 2, -1], what="means of the rows that count")
    assert state["updates"] == 1 and out["metrics/effective_rank"] == 6
    none = jnp.zeros_like(rows)
    _, kept = verl([[1.0, -1, 0]], ranks, state, (masks[0], none))
    close(kept["means"], [6, 2, -1], what="a batch without rows")
    assert kept["updates"] == 1


def test_verl_flips_no_sign_and_punishes_nobody():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(4, 5)).astype(np.float32)
    ranks = [rng.normal(size=(4, 5)) * 3 for _ in range(3)]
    masks = jnp.ones((4, 5, 1), bool), jnp.ones((4, 5), bool)
    out, _ = verl(base, ranks, masks=masks, weight=10.0)
    got = out["advantages"][..., 0]
    assert (np.sign(got) == np.sign(base)).all() and (got >= base).all() and (got > base).any()
    low, _ = verl(base, [np.full((4, 5), -1.0)] * 3, masks=masks)
    close(low["advantages"][..., 0], base, what="phi <= 0 is the estimator before")
    with pytest.raises(ValueError, match="expected 'all' or 'last'"):
        verl(base, ranks, masks=masks, bonus_on="first")


# ---- reference answers


@pytest.mark.parametrize("lengths", [None, [[2, 5, 0], [6, 1, 1]]])
def test_answer_logp_is_that_of_the_text_written_out(lengths):
    t = dict(table())
    if lengths is not None:
        t["context_mask"] = jnp.arange(T) < jnp.array(lengths)[..., None]
    out = score("answers.answer_logp", t)
    context = np.asarray(t.get("context_mask", t["completion_mask"])).sum(-1)
    count = np.asarray(t["answer_mask"]).sum(-1)
    text = np.zeros((P, G, T + A), int)
    for i, j in np.ndindex(P, G):
        written = [*t["completion_tokens"][i, j, : context[i, j]], *t["answer_tokens"][i]]
        text[i, j, : len(written)] = written
    mask = np.arange(T + A) < (context + count[:, None])[..., None]
    logp = ask({**table(), "completion_tokens": text, "completion_mask": mask})["logp"]
    want = np.zeros((P, G, A))
    for i, j in np.ndindex(P, G):
        want[i, j, : count[i]] = logp[i, j, context[i, j] : context[i, j] + count[i]]
    close(out, want, atol=1e-5)
    assert (want < 0).sum() == G * count.sum()


def test_answer_logp_after_the_prompt_alone():
    empty = {**table(), "context_mask": jnp.zeros((P, G, T), bool)}
    close(score("answers.answer_logp", context="prompt"), score("answers.answer_logp", empty), 1e-5)
    with pytest.raises(ValueError, match="expected 'completion' or 'prompt'"):
        score("answers.answer_logp", context="question")


# Three turns: tokens 0-1, 3 and 4-5; a tool speaks at 2. The answer is token 9.
TURNS = jnp.array([[[0, 0, -1, 1, 2, 2]]])


def test_information_gain_numbers():
    def law(columns):
        """Mean log-prob of the answer: -3 at once, -1 after the tool, -1.5 after turn 1."""
        own = columns["completion_tokens"] == 9
        context = jnp.argmax(own, axis=-1)[..., None]
        value = jnp.where(context == 0, -3.0, jnp.where(context == 3, -1.0, -1.5))
        return {"logp": jnp.where(own, value, 0.0)}

    columns = (
        jnp.zeros((1, 2), int), jnp.ones((1, 2), bool), jnp.zeros((1, 1, 6), int),
        jnp.ones((1, 1, 6), bool), TURNS >= 0, jnp.ones((1, 1)), TURNS, jnp.array([[9, 9]]),
        jnp.ones((1, 2), bool),
    )  # fmt: skip
    gain = lambda *columns: answers.information_gain({"policy": law}, *columns, turns=3)
    for run in (gain, jax.jit(gain)):
        got = run(*columns)["step_rewards"]
        close(got, [[[0, 0.318092, 0, -0.144749, 0, 0]]], what="nothing for the last turn")


def test_information_gain_is_the_change_of_belief_of_the_model():
    t = table()
    got = np.asarray(score("answers.information_gain", turns=3)["step_rewards"])
    few = np.asarray(score("answers.information_gain", turns=2)["step_rewards"])
    count = np.asarray(t["answer_mask"]).sum(-1)[:, None]
    for k in range(2):
        beliefs = []
        for turn in (k, k + 1):
            before = jnp.broadcast_to(jnp.arange(T) < 3 * turn, (P, G, T)) & t["completion_mask"]
            logp = score("answers.answer_logp", {**t, "context_mask": before})
            beliefs.append(np.exp(np.asarray(logp).sum(-1) / count))
        step = np.asarray(t["step_id"])
        more = step.max(-1) > k  # rows whose last turn this is not
        want = np.where(more, beliefs[1] - beliefs[0], 0)
        close(np.where(step == k, got, 0).sum(-1), want, 1e-5, f"turn {k}")
        close(np.where(step == k, few, 0).sum(-1), want * (k == 0), 1e-5, f"turn {k} of 2")
    with pytest.raises(ValueError, match="expected at least 1"):
        score("answers.information_gain", turns=0)


# ---- turns


credit = jax.jit(turns.igpo, static_argnames=("norm", "ddof"))


def igpo(rewards, dense, step=None, credit=credit, **settings):
    step = jnp.broadcast_to(TURNS, dense.shape) if step is None else step
    return credit(jnp.asarray(rewards), dense, step, step >= 0, **settings)


def igpo_example():
    """Two rows with turn rewards .318092, -.144749, .5 and .1, -.05, 0; the last is the outcome."""
    dense = [[[0, 0.318092, 0, -0.144749, 0, 0], [0.1, 0, 0, -0.05, 0, 0]]]
    return [[0.5, 0.0]], jnp.asarray(dense)


def test_igpo_numbers():
    z = np.array([[0.887207, -1.191594, 1.704225], [-0.09233, -0.766039, -0.541469]])
    tokens = lambda x: np.stack([x[:, [0, 0, 0, 1, 2, 2]] * [1, 1, 0, 1, 1, 1]])
    got = igpo(*igpo_example(), credit=functools.partial(both, turns.igpo), gamma=1.0)
    close(got, tokens(np.cumsum(z[:, ::-1], 1)[:, ::-1]), 1e-5, "pooled")
    close(got[0, 0, [0, 3, 4]], [1.399838, 0.512631, 1.704225], 1e-5, "worked by hand")
    close(igpo(*igpo_example(), gamma=0.0), tokens(z), 1e-5, "z alone")
    ahead = np.array([[0.673343, 0.355251, 0.5], [0.05, -0.05, 0]])
    close(igpo(*igpo_example(), norm="position"), tokens(ahead - ahead.mean(0)), 1e-5, "position")
    r = np.array([0.318092, -0.144749, 0.1, -0.05])
    apart = (r - r.mean()) / r.std()
    want = np.array([[*apart[:2], 1], [*apart[2:], -1]])
    got = igpo(*igpo_example(), norm="separate", gamma=0.0)
    close(got, tokens(want), 1e-4, "separate")
    with pytest.raises(ValueError, match="expected one of pooled, separate, position"):
        igpo(*igpo_example(), norm="turn")


def test_igpo_with_one_turn_is_grpo():
    rewards = jnp.array([[1.0, 0, 0, 0.5], [1, 1, 1, 1]])
    step = jnp.zeros((2, 4, 3), jnp.int32).at[:, :, 2].set(-1)
    want = np.where(step >= 0, group.grpo(rewards, ddof=0)[..., None], 0)
    close(igpo(rewards, jnp.zeros(step.shape), step), want)


def test_igpo_leaves_rows_and_turns_out_that_are_not_there():
    """Rows of one, two and three turns; a row that does not count, full of garbage."""
    step = jnp.array([[[0, 0, 0, 0], [0, 1, 1, -1], [0, 1, 2, 2], [0, 0, 0, 0]]])
    dense = jnp.array([[[0.0] * 4, [0.3, 0, 0, 5], [0.2, -0.1, 0, 0], [np.nan] * 4]])
    rows = jnp.array([[True, True, True, False]])
    got = credit(
        jnp.array([[1.0, 0.0, 0.5, np.nan]]), dense, step, step >= 0, rows, norm="position"
    )
    ahead = [[1.0], [0.3, 0.0], [0.6, 0.4, 0.5]]
    first, second = np.mean([a[0] for a in ahead]), np.mean([a[1] for a in ahead[1:]])
    want = [[[1 - first] * 4, [0.3 - first, -second, -second, 0],
             [0.6 - first, 0.4 - second, 0, 0], [0] * 4]]  # fmt: skip
    close(got, want, what="the mean of a turn is over the rows that have it")


# ---- a critic


def test_the_value_behind_the_last_token():
    """That of a row with one token more, before that token, whatever it is."""
    t = table()
    got = score("verification.end_value")["last_value"]
    length = np.asarray(t["completion_mask"]).sum(-1, keepdims=True)
    at = np.arange(T + 1) == length
    ragged = np.pad(t["completion_tokens"], ((0, 0), (0, 0), (0, 1)))
    for token in (1, 2):
        longer = t | {
            "completion_tokens": jnp.asarray(np.where(at, token, ragged)),
            "completion_mask": jnp.asarray(np.arange(T + 1) <= length),
        }
        close(got, np.where(at, critic(longer)["value"], 0).sum(-1), atol=1e-5)
    assert np.ptp(got) > 0.1, "rows differ"
    empty = t | {"completion_mask": jnp.zeros_like(t["completion_mask"])}
    close(
        score("verification.end_value", empty)["last_value"],
        np.broadcast_to(critic(t)["value"][:, :1, 0], (P, G)), 1e-5, "the prompt's",
    )  # fmt: skip
    with pytest.raises(ValueError, match="got 'policy', a language model; expected a learner"):
        score("verification.end_value", model="policy")


def test_a_config_may_end_truncated_rows_in_their_value():
    c = runpy.run_path("configs/ppo.py")["get_config"]("runlocal")
    c.advantage = (dict(fn="gae.gae", bootstrap_truncated=True),)
    with pytest.raises(ValueError, match="truncated and last_value, the latter of config.scorers"):
        build.check(c)
    c.scorers = (dict(fn="verification.end_value", model="critic"),)
    build.check(c)
    c.scorers = (dict(fn="verification.end_value", model="critc"),)
    with pytest.raises(config_lib.ConfigError, match="no model 'critc', only critic, policy"):
        build.check(c)
