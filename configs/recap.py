"""RECAP: of several rewards, those that have stopped getting better weigh more.

  rlpt train --config configs/recap.py --workdir runs/recap
  rlpt train --config configs/recap.py:runlocal --workdir /tmp/recap

"RECAP", arXiv 2510.21978. There: windows of 10 steps, temperature 5, losses of several objectives
and replayed general data, against forgetting while a model learns to reason. Differs in: no replay,
and what is tracked is 1 - mean reward, since the loss of a policy gradient says nothing of how well
it does. Here: the right number, and a reply that is nothing but a number; windows of 5 batches, so
that weights move within the run. Accuracy in the evaluation asks for both. The job here is that of
configs/quickstart.py: SmolLM2 and one-digit sums on a laptop.
"""

import rlpt.config


def get_config(arg: str | None = None):
    """arg: runlocal shrinks the run to the toy model."""
    c = rlpt.config.default()
    c.steps = 30
    c.tasks = (dict(fn="arithmetic.sums", digits=1),)
    c.verifiers = (
        dict(fn="number.number", name="number", weight=1.0),
        dict(fn="pattern.regex", name="format", pattern=r"^\s*-?[0-9]+\s*$", weight=1.0),
    )
    c.rollout.prompts, c.rollout.group = 8, 8
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (32,), (12,)
    c.shaping = (
        dict(
            fn="controllers.recap",
            names=("number", "format"),
            window=1 if arg == "runlocal" else 5,
            temperature=5.0,
            convergence=1.0,
            instability=1.0,
        ),
    )
    c.advantage = (dict(fn="group.grpo"),)
    c.loss = (dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),)
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
