"""Which estimator of the advantage, on one-digit sums: the settings differ in nothing else.

  rlpt sweep configs/sweeps/estimators.py --workers 2
  rlpt sweep configs/sweeps/estimators.py:runlocal --out /tmp/estimators

The job is that of configs/quickstart.py: 30 steps of 64 rows. Expected: about four minutes a run on
two CPU cores, 15 runs. GRPO arXiv 2402.03300, Dr.GRPO 2503.20783, RLOO 2402.14740, REINFORCE++
2501.03262, TEMPO 2509.18314.
"""


def get_sweep(arg: str | None = None) -> dict:
    """arg: runlocal takes the toy model."""
    return dict(
        config="configs/quickstart.py" + (f":{arg}" if arg else ""),
        settings=[
            ("grpo", {}),
            ("dr_grpo", {"advantage": (dict(fn="group.dr_grpo"),)}),
            ("rloo", {"advantage": (dict(fn="group.rloo"),)}),
            ("reinforce_pp", {"advantage": (dict(fn="batch.reinforce_pp"),)}),
            ("tempo", {"advantage": (dict(fn="tree.tempo"),)}),
        ],
        baseline="grpo",
        seeds=(0, 1, 2),
    )
