"""A recipe of three stages in one run: imitation, preferences, verifiable rewards.

  rlpt train --config configs/sft_dpo_rlvr.py --workdir runs/sft_dpo_rlvr
  rlpt train --config configs/sft_dpo_rlvr.py:runlocal --workdir /tmp/sft_dpo_rlvr

Lambert et al., "TULU 3: Pushing Frontiers in Open Language Model Post-Training", arXiv 2411.15124.
There, 8B: SFT at 5e-6 on 940k prompts; DPO per token, beta 5, at 5e-7 on 271k pairs; PPO at 3e-7
with a KL coefficient of 0.05 and a reward of 10 for a verified answer. The reference of DPO is the
model of the stage before. Here the last stage is GRPO without a critic and without the KL, and one
learning rate serves all. Stages of different data: name the entry of config.tasks with `task` in a
stage. The job here is that of configs/quickstart.py: SmolLM2 and one-digit sums on a laptop.
"""

import rlpt.config


def get_config(arg: str | None = None):
    """arg: runlocal shrinks the run to the toy model, with stages of one step."""
    small = arg == "runlocal"
    sft, dpo = (1, 1) if small else (10, 10)  # steps; the rest is for the last stage
    c = rlpt.config.default()
    c.steps = 40
    c.tasks = (dict(fn="arithmetic.sums", digits=1),)
    c.verifiers = (dict(fn="number.number", name="number"),)
    c.rollout.prompts, c.rollout.group = 8, 8
    c.rollout.fn = "stages.by_step"
    texts, pairs = dict(fn="pairs.demonstrations"), dict(fn="pairs.preferred")
    if not small:  # as many rows in each stage
        texts, pairs = texts | dict(prompts=64, group=1), pairs | dict(prompts=32, group=2)
    c.rollout.options = dict(
        stages=(
            dict(**texts, steps=sft, completion="{answer}"),
            dict(**pairs, steps=dpo, chosen="{answer}", rejected="{other}"),
            dict(fn="sample.on_policy"),
        )
    )
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (32,), (12,)
    c.advantage = (dict(fn="group.grpo", allow_singleton=True),)
    rows = "aggregate.sequence_mean_token_mean"
    since = lambda start: dict(schedule="step", init=0.0, end=1.0, steps=start)  # noqa: E731
    c.loss = (
        dict(fn="preference.nll", coef=dict(schedule="step", init=1.0, end=0.0, steps=sft)),
        # no rows are paired in the last stage, and nothing is rewarded in the first two
        dict(fn="preference.dpo", beta=5.0, per_token=True, aggregate=rows, coef=since(sft)),
        dict(surrogate="surrogates.ppo_clip", coef=since(sft + dpo)),
    )
    c.learner.reference_steps = (sft,)
    c.learner.micro_blocks = 8
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if small else c
