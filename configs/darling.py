"""DARLING: the reward is quality times diversity, so that right answers unlike others win.

  rlpt train --config configs/darling.py --workdir runs/darling
  rlpt train --config configs/darling.py:runlocal --workdir /tmp/darling

Li et al., "Jointly Reinforcing Diversity and Quality in Language Model Generations"
(DARLING), arXiv 2509.02534. There: 8 completions, lr 1e-6, no KL, no std, semantic classes
of a trained classifier, diversity at least 0.1. Differs in: two completions are of one class
if their tokens are equal, which needs no classifier and fits replies that are nothing but an
answer; a column of other classes goes in by reads=dict(diversity_class=...). The job here is
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
    c.shaping = (
        "answers.of_completions",
        dict(fn="outcomes.darling", reads=dict(diversity_class="answer_id"), floor=0.1),
    )
    c.advantage = ("group.dr_grpo",)
    c.loss = (dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),)
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
