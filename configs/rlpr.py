"""RLPR: the reward is how likely the reference answer is after the policy's own reasoning.

  rlpt train --config configs/rlpr.py --workdir runs/rlpr
  rlpt train --config configs/rlpr.py:runlocal --workdir /tmp/rlpr

Yu et al., "RLPR: Extrapolating RLVR to General Domains without Verifiers", arXiv 2506.18254. There:
Qwen2.5-7B, 8 completions, batch 768, lr 1e-6, clip 0.2/0.27, no KL; the mean probability of the
answer's tokens less that without reasoning, not below 0, with 0.1 for the form; prompts whose
rewards hardly differ do not train (beta 0.5, mean of 5 batches after 5, decay 0.99). Differs in:
the probability without reasoning is the present policy's, not the first one's; rows that the length
limit cut off have a place for the answer (cut_off), which in the authors' code they have not.

No verdict is in the reward. That of `number` is in `rewards`, and so in the log and the evaluation.
The job here is that of configs/quickstart.py: SmolLM2 and one-digit sums on a laptop. Its replies
have no tags, so the whole reply is the reasoning and the answer follows "The answer is"; the form
is that the reply has a number. With tags: until="<answer", before=">", and pattern.format.
"""

import rlpt.config


def get_config(arg: str | None = None):
    """arg: runlocal shrinks the run to the toy model."""
    c = rlpt.config.default()
    c.steps = 30
    c.tasks = (dict(fn="arithmetic.sums", digits=1),)
    c.verifiers = (
        dict(fn="number.number", name="number", weight=1.0),
        dict(fn="pattern.regex", name="format", pattern="[0-9]", weight=0.0),
    )
    c.rollout.prompts, c.rollout.group = 8, 8
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (32,), (12,)
    c.rollout.fn = "reference.answers"
    before = "=" if arg == "runlocal" else "\nThe answer is "
    c.rollout.options = dict(until="", before=before, after="", width=16)
    c.scorers = (
        dict(fn="answers.answer_logp"),
        dict(fn="answers.answer_logp", context="prompt", writes="base_logp"),
    )
    c.shaping = (
        dict(fn="likelihood.of_answer", form="mean_prob", writes="likelihood"),
        dict(
            fn="likelihood.of_answer",
            form="mean_prob",
            reads=dict(answer_logp="base_logp"),
            writes="base_likelihood",
        ),
        dict(
            fn="likelihood.rlpr",
            reads=dict(well_formed="verdict/format"),
            weight=0.1,
            writes="likelihood_reward",
        ),
        dict(
            fn="likelihood.std_filter",
            reads=dict(rewards="likelihood_reward"),
            beta=0.5,
            decay=0.99,
        ),
    )
    c.advantage = (dict(fn="group.grpo", reads=dict(rewards="likelihood_reward")),)
    c.loss = (dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.27)),)
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
