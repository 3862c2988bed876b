"""RISE: the policy also says whether replies of its own are right, and learns both at once.

  rlpt train --config configs/rise.py --workdir runs/rise
  rlpt train --config configs/rise.py:runlocal --workdir /tmp/rise

Liu et al., "Trust, But Verify: A Self-Verification Approach to Reinforcement Learning with
Verifiable Rewards", arXiv 2505.13445. There: 1024 replies and 128 questions about some of them in
one batch of PPO, 8 completions each, lr 5e-7, critic 9e-6, KL 0.01; 1 for a right answer in a box,
-0.5 for a wrong one, -1 for none, and the same for the score that a judgement puts in a box; a 1.5B
model verifies 74.5 % of its replies rightly, up from 26.8 %. Here the groups take the place of the
critic, and replies are too short for a judgement to give reasons. verify/rise/... in the log tells
how often judgements are right, by what the reply was. The job here is that of
configs/quickstart.py: SmolLM2 and one-digit sums on a laptop.
"""

import rlpt.config

QUESTION = (
    "{question} Somebody answered: {reply}\nScore this answer: {correct} if it is right, "
    "{incorrect} if it is wrong, {unparsable} if it is no number."
)


def get_config(arg: str | None = None):
    """arg: runlocal shrinks the run to the toy model; the arm: grpo, without the second task."""
    small = arg == "runlocal"
    c = rlpt.config.default()
    c.steps = 40
    c.tasks = (dict(fn="arithmetic.sums", digits=1),)
    c.verifiers = (dict(fn="number.number", name="number", missing=dict(unparsable="-1")),)
    c.rollout.prompts, c.rollout.group = 8, 8
    if arg != "grpo":
        c.rollout.fn = "rise.verifying"
        c.rollout.options = dict(
            checks=2,
            labels=("1", "-0.5", "-1"),
            template="{question}{reply} {correct}/{incorrect}/{unparsable}?" if small else QUESTION,
            system="" if small else "Answer with a number.",
        )
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (32, 96), (12,)
    c.shaping = (dict(fn="verification.graded", correct=1.0, wrong=-0.5, unanswered=-1.0),)
    c.advantage = (dict(fn="group.grpo"),)
    c.loss = (dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),)
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if small else c
