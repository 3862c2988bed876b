"""Claim 5a: the mean over a row's tokens and the std of a group make replies longer.

Liu et al., "Understanding R1-Zero-Like Training" (Dr.GRPO), arXiv 2503.20783: wrong replies are
punished less a token the longer they are. Sums of three numbers, at most 48 tokens, temperature
0.6. Quantity: the mean length of all replies over the last 10 steps; the unit is the run.
Registered: dr_grpo minus grpo is below 0; pass@1 is reported. Baseline: grpo.
"""

from benchmarks.evidence import arms

CLAIM = "Dr.GRPO's replies are shorter than GRPO's"
QUANTITY = "tokens of a reply, last 10 steps"
EXPECTED = {"dr_grpo": "below"}
CLEAN = "grpo"
UNIT = "tokens"
FOUND = (
    "the order is the other way round here. In the first five steps right replies are the "
    "shorter ones (24 against 28 tokens), and the mean over a row's tokens gives a short right "
    "reply more a token than a long one, which is probably why GRPO shortens. The paper's bias "
    "is of wrong replies that grow; the length of those alone was not logged, and the arms "
    "differ in two things, std and mean, neither of which was tried alone. What would decide: a "
    "run in which wrong replies are the longer ones, for hundreds of steps, with one change an "
    "arm."
)
ROWS = "aggregate.sequence_mean_token_mean"
ARMS = {
    "grpo": ("grpo", ROWS),
    "dr_grpo": ("dr_grpo", dict(fn="aggregate.constant_length", length=48)),
}


def units(run: dict) -> dict[str, float]:
    """{step: tokens}."""
    return arms.last_steps(run, "rollout/length", 10)


def get_sweep(arg: str | None = None) -> dict:
    """arg: short."""
    clip = dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)
    found = {
        name: arms.arm(
            "small_tasks", "three_sums", sampling__completion_buckets=(48,),
            sampling__temperature=0.6,
            advantage=(dict(fn=f"group.{fn}"),), loss=(dict(surrogate=clip, aggregate=how),),
            **arms.FAST,
        )
        for name, (fn, how) in ARMS.items()
    }  # fmt: skip
    return arms.sweep(arg, found, "grpo")
