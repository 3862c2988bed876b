"""GRPO with a calculator: the model writes "<<12*34>>", the tool goes on with " = 408".

  rlpt train --config configs/tool_calculator.py --workdir runs/tool_calculator
  rlpt train --config configs/tool_calculator.py:runlocal --workdir /tmp/tool_calculator
  rlpt train --config configs/tool_calculator.py:python --workdir runs/tool_python
  rlpt train --config configs/tool_calculator.py:warm --workdir runs/tool_warm
  rlpt train --config configs/tool_calculator.py --workdir runs/tool_after_warm \
    --config.model.source=runs/tool_warm/export

Li et al., "ToRL: Scaling Tool-Integrated RL", arXiv 2503.23383: GRPO, what the tool says is masked
out of the loss, reward 1 and -1 for the answer, and at most 1 to 2 calls of a Python interpreter.
The brackets are those of GSM8K, arXiv 2110.14168, whose solutions are annotated for a calculator.
Products of two two-digit numbers are beyond SmolLM2; whoever writes the call has the answer. It
hardly ever does of itself: ":warm" shows it some calls first, by imitation. Evaluation completes
with the tool too; `rlpt evaluate --plain` does without. In ":warm" the tool's words are imitated
with the rest. With ":python" the calls are programs between <python> and </python>, run in the
sandbox (docs/sandbox.md).
"""

import rlpt.config

SYSTEM = "Answer with a number. Use the calculator for it, as in <<2*3>> = 6."
SYSTEM_PYTHON = (
    "Answer with a number. Use Python for it, as in <python>print(2 * 3)</python> 6\nThe answer is "
    "6."
)


def get_config(arg: str | None = None):
    """arg: python: the interpreter; warm: imitate calls; runlocal: the toy model, for seconds."""
    c = rlpt.config.default()
    c.steps = 30
    c.tasks = (dict(fn="arithmetic.products", low=10, high=99, system=SYSTEM),)
    c.verifiers = (
        dict(fn="number.number", name="number"),
        dict(fn="calculator.calculator", name="calculator", weight=0.0),
    )
    c.rollout.fn = "turns.with_tool"
    c.rollout.options = dict(tool="calculator", opening="<<", closing=">>", reply=" = {}", turns=2)
    c.rollout.prompts, c.rollout.group = 8, 8
    c.sampling.prompt_buckets, c.sampling.completion_buckets = (64,), (32,)
    c.advantage = (dict(fn="group.grpo"),)
    c.loss = (dict(surrogate=dict(fn="surrogates.ppo_clip", low=0.2, high=0.2)),)
    c.learner.micro_blocks = 2
    c.optim.lr = 1e-5
    if arg == "python":
        c.tasks = (dict(fn="arithmetic.products", low=10, high=99, system=SYSTEM_PYTHON),)
        c.verifiers = (
            dict(fn="number.number", name="number"),
            dict(fn="interpreter.python", name="python", weight=0.0, seconds=2.0),
        )
        c.pool.deadline = 10.0
        c.rollout.options = dict(
            tool="python", opening="<python>", closing="</python>", reply=" {}\n", turns=2
        )
        c.sampling.prompt_buckets, c.sampling.completion_buckets = (80,), (64,)
    if arg == "warm":
        c.steps = 8
        texts = dict(completion="<<{question}>> = {answer}", prompts=32, group=1, steps=c.steps)
        tool = dict(fn=c.rollout.fn, **c.rollout.options)  # never begun: it is evaluated so
        c.rollout.fn = "stages.by_step"
        c.rollout.options = dict(stages=(dict(fn="pairs.demonstrations", **texts), tool))
        c.advantage = (dict(fn="group.grpo", allow_singleton=True),)  # of rewards that are all 0
        c.loss = (dict(fn="preference.nll", aggregate="aggregate.token_mean"),)
        c.learner.micro_blocks = 8
        c.optim.lr = 2e-5
        c.eval.samples = 1
    if arg == "runlocal":
        tool = c.verifiers[1]
        c = rlpt.config.runlocal(c)
        c.verifiers = (c.verifiers[0], tool)
        # What a random model of characters says between its first digits is now and then a sum.
        c.rollout.options = dict(
            tool="calculator", opening="", closing="9", reply="{}", turns=1, longest=1
        )
    return c
