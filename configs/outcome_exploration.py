"""Outcome-based exploration: bonuses for answers rare in the run, and in the batch.

  rlpt train --config configs/outcome_exploration.py --workdir runs/outcome_exploration
  rlpt train --config configs/outcome_exploration.py:runlocal --workdir /tmp/outcome_exploration

"Outcome-based Exploration for LLM Reasoning", arXiv 2509.06941. There: an answer seen often
for its question earns less (historical exploration), and so does one that others of its
group give too (batch exploration); each is also run alone, for which leave the other entry
of c.advantage out. The formulas were not confirmed against the paper's text, and the
coefficients are choices made here. Differs in: the whole completion is the answer, which
fits replies that are nothing but one. The job here is that of configs/quickstart.py: SmolLM2
and one-digit sums on a laptop.
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
    c.shaping = ("answers.of_completions", "answers.visits")
    c.advantage = (
        dict(fn="group.grpo"),
        dict(fn="exploration.historical", coef=0.1, baseline="mean"),
        dict(fn="exploration.batch", coef=0.1),
    )
    c.loss = (dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),)
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
