"""PF-PPO: of each group only the best completion and one of the others train.

  rlpt train --config configs/pf_ppo.py --workdir runs/pf_ppo
  rlpt train --config configs/pf_ppo.py:runlocal --workdir /tmp/pf_ppo

Shen and Zhang, "Policy Filtration in RLHF to Fine-Tune LLM for Code Generation", arXiv
2409.06957. There: 5 completions a prompt scored by a reward model, best and random ("BR")
chosen by how well scores match the truth, 82.9 on HumanEval. Differs in: the score is the
verdict, the estimator GRPO without a critic; rows left out stay in the statistics. The job
here is that of configs/quickstart.py: SmolLM2 and one-digit sums on a laptop.
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
    c.shaping = (dict(fn="selection.pf_ppo", keep="best_random"),)
    c.advantage = (dict(fn="group.grpo"),)
    c.loss = (dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),)
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
