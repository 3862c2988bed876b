"""Claim 1a: uniform noise scales the update and does not turn it.

Cai et al., arXiv 2510.00915: with one channel for all rows (here false positives 0.2, false
negatives 0.3, so that half of the signal is left) the expected update keeps its direction, and
correcting the rewards changes its scale alone, which AdamW undoes. Registered: backward, forward
and grpo minus uncorrected are no difference; clean minus uncorrected, the price of the noise, is
reported. GRPO with its std is an arm, uncorrected: it would undo any correction of the rewards
exactly, so that a corrected GRPO is the same run (the trainer refuses it). Baseline: uncorrected,
whose advantages are those of the control in the corrected arms.
"""

from benchmarks.evidence import arms

RATES = dict(fp_rate=0.2, fn_rate=0.3)
NOISE = {"shaping": (dict(fn="noise.inject", unit="sample", **RATES),)}
CLAIM = "uniform noise keeps the direction of the update"
QUANTITY = "held-out pass@1, mean over the run"
EXPECTED = {name: "same" for name in ("backward", "forward", "grpo")}
CLEAN = "clean"
NOTES = {"backward": "an identity here"}
FOUND = (
    "backward is uncorrected bit for bit in four of five seeds: with one pair of rates it "
    "doubles all advantages, and where both gradients are clipped to norm 1, as nearly all "
    "are, the clip takes the factor out before AdamW, which would undo it too, sees it. In "
    "seed 3 the first gradient of uncorrected has norm 0.94 (1.88 in backward), is clipped "
    "in backward alone, and the runs part at the second step. So this verdict is an identity "
    "of the set-up and no evidence. forward is below uncorrected in four of five seeds, by "
    "0.17 to 0.27, and above it by 0.06 in seed 1, which alone keeps the verdict at "
    "undecided: probably since its coefficients r - (1 - fn) are not centred, so that from a "
    "poor start most groups are pushed down as a whole (it ends at 1.7 nats a token where "
    "uncorrected ends at 1.3). What would decide: forward with centred advantages, and a "
    "better start. Seeds 3 and 4 ran at c6bbbb5 with the name of this claim added to "
    "arms.OWED. Of the runs whose tree had changed files (backward and forward of seed 1, "
    "uncorrected and backward of seed 2) all four were run again at the commits named below, "
    "and are the same bit for bit."
)
units = arms.over_the_run


def get_sweep(arg: str | None = None) -> dict:
    """arg: runlocal takes the toy model."""
    return dict(
        config="benchmarks/evidence/job.py" + (f":{arg}" if arg else ""),
        settings=[
            ("clean", {}),
            ("uncorrected", NOISE),
            ("backward", arms.corrected(NOISE, "backward", **RATES)),
            ("forward", arms.corrected(NOISE, "forward", **RATES)),
            ("grpo", NOISE | {"advantage": (dict(fn="group.grpo"),)}),
        ],
        baseline="uncorrected",
        seeds=arms.seeds("noise_uniform"),
    )
