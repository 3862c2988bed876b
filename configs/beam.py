"""Step beam search by a process reward model: to evaluate with, or to train on what it finds.

  rlpt evaluate --model embedded --config configs/beam.py --config.eval.samples=8
  rlpt train --config configs/beam.py --workdir runs/beam
  rlpt train --config configs/beam.py:runlocal --workdir /tmp/beam

Snell et al., "Scaling LLM Test-Time Compute Optimally can be More Effective than Scaling Model
Parameters", arXiv 2408.03314. There: PaLM 2 on MATH, a process reward model trained on Monte Carlo
rollouts, the last step's score counts; beams go on M = 4 ways and 40 rounds, steps end with an
empty line. Here a sum of three numbers is a step a line, and the process reward model is a rule:
equations of the reply that are false (sign=-1: a flaw is 1). Any verifier may stand there, such as
a model at an endpoint (configs/judge.py); by="" is the mean log-prob. `chosen` of the evaluation is
the accuracy of the search; pass@k are of its beams, which are no independent samples.
"""

import rlpt.config

SYSTEM = "Add the numbers one after the other, a line each, as in 1 + 2 = 3 and then 3 + 4 = 7."


def get_config(arg: str | None = None):
    """arg: runlocal shrinks the run to the toy model."""
    c = rlpt.config.default()
    c.steps = 30
    c.tasks = (dict(fn="arithmetic.sums", digits=1, terms=3, system=SYSTEM),)
    c.verifiers = (
        dict(fn="number.number", name="number"),
        dict(fn="equations.equations", name="steps", weight=0.0),
    )
    c.rollout.fn = "beam.steps"
    c.rollout.options = dict(by="steps", sign=-1.0, expand=4, separator="\n", rounds=8)
    c.rollout.prompts, c.rollout.group = 8, 8
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (80,), (32,)
    c.sampling.temperature = 0.8
    c.advantage = (dict(fn="group.grpo"),)
    c.loss = (dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),)
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    c.eval.samples, c.eval.temperature = 8, 0.8
    if arg == "runlocal":
        c = rlpt.config.runlocal(c)
        c.rollout.options = dict(by="", expand=2, separator="1", rounds=2)
    return c
