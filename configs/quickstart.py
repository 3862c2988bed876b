"""GRPO teaches SmolLM2-135M-Instruct one-digit sums, on two CPU cores in minutes.

  rlpt train --config configs/quickstart.py --workdir runs/quickstart

The prompt is "7 + 5 =" under the system text "Answer with a number."; the reward is
1 when the last number of the reply is right.  Pairs are held out unordered: no a+b
in training when b+a is held out.  Expected on two CPU cores: 30 steps in three to four
minutes, pass@1 at temperature 1 from about 5 % to 97 %, greedy from 55 % to 100 %.

Shao et al., "DeepSeekMath", arXiv 2402.03300 (GRPO); clip-higher 0.2/0.28 from Yu et
al., "DAPO", arXiv 2503.14476.
"""

import rlpt.config


def get_config(arg: str | None = None):
    """arg: runlocal shrinks the run to the toy model and two steps."""
    c = rlpt.config.default()
    c.steps = 30
    c.tasks = (dict(fn="arithmetic.sums", digits=1, weight=1.0),)
    c.verifiers = (dict(fn="number.number", name="number", weight=1.0),)
    c.rollout.prompts = 8
    c.rollout.group = 8
    c.sampling.prompt_buckets = (32,)
    c.sampling.completion_buckets = (12,)
    c.advantage = (dict(fn="group.grpo"),)
    # On-policy with one update a batch the ratio is 1; the clip matters with more.
    c.loss = (dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.28)),)
    c.learner.micro_blocks = 2  # groups that all agree are skipped, two at a time
    c.optim.lr = 1e-5
    c.optim.schedule = "linear"  # a constant rate goes on shaking what is learnt
    c.optim.end_lr_fraction = 0.1
    c.eval.every = 10
    c.eval.samples = 8
    c.checkpoint.every = 10
    if arg == "runlocal":
        c.model.source = "toy"
        c.steps = 2
        c.eval.prompts = 4
        c.eval.every = 0
    return c
