"""What a token weighs in the loss: the four ways to average over tokens and rows.

  rlpt sweep configs/sweeps/aggregation.py --workers 2
  rlpt sweep configs/sweeps/aggregation.py:runlocal --out /tmp/aggregation

Token mean: DAPO, arXiv 2503.14476. Mean of rows: GRPO, 2402.03300. Constant length: Dr.GRPO,
2503.20783. The job is that of configs/quickstart.py. AdamW divides by the gradient's size, so that
a constant factor between two of them changes little; what differs is how long and short rows
compare. Expected: about four minutes a run on two CPU cores, 12 runs.
"""


def get_sweep(arg: str | None = None) -> dict:
    """arg: runlocal takes the toy model."""
    return dict(
        config="configs/quickstart.py" + (f":{arg}" if arg else ""),
        settings=[
            ("token_mean", {"loss.0.aggregate": "aggregate.token_mean"}),
            ("sequence_mean", {"loss.0.aggregate": "aggregate.sequence_mean_token_mean"}),
            ("sequence_sum", {"loss.0.aggregate": "aggregate.sequence_mean_token_sum"}),
            ("constant", {"loss.0.aggregate": dict(fn="aggregate.constant_length", length=12)}),
        ],
        baseline="token_mean",
        seeds=(0, 1, 2),
    )
