"""Completions from a server that speaks OpenAI's chat protocol, for evaluations."""

from __future__ import annotations

import collections.abc
import concurrent.futures
import dataclasses
import os
import threading
import typing as tp

from rlpt import retries
from rlpt.tasks.base import Prompt, hash_int

LONGEST_PAUSE = 30.0  # seconds between two attempts, also where the server asks for more


class EndpointError(RuntimeError):
    """The server cannot be reached, refuses, or answers with something else."""


class _Again(EndpointError):
    """A failure that may pass. after: seconds that the server asks to wait."""

    def __init__(self, message: str, after: float = 0.0):
        super().__init__(message)
        self.after = after


@dataclasses.dataclass(frozen=True)
class Completion:
    """One completion as text.

    tokens: its length; None where the server does not say.  truncated: stopped by the limit.
    prompt_text: the rendered prompt; "" where it is not known.
    """

    text: str
    tokens: float | None
    truncated: bool
    prompt_text: str = ""


class Endpoint:
    """Samples completions over HTTP, several prompts at once; a context manager.

    Args:
      url: up to and with the version, such as http://127.0.0.1:8000/v1.
      model: name of the model there.
      sampling: as config.sampling: top_p, top_k, min_p, stop_strings, completion_buckets (the
        largest is max_tokens).  top_k and min_p, which OpenAI's own protocol lacks and vLLM and
        SGLang have, are sent where they are not off.
      seed: enters the seed sent with each request, with the prompt's id.
      api_key_env: environment variable with the key, sent where it is set; never logged.
      attempts: of a request that fails in a way that may pass, or without an answer.
      timeout: seconds for one request.  parallel: requests at a time.
    """

    def __init__(
        self,
        url: str,
        model: str,
        sampling: tp.Any,
        *,
        seed: int = 0,
        api_key_env: str = "OPENAI_API_KEY",
        attempts: int = 5,
        timeout: float = 300.0,
        parallel: int = 8,
    ):
        import httpx

        self.url = url.rstrip("/") + "/chat/completions"
        self._seed, self._attempts = seed, attempts
        self._body: dict[str, tp.Any] = {
            "model": model,
            "max_tokens": max(sampling.completion_buckets),
            "top_p": sampling.top_p,
        }
        if sampling.stop_strings:
            self._body["stop"] = list(sampling.stop_strings)
        if sampling.top_k:
            self._body["top_k"] = sampling.top_k
        if sampling.min_p:
            self._body["min_p"] = sampling.min_p
        key = os.environ.get(api_key_env, "")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(headers=headers, timeout=timeout)
        self._threads = concurrent.futures.ThreadPoolExecutor(parallel)
        self._left = threading.Event()  # nothing more is asked for

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._threads.shutdown(cancel_futures=True)
        self._client.close()

    def __call__(
        self, prompts: collections.abc.Sequence[Prompt], n: int, temperature: float
    ) -> list[list[Completion]]:
        """n completions of each prompt. temperature: 0 is greedy.

        Raises: EndpointError.
        """
        return list(self._threads.map(lambda p: self._complete(p, n, temperature), prompts))

    def _complete(self, prompt: Prompt, n: int, temperature: float) -> list[Completion]:
        """Asks until there are n: some servers give fewer choices than they are asked for."""
        found: list[Completion] = []
        while len(found) < n:
            if self._left.is_set():
                raise EndpointError(f"{self.url}: stopped")
            seed = hash_int(self._seed, prompt.id, temperature, len(found), bits=32) >> 1
            found += self._request(
                {
                    **self._body,
                    "messages": list(prompt.messages),
                    "n": n - len(found),
                    "temperature": temperature,
                    "seed": seed,
                }
            )
        return found[:n]

    def _request(self, body: dict[str, tp.Any]) -> list[Completion]:
        import tenacity

        def pause(state: tenacity.RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            asked = error.after if isinstance(error, _Again) else 0.0
            backoff = tenacity.wait_random_exponential(multiplier=0.5, max=LONGEST_PAUSE)(state)
            return min(max(asked, backoff), LONGEST_PAUSE)

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_Again),
            stop=tenacity.stop_any(
                tenacity.stop_after_attempt(self._attempts),
                tenacity.stop_when_event_set(self._left),
            ),
            wait=pause,
            sleep=tenacity.sleep_using_event(self._left),
            reraise=True,
        )
        return retrying(self._once, body)

    def _once(self, body: dict[str, tp.Any]) -> list[Completion]:
        import httpx

        try:
            reply = self._client.post(self.url, json=body)
        except httpx.TransportError as e:
            raise _Again(f"{self.url}: {type(e).__name__}: {e}; is the server running?") from e
        if reply.status_code != 200:
            message = f"{self.url}: status {reply.status_code}: {reply.text[:300]}"
            if not retries.may_pass(reply.status_code):
                raise EndpointError(message)
            raise _Again(message, retries.retry_after(reply.headers.get("retry-after", "")))
        try:
            answer = reply.json()
            choices = [
                (c["message"]["content"] or "", c.get("finish_reason")) for c in answer["choices"]
            ]
            if any(type(text) is not str for text, _ in choices):
                raise TypeError
            used = (answer.get("usage") or {}).get("completion_tokens")
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise EndpointError(
                f"{self.url}: got {reply.text[:300]!r}, expected JSON with "
                "texts in choices[].message.content; is this an OpenAI-compatible server?"
            ) from e
        if not choices:
            raise EndpointError(f"{self.url}: got no choices, expected up to {body['n']}")
        each = used / len(choices) if used is not None else None  # of all choices together
        return [Completion(text, each, finish == "length") for text, finish in choices]
