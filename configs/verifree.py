"""VeriFree: reasoning that makes the reference answer likely, and the answer after it.

  rlpt train --config configs/verifree.py --workdir runs/verifree
  rlpt train --config configs/verifree.py:jepo --workdir runs/jepo
  rlpt train --config configs/verifree.py:runlocal --workdir /tmp/verifree

Zhou et al., "Reinforcing General Reasoning without Verifiers" (VeriFree), arXiv 2505.21493. There:
8 completions, batch 128, lr 1e-6, no KL, no clip, sums over tokens; where the reasoning ends the
reference takes the place of the policy's own answer, R = its probability is the reward of the
reasoning (leave-one-out) and the weight of the answer's log-likelihood. A row without an end of its
reasoning has R = 0. The arm jepo has instead the gradient of the log of the mean of R over the
group (arXiv 2503.19618), which does not vanish where the answer is long.

The verdict of `number` is in `rewards`, and so in the log and the evaluation, not in the update.
The job here is that of configs/quickstart.py: SmolLM2 and one-digit sums on a laptop. There are no
tags in its replies: the reasoning is all up to the first "=", and what follows is the answer and
the end of the turn.
"""

import rlpt.config


def get_config(arg: str | None = None):
    """arg: jepo; runlocal shrinks the run to the toy model, whose replies end with any digit 1."""
    local = arg == "runlocal"
    c = rlpt.config.default()
    c.steps = 30
    c.tasks = (dict(fn="arithmetic.sums", digits=1),)
    c.verifiers = (dict(fn="number.number", name="number"),)
    c.rollout.prompts, c.rollout.group = 8, 8
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (32,), (16,)
    c.rollout.fn = "reference.spliced"
    end = (
        dict(until="1", before="", after="")
        if local
        else dict(until="=", before=" ", after="<|im_end|>")
    )
    c.rollout.options = dict(**end, width=2 if local else 8)
    form = "log_prob" if arg == "jepo" else "prob"
    c.shaping = (dict(fn="likelihood.of_answer", form=form, writes="likelihood"),)
    c.advantage = (
        dict(fn="group.rloo", reads=dict(rewards="likelihood")),
        dict(fn="likelihood.spliced", reads=dict(answer_weight="likelihood")),
    )
    if arg == "jepo":
        c.advantage = ("likelihood.jepo", "likelihood.spliced")
    c.loss = (
        dict(surrogate="surrogates.reinforce", aggregate="aggregate.sequence_mean_token_sum"),
    )
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if local else c
