"""GRPO as published, with everything that a run may want to change written out.

  rlpt train --config configs/grpo.py --workdir runs/grpo
  rlpt train --config configs/grpo.py:runlocal --workdir /tmp/grpo   (toy model, seconds)

Shao et al., "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open
Language Models", arXiv 2402.03300.  There: 64 completions a question, batch 1024,
learning rate 1e-6, KL coefficient 0.04 (k3, in the loss), at most 1024 tokens, one
update a batch; GSM8K 82.9 to 88.2 and MATH 46.8 to 51.7 with a 7B model.  Here the
same loss on a file of your own: give data=PATH as the argument.
"""

import rlpt.config


def get_config(arg: str | None = None):
    """arg: the path of a GSM8K-like JSONL file, or runlocal."""
    c = rlpt.config.default()
    c.steps = 200
    if arg and arg != "runlocal":
        c.tasks = (dict(fn="files.jsonl", path=arg, layout="gsm8k", eval_fraction=0.02),)
    else:
        c.tasks = (dict(fn="arithmetic.sums", digits=2),)
    c.verifiers = (dict(fn="number.number", name="number"),)
    c.rollout.prompts = 16
    c.rollout.group = 64
    c.sampling.temperature = 1.0
    c.sampling.prompt_buckets = (64, 128, 256)
    c.sampling.completion_buckets = (256, 512, 1024)
    # Sample standard deviation, as in the published implementations.
    c.advantage = (dict(fn="group.grpo", ddof=1, eps=1e-6, scale="group"),)
    # The paper averages over the tokens of a row first, then over rows.
    mean = "aggregate.sequence_mean_token_mean"
    c.loss = (
        dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2), aggregate=mean),
        dict(fn="penalties.k3", coef=0.04, aggregate=mean),
    )
    c.learner.micro_blocks = 1
    c.model.remat = "full"
    c.optim.lr = 1e-6
    c.eval.every = 20
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
