"""RLCR: the completion says how sure it is, and the reward falls with the Brier score of that.

  rlpt train --config configs/rlcr.py --workdir runs/rlcr
  rlpt train --config configs/rlcr.py:runlocal --workdir /tmp/rlcr

Damani et al., "Beyond Binary Rewards: Training LMs to Reason About Their Uncertainty", arXiv
2507.16806. There: R = y - (y - q)^2, 32 completions, temperature 0.7, no std, no KL, lr 5e-6
(mathematics) and 1e-6 (questions); the authors' code adds half for the form, as here. pass@k
counts right answers with a readable confidence. The job here is one-digit sums on a laptop,
with the prompt that asks for the form. SmolLM2 does not write it by itself, and what never
happens is not reinforced: point config.model.source to a model that follows instructions.
"""

import rlpt.config

SYSTEM = (
    "Reply with the answer and how sure you are: <answer>12</answer><confidence>0.9</confidence>"
)


def get_config(arg: str | None = None):
    """arg: runlocal shrinks the run to the toy model."""
    c = rlpt.config.default()
    c.steps = 30
    c.tasks = (dict(fn="arithmetic.sums", digits=1, system=SYSTEM),)
    c.verifiers = (
        dict(fn="number.number", name="number", extract="tag", tag="answer"),
        dict(fn="confidence.confidence", name="confidence", tag="confidence"),
    )
    c.rollout.prompts, c.rollout.group = 8, 8
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (64,), (32,)
    c.sampling.temperature = 0.7
    c.shaping = (
        dict(
            fn="outcomes.rlcr",
            reads=dict(correct="verdict/number", confidence="verdict/confidence"),
            form="code",
        ),
    )
    c.advantage = ("group.dr_grpo",)
    c.loss = (dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),)
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
