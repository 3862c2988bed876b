"""A calculator: the model with the tool beats the same model without.

Li et al. (ToRL), arXiv 2503.23383. Products of two two-digit numbers. Both arms imitate calls for
8 steps, the same ones, and then train by GRPO for 22 steps of 64 rows, one with the tool's
answers, one without. Quantity: held-out pass@1, with the tool in the arm tool. Registered: tool
minus plain is above 0. Baseline: plain.
"""

from benchmarks.evidence import arms

CLAIM = "the model with a calculator beats the model without"
EXPECTED = {"tool": "above"}


def _arm(tool: bool) -> dict:
    own = arms.arm("tool_calculator")
    if not tool:
        own["rollout"].fn, own["rollout"].options = "sample.on_policy", {}
    own["advantage"] = (dict(fn="group.grpo", allow_singleton=True),)  # of a demonstration
    own["learner"].micro_blocks = 8
    return arms.after_imitation(own, 8, prompts=64, group=1, completion="<<{question}>> = {answer}")


def get_sweep(arg: str | None = None) -> dict:
    """arg: short."""
    found = {"plain": _arm(tool=False), "tool": _arm(tool=True)}
    return arms.sweep(arg, found, "plain")
