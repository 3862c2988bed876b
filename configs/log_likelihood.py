"""The log-probability of the reference answer as the reward: it has a slope for long answers too.

  rlpt train --config configs/log_likelihood.py --workdir runs/log_likelihood
  rlpt train --config configs/log_likelihood.py:runlocal --workdir /tmp/log_likelihood

"Likelihood-based reward designs", arXiv 2602.03979. There: of the forms of such a reward only the
sum of log-probs works both where answers can be verified and where they are long; the probability
of 80 tokens is 0 in float32. As configs/verifree.py, but with log R as the reward of the reasoning
(leave-one-out) and the plain log-likelihood of the answer: together the gradient of
E[log pi(answer | reasoning)]. The authors' code was not looked at.

The verdict of `number` is in `rewards`, and so in the log and the evaluation, not in the update.
The job here is that of configs/verifree.py.
"""

import rlpt.config


def get_config(arg: str | None = None):
    """arg: runlocal shrinks the run to the toy model, whose replies end with any digit 1."""
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
    c.shaping = (
        dict(fn="likelihood.of_answer", form="log_prob", floor=-50.0, writes="likelihood"),
    )
    c.advantage = (
        dict(fn="group.rloo", reads=dict(rewards="likelihood")),
        dict(fn="likelihood.spliced", reads=dict(answer_weight="answer_slot")),
    )
    c.loss = (
        dict(surrogate="surrogates.reinforce", aggregate="aggregate.sequence_mean_token_sum"),
    )
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if local else c
