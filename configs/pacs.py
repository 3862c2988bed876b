"""PACS: predicts the verdict from the log ratio, a supervised loss instead of advantages.

  rlpt train --config configs/pacs.py --workdir runs/pacs
  rlpt train --config configs/pacs.py:runlocal --workdir /tmp/pacs

Li et al., "Implicit Actor Critic Coupling via a Supervised Learning Framework for RLVR", arXiv
2509.02522. There: 1024 prompts x 8 completions, beta 1, lr 1e-6, 300 steps, class weights by
prompt, 4 updates a batch: in the first the log ratio is 0. Differs from the authors' code in: the
log ratio is summed over real tokens only. The job here is that of configs/quickstart.py: SmolLM2
and one-digit sums on a laptop.
"""

import rlpt.config


def get_config(arg: str | None = None):
    """arg: runlocal shrinks the run to the toy model."""
    c = rlpt.config.default()
    c.steps = 30
    c.tasks = (dict(fn="arithmetic.sums", digits=1),)
    c.verifiers = (dict(fn="number.number", name="number"),)
    c.rollout.prompts, c.rollout.group = 8, 8
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (32,), (12,)
    c.advantage = (dict(fn="group.dr_grpo"),)  # for the log: the loss does not read it
    c.loss = (dict(fn="penalties.pacs", beta=1.0, aggregate="aggregate.sequence_mean_token_mean"),)
    c.learner.minibatches, c.learner.micro_blocks = 4, 2
    c.optim.lr = 1e-5
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
