"""Qwen3-1.7B on GSM8K on a TPU slice: a recipe with every size written out.

  rlpt train --config configs/gsm8k_qwen3_tpu.py:model=/data/Qwen3-1.7B,data=/data/gsm8k \\
    --workdir /mnt/bucket/runs/gsm8k

Needs: the model's Hugging Face directory and GSM8K's train.jsonl and test.jsonl
(question, answer ending in "#### 42") under the data directory, on every host; the
workdir is a mounted bucket or disk (the lock and the logs need a file system).
Not run by us: no TPU was at hand.  What is tested is that it resolves, that its whole
device chain passes eval_shape, and its runlocal arm.

DAPO's clip-higher and token mean (arXiv 2503.14476), Dr.GRPO's centred advantages
(arXiv 2503.20783), no KL term.
"""

import rlpt.config


def get_config(arg: str | None = None):
    """arg: 'model=DIR,data=DIR', or runlocal."""
    given = dict(part.split("=", 1) for part in (arg or "").split(",") if "=" in part)
    c = rlpt.config.default()
    c.steps = 300
    c.model.source = given.get("model", "Qwen3-1.7B")
    c.model.dtype = "bfloat16"
    c.model.chat.enable_thinking = False  # at length, for which there is no room here
    c.model.remat = "full"
    c.model.logits_chunk = 2**28  # 1 GiB over all chips
    data = given.get("data", "gsm8k")
    c.tasks = (
        dict(
            fn="files.jsonl",
            layout="gsm8k",
            path=f"{data}/train.jsonl",
            eval_path=f"{data}/test.jsonl",
            system="Reason step by step, then give the final number in \\boxed{}.",
        ),
    )
    c.verifiers = (dict(fn="number.number", name="number", extract="boxed"),)
    c.rollout.prompts = 64
    c.rollout.group = 16
    c.sampling.prompt_buckets = (256,)
    c.sampling.completion_buckets = (512, 1024)
    c.sampling.dtype = "bfloat16"
    c.advantage = (dict(fn="group.dr_grpo"),)
    # The rollout samples in bfloat16: truncated importance weights correct the mismatch.
    c.loss = (
        dict(
            surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.28),
            corrections=(dict(fn="corrections.token_tis", cap=2.0),),
            aggregate="aggregate.token_mean",
        ),
    )
    c.learner.micro_blocks = 4
    c.optim.lr = 1e-6
    c.optim.warmup_steps = 10
    c.eval.every = 25
    c.eval.samples = 4
    c.eval.prompts = 256
    c.checkpoint.every = 25
    if arg == "runlocal":
        c.steps = 2
        c.model.source = "toy"
        c.tasks = (dict(fn="arithmetic.sums"),)
        c.rollout.prompts, c.rollout.group = 4, 4
        c.sampling.prompt_buckets, c.sampling.completion_buckets = (64,), (8,)
        c.learner.micro_blocks = 2
        c.eval.prompts, c.eval.every = 4, 0
    return c
