"""TruthRL: +1 for a right answer, 0 for "I don't know", -1 for a wrong one.

  rlpt train --config configs/truthrl.py --workdir runs/truthrl
  rlpt train --config configs/truthrl.py:runlocal --workdir /tmp/truthrl

Wei et al., "TruthRL: Incentivizing Truthful LLMs via Reinforcement Learning", arXiv
2509.25760. To answer pays where P(right) > 1/2. There: questions of knowledge, GRPO, a judge
model; 28.9 % fewer hallucinations. Differs in: abstention is found by patterns
(verifiers.abstain), and pass@k does not count it. The job here is one-digit sums on a laptop
with a prompt that allows not to know; SmolLM2 seldom says so at first, and until then this
is GRPO.
"""

import rlpt.config


def get_config(arg: str | None = None):
    """arg: runlocal shrinks the run to the toy model."""
    c = rlpt.config.default()
    c.steps = 30
    system = "Answer with a number, or with: I don't know."
    c.tasks = (dict(fn="arithmetic.sums", digits=1, system=system),)
    c.verifiers = (
        dict(fn="number.number", name="number"),
        dict(fn="abstain.abstain", name="abstained"),
    )
    c.rollout.prompts, c.rollout.group = 8, 8
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (48,), (12,)
    c.shaping = (
        dict(
            fn="outcomes.truthrl",
            reads=dict(correct="verdict/number", abstained="verdict/abstained"),
        ),
    )
    c.advantage = (dict(fn="group.grpo"),)
    c.loss = (dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),)
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
