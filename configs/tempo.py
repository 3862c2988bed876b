"""TEMPO: token credit from the tree of prefixes that a group's completions form.

  rlpt train --config configs/tempo.py --workdir runs/tempo
  rlpt train --config configs/tempo.py:runlocal --workdir /tmp/tempo

Tran, Yao and Yu, "TEMPO", arXiv 2509.18314. There: Qwen3-1.7B and 4B, about 1k tokens a
completion, small groups; MATH 87.6 (GRPO) to 91.0. The paper has no public code: dividing
the change of value by the std follows reviews of it, ddof 0 and eps were chosen here. The
job here is that of configs/quickstart.py: SmolLM2 and one-digit sums on a laptop.
"""

import rlpt.config


def get_config(arg: str | None = None):
    """arg: runlocal shrinks the run to the toy model."""
    c = rlpt.config.default()
    c.steps = 30
    c.tasks = (dict(fn="arithmetic.sums", digits=1),)
    c.verifiers = (dict(fn="number.number", name="number"),)
    c.rollout.prompts, c.rollout.group = 8, 8
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (32,), (12,)
    c.advantage = (
        dict(fn="tree.tempo", td_coef=1.0, scale="std", ddof=0, eps=1e-6),
        "tree.tree_metrics",
    )
    c.loss = (dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),)
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
