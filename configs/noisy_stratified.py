"""Backward correction with rates that differ by the form of the reply, estimated from appeals.

  rlpt train --config configs/noisy_stratified.py --workdir runs/noisy_stratified
  rlpt train --config configs/noisy_stratified.py:runlocal --workdir /tmp/noisy_stratified

Cai et al., "Reinforcement Learning with Verifiable yet Noisy Rewards under Imperfect
Verifiers", arXiv 2510.00915, where false positives are 0.2, and false negatives 0.05 for
canonical and 0.45 for risky formats. Estimating rates by stratum is not in the paper: noise
that depends on the reply turns the update, and a correction with one pair of rates for all
rows does not turn it back (docs/noisy_verifiers.md). Here the risky replies are those that
the length limit cut; the noise is injected into training only, the second verifier is the
clean verdict, and one in four rows of either verdict is appealed (chosen here, for a batch
of 64). The job is that of configs/noisy_control.py.
"""

import pathlib
import runpy

import rlpt.config

control = runpy.run_path(str(pathlib.Path(__file__).with_name("noisy_control.py")))


def get_config(arg: str | None = None):
    """arg: runlocal shrinks the run to the toy model."""
    c = control["get_config"]()
    c.shaping = (
        # any column will do: reads=dict(column="verdict/<name>") for what a verifier says
        dict(fn="strata.by_edges", edges=(0.5,), reads=dict(column="truncated")),
        dict(fn="noise.inject", fp_rate=0.2, fn_rate=(0.05, 0.45)),
        dict(
            fn="appeals.lodge",
            probability=0.25,
            positives=True,
            reads=dict(second="verdict/number"),
        ),
        dict(fn="appeals.stratified_both", decay=0.95, shrink=20.0, shown=2),
    )
    c.advantage = control["audited"](dict(fn="noise.backward", scale=1.0))
    return rlpt.config.runlocal(c) if arg == "runlocal" else c
