"""StableReinforce: ratios clipped before the exponential, outlying advantages left out.

  rlpt train --config configs/stable_reinforce.py --workdir runs/stable_reinforce
  rlpt train --config configs/stable_reinforce.py:runlocal --workdir /tmp/stable_reinforce

Zhang et al., "R1-Reward: Training Multimodal Reward Model Through Stable Reinforcement Learning",
arXiv 2505.02835. There: band 1e-3 to 1e3, clip 0.2, rows beyond 3 standard deviations left out, lr
3e-7, KL 0.001. Differs in: the reward is the verdict; the paper's needs a judge of consistency
(rewards.outcomes.stable_reinforce). Of verdicts that are 0 or 1 the rows beyond 3 deviations are
the single successes of a batch that has few, and the single failures of one that has few: raise
`bound` where that is not meant. The job here is that of configs/quickstart.py: SmolLM2 and
one-digit sums on a laptop.
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
    c.advantage = (dict(fn="group.stable_reinforce", bound=3.0),)
    mean = "aggregate.sequence_mean_token_mean"
    c.loss = (
        dict(
            surrogate=dict(
                fn="surrogates.stable_reinforce", low=0.2, high=0.2, floor=1e-3, ceiling=1e3
            ),
            aggregate=mean,
        ),
        dict(fn="penalties.k3", coef=0.001, aggregate=mean),
    )
    c.learner.minibatches, c.learner.micro_blocks = 4, 2  # for the band: the first ratio is 1
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
