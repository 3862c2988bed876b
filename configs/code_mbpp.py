"""Python problems with unit tests: MBPP or HumanEval, judged in a sandbox.

  rlpt train --config configs/code_mbpp.py:model=/data/model,data=/data/mbpp --workdir runs/mbpp
  rlpt train --config configs/code_mbpp.py:runlocal --workdir /tmp/mbpp

Austin et al., "Program Synthesis with Large Language Models", arXiv 2108.07732 (MBPP: 374
problems to train on, 90 to validate, 500 to test, three asserts each; as there, the prompt shows
them).  Chen et al., "Evaluating Large Language Models Trained on Code", arXiv 2107.03374
(HumanEval): layout="humaneval" below.  The estimator is GRPO's, arXiv 2402.03300; the papers have
no reinforcement learning, so group, clip and learning rate were chosen here.

Needs: the model's Hugging Face directory, and train.jsonl and validation.jsonl with MBPP's
columns (task_id, text, code, test_list, test_setup_code) under the data directory.  At the start
every problem's own solution, `code`, has to pass its tests in the sandbox; problems that fail, or
whose tests need more than plain arguments and results, are counted, listed and left out.
docs/sandbox.md has what the sandbox holds.  Not run by us at this size.
"""

import rlpt.config


def get_config(arg: str | None = None):
    """arg: 'model=DIR,data=DIR', or runlocal."""
    given = dict(part.split("=", 1) for part in (arg or "").split(",") if "=" in part)
    c = rlpt.config.default()
    c.steps = 200
    c.model.source = given.get("model", "Qwen2.5-Coder-1.5B-Instruct")
    c.model.dtype = "bfloat16"
    data = given.get("data", "mbpp")
    c.tasks = (
        dict(
            fn="files.jsonl",
            layout="mbpp",
            path=f"{data}/train.jsonl",
            eval_path=f"{data}/validation.jsonl",
            meta=("test_setup_code", "code"),  # code: the reference solution, run at load
            on_bad_row="skip",
            system="Write the Python function that is asked for, in one ```python block.",
        ),
    )
    c.verifiers = (
        dict(fn="code.code", name="code", extract="fence", tier="auto", seconds=3.0, memory_mb=512),
    )
    # A verdict takes 3 s and the start of a sandbox at most. What is later still hangs in the
    # tests, on a result made for that: not masked, or it would pay.
    c.pool.deadline, c.pool.batch_deadline = 10.0, 300.0
    c.missing.timeout = "0"
    c.rollout.prompts, c.rollout.group = 16, 8
    c.sampling.prompt_buckets = (256, 512)
    c.sampling.completion_buckets = (256, 512)
    c.sampling.dtype = "bfloat16"
    c.advantage = (dict(fn="group.grpo", ddof=1, eps=1e-6),)
    # The rollout samples in bfloat16: truncated importance weights correct the mismatch.
    c.loss = (
        dict(
            surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2),
            corrections=(dict(fn="corrections.token_tis", cap=2.0),),
        ),
    )
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-6
    c.eval.every, c.eval.prompts = 25, 90
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
