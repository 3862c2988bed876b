"""Guide-GRPO: a hint where a whole group failed, learnt from as if there had been none.

  rlpt train --config configs/guide.py --workdir runs/guide
  rlpt train --config configs/guide.py:runlocal --workdir /tmp/guide

Nath et al., "Adaptive Guidance Accelerates Reinforcement Learning of Reasoning Models", arXiv
2506.13923. There: Qwen2.5 7B and 32B, hints written by a language model from the reference
solution, up to 4 % over GRPO in the mean of math benchmarks. Guided rows are trained under the
prompt without the hint, against their log-probs under it. As many guided rows as unguided ones,
and advantages over both together, are choices made here; so is off_policy.product as the ratio,
which is unbiased where that per token is not, or off_policy.shaped as the surrogate, which learns
more from what the policy would hardly say. The job here: SmolLM2 on a laptop, one-digit sums and,
with hints, two-digit sums, which it never gets right at first. The hint is the last step alone:
after nine steps on one-digit sums the model had 15 of 96 two-digit sums right, 5 of 96 with all the
steps as a hint behind the question, and 10 of 48 when asked for the last step.
"""

import rlpt.config


def get_config(arg: str | None = None):
    """arg: runlocal shrinks the run to the toy model; the arm: grpo, as many samples, no hints."""
    c = rlpt.config.default()
    c.steps = 40
    c.tasks = (
        dict(fn="arithmetic.sums", digits=1, label="small"),
        dict(fn="arithmetic.sums", low=10, high=99, hints=True, label="large"),
    )
    c.verifiers = (dict(fn="number.number", name="number"),)
    c.rollout.prompts, c.rollout.group, c.rollout.group_blocks = 8, 4, 2
    c.rollout.fn = "guide.guided"
    c.rollout.options = dict(verifier="number", hint="step", template="{hint}")
    if arg == "grpo":
        c.rollout.fn, c.rollout.options = "sample.on_policy", dict()
        c.rollout.group, c.rollout.group_blocks = 8, 1
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (40, 96), (12,)
    c.advantage = (dict(fn="group.grpo", ddof=0),)
    c.loss = (dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),)
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    c.eval.prompts = 32  # of each task
    if arg == "runlocal":
        c = rlpt.config.runlocal(c)
        c.tasks = (dict(fn="arithmetic.sums", hints=True, system=""),)
        # seldom met, so that some groups fail
        c.verifiers = (dict(fn="pattern.regex", pattern="(?s)^[0-3]", name="number"),)
    return c
