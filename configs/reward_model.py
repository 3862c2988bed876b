"""A reward model learns from pairs (Bradley-Terry), and the policy from the reward model.

  rlpt train --config configs/reward_model.py --workdir runs/reward_model
  rlpt train --config configs/reward_model.py:runlocal --workdir /tmp/reward_model

Ouyang et al., "Training language models to follow instructions with human feedback" (InstructGPT),
arXiv 2203.02155: loss -log sigma(r_i - r_j), the mean over the pairs of a prompt; there 6B,
learning rate 9e-6, batches of 64 prompts, one epoch. The model is a second learner with a scalar
head, which starts from the policy's weights; its table of pairs stands beside the policy's own. It
is ahead for 20 steps, and then goes on. The verifier has the weight 0: it is shown, not rewarded.
Pairs of a file: see configs/dpo.py, and `task` in the entry of the table. The job here is that of
configs/dpo.py.
"""

import rlpt.config


def get_config(arg: str | None = None):
    """arg: runlocal shrinks the run to the toy model."""
    c = rlpt.config.default()
    c.steps = 40
    c.tasks = (dict(fn="arithmetic.sums", digits=1),)
    c.verifiers = (dict(fn="number.number", name="number", weight=0.0),)
    c.rollout.prompts, c.rollout.group = 8, 8
    c.rollout.fn = "stages.beside"
    pairs = dict(fn="pairs.preferred", chosen="{answer}", rejected="{other}")
    if arg != "runlocal":
        pairs |= dict(prompts=32, group=2)
    c.rollout.options = dict(tables=dict(policy=dict(fn="sample.on_policy"), pairs=pairs))
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (32,), (12,)
    c.learners.reward_model = dict(
        output="value",
        writes="scores",
        table="pairs",
        when="before_credit",
        loss=(
            dict(
                fn="preference.bradley_terry", centre=0.01,
                aggregate="aggregate.sequence_mean_token_mean",
            ),
        ),
        micro_blocks=8,
        optim=dict(lr=1e-5),
    )  # fmt: skip
    c.shaping = (dict(fn="models.last_value", reads=dict(values="scores")),)
    c.advantage = (dict(fn="group.grpo"),)
    c.loss = (dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),)
    c.learner.micro_blocks = 4
    c.learner.start = 20  # the reward model alone at first
    c.optim.lr = 1e-5
    if arg == "runlocal":
        c = rlpt.config.runlocal(c)
        c.learner.start = 0
    return c
