"""The channel of a binary verifier's errors: a wrong reply passes with chance fp, a right one fails
with chance fn.
"""

from __future__ import annotations

import typing as tp

import numpy as np


def check(fp_rate: tp.Any, fn_rate: tp.Any) -> None:
    """Raises ValueError for rates from a config, numbers or tuples by stratum, that are no channel.

    Columns and traced numbers pass.
    """
    rates = (fp_rate, fn_rate)
    if not all(isinstance(r, float | int | tuple | list) for r in rates):
        return
    fp, fn = np.broadcast_arrays(*(np.asarray(r, float) for r in rates))
    if not ((fp >= 0) & (fn >= 0) & (fp + fn < 1)).all():
        raise ValueError(
            f"noise rates: got fp_rate={fp_rate}, fn_rate={fn_rate}, expected both >= 0 and a sum "
            "below 1 (beyond that the verifier says the opposite: swap its verdicts)"
        )
