"""A calculator: the model with the tool beats the same model without.

Li et al. (ToRL), arXiv 2503.23383. Products of two two-digit numbers. Both arms imitate calls for
8 steps, the same ones, and then train by GRPO for 22 steps of 64 rows, one with the tool's
answers, one without. Quantity: held-out pass@1, with the tool in the arm tool. Registered: tool
minus plain is above 0. Baseline: plain.
"""

from benchmarks.evidence import arms

CLAIM = "the model with a calculator beats the model without"
EXPECTED = {"tool": "above"}
WARM = 8


def _staged(fn: str) -> dict:
    """An arm: imitation, then GRPO with the rollout fn."""
    warm, own = arms.arm("tool_calculator", "warm"), arms.arm("tool_calculator")
    since = dict(schedule="step", init=0.0, end=1.0, steps=WARM)
    plain = fn == "sample.on_policy"
    last = dict(fn=fn, **({} if plain else own["rollout"].options))
    first = dict(fn=warm["rollout"].fn, **warm["rollout"].options)
    rollout = own["rollout"]
    rollout.fn = "stages.by_step"
    rollout.options = dict(stages=(dict(**first, prompts=64, group=1, steps=WARM), last))
    terms = tuple(dict(term, coef=since) for term in own["loss"])
    imitation = (dict(term, coef=since | dict(init=1.0, end=0.0)) for term in warm["loss"])
    own["advantage"] = warm["advantage"]  # a group of one is no error
    own["learner"].micro_blocks = 8
    return own | dict(loss=(*imitation, *terms), rollout=rollout)


def get_sweep(arg: str | None = None) -> dict:
    """arg: short."""
    found = {"plain": _staged("sample.on_policy"), "tool": _staged("turns.with_tool")}
    return arms.sweep(arg, found, "plain")
