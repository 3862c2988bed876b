"""Tasks about a program, an input and its output, of which one is to be found.

Deduction: given program and input, find the output.  Abduction: given program and output, find an
input that leads there.  Induction: given inputs, outputs and a hint, find the program.  Here are
the words in which a policy is asked for such tasks and for their solutions, and how its replies are
read; `verifiers.executor` runs them and `rollouts.propose` trains on them.

A task is JSON: type, program, inputs and outputs (texts, one each but for induction) and message.

Zhao et al., "Absolute Zero: Reinforced Self-play Reasoning with Zero Data", arXiv:2505.03335; the
wording is our own.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import json
import random
import re
import typing as tp

from rlpt.tasks import base
from rlpt.verifiers.base import last_tag

Task = dict[str, tp.Any]
TYPES = ("deduction", "abduction", "induction")
PROPOSE, SOLVE = "propose", "solve"  # roles
# The tasks that there are before any was proposed: the identity.
SEEDS = {
    "arithmetic": {"program": "x", "inputs": ["3"], "outputs": ["3"]},
    "python": {
        "program": "def f(x):\n    return x",
        "inputs": ["'a word'"],
        "outputs": ["'a word'"],
    },
}
_LANGUAGE = {
    "arithmetic": "A program is one expression of x with + - * / and brackets; its input is the "
    "number that x stands for.",
    "python": "A program is a Python function f without random numbers, clocks, files or "
    "network; its input is the arguments of f, written as Python literals.",
}
_PROPOSE = {
    "deduction": "Make up a program and an input for it. A student will see both and has to find "
    "the output without running it.",
    "abduction": "Make up a program and an input for it. A student will see the program and its "
    "output, and has to find an input that gives it.",
    "induction": "Make up {cases} different inputs for the program below, and a hint about what it "
    "does. A student will see some of the inputs, their outputs and the hint, and has to write the "
    "program.",
}
_AIM = "It should make the student think, but not be out of reach."
_SOLVE = {
    "deduction": "What is the output of this program for this input?",
    "abduction": "Find an input for which this program has this output.",
    "induction": "Write a program that turns each of these inputs into its output, and others too.",
}
_INPUT = re.compile(r"<input>(.*?)</input>", re.DOTALL)


def _tagged(name: str, text: str) -> str:
    return f"<{name}>{text}</{name}>"


def seed(language: str, kind: str) -> Task:
    """The task of a type that needs no proposer. Raises: ValueError for another language."""
    if language not in SEEDS:
        raise ValueError(f"language: got {language!r}, expected one of {', '.join(SEEDS)}")
    return {"type": kind, "message": "it changes nothing", **SEEDS[language]}


def _shown(task: Task) -> str:
    """A task in the form in which a proposer writes one."""
    inputs = "\n".join(_tagged("input", text) for text in task["inputs"])
    if task["type"] == "induction":
        return f"{inputs}\n{_tagged('message', task['message'])}"
    return f"{_tagged('program', task['program'])}\n{inputs}"


def ask_for_task(
    language: str,
    kind: str,
    references: collections.abc.Sequence[Task],
    program: str,
    cases: int,
    name: str,
    verifier: str,
) -> base.Prompt:
    """The prompt of a proposer.

    Args:
      references: tasks of the type, as examples of the form.
      program, cases: of induction: what the task is about, and how many inputs are wanted.
      name: what sets the prompt apart from others.  verifier: who judges the replies.
    """
    form = {"type": kind, "program": "...", "inputs": ["..."], "message": "..."}
    parts = [_PROPOSE[kind].format(cases=cases), _LANGUAGE[language], _AIM]
    if kind == "induction":
        parts.append(_tagged("program", program))
    parts.append("Answer in this form:\n" + _shown(form))
    if references:
        parts.append("Others have made up:\n" + "\n".join(map(_shown, references)))
        parts.append("Make up another one.")
    return base.Prompt(
        id=f"{PROPOSE}:{kind}:{name}",
        messages=base.chat("\n".join(parts)),
        answer=program if kind == "induction" else "",
        meta={"role": PROPOSE, "type": kind},
        verifier=verifier,
    )


def ask_for_solution(task: Task, verifier: str) -> base.Prompt:
    """The prompt of a solver; its answer is the task. verifier: who judges the replies."""
    kind = task["type"]
    parts = [_SOLVE[kind]]
    if kind == "induction":
        shown = (len(task["inputs"]) + 1) // 2  # the other half is for the verdict
        parts += [
            f"{_tagged('input', a)} {_tagged('output', b)}"
            for a, b in list(zip(task["inputs"], task["outputs"], strict=True))[:shown]
        ]
        parts.append(_tagged("message", task["message"]))
    else:
        parts.append(_tagged("program", task["program"]))
        name = "input" if kind == "deduction" else "output"
        parts.append(_tagged(name, task[f"{name}s"][0]))
    parts.append("Answer in this form:\n" + _tagged("answer", "..."))
    return base.Prompt(
        id=f"{SOLVE}:{kind}:{key(task)}",
        messages=base.chat("\n".join(parts)),
        answer=task,
        meta={"role": SOLVE, "type": kind},
        verifier=verifier,
    )


def key(task: Task) -> str:
    """What is the same for the same task: 16 hex digits."""
    return f"{base.hash_int(json.dumps(task, sort_keys=True)):016x}"


def read_task(text: str, kind: str, program: str) -> Task | None:
    """The task that a proposer wrote, without its outputs; None: not in the form.

    program: what induction is about.
    """
    inputs = [i.strip() for i in _INPUT.findall(text)]
    message = ""
    if kind == "induction":
        message = (last_tag(text, "message") or "").strip()
        formed = bool(message) and len(inputs) > 1
    else:
        program = (last_tag(text, "program") or "").strip()
        inputs = inputs[-1:]
        formed = bool(program) and bool(inputs)
    if not formed or not all(inputs):
        return None
    return {"type": kind, "program": program, "inputs": inputs, "message": message}


def read_answer(text: str) -> str | None:
    """What a solver answers; None: not in the form."""
    found = last_tag(text, "answer")
    return found.strip() if found and found.strip() else None


# What `taught` shows: a program, and the same as a function of x and its two numbers.
_TAUGHT: tuple[tuple[str, collections.abc.Callable[[int, int, int], int]], ...] = (
    ("x * {a} + {b}", lambda x, a, b: x * a + b),
    ("(x + {a}) * {b}", lambda x, a, b: (x + a) * b),
    ("x * {a} - {b}", lambda x, a, b: x * a - b),
    ("x + {a} + {b}", lambda x, a, b: x + a + b),
)


def taught(
    split: str,
    *,
    size: int = 600,
    cases: int = 4,
    verifier: str = "executor",
    eval_fraction: float = 0.3,
    seed: int = 0,
) -> list[base.Prompt]:
    """Proposals and solutions in arithmetic to be imitated: a warm-up for self-play.

    Prompts of proposers (without references) and of solvers, of the types in turn, about programs
    such as "x * 3 + 2"; meta "reply" is one that the verifier takes.  A function, however it is
    written, is in one split; the held-out ones are for solvers only.

    Args:
      size: draws over both splits; the same one twice is one prompt.
      cases: inputs that a proposer of induction is asked for.
      verifier: name of the `verifiers.executor.executor` that judges replies.
      eval_fraction: share of the functions that is held out.
      seed: of the draws.

    Raises: TaskError where nothing is left of a split.
    """
    base.check_split(split)
    draws = random.Random(seed)
    prompts: dict[str, base.Prompt] = {}
    for i in range(size):
        kind = TYPES[i % len(TYPES)]
        (form, value), a, b = draws.choice(_TAUGHT), draws.randint(2, 9), draws.randint(2, 9)
        inputs = draws.sample(range(1, 13), cases if kind == "induction" else 1)
        task: Task = {
            "type": kind,
            "program": form.format(a=a, b=b),
            "inputs": [str(x) for x in inputs],
            "outputs": [str(value(x, a, b)) for x in inputs],
            "message": f"it uses {a} and {b}",
        }
        solves = i // len(TYPES) % 2
        if solves:
            solution = {"deduction": "outputs", "abduction": "inputs"}
            found = task[solution[kind]][0] if kind in solution else task["program"]
            prompt, reply = ask_for_solution(task, verifier), _tagged("answer", found)
        else:
            name = f"taught:{i}"
            prompt = ask_for_task("arithmetic", kind, (), task["program"], cases, name, verifier)
            reply = _shown(task)
        function = f"{value(1, a, b) - value(0, a, b)} x + {value(0, a, b)}"  # they are all linear
        mine = base.split_of(function, eval_fraction, seed) == split
        if mine and (solves or split == "train"):
            meta = {**prompt.meta, "reply": reply}
            prompts[prompt.id] = dataclasses.replace(prompt, meta=meta, task="taught")
    return base.checked(list(prompts.values()), "taught")
