"""The prompt, and the helpers that all tasks share."""

from __future__ import annotations

import collections.abc
import dataclasses
import hashlib
import typing as tp
import zlib

SPLITS = ("train", "eval")


class TaskError(ValueError):
    """Data or task settings that cannot work; the message says where and what to do."""


@dataclasses.dataclass(frozen=True)
class Prompt:
    """One context to complete, and what is needed to judge a completion.

    Attributes:
      id: unique over all tasks of a run; verdicts, curricula and draws join on it.
      messages: dicts with "role" and "content", for the chat template.
      answer: the reference, any JSON value; its form is the verifier's business.
      meta: more columns of the data set, JSON values only.
      verifier: judged only by the verifier of this name; "": by all of them.
      task: name of the task it came from.
    """

    id: str
    messages: tuple[dict[str, str], ...]
    answer: tp.Any = None
    meta: dict[str, tp.Any] = dataclasses.field(default_factory=dict)
    verifier: str = ""
    task: str = ""

    @property
    def question(self) -> str:
        """The text of the last user message."""
        for message in reversed(self.messages):
            if message["role"] == "user":
                return message["content"]
        return ""


def stable_id(text: str) -> int:
    """A 31-bit integer that is the same on every machine and run (crc32)."""
    return zlib.crc32(text.encode("utf-8", "surrogatepass")) & 0x7FFFFFFF


def content_id(prompt: Prompt) -> str:
    """A hash of what a prompt asks and of its reference: that of its id says nothing of them."""
    return f"{hash_int(repr(prompt.messages), repr(prompt.answer)):016x}"


def asked(prompt: Prompt) -> str:
    """The question with single blanks, by which prompts are the same to a held-out set."""
    return " ".join(prompt.question.split())


def hash_int(*parts: tp.Any, bits: int = 64) -> int:
    """An integer in [0, 2**bits) from the text of `parts`, the same everywhere (blake2b).

    bits: a multiple of 8, at most 512.
    """
    text = "\x1f".join(map(str, parts)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=bits // 8).digest(), "big")


def split_of(key: str, eval_fraction: float, seed: int = 0) -> str:
    """ "train" or "eval" for a key: by its hash, so whatever shares the key stays together."""
    if not 0.0 <= eval_fraction <= 1.0:
        raise TaskError(f"eval_fraction: got {eval_fraction}, expected a number in [0, 1]")
    return "eval" if hash_int(seed, key) < eval_fraction * 2**64 else "train"


def check_split(name: str) -> None:
    """Raises TaskError unless the name of a split is "train" or "eval"."""
    if name not in SPLITS:
        raise TaskError(f"split: got {name!r}, expected one of {', '.join(SPLITS)}")


def chat(user: str, system: str = "") -> tuple[dict[str, str], ...]:
    """The messages of a one-turn prompt; an empty system text adds no message."""
    head = ({"role": "system", "content": system},) if system else ()
    return (*head, {"role": "user", "content": user})


def checked(prompts: collections.abc.Sequence[Prompt], where: str) -> list[Prompt]:
    """The prompts as a list.

    Raises: TaskError for no prompts at all or an id that occurs twice.
    """
    if not prompts:
        raise TaskError(f"{where}: no prompts; check the path, the split and eval_fraction")
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.id in seen:
            raise TaskError(f"{where}: the id {prompt.id!r} occurs twice; ids must be unique")
        seen.add(prompt.id)
    return list(prompts)
