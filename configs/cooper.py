"""Cooper: the reward model learns along with the policy, from what the policy gets right.

  rlpt train --config configs/cooper.py --workdir runs/cooper
  rlpt train --config configs/cooper.py:runlocal --workdir /tmp/cooper

Hong et al., "Cooper: Co-Optimizing Policy and Reward Models in Reinforcement Learning for Large
Language Models", arXiv 2508.05613. There: Qwen2.5-1.5B and a classifier of question, reference
answer and completion, trained on 58.7k rows before; 16 completions, KL 0.001, lr 1e-6, and 1e-5 for
the reward model, whose pairs are a completion that rules find right and a wrong rewriting of it by
another model. A fixed reward model collapses to 38.9 %, rules give 57.5 %, Cooper 58.0 %. Here
the reward model is the policy's body with a head of zeros, which gets ahead for some steps and is
updated before it scores, the policy rewrites, and there is no KL. The rule verifier finds the
pairs and earns nothing. The job here is that of configs/quickstart.py: SmolLM2 and one-digit sums
on a laptop.
"""

import rlpt.config


def get_config(arg: str | None = None):
    """arg: runlocal shrinks the run to the toy model; the arm: rules, the verifier rewards."""
    small = arg == "runlocal"
    c = rlpt.config.default()
    c.steps = 40
    c.tasks = (dict(fn="arithmetic.sums", digits=1),)
    c.verifiers = (dict(fn="number.number", name="number"),)
    c.rollout.prompts, c.rollout.group = 8, 8
    c.rollout.fn = "cooper.contrasted"
    c.rollout.options = dict(
        verifier="number",
        tries=3,
        rewrite="{question} not {solution}" if small else "{question} Do not say {solution}",
        context="{question} {answer}" if small else "{question}\nReference answer: {answer}",
    )
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (32, 48), (12,)
    c.learners.reward_model = dict(
        output="value",
        table="pairs",
        when="before_credit",
        loss=(dict(fn="preference.bradley_terry", aggregate="aggregate.sequence_mean_token_mean"),),
        micro_blocks=4,
        optim=dict(lr=2e-5),
    )
    if arg != "rules":
        scorer = dict(model="reward_model", output="value", writes="values")
        c.scorers = (dict(fn="verification.in_context", **scorer),)
        c.shaping = (dict(fn="models.last_value", squash=True),)
    c.advantage = (dict(fn="group.grpo"),)
    c.loss = (dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),)
    c.learner.micro_blocks = 2
    c.learner.start = 5  # the reward model alone at first
    c.optim.lr = 1e-5
    if small:
        c = rlpt.config.runlocal(c)
        c.learner.start = 0
    return c
