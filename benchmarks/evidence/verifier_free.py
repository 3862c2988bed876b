"""Rewards without a verifier: accuracy rises though no verdict is looked at.

One-digit sums, 20 steps of 64 rows. Yu et al. (RLPR), arXiv 2506.18254, and Zhou et al.
(VeriFree), arXiv 2505.21493, see the reference answer; Zuo et al. (TTRL), arXiv 2504.16084, Zhang
et al. (EMPO), arXiv 2504.05812, and Zhao et al. (Intuitor), arXiv 2505.19590, see the policy's own
replies alone. Quantity: held-out pass@1 by the verifier. Registered: rlpr, verifree, ttrl and
empo minus random rewards are above 0; intuitor is reported, and so is grpo, which has the
verdicts. Baseline: random.
"""

from benchmarks.evidence import arms

CLAIM = "rewards without a verifier raise accuracy"
EXPECTED = {name: "above" for name in ("rlpr", "verifree", "ttrl", "empo")}
FOUND = (
    "verifree and its start are of 16 tokens, the others of 12, which cut more replies off. "
    "Against their own start: rlpr +0.84, verifree +0.42, empo +0.07 [-0.00, +0.16], ttrl +0.03 "
    "[-0.02, +0.08], random +0.02 [-0.03, +0.07]."
)


def get_sweep(arg: str | None = None) -> dict:
    """arg: short."""
    found = {name: arms.arm(file, steps=20, eval__prompts=0) for name, file in ARMS.items()}
    return arms.sweep(arg, found, "random")


ARMS = {
    "random": "spurious_random",
    **{name: name for name in ("rlpr", "ttrl", "verifree", "empo", "intuitor")},
    "grpo": "quickstart",
}
