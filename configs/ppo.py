"""PPO with generalised advantages from a critic, which is a second learner.

  rlpt train --config configs/ppo.py --workdir runs/ppo
  rlpt train --config configs/ppo.py:runlocal --workdir /tmp/ppo

Schulman et al., "Proximal Policy Optimization Algorithms", arXiv 1707.06347, and
"High-Dimensional Continuous Control Using GAE", arXiv 1506.02438. For language models: clip
0.2, value clip 0.2 (0.5 in verl's configs), gamma and lambda 1, several updates a batch, a
critic that starts from the policy's weights with a head of zeros and gets ahead for some
steps. The critic reads columns like any loss; a reward model would be a learner the same
way. The job here is that of configs/quickstart.py: SmolLM2 and one-digit sums on a laptop,
with one update a batch.
"""

import rlpt.config


def get_config(arg: str | None = None):
    """arg: runlocal shrinks the run to the toy model."""
    c = rlpt.config.default()
    c.steps = 40
    c.tasks = (dict(fn="arithmetic.sums", digits=1),)
    c.verifiers = (dict(fn="number.number", name="number"),)
    c.rollout.prompts, c.rollout.group = 16, 4
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (32,), (12,)
    c.learners.critic = dict(
        output="value",
        writes="values",
        loss=(dict(fn="penalties.value_clip", clip=0.2, reads=dict(old_value="values")),),
        micro_blocks=4,
        optim=dict(lr=2e-5),
    )
    c.advantage = (dict(fn="gae.gae", gamma=1.0, lam=1.0, whiten=True),)
    c.loss = (dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),)
    c.learner.micro_blocks = 4
    c.learner.start = 5  # the critic alone at first
    c.optim.lr = 1e-5
    if arg == "runlocal":
        c = rlpt.config.runlocal(c)
        c.learner.start = 0
    return c
