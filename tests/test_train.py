"""The main job on the toy model: files, resume, signals, errors."""

import gc
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from rlpt import build, evaluate
from rlpt import config as config_lib
from rlpt import train as train_lib
from rlpt.checkpoint import Checkpointer, IdentityError
from rlpt.config import ConfigError
from rlpt.models.load import load
from rlpt.workdir import WorkdirError

ROOT = pathlib.Path(__file__).parent.parent


def toy(**changes):
    c = config_lib.default()
    c.model.source = "toy"
    c.steps = 3
    c.verifiers = (dict(fn="tests.toy:starts_with_digit", name="digit"),)
    c.rollout.prompts, c.rollout.group = 4, 4
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (64,), (6,)
    c.optim.lr = 1e-2
    c.eval.prompts, c.eval.samples = 4, 4
    c.pool.workers = 1
    c.checkpoint.every = 100
    c.debug = True
    for key, value in changes.items():
        *path, last = key.split("__")
        at = c
        for part in path:
            at = at[part]
        at[last] = value
    return c


def lines(path):
    return [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]


def params_of(workdir):
    from rlpt.policy import load_policy

    return jax.device_get(load_policy(str(workdir)).params)


def same(a, b):
    return all((x == y).all() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One plain run, looked at by several tests."""
    work = tmp_path_factory.mktemp("run")
    result = train_lib.train(toy(eval__every=2), work)
    return work, result


def test_run_leaves_everything(finished):
    work, result = finished
    steps = [m["step"] for m in lines(work / "metrics.jsonl") if "loss/total" in m]
    assert steps == [1, 2, 3]
    for name in (
        "config.json", "config_diff.json", "rollouts.jsonl", "learning_curve.png", "eval_0.json",
        "eval_2.json", "eval_3.json", "export/model.safetensors", "export/config.json",
        "export/tokenizer.json",
    ):  # fmt: skip
        assert (work / name).stat().st_size > 0, name
    assert list(work.glob("**/events.out.tfevents*")), "TensorBoard"
    summary = json.loads((work / "summary.json").read_text())
    assert {"pass@1", "greedy"} <= set(summary["eval_before"]) & set(summary["eval_after"])
    assert summary["versions"]["jax"] == jax.__version__
    diff = json.loads((work / "config_diff.json").read_text())
    assert diff["steps"] == {"value": "3", "default": "100"}


def test_metrics_and_rollouts_say_what_happened(finished):
    work, _ = finished
    row = next(m for m in lines(work / "metrics.jsonl") if m["step"] == 1 and "loss/total" in m)
    for key in (
        "reward/mean", "policy/entropy", "policy/clip_fraction", "policy/sampler_gap",
        "policy/grad_norm", "rollout/length", "rollout/truncated", "verify/digit/correct",
        "time/update", "time/compilations",
    ):  # fmt: skip
        assert key in row, key
    assert row["policy/sampler_gap"] < 1e-5
    rows = [r for r in lines(work / "rollouts.jsonl") if r["step"] == 1]
    assert len(rows) == 16
    assert np.mean([r["reward"] for r in rows]) == pytest.approx(row["reward/mean"])
    one = rows[0]
    assert len(one["tokens"]) == len(one["sampler_logp"]) == len(one["advantages"]) > 0
    assert one["outcomes"]["digit"] == (
        "correct" if one["completion"][:1].isdigit() else "incorrect"
    )


def test_export_evaluates_to_the_same_numbers(finished):
    work, result = finished
    again = evaluate.evaluate_source(toy(), str(work / "export"))
    from_checkpoint = evaluate.evaluate_source(toy(), str(work))
    for k in ("pass@1", "greedy"):
        assert again[k] == from_checkpoint[k] == result.summary["eval_after"][k]


def test_it_learns(tmp_path):
    result = train_lib.train(toy(steps=30, eval__samples=8), tmp_path)
    before, after = (result.summary[k]["pass@1"] for k in ("eval_before", "eval_after"))
    assert before < 0.6 and after > 0.9


EXACT = dict(
    learner__epochs=2, learner__minibatches=2, steps=4,
    shaping=(dict(fn="tests.toy:moving_baseline"),),
    tasks=(dict(fn="arithmetic.sums", weight=2.0), dict(fn="arithmetic.products", weight=1.0)),
)  # fmt: skip
SCRIPT = """
import sys
from tests.test_train import toy, EXACT
from rlpt import train
train.train(toy(**{**EXACT, **eval(sys.argv[2])}), sys.argv[1])
"""


def start(workdir, changes=None):
    hangs_up = "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # also below nohup
    return subprocess.Popen(
        [sys.executable, "-c", hangs_up + SCRIPT, str(workdir), repr(changes or {})],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def without_times(rows):
    return [
        {k: v for k, v in r.items() if not k.startswith("time") and "per_second" not in k}
        for r in rows
    ]


@pytest.mark.slow  # the rows of tests/test_faults.py resume from every phase
def test_resume_in_a_fresh_process_is_bit_for_bit(tmp_path):
    whole, broken = start(tmp_path / "whole"), None
    out, _ = whole.communicate(timeout=300)
    assert whole.returncode == 0, out
    for steps in (2, 4):
        broken = start(tmp_path / "broken", dict(steps=steps))
        out, _ = broken.communicate(timeout=300)
        assert broken.returncode == 0, out
    assert "resume   at step 2 of 4" in out
    assert same(params_of(tmp_path / "whole"), params_of(tmp_path / "broken"))
    for name in ("rollouts.jsonl",):
        a, b = (lines(tmp_path / d / name) for d in ("whole", "broken"))
        assert without_times(a) == without_times(b)
    a, b = (without_times(lines(tmp_path / d / "metrics.jsonl")) for d in ("whole", "broken"))
    # the first half of the broken run ended with an evaluation of its own
    a, b = (
        [{k: v for k, v in m.items() if not k.startswith("eval/")} for m in x if "loss/total" in m]
        for x in (a, b)
    )
    assert a == b and [m["step"] for m in b] == [1, 2, 3, 4]


def test_a_resumption_holds_one_state(tmp_path, monkeypatch):
    """That of a start is gone before the saved one is read: both might not fit."""
    restore, alive = Checkpointer.restore, []

    def watched(self, example, *args, **kw):
        alive.append(sum(x.shape == (50, 40) for x in jax.live_arrays()))
        found = restore(self, example, *args, **kw)
        if found:
            made = jax.tree.leaves(found.device_state)
            assert all(isinstance(x, jax.Array) for x in made) and len(made) > 30
        return found

    monkeypatch.setattr(Checkpointer, "restore", watched)
    source = "toy:vocab=50,width=40,heads=2,kv_heads=2"
    for steps in (1, 2):
        c = toy(model__source=source, steps=steps, export=False, eval__prompts=1, eval__samples=1)
        gc.collect()  # what the run before has left
        train_lib.train(c, tmp_path)
    assert alive == [3, 0], "embeddings, with their two moments"


def test_ctrl_c_saves_and_the_same_command_goes_on(tmp_path):
    changes = dict(steps=400)
    process = start(tmp_path, changes)
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if re.search(r"step\s+2/", line):
            break
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=120)
    assert process.returncode != 0, "".join(seen) + rest
    step = int(re.search(r"stopped at step (\d+) with a checkpoint", rest)[1])
    again = start(tmp_path, dict(steps=step + 1))
    out, _ = again.communicate(timeout=300)
    assert again.returncode == 0 and f"resume   at step {step} of" in out, out
    steps = [m["step"] for m in lines(tmp_path / "metrics.jsonl") if "loss/total" in m]
    assert steps == list(range(1, step + 2))


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGHUP]
)
def test_a_stop_with_nobody_to_read_it_leaves_a_checkpoint(number, tmp_path):
    """`rlpt train | tee log`: Ctrl-C ends tee as well."""
    process = start(tmp_path, dict(steps=400))
    assert process.stdout is not None
    for line in process.stdout:
        if re.search(r"step\s+2/", line):
            break
    process.stdout.close()
    process.send_signal(number)
    assert process.wait(timeout=120) != 0
    (saved,) = (tmp_path / "checkpoints").glob("[0-9]*")
    assert int(saved.name) >= 2


def test_what_an_earlier_life_left_is_gone(tmp_path):
    """Evaluations and a summary behind the step at which the run goes on, or begins anew."""
    changes = dict(steps=2, eval__every=1, export=False, eval__prompts=1, eval__samples=1)
    found = lambda: {p.name for p in tmp_path.glob("eval_*.json")}  # noqa: E731
    train_lib.train(toy(**changes), tmp_path)
    (tmp_path / "eval_7.json").write_text("{}")
    assert found() == {f"eval_{i}.json" for i in (0, 1, 2, 7)}
    seen = []

    def stop(self, step):
        seen.append((found(), (tmp_path / "summary.json").exists()))
        raise RuntimeError

    c = toy(**changes | dict(steps=4))
    with pytest.MonkeyPatch.context() as patched, pytest.raises(RuntimeError):
        patched.setattr(train_lib.overlap.Rollouts, "__call__", stop)
        train_lib.train(c, tmp_path)
    assert seen == [({f"eval_{i}.json" for i in (0, 1, 2)}, False)]
    shutil.rmtree(tmp_path / "checkpoints")
    anew = changes | dict(steps=1, eval__every=0, eval__samples=0)
    train_lib.train(toy(**anew), tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(WorkdirError, match="a finished run whose checkpoints are gone"):
        train_lib.train(toy(**anew), tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before, "its logs are there"
    assert found() == {"eval_0.json", "eval_1.json"}


def test_before_and_after_are_of_one_evaluation(tmp_path):
    """The same prompts and as many samples; how often is free."""
    changes = dict(steps=1, export=False, eval__prompts=1, eval__samples=1)
    train_lib.train(toy(**changes), tmp_path)
    more = changes | dict(steps=2)
    with pytest.raises(IdentityError, match=r"eval.samples: saved 1, now 2") as said:
        train_lib.train(toy(**more | dict(eval__samples=2)), tmp_path)
    assert "checkpoint.allow=config goes on" in str(said.value) and "steps" not in str(said.value)
    train_lib.train(toy(**more, eval__every=1, checkpoint__allow=("model,config",)), tmp_path)


def test_a_resumed_run_shows_its_last_evaluation(tmp_path, monkeypatch):
    changes = dict(export=False, eval__prompts=1, eval__samples=1)
    scores = iter([0.0, 0.75, 0.5])
    real = train_lib.evaluate_lib.evaluate
    monkeypatch.setattr(
        train_lib.evaluate_lib, "evaluate", lambda *a, **k: real(*a, **k) | {"pass@1": next(scores)}
    )
    shown = []
    live = train_lib.metrics_lib.Metrics.live
    monkeypatch.setattr(
        train_lib.metrics_lib.Metrics, "live",
        lambda self, step, values: shown.append(values["eval/pass@1"]) or live(self, step, values),
    )  # fmt: skip
    train_lib.train(toy(steps=1, **changes), tmp_path)
    train_lib.train(toy(steps=3, **changes), tmp_path)
    assert shown == [0.75, 0.75, 0.5]


def test_lora_trains_and_exports_merged(tmp_path):
    c = toy(model__lora__rank=4, optim__lr=3e-2)
    result = train_lib.train(c, tmp_path)
    again = evaluate.evaluate_source(toy(), str(tmp_path / "export"))
    assert again["pass@1"] == pytest.approx(result.summary["eval_after"]["pass@1"], abs=0.07)

    own = params_of(tmp_path)
    assert not same(load("toy").params, own)
    for a, b in zip(
        jax.tree.leaves(own), jax.tree.leaves(load(str(tmp_path / "export")).params), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-6, err_msg="the checkpoint is another model")


def test_variables_of_the_chat_template_reach_all_prompts(tmp_path):
    from rlpt.models import hf
    from rlpt.policy import load_policy

    made = load("toy")
    made.tokenizer.chat_template = "{% if loud %}HEY {% endif %}" + made.tokenizer.chat_template
    hf.save_hf(
        tmp_path / "base", made.config, made.params, made.tokenizer, run_info={"run_id": "base"}
    )
    changes = dict(model__source=str(tmp_path / "base"), steps=1, eval__prompts=1)
    c = toy(**changes)
    c.model.chat.loud = True
    train_lib.train(c, tmp_path / "run")
    assert {r["prompt"][:4] for r in lines(tmp_path / "run" / "rollouts.jsonl")} == {"HEY "}
    said = [{"role": "user", "content": "1"}]
    for source in (tmp_path / "run", tmp_path / "run" / "export"):
        assert load_policy(str(source)).tokenizer.render(said).startswith("HEY "), source
    with pytest.raises(IdentityError, match="tokenizer"):
        train_lib.train(toy(**changes), tmp_path / "run")
    c.model.chat.loder = True
    with pytest.raises(ValueError, match="'loder', which the chat template does not read"):
        train_lib.train(c, tmp_path / "other")
    assert not config_lib.runlocal(c).model.chat


def test_a_run_is_not_read_over_another_base(tmp_path):
    """Adapters belong to the weights that they were trained on, parameters to their tokenizer."""
    from rlpt.models import hf
    from rlpt.policy import load_policy

    base = tmp_path / "base"

    def write(source):
        shutil.rmtree(base, ignore_errors=True)
        made = load(source)
        hf.save_hf(base, made.config, made.params, made.tokenizer, run_info={"run_id": "base"})

    write("toy")
    for rank in (0, 4):
        changes = dict(model__source=str(base), model__lora__rank=rank, steps=1, eval__prompts=1)
        train_lib.train(toy(**changes, export=False), tmp_path / f"run{rank}")
    load_policy(str(tmp_path / "run4"))
    write("toy:seed=1")
    load_policy(str(tmp_path / "run0"))  # holds all the weights
    with pytest.raises(IdentityError, match=r"model.source='.*base'.* model .saved '.*', now '"):
        load_policy(str(tmp_path / "run4"))
    write("toy")
    (base / "chat_template.jinja").write_text("{{ messages[0].content }}")
    for rank in (0, 4):
        with pytest.raises(IdentityError, match="another tokenizer .saved '.*', now '"):
            load_policy(str(tmp_path / f"run{rank}"))


def test_reference_is_scored_and_penalised(tmp_path):
    loss = (dict(surrogate="surrogates.ppo_clip"), dict(fn="penalties.k3", coef=0.1))
    train_lib.train(toy(loss=loss), tmp_path)
    kl = [m["policy/kl_ref"] for m in lines(tmp_path / "metrics.jsonl") if "policy/kl_ref" in m]
    assert kl[0] == pytest.approx(0.0, abs=1e-5) and abs(kl[-1]) > 1e-3


def test_workdir_in_use(tmp_path):
    from rlpt.workdir import Workdir, WorkdirInUse

    with Workdir(tmp_path), pytest.raises(WorkdirInUse, match=str(os.getpid())):
        train_lib.train(toy(), tmp_path)


def test_changed_config_is_refused_unless_allowed(tmp_path):
    train_lib.train(toy(steps=1), tmp_path)
    with pytest.raises(ValueError, match="config") as refused:
        train_lib.train(toy(steps=2, optim__lr=1e-3), tmp_path)
    said = str(refused.value)
    assert "\n  optim.lr: saved 0." in said and said.endswith("now 0.001"), said
    assert "steps" not in said and "--config.checkpoint.allow=config goes on" in said, said
    train_lib.train(toy(steps=2, optim__lr=1e-3, checkpoint__allow=("config",)), tmp_path)


def test_steps_are_of_the_identity_where_a_learning_rate_follows_them():
    loaded = load("toy")

    def of(steps, **optim):
        critic = dict(CRITIC, optim=optim)
        return build.identity(toy(steps=steps, learners__critic=critic), loaded)["config"]

    assert of(3) == of(4)
    assert of(3, schedule="linear") != of(4, schedule="linear")


def test_a_critic_is_a_second_learner(tmp_path):
    """PPO: the critic starts first, its values become advantages, both are resumed bit for bit."""
    changes = dict(
        learners__critic=CRITIC, advantage=(dict(fn="gae.gae", lam=1.0, whiten=False),),
        learner__start=2, scorers=(dict(fn="tests.toy:surprise", scale=2.0),), debug=True,
        shaping=("tests.toy:as_before",), steps=6, export=False, eval__prompts=0,
        log__columns=("values", "ref_logp", "prompt_id", "verdict/digit"),
    )  # fmt: skip
    whole = train_lib.train(toy(**changes), tmp_path / "whole").workdir
    log = [m for m in lines(whole / "metrics.jsonl") if "critic/loss/total" in m]
    assert [m["step"] for m in log] == [1, 2, 3, 4, 5, 6]
    assert ["loss/total" in m for m in log] == [False] * 2 + [True] * 4
    loss = [m["critic/loss/value_mse"] for m in log]
    assert np.mean(loss[2:]) < 0.6 * loss[0], "not even the mean has been learnt"
    assert log[0]["explained_variance"] == pytest.approx(0, abs=1e-6)
    first = [r for r in lines(whole / "rollouts.jsonl") if r["step"] == 1]
    assert all(set(r["advantages"]) == {r["reward"]} for r in first), "values are 0 at the start"
    assert {v for r in first for v in r["columns"]["values"]} == {0.0}
    for r in first:  # nothing else reads the reference, which is still the policy
        assert r["columns"]["ref_logp"] == pytest.approx(r["sampler_logp"], abs=1e-4)
        assert r["columns"]["prompt_id"] == r["prompt_id"]
        assert r["columns"]["verdict/digit"] == r["verdicts"]["digit"]
    last = [r for r in lines(whole / "rollouts.jsonl") if r["step"] == 6]
    assert all(r["advantages"][0] != r["reward"] for r in last)
    assert all(len(r["columns"]["values"]) == len(r["tokens"]) for r in last)
    assert all(any(r["columns"]["values"]) for r in last)
    train_lib.train(toy(**changes | dict(steps=3)), tmp_path / "broken")
    train_lib.train(toy(**changes), tmp_path / "broken")
    assert same(params_of(whole), params_of(tmp_path / "broken"))
    again = [m for m in lines(tmp_path / "broken/metrics.jsonl") if "critic/loss/total" in m]
    assert [m["critic/loss/total"] for m in again] == [m["critic/loss/total"] for m in log]


def test_a_learner_before_credit_sees_this_batch(tmp_path):
    """A reward model that is updated first: its new output, not the old one, is the reward."""
    model = dict(
        output="value", when="before_credit", writes="scores",
        loss=(dict(fn="penalties.value_mse", reads=dict(returns="labels")),), optim=dict(lr=3e-2),
    )  # fmt: skip
    changes = dict(
        steps=2, export=False, eval__prompts=0, learners__reward_model=model,
        rollout__fn="tests.toy:labelled", shaping=("tests.toy:last_score",),
        advantage=("tests.toy:greedy_advantage",),
    )  # fmt: skip
    train_lib.train(toy(**changes), tmp_path)
    log = [m for m in lines(tmp_path / "metrics.jsonl") if "loss/total" in m]
    assert log[0]["reward_model/loss/value_mse"] > 0
    assert log[0]["reward/mean"] != 0, "scored after the update, so no longer the head of zeros"


def test_a_second_language_model_has_the_ratio_to_itself(tmp_path):
    """Over its own epochs and minibatches, not to the policy, whose rows it is trained on."""
    term = (dict(surrogate="surrogates.ppo_clip"),)
    layout = dict(output="logp", loss=term, epochs=2, minibatches=2)
    changes = dict(
        learners__other=dict(layout, optim=dict(lr=1e-2)),
        learners__still=dict(layout, optim=dict(lr=1e-12)),
        learner__epochs=2, learner__minibatches=2, optim__lr=3e-2,
        steps=2, export=False, eval__prompts=1, eval__samples=1,
    )  # fmt: skip
    train_lib.train(toy(**changes), tmp_path)
    first, second = [m for m in lines(tmp_path / "metrics.jsonl") if "loss/total" in m]
    assert abs(first["other/ratio"] - 1) > 1e-4 and first["other/kl_old"] != 0
    assert abs(second["policy/kl_old"]) > 1e-3, "the policy has moved"
    assert second["still/ratio"] == pytest.approx(1, abs=1e-6)
    assert second["still/kl_old"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("epochs", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_nor_is_the_ratio_of_another_model_to_what_sampled_its_rows(epochs, tmp_path):
    """Rows of the batch that was ahead bring the policy's log-probs, which are not its own."""
    term = (dict(surrogate="surrogates.ppo_clip"),)
    still = dict(output="logp", loss=term, epochs=epochs, optim=dict(lr=1e-12))
    changes = dict(rollout__overlap=1, optim__lr=1e-1, steps=3, export=False, eval__prompts=1)
    train_lib.train(toy(learners__still=still, **changes, eval__samples=1), tmp_path)
    _, second, _ = [m for m in lines(tmp_path / "metrics.jsonl") if "loss/total" in m]
    assert abs(second["policy/ratio"] - 1) > 1e-3
    assert second["still/ratio"] == pytest.approx(1, abs=1e-6)


def test_stop_strings_end_rows(tmp_path):
    stop = tuple("0123456789")
    train_lib.train(toy(sampling__stop_strings=stop, steps=1), tmp_path)
    for r in lines(tmp_path / "rollouts.jsonl"):
        assert not any(d in r["completion"] for d in stop)


BAD = [
    (dict(tasks=(dict(fn="arithmetic.sum"),)), "Did you mean 'arithmetic.sums'"),
    (
        dict(tasks=(dict(fn="arithmetic.sums", digit=2),)),
        "unknown setting 'digit'. Did you mean 'digits'",
    ),
    (dict(verifiers=(dict(fn="number.nmber", name="n"),)), "Did you mean 'number.number'"),
    (dict(advantage=(dict(fn="group.grpoo"),)), "Did you mean 'group.grpo'"),
    (
        dict(log__columns=("refs_logp",)),
        "'refs_logp', which nothing makes. Did you mean 'ref_logp'",
    ),
    (dict(log__columns=("prompt_tokens",)), r"shape \(\d+, \d+\), expected \[P\], \[P,G\]"),
    (
        dict(advantage=(dict(fn="tests.toy:wants_unmade_column"),)),
        "needs the column 'brilliance', which nothing makes",
    ),
    (dict(advantage=(dict(fn="tests.toy:wrong_shape"),)), r"wrote 'advantages' with shape \(8,\)"),
    (dict(shaping=("tests.toy:a_scalar",)), "wrote the scalar 'level', expected .* metrics/level"),
    (
        dict(verifiers=(dict(fn="number.number", name="n", missing=dict(unparseable="mask")),)),
        "unknown outcome 'unparseable'. Did you mean 'unparsable'",
    ),
    (
        dict(verifiers=(dict(fn="number.number", name="n", missing=dict(crash="none")),)),
        "missing.crash of the verifier 'n': got 'none', expected 'mask', 'ignore' or a number",
    ),
    (dict(loss=()), "expected at least one term"),
    (dict(checkpoint__every=0), "checkpoint.every: got 0, expected an integer >= 1"),
    (dict(sampling__temperature=0.0), "nothing can be learnt"),
    (dict(sampling__stop_strings=("",)), "that are not empty"),
    (dict(learner__old_logp="sampler", sampling__top_p=0.5), "truncated law"),
    (dict(loss=("surrogates.ppo_clip",)), r"expected dict\(surrogate=…\)"),
    (dict(loss=(dict(surrogate="surrogates.ppo_clip"),) * 2), "give each a name="),
    (dict(advantage=(dict(fn="group.grpo", ddof="1"),)), "expected an integer"),
    (dict(advantage=()), "no method wrote 'advantages'"),
    (dict(rollout__group=1), "G=1"),
    (dict(rollout__fn="sample.off_policy"), "Did you mean 'sample.on_policy'"),
    (dict(rollout__options=dict(group=8)), "got group=8, expected it as config.rollout.group,"),
    (
        dict(rollout__options=dict(prompts=8)),
        "got prompts=8, expected it as config.rollout.prompts",
    ),
    (dict(checkpoint__best="pass@1"), "got 'pass@1', expected a number of the evaluations"),
    (dict(learner__minibatches=3), "3 does not divide the 4 blocks"),
    (dict(sampling__prompt_buckets=(64, 32)), "expected increasing widths"),
    (dict(verifiers=(dict(fn="number.number"),)), "needs a name of its own"),
    (dict(model__dtype="float64"), "expected one of float32, bfloat16$"),
    (dict(model__dtype="float16"), "gradients underflow to 0 .* expected bfloat16 or float32"),
    (dict(sampling__dtype="float64"), "expected one of float32, bfloat16, float16"),
    (dict(shaping=(dict(fn="combine.nothing"),)), "Accepted:.*combine.weighted_sum"),
]


CRITIC = dict(writes="values", loss=(dict(fn="penalties.value_mse"),), optim=dict(lr=1e-3))
BAD += [
    (dict(learners__policy=CRITIC), "the name is taken"),
    (dict(learners__critic=dict(CRITIC, writs="x")), "unknown setting 'writs'.*'writes'"),
    (dict(learners__critic=dict(CRITIC, output="values")), "expected logp or value"),
    (dict(learners__critic=dict(CRITIC, when="later")), "expected before_credit or after_credit"),
    (dict(learners__critic=dict(CRITIC, loss=())), "expected at least one term"),
    (dict(learners__critic=dict(CRITIC, optim=dict(lrr=1))), "unknown key 'lrr'.*'lr'"),
    (dict(learners__critic=dict(CRITIC, optim=dict(max_skipped=0))), "got 0, .* integer >= 1"),
    (dict(learners__critic=dict(CRITIC, start=-1)), "expected an integer >= 0"),
    (dict(learners__critic=dict(CRITIC, minibatches=3)), "3 does not divide the 4 blocks"),
    (dict(learners__critic=CRITIC), "needs the column 'returns', which nothing makes"),
    (dict(advantage=("gae.gae",)), "needs the column 'values', which nothing makes"),
    (dict(scorers=("tests.toy:wants_model",)), "there is no model 'critic'"),
    (dict(scorers=("policy.none_such",)), "none_such"),
    (
        dict(rollout__group_blocks=2, loss=(dict(fn="penalties.pacs"),)),
        "couples the rows of a group",
    ),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=lambda x: str(x)[:40])
def test_wrong_settings_fail_before_anything_is_loaded(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train_lib.train(toy(model__source="/nowhere", **changes), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_missing_model_file(tmp_path):
    with pytest.raises((FileNotFoundError, ValueError), match="nowhere"):
        train_lib.train(toy(model__source="/nowhere/model"), tmp_path)


def test_prompt_longer_than_the_bucket(tmp_path):
    c = toy(sampling__prompt_buckets=(8,), too_long="fail")
    with pytest.raises(ValueError, match=r"sums:\d.*8"):
        train_lib.train(c, tmp_path)


def test_context_of_the_model_is_respected(tmp_path):
    with pytest.raises(ConfigError, match="exceeds the model's context"):
        train_lib.train(toy(sampling__prompt_buckets=(100_000,)), tmp_path)


def test_references_that_cannot_be_read_are_found_at_the_start(tmp_path):
    data = tmp_path / "data.jsonl"
    rows = [{"q": f"{i} + 1 =", "a": str(i + 1)} for i in range(20)] + [{"q": "x?", "a": "unknown"}]
    data.write_text("".join(json.dumps(r) + "\n" for r in rows))
    task = dict(fn="files.jsonl", path=str(data), prompt="q", answer="a", eval_fraction=0.2)
    c = toy(tasks=(task,), verifiers=(dict(fn="number.number", name="number"),))
    with pytest.raises(ValueError, match=r"1 references cannot be read:\n.*number: .*unknown"):
        train_lib.train(c, tmp_path / "run")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no prompts"),
        ('{"q": "1 + 1 =", "a": "2"}\n{"q": "2 + 2 ="}\n', r"data.jsonl.*2.*'a'"),
    ],
)
def test_bad_data_names_file_and_line(tmp_path, text, message):
    data = tmp_path / "data.jsonl"
    data.write_text(text)
    task = dict(fn="files.jsonl", path=str(data), prompt="q", answer="a")
    with pytest.raises(ValueError, match=message):
        train_lib.train(toy(tasks=(task,)), tmp_path / "run")


def test_a_config_that_is_none(tmp_path):
    for got, message in (({}, "got a dict, expected"), (None, "got a NoneType, expected")):
        with pytest.raises(ConfigError, match=message):
            train_lib.train(got, tmp_path / "run")
    c = toy()
    with c.unlocked():
        c.sampling = dict(temperature=0.7)
    with pytest.raises(ConfigError, match="set keys one by one"):
        train_lib.train(c, tmp_path / "run")


def test_a_save_in_flight_survives_an_error(tmp_path):
    c = toy(steps=9, checkpoint__every=2, verifiers=(dict(fn="tests.toy:always", name="all"),))
    c.advantage = (dict(fn="tests.toy:greedy_advantage", scale=3e38),)
    c.optim.max_skipped = 3
    with pytest.raises(FloatingPointError, match="newest checkpoint is of step 2"):
        train_lib.train(c, tmp_path)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()] == ["2"]


