"""PURE: the worst step of a completion decides, as a process reward model sees it.

  rlpt train --config configs/pure.py --workdir runs/pure
  rlpt train --config configs/pure.py:runlocal --workdir /tmp/pure

Cheng et al., "Stop Summation: Min-Form Credit Assignment Is All Process Reward Model Needs for
Reasoning", arXiv 2504.15275. There: temperature 0.1 of the soft minimum, baseline per token, 4
completions at sampling temperature 0.5, KL coefficient 1e-3, learning rate 5e-7, one prompt in ten
verified; steps end with a blank line; Qwen2.5-Math-7B, AMC23 82.5. The process reward model was
trained on the 369k labelled steps of PRM800K. Here it is a second learner that starts from the
policy's weights and learns in the run, from outcomes: every prefix predicts its row's verdict. With
labels of steps, a column of the rollout, point reads=dict(labels=...) at it. The job: sums of three
digits. SmolLM2 replies in one line, in which both forms would be the same, so here every word is a
step; verify/steps/steps counts them.
"""

import rlpt.config


def get_config(arg: str | None = None):
    """arg: runlocal shrinks the run to the toy model, where the digit 1 ends a step; the arm: sum,
    the steps are summed.
    """
    small = arg == "runlocal"
    c = rlpt.config.default()
    c.steps = 40
    c.tasks = (dict(fn="arithmetic.sums", digits=1, terms=3),)
    c.verifiers = (dict(fn="number.number", name="number"),)
    c.rollout.prompts, c.rollout.group = 8, 8
    c.rollout.fn = "steps.split"
    c.rollout.options = dict(separator="1" if small else " ")
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (64,), (48,)
    c.sampling.temperature = 0.5
    c.learners.step_model = dict(
        output="value",
        writes="step_values",
        when="before_credit",
        loss=(dict(fn="preference.value_bce", reads=dict(labels="verdict/number")),),
        micro_blocks=4,
        optim=dict(lr=2e-5),
    )
    c.shaping = (
        dict(fn="shaping.kl_in_reward", coef=1e-3),
        dict(fn="steps.value_scores", reads=dict(values="step_values")),
    )
    form = "sum" if arg == "sum" else "min"
    c.advantage = (
        dict(fn="process.pure", form=form, temperature=0.1, baseline="token", outcome_coef=1.0),
    )
    c.loss = (dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),)
    c.learner.old_logp = "recompute"  # for the KL
    c.learner.micro_blocks = 4
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if small else c
