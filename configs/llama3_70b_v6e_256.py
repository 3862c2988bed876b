"""Llama-3-70B on 256 TPU v6e: GSM8K, every size written out; planned, not run.

  rlpt plan --config configs/llama3_70b_v6e_256.py --topology v6e:16x16
  rlpt train --config configs/llama3_70b_v6e_256.py:model=/data/Llama-3-70B,data=/data/gsm8k \\
    --workdir /mnt/bucket/runs/llama3_70b_v6e_256

Needs the Hugging Face directory of the Instruct model (the base has no chat template) and GSM8K's
train.jsonl and test.jsonl under the data directory, on every host. Bytes, FLOPs and seconds a step
by `rlpt plan`: docs/plans.md. DAPO's clip-higher and token mean (arXiv 2503.14476), Dr.GRPO's
centred advantages (arXiv 2503.20783), no KL term.
"""

import rlpt.config


def get_config(arg: str | None = None):
    """arg: 'model=DIR,data=DIR', or runlocal."""
    given = dict(part.split("=", 1) for part in (arg or "").split(",") if "=" in part)
    c = rlpt.config.default()
    c.steps = 300
    c.model.source = given.get("model", "Llama-3-70B")
    c.model.dtype = "bfloat16"
    c.model.remat = "full"
    c.model.logits_chunk = 2**33  # over all devices: 1 GiB for each of the 32 parts of a batch
    # The sampler's weights are cut over model alone: gathering them over fsdp for every token would
    # take several times as long as reading them.
    c.mesh = dict(data=1, fsdp=32, model=8, rollout="gathered")
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
    c.rollout.group = 8  # of 16 the layers' inputs that the update keeps would not fit
    c.sampling.prompt_buckets = (512,)
    c.sampling.completion_buckets = (1024,)
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
    c.learner.micro_blocks = 32  # as many as P is cut into: one block a device
    c.optim.lr = 1e-6
    c.optim.moments = "bfloat16"  # float32 takes 1 GiB a device more
    c.optim.warmup_steps = 10
    c.eval.every = 25
    c.eval.samples = 4
    c.eval.prompts = 256
    c.checkpoint.every = 25
    if arg == "runlocal":
        c.mesh = dict(data=-1, fsdp=1, model=1, rollout="as_trained")
        return rlpt.config.runlocal(c)
    return c
