"""Qwen3-8B on 8 H200: GSM8K, every size written out; planned, not run.

  rlpt plan --config configs/qwen3_8b_h200_8.py --topology h200:8
  rlpt train --config configs/qwen3_8b_h200_8.py:model=/data/Qwen3-8B,data=/data/gsm8k \\
    --workdir /mnt/bucket/runs/qwen3_8b_h200_8

Needs the model's Hugging Face directory and GSM8K's train.jsonl and test.jsonl under the data
directory, on every host. Bytes, FLOPs and seconds a step by `rlpt plan`: docs/plans.md.
DAPO's clip-higher and token mean (arXiv 2503.14476), Dr.GRPO's centred advantages
(arXiv 2503.20783), no KL term.
"""

import rlpt.config


def get_config(arg: str | None = None):
    """arg: 'model=DIR,data=DIR', or runlocal."""
    given = dict(part.split("=", 1) for part in (arg or "").split(",") if "=" in part)
    c = rlpt.config.default()
    c.steps = 300
    c.model.source = given.get("model", "Qwen3-8B")
    c.model.dtype = "bfloat16"
    c.model.chat.enable_thinking = False  # at length, for which there is no room here
    c.model.remat = "full"
    c.model.logits_chunk = 2**31  # over all devices: 1 GiB each
    # Each device samples with a whole copy of the weights: gathering them for every token would
    # take longer than reading them.
    c.mesh = dict(data=1, fsdp=8, model=1, rollout="replicated")
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
    c.rollout.prompts = 32
    c.rollout.group = 16
    c.sampling.prompt_buckets = (512,)
    c.sampling.completion_buckets = (1024, 2048)
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
    c.learner.micro_blocks = 8  # as many as P is cut into: one block a device
    c.optim.lr = 1e-6
    c.optim.warmup_steps = 10
    c.eval.every = 25
    c.eval.samples = 4
    c.eval.prompts = 256
    c.checkpoint.every = 25
    if arg == "runlocal":
        c.mesh = dict(data=-1, fsdp=1, model=1, rollout="as_trained")
        return rlpt.config.runlocal(c)
    return c