def test_best_checkpoint_is_kept(tmp_path):
    c = toy(steps=6, eval__every=1, checkpoint__every=1, checkpoint__keep=1)
    train_lib.train(c, tmp_path)
    scores = {
        m["step"]: m["eval/pass@1"]
        for m in lines(tmp_path / "metrics.jsonl")
        if "eval/pass@1" in m and m["step"]
    }
    kept = {int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()}
    assert 6 in kept and max(scores[k] for k in kept) == max(scores.values())


def test_a_best_that_no_evaluation_has_is_said(tmp_path, capsys):
    """Once at the start of each life of a run, resumed ones too; not where it is there."""
    for steps, best, notes in ((1, "eval/pas@1", 1), (2, "eval/pas@1", 1), (3, "eval/pass@4", 0)):
        c = toy(steps=steps, export=False, checkpoint__best=best)
        train_lib.train(c, tmp_path)
        said = capsys.readouterr().out
        assert said.count("an evaluation has no number 'eval/pas@1'") == notes, said
    assert "it has eval/pass@1" not in said


def test_a_term_may_read_verdicts(tmp_path):
    loss = (
        dict(surrogate="surrogates.ppo_clip"),
        dict(fn="tests.toy:verdict_term", name="own", coef=1e-6),
    )
    train_lib.train(toy(loss=loss, steps=1), tmp_path)
    row = next(m for m in lines(tmp_path / "metrics.jsonl") if "loss/own" in m)
    assert row["loss/own"] == pytest.approx(row["verdict/digit"], abs=0.2)


def test_profile_writes_a_trace_and_says_where_the_time_went(tmp_path, capsys):
    train_lib.train(toy(steps=4, log__profile=1), tmp_path)
    assert list((tmp_path / "profile").glob("**/*.xplane.pb")), "no trace"
    table = capsys.readouterr().out.partition("stage")[2]
    for stage in ("rollout_and_verify", "credit", "update"):
        assert re.search(rf"{stage} +\d+\.\d+ s +\d+\.\d%", table), table
