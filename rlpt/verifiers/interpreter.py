"""A Python interpreter in the sandbox, as a tool that a policy may call: see `calculator`."""

from __future__ import annotations

import typing as tp

from rlpt.tasks import base as tasks_base
from rlpt.verifiers import base
from rlpt.verifiers.sandbox import host

_RAISED = "\x00"  # stands before what the program raised
# The program is a text in this one, so that what it raises is a line of the output.
_WRAPPED = """
try:
    exec(compile({source!r}, "call", "exec"), {{"__name__": "__main__"}})
except SystemExit:
    pass
except BaseException as error:
    print({raised!r} + f"{{type(error).__name__}}: {{error}}")
"""


def _prepare(*, tier: str = "auto", **_: tp.Any) -> dict[str, tp.Any]:
    """Chooses the sandbox; what a run records of it."""
    return {"sandbox": host.choose(tier), **host.rights()}


@base.traits(pure=True, on_request=True)
def python(
    trajectory: base.Trajectory,
    prompt: tasks_base.Prompt,
    *,
    tier: str = "auto",
    seconds: float = 2.0,
    memory_mb: int = 512,
) -> base.Verdict:
    """What the program that is the call prints; each call is a process of its own.

    Args:
      tier, seconds, memory_mb: as `code.code`.
    Returns: correct with the output, of which the pool keeps 500 characters; incorrect with the
      reason where the program raised, printed nothing, did not end or used too much.
    Raises: SandboxError where the tier does not work.
    """
    source = _WRAPPED.format(source=trajectory.text, raised=_RAISED)
    limits = host.Limits(seconds=seconds, memory_mb=memory_mb)
    with host.Session(host.choose(tier), limits) as session:
        try:
            output, raised, error = session.run(source, "").rpartition(_RAISED)
        except host.Failed as e:
            return base.judged(False, str(e))
    if raised:
        return base.judged(False, f"{output}{error}".strip())
    if not error.strip():
        return base.judged(False, "no output: print what is wanted")
    return base.judged(True, error.strip())
