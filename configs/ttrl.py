"""TTRL: the answer that most rows of a group give is taken for right.

  rlpt train --config configs/ttrl.py --workdir runs/ttrl
  rlpt train --config configs/ttrl.py:srt --workdir runs/srt
  rlpt train --config configs/ttrl.py:runlocal --workdir /tmp/ttrl

Zuo et al., "TTRL: Test-Time Reinforcement Learning", arXiv 2504.16084. There: 64 votes a prompt, of
which the first 32 rows train, with GRPO; AIME 2024 of Qwen2.5-Math-7B from 13 to about 40. The arm
srt adds what Shafayat et al., "Can Large Reasoning Models Self-Train?", arXiv 2505.21444, try
against collapse: a label needs half of the votes, and only the prompts agreed on most train.

No verdict is in the reward. That of `number` is in `rewards`, and so in the log and the evaluation;
beside it stand vote/share, vote/label_accuracy and vote/label_entropy: agreement that grows while
the labels get worse, or the same for all prompts, is how this method fails. From SmolLM2's start
this hardly works at temperature 1 and 12 tokens; docs/evidence.md (ttrl_cool, ttrl_room) has what
does. The job here is that of configs/quickstart.py: SmolLM2 and one-digit sums on a laptop.
"""

import rlpt.config


def get_config(arg: str | None = None):
    """arg: srt; runlocal shrinks the run to the toy model."""
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
        *((dict(fn="consensus.most_agreed", fraction=0.5),) if arg == "srt" else ()),
        dict(
            fn="consensus.majority",
            threshold=0.5 if arg == "srt" else 0.0,
            keep=4 if arg == "runlocal" else 8,
        ),
    )
    c.advantage = (dict(fn="group.grpo", reads=dict(rewards="vote")),)
    c.loss = (dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),)
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
