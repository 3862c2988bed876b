"""Co-Reward: the majority on one wording of a question is the label for the other.

  rlpt train --config configs/co_reward.py --workdir runs/co_reward
  rlpt train --config configs/co_reward.py:runlocal --workdir /tmp/co_reward

Zhang et al., "Co-Reward: Self-supervised Reinforcement Learning for Large Language Model Reasoning
via Contrastive Agreement", arXiv 2508.00410. There: questions reworded by a language model, 8
completions of each wording, GRPO on each by itself, lr 3e-6 with a cosine, KL 0.005. Here the other
wording is a template; where the data has one, name its column by --config.rollout.options.key and
empty the template.

No verdict is in the reward. That of `number` is in `rewards`, and so in the log and the evaluation.
The job here is that of configs/quickstart.py: SmolLM2 and one-digit sums on a laptop.
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
    c.rollout.prompts, c.rollout.group = 8, 8
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (48,), (12,)
    c.rollout.fn = "views.two"
    c.rollout.options = dict(key="rephrased", template="What does this sum come to? {question}")
    c.shaping = (
        dict(fn="answers.of_verdict", reads=dict(answer="verdict/answer")),
        "consensus.co_reward",
    )
    c.advantage = (dict(fn="group.grpo", reads=dict(rewards="vote")),)
    c.loss = (
        dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),
        dict(fn="penalties.k3", coef=0.005),
    )
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
