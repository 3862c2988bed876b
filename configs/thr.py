"""THR: tokens weigh by what they do to the likelihood of the correct completions.

  rlpt train --config configs/thr.py --workdir runs/thr
  rlpt train --config configs/thr.py:runlocal --workdir /tmp/thr

Deng et al., "Token Hidden Reward: Steering Exploration-Exploitation in Group Relative Deep
Reinforcement Learning", arXiv 2510.03669. p > 0 is for greedy accuracy, p < 0 for pass@k. The
size of p, and that the half of the tokens with the largest |THR| stays, were chosen here. With
a vocabulary of 150k tokens top_k=64 saves three quarters of the scorer's work. The job here is
that of configs/quickstart.py: SmolLM2 and one-digit sums on a laptop.
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
    c.scorers = (dict(fn="influence.on_correct", verifier="number", threshold=0.5, top_k=0),)
    c.advantage = (dict(fn="group.grpo"), dict(fn="influence.thr", p=0.2, keep=0.5, tau=0.0))
    c.loss = (dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),)
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
