"""Claim 2 on longer chains, with time to learn: TEMPO beats GRPO at equal samples.

Tran, Yao and Yu, arXiv 2509.18314. Registered after tempo_three_sums, where in 45 steps GRPO gained
0.16 of the 0.20 that a claim has to have, so that its +0.041 [+0.007, +0.080] does not count. The
same task, model and two of its arms with 60 steps, evaluated after every 15, in seeds that had no
run before: 5, 6 and 7, and no more than these. The forked arms are left out: forking itself cost
0.07 there and a third of the seconds. Registered: tempo minus grpo, in the mean over the run, is
above 0; the end of the run is reported. Baseline: grpo, with the same standardisation.
"""

from benchmarks.evidence import arms, tempo

CLAIM = "on sums of three numbers TEMPO is above GRPO over 60 steps at equal samples"
QUANTITY = tempo.QUANTITY
TIMED = True
EXPECTED = {"tempo": "above"}
REPORTED = [("tempo", "pass@1")]
CLEAN = "grpo"
FOUND = (
    "after 15 steps tempo is above grpo in each seed (0.20 and 0.17, 0.13 and 0.04, 0.15 and "
    "0.12), after 60 in one (0.31 and 0.21), below in one (0.23 and 0.32) and level in one "
    "(0.28 both). It is at half of grpo's gain after 17 steps instead of 27 in the mean, and "
    "levels off where its entropy is low: in seed 5 with pass@8 at 0.40, where grpo has "
    "0.65. So the lead of tempo_three_sums, on the same task in 45 steps, is one of the "
    "first steps, or seeds differ by more than it. What would decide: more than three seeds, "
    "and entropy kept up in both arms."
)
units = arms.over_the_run


def get_sweep(arg: str | None = None) -> dict:
    """arg: runlocal takes the toy model."""
    found = tempo.get_sweep(arg or "three_sums")
    more = {} if arg else {"steps": 60, "eval.every": 15}
    plain = [(name, own | more) for name, own in found["settings"] if name in ("grpo", "tempo")]
    return found | dict(settings=plain, seeds=arms.seeds("tempo_longer"))
