"""How fast to learn: two rates on one-digit sums, 10 steps of 32 rows of SmolLM2.

  rlpt sweep configs/sweeps/learning_rate.py --out runs/learning_rate
  rlpt sweep configs/sweeps/learning_rate.py:runlocal --out /tmp/learning_rate

Expected: a minute and a half a run on two CPU cores, 6 runs. It can be stopped at any moment
and started again: benchmarks/sweep_resume.py kills it half-way.
"""


def get_sweep(arg: str | None = None) -> dict:
    """arg: runlocal takes the toy model."""
    return dict(
        config="configs/quickstart.py" + (f":{arg}" if arg else ""),
        settings=[
            (
                f"lr_{rate}",
                {
                    "optim.lr": float(rate),
                    "steps": 10,
                    "rollout.prompts": 4,
                    "checkpoint.every": 3,
                    "checkpoint.keep": 1,  # 1.6 GB each
                    "checkpoint.keep_best": 0,
                    "eval.every": 0,
                    "eval.prompts": 16,
                    "eval.samples": 4,
                    "export": False,
                },
            )
            for rate in ("3e-6", "1e-5")
        ],
        baseline="lr_3e-6",
        seeds=(0, 1, 2),
    )
