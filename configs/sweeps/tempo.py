"""How much of TEMPO: the weight of the change of prefix value; 0 is GRPO with the same std.

  rlpt sweep configs/sweeps/tempo.py --workers 2
  rlpt sweep configs/sweeps/tempo.py:runlocal --out /tmp/tempo

Tran, Yao and Yu, "TEMPO", arXiv 2509.18314. The job is that of configs/tempo.py. Expected: about
four minutes a run on two CPU cores, 12 runs.
"""

WEIGHTS = (0.0, 0.5, 1.0, 2.0)


def get_sweep(arg: str | None = None) -> dict:
    """arg: runlocal takes the toy model."""
    return dict(
        config="configs/tempo.py" + (f":{arg}" if arg else ""),
        settings=[(f"td{weight}", {"advantage.0.td_coef": weight}) for weight in WEIGHTS],
        baseline="td0.0",
        seeds=(0, 1, 2),
    )
