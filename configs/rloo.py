"""RLOO: REINFORCE with the mean of the other completions as baseline.

  rlpt train --config configs/rloo.py --workdir runs/rloo
  rlpt train --config configs/rloo.py:runlocal --workdir /tmp/rloo

Ahmadian et al., "Back to Basics: Revisiting REINFORCE Style Optimization for Learning from
Human Feedback in LLMs", arXiv 2402.14740. There: whole completions as actions, a reward
model, and a KL penalty inside the reward (see configs/kl_in_reward.py); here a verifier and
no KL. The job here is that of configs/quickstart.py: SmolLM2 and one-digit sums on a
laptop.
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
    c.advantage = (dict(fn="group.rloo"),)
    # One action a completion: the log-prob of a row is the sum over its tokens.
    c.loss = (
        dict(surrogate="surrogates.reinforce", aggregate="aggregate.sequence_mean_token_sum"),
    )
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
