"""MRT: the outcome, and the progress that every episode of the thought makes towards it.

  rlpt train --config configs/mrt.py --workdir runs/mrt
  rlpt train --config configs/mrt.py:runlocal --workdir /tmp/mrt

Qu et al., "Optimizing Test-Time Compute via Meta Reinforcement Fine-Tuning", arXiv 2503.07572.
There: R1-distilled models on math; the weight of the progress could not be confirmed. An
episode here is a number of tokens (with tokens=0 a paragraph); behind each the reply is ended by
force, and two short answers say how good it is by then. The job here is that of
configs/quickstart.py: SmolLM2 and one-digit sums on a laptop.
"""

import rlpt.config


def get_config(arg: str | None = None):
    """arg: runlocal shrinks the run to the toy model."""
    small = arg == "runlocal"
    c = rlpt.config.default()
    c.steps = 30
    c.tasks = (dict(fn="arithmetic.sums", digits=1),)
    c.verifiers = (dict(fn="number.number", name="number"),)
    c.rollout.prompts, c.rollout.group = 8, 8
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (32,), (12,)
    c.rollout.fn = "mrt.episodes"
    c.rollout.options = dict(
        termination=" = " if small else "\nThe answer is",
        most=2, tokens=1 if small else 4, samples=2, answer_tokens=4,
    )  # fmt: skip
    c.shaping = (dict(fn="progress.progress_bonus", alpha=1.0, best=1.0),)
    c.advantage = (dict(fn="group.grpo"),)
    c.loss = (dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),)
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if small else c
