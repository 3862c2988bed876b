"""Backward correction of noisy verdicts: rewards that are right in the mean.

  rlpt train --config configs/noisy_backward.py --workdir runs/noisy_backward
  rlpt train --config configs/noisy_backward.py:runlocal --workdir /tmp/noisy_backward

Cai et al., "Reinforcement Learning with Verifiable yet Noisy Rewards under Imperfect
Verifiers", arXiv 2510.00915. The job, the noise and the paper's settings are those of
configs/noisy_control.py; what differs is below. With one channel for all rows the
correction multiplies the advantages by 1 / 0.7 and changes no direction: metrics audit_*
say so at every step.
"""

import pathlib
import runpy

control = runpy.run_path(str(pathlib.Path(__file__).with_name("noisy_control.py")))


def get_config(arg: str | None = None):
    """arg: runlocal shrinks the run to the toy model."""
    c = control["get_config"](arg)
    c.advantage = control["audited"](dict(fn="noise.backward", scale=1.0, **control["RATES"]))
    return c
