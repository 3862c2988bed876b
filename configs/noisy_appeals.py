"""Forward correction of a strict rule, with its false negative rate estimated from appeals.

  rlpt train --config configs/noisy_appeals.py --workdir runs/noisy_appeals
  rlpt train --config configs/noisy_appeals.py:runlocal --workdir /tmp/noisy_appeals

Cai et al., "Reinforcement Learning with Verifiable yet Noisy Rewards under Imperfect
Verifiers", arXiv 2510.00915. There: a rule checker, and a light language model that hears
one in ten of its negatives (q 0.1, decay 0.9, alpha and beta 1e-5), the rest as in
configs/noisy_control.py. Here nothing is injected: the rule wants the reply to end with the
answer, and misses those that go on. The second verifier takes the last number of the reply;
its weight is 0, so it is not in the reward, and fn_rate in the log is what it finds, from
counts over batches, where the paper averages the rates of batches (of 1024 rows; of 64 rows that
mean is too small).
Accuracy in the evaluation is the rule's: a verifier of weight 0 does not count.
"""

import pathlib
import runpy

import rlpt.config

control = runpy.run_path(str(pathlib.Path(__file__).with_name("noisy_control.py")))


def get_config(arg: str | None = None):
    """arg: runlocal shrinks the run to the toy model."""
    c = control["get_config"]()
    c.verifiers = (
        dict(fn="pattern.regex", name="rule", pattern=r"(?P<answer>-?[0-9]+)\.?\s*$"),
        dict(fn="number.number", name="second", weight=0.0),
    )
    c.shaping = (
        dict(fn="appeals.lodge", probability=0.1, reads=dict(second="verdict/second")),
        dict(fn="appeals.pooled", decay=0.9, alpha=1e-5, beta=1e-5),
    )
    c.advantage = control["audited"](dict(fn="noise.forward", scale=1.0))
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
