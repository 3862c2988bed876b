"""PRIME: a reward of every token from a second language model that learns from outcomes alone.

  rlpt train --config configs/prime.py --workdir runs/prime
  rlpt train --config configs/prime.py:runlocal --workdir /tmp/prime

Cui et al., "Process Reinforcement through Implicit Rewards", arXiv 2502.01456. There: 4
completions, prompts of which 20 to 80 % are right, beta 0.05, coefficients 5 and 5, batch norm of
the returns, no KL, learning rates 5e-7 of the policy and 1e-6 of the reward model with gradients
clipped at 10; Eurus-2-7B-PRIME beats Qwen2.5-Math-7B-Instruct on seven sets with a tenth of its
data. Policy, reward model and reference start as one model. The reward model is updated before it
rewards, which their code calls "before"; when="after_credit" is "after". form="paper" is the
estimator as printed. steps/auc in the log is how well its sums tell right rows from wrong ones;
with "after", rows that it has not seen. The job here is that of configs/quickstart.py: SmolLM2 and
one-digit sums on a laptop.
"""

import rlpt.config


def get_config(arg: str | None = None):
    """arg: runlocal shrinks the run to the toy model; the arms: after, the reward model is updated
    after it has rewarded; outcome, so too, and the process reward is left out of the advantage.
    """
    c = rlpt.config.default()
    c.steps = 30
    c.tasks = (dict(fn="arithmetic.sums", digits=1),)
    c.verifiers = (dict(fn="number.number", name="number"),)
    c.rollout.prompts, c.rollout.group = 16, 4
    c.rollout.fn = "dynamic.refill"
    c.rollout.options = dict(max_batches=4, carry=False, min_std=0.4)
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (32,), (12,)
    c.learners.implicit = dict(
        output="logp",
        writes="implicit_logp",
        when="after_credit" if arg in ("after", "outcome") else "before_credit",
        loss=(
            dict(
                fn="preference.implicit_bce",
                beta=0.05,
                reads=dict(labels="verdict/number"),
                aggregate="aggregate.sequence_mean_token_mean",
            ),
        ),
        micro_blocks=4,
        optim=dict(lr=2e-5, max_grad_norm=10.0),
    )
    c.shaping = (
        dict(fn="steps.implicit", reads=dict(model_logp="implicit_logp")),
        "steps.separation",
    )
    c.advantage = (
        dict(
            fn="process.prime",
            process_coef=0.0 if arg == "outcome" else 5.0,
            outcome_coef=5.0,
            gamma=1.0,
            form="released",
            granularity="token",
            batch_norm=True,
            whiten=True,
        ),
    )
    c.loss = (dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),)
    c.learner.micro_blocks = 4
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
