"""Forward correction of noisy verdicts: true positives get no push in the mean.

  rlpt train --config configs/noisy_forward.py --workdir runs/noisy_forward
  rlpt train --config configs/noisy_forward.py:runlocal --workdir /tmp/noisy_forward

Cai et al., "Reinforcement Learning with Verifiable yet Noisy Rewards under Imperfect
Verifiers", arXiv 2510.00915. The job, the noise and the paper's settings are those of
configs/noisy_control.py; what differs is below. There is no baseline: a group without a
positive is pushed down as a whole. Metrics audit_* say how far the advantages are from
the uncorrected ones.
"""

import pathlib
import runpy

control = runpy.run_path(str(pathlib.Path(__file__).with_name("noisy_control.py")))


def get_config(arg: str | None = None):
    """arg: runlocal shrinks the run to the toy model."""
    c = control["get_config"](arg)
    c.advantage = control["audited"](dict(fn="noise.forward", scale=1.0, **control["RATES"]))
    return c
