"""Scaf-GRPO: a failed group gets one success, under the least revealing hint that brings one.

  rlpt train --config configs/scaf.py --workdir runs/scaf
  rlpt train --config configs/scaf.py:runlocal --workdir /tmp/scaf

Zhang et al., "Scaf-GRPO: Scaffolded Group Relative Policy Optimization for Enhancing LLM
Reasoning", arXiv 2510.19807. There: Qwen2.5-Math-7B, hints of three tiers (knowledge, planning,
solution) in 4 parts each, 8 completions, batch 256, lr 1e-6, no KL, the first 50 steps without
hints; AIME24 pass@1 +44.3 % relative to GRPO. The row that rescues a group is trained under its
hint, so that the update stays on-policy; replace=("question",) trains it without. The job here:
SmolLM2 on a laptop, one-digit sums and, with hints, two-digit sums, which it never gets right at
first. The arm to compare with is that of configs/guide.py.
"""

import rlpt.config


def get_config(arg: str | None = None):
    """arg: runlocal shrinks the run to the toy model."""
    small = arg == "runlocal"
    c = rlpt.config.default()
    c.steps = 40
    c.tasks = (
        dict(fn="arithmetic.sums", digits=1, label="small"),
        dict(fn="arithmetic.sums", low=10, high=99, hints=True, label="large"),
    )
    c.verifiers = (dict(fn="number.number", name="number"),)
    c.rollout.prompts, c.rollout.group, c.rollout.group_blocks = 8, 8, 2
    c.rollout.fn = "scaf.rescued"
    c.rollout.options = dict(
        verifier="number",
        tiers=("knowledge", "planning", "solution"),
        template="{question}\n{tier}: {hint}",
        replace=("hinted",),
        exempt_steps=0 if small else 5,
    )
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (40, 128), (12,)
    c.advantage = (dict(fn="group.grpo", ddof=1),)
    c.loss = (dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),)
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    c.eval.prompts = 32  # of each task
    if small:
        c = rlpt.config.runlocal(c)
        c.tasks = (dict(fn="arithmetic.sums", hints=True, system=""),)
        # seldom met, so that some groups fail
        c.verifiers = (dict(fn="pattern.regex", pattern="(?s)^[0-3]", name="number"),)
    return c
