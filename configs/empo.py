"""EMPO: an answer is worth the share of its group that gives it.

  rlpt train --config configs/empo.py --workdir runs/empo
  rlpt train --config configs/empo.py:runlocal --workdir /tmp/empo

Zhang et al., "Right Question is Already Half the Answer: Fully Unsupervised LLM Reasoning
Incentivization" (EMPO), arXiv 2504.05812. There: GRPO on Qwen2.5-Math-7B, answers grouped by
meaning, nothing where all differ; prompts between two bounds of the semantic entropy train, whose
values were not confirmed and are left open here. Differs in: answers are the same if their parsed
form is, which fits numbers and short answers, not free text.

No verdict is in the reward. That of `number` is in `rewards`, and so in the log and the evaluation.
From SmolLM2's start this hardly works at temperature 1 and 12 tokens; docs/evidence.md (ttrl_cool,
ttrl_room) has what does. The job here is that of configs/quickstart.py: SmolLM2 and one-digit sums
on a laptop.
"""

import rlpt.config


def get_config(arg: str | None = None):
    """arg: runlocal shrinks the run to the toy model."""
    c = rlpt.config.default()
    c.steps = 30
    c.tasks = (dict(fn="arithmetic.sums", digits=1),)
    c.verifiers = (
        dict(fn="number.number", name="number", weight=1.0),
        dict(fn="answer.answer", name="answer", weight=0.0),
    )
    c.rollout.prompts, c.rollout.group = 4, 16
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (32,), (12,)
    c.shaping = (
        dict(fn="answers.of_verdict", reads=dict(answer="verdict/answer")),
        dict(fn="consensus.empo", low=0.0, high=1.0),
    )
    c.advantage = (dict(fn="group.grpo", reads=dict(rewards="vote")),)
    c.loss = (dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),)
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
