"""Three methods in one config: Guide's rollouts, TEMPO's credit, corrected for a noisy verifier.

  rlpt train --config configs/guide_tempo.py --workdir runs/guide_tempo
  rlpt train --config configs/guide_tempo.py:runlocal --workdir /tmp/guide_tempo

Nath et al., "Adaptive Guidance Accelerates Reinforcement Learning of Reasoning Models", arXiv
2506.13923; Tran, Yao and Yu, "TEMPO", arXiv 2509.18314; Cai et al., "Reinforcement Learning with
Verifiable yet Noisy Rewards under Imperfect Verifiers", arXiv 2510.00915. The job and the rollouts
are those of configs/guide.py; what differs is below. The tree of prefixes is that of a prompt's own
and guided completions together. TEMPO does not divide by a std here, which would undo the
correction.
"""

import pathlib
import runpy

guide = runpy.run_path(str(pathlib.Path(__file__).with_name("guide.py")))
RATES = dict(fp_rate=0.1, fn_rate=0.2)


def get_config(arg: str | None = None):
    """arg: runlocal shrinks the run to the toy model."""
    c = guide["get_config"](arg)
    c.shaping = (
        dict(fn="noise.inject", unit="sample", **RATES),
        dict(fn="noise.backward", **RATES, writes="corrected"),
    )
    tempo = dict(fn="tree.tempo", td_coef=1.0, scale="none")
    c.advantage = (
        dict(**tempo, writes="control_advantages"),
        dict(**tempo, reads=dict(rewards="corrected")),
        "tree.tree_metrics",
        "noise.audit",
    )
    return c
