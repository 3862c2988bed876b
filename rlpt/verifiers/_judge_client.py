"""Asks an OpenAI-compatible server for chat completions, in bounded time.

What comes of a request is the text of a completion, or a `Failure`: timeout, crash (the service
does not work), invalid (it does not keep to the protocol) or unparsable (there is no text to read
a verdict from).  The key is in one place, the header of the requests; what a server said passes
through `redacted` before it goes anywhere.
"""

from __future__ import annotations

import asyncio
import collections.abc
import concurrent.futures
import contextlib
import json
import time
import typing as tp

from rlpt import retries

_FAULT_OF_THE_ROW = (400, 413, 422, 429)  # or of their number; the service works
_SHOWN = 200  # characters of a server's text in a detail
_LOOK = 3.0  # seconds to ask the server about its model
_RUN = 8  # characters of the key that may not stand in a row


class Failure(Exception):
    """No completion.

    Attributes:
      outcome: timeout, crash, invalid or unparsable.
      retry: asking again may help.
      counts: for the breaker.
    """

    def __init__(self, outcome: str, detail: str, retry: bool = False, counts: bool = True):
        super().__init__(detail)
        self.outcome, self.detail, self.retry, self.counts = outcome, detail, retry, counts


Then = collections.abc.Callable[[int, str | Failure], None]


class Breaker:
    """Stops requests for `cooldown` seconds after `limit` failures in a row.

    From then on one request a cooldown may try, until one succeeds.
    """

    def __init__(
        self,
        limit: int,
        cooldown: float,
        clock: collections.abc.Callable[[], float] = time.monotonic,
    ):
        self._limit, self._cooldown, self._clock = limit, cooldown, clock
        self._failures, self._until = 0, 0.0

    @property
    def tripped(self) -> bool:
        return self._failures >= self._limit

    def check(self) -> None:
        """Raises: Failure while no request may be made."""
        if not self.tripped:
            return
        wait = self._until - self._clock()
        if wait > 0:
            detail = f"failed {self._failures} times in a row; not asked for {wait:.0f} s"
            raise Failure("crash", detail)
        self._until = self._clock() + self._cooldown

    def note(self, worked: bool) -> None:
        """What became of a request."""
        self._failures = 0 if worked else self._failures + 1
        if self._failures == self._limit:
            self._until = self._clock() + self._cooldown


class Client:
    """Requests to one server, bounded in number, time and size; the breaker outlives a call."""

    def __init__(
        self,
        base_url: str,
        key: str,
        *,
        concurrency: int,
        attempts: int,
        timeout: float,
        breaker: int,
        cooldown: float,
        max_bytes: int,
    ):
        """
        Args:
          base_url: such as http://127.0.0.1:8000/v1.
          key: sent as a bearer token; "": none.
          concurrency: requests at once.
          attempts: requests for one completion, where asking again may help.
          timeout: seconds for a request, from the connection to the last byte.
          breaker, cooldown: of `Breaker`.
          max_bytes: of a response's body.
        """
        import httpx
        import tenacity

        self._url = base_url.rstrip("/") + "/chat/completions"
        self._key = key
        self._concurrency, self._timeout, self._max_bytes = concurrency, timeout, max_bytes
        self._tls = httpx.create_ssl_context(trust_env=False)
        self._retried = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(lambda e: isinstance(e, Failure) and e.retry),
            stop=tenacity.stop_after_attempt(attempts),
            wait=tenacity.wait_random_exponential(multiplier=0.25, max=8.0),
            reraise=True,
        )
        self.breaker = Breaker(breaker, cooldown)
        self._resume = 0.0  # time.monotonic() before which the server wants no request
        self._end = 0.0  # of the call that runs

    def ask(
        self,
        bodies: collections.abc.Sequence[dict[str, tp.Any]],
        deadline: float,
        then: Then,
    ) -> None:
        """Asks for all completions, and returns after `deadline` seconds at the latest.

        Args:
          bodies: requests, JSON values.
          deadline: seconds for all of them, with their retries.
          then: then(i, text or Failure) is called once for each i, as soon as it is known; not for
            those that the deadline cut off.
        """
        _run(self._ask(bodies, deadline, then))

    def longest(self, model: str) -> int:
        """Tokens of the longest reply by the server's list of models; 0: it does not say in time.

        rlpt's server has max_tokens there, vLLM has max_model_len, the prompt included.
        """
        data = bytearray()

        async def look() -> None:
            import httpx

            url = self._url.removesuffix("chat/completions") + "models"
            async with (
                asyncio.timeout(_LOOK),
                httpx.AsyncClient(timeout=None, trust_env=False, verify=self._tls) as http,
                http.stream("GET", url, headers=self._authorization()) as response,
            ):
                async for chunk in response.aiter_raw():
                    data.extend(chunk)
                    if len(data) > self._max_bytes:
                        raise ValueError("more than a list of models")

        try:
            _run(look())
            listed = {m["id"]: m for m in json.loads(data)["data"]}
            found = listed.get(model) or next(iter(listed.values()))
            value = found.get("max_tokens") or found.get("max_model_len")
        except Exception:  # a server that is down, or has no list, is a matter of the first request
            return 0
        return value if type(value) is int else 0

    def _authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._key}"} if self._key else {}

    def redacted(self, text: str) -> str:
        """A server's text as it may be shown."""
        return redacted(text, self._key)

    async def _ask(
        self, bodies: collections.abc.Sequence[dict[str, tp.Any]], deadline: float, then: Then
    ) -> None:
        import httpx

        self._end = time.monotonic() + deadline
        free = asyncio.Semaphore(self._concurrency)

        async def attempt(body: dict[str, tp.Any]) -> str:
            async with free:
                await self._wait_as_told()
                self.breaker.check()
                return await self._attempt(http, body)

        async def one(i: int) -> None:
            try:
                text: str | Failure = await self._retried(attempt, bodies[i])
            except Failure as failure:
                text = failure
            then(i, text)

        # No proxy or .netrc of the environment and no redirects: the key goes to one place only.
        # `_attempt` bounds the time.
        async with httpx.AsyncClient(timeout=None, trust_env=False, verify=self._tls) as http:
            alone = 1 if self.breaker.tripped else 0  # one finds out whether the service is back
            with contextlib.suppress(TimeoutError):  # the caller knows which are missing
                async with asyncio.timeout(deadline):
                    for i in range(min(alone, len(bodies))):
                        await one(i)
                    await asyncio.gather(*(one(i) for i in range(alone, len(bodies))))

    async def _wait_as_told(self) -> None:
        """Waits until the server wants requests. Raises: Failure if that is after the deadline."""
        while (wait := self._resume - time.monotonic()) > 0:
            if self._resume >= self._end:
                detail = f"the service wants no request for {wait:.0f} s, beyond the deadline"
                raise Failure("timeout", detail)
            await asyncio.sleep(wait)

    async def _attempt(self, http: tp.Any, body: dict[str, tp.Any]) -> str:
        """One request. Raises: Failure."""
        try:
            async with asyncio.timeout(self._timeout):
                status, headers, data = await self._post(http, body)
            text = self._read(status, headers, data)
        except TimeoutError:
            failure = Failure("timeout", f"no answer within {self._timeout:g} s", retry=True)
        except Failure as e:
            failure = e
        except Exception as e:  # of many types; their texts may quote headers
            failure = Failure("crash", f"{type(e).__name__} at {self._url}", retry=True)
        else:
            self.breaker.note(True)
            return text
        self.breaker.note(not failure.counts)  # a fault of the row shows that the service works
        raise failure

    async def _post(self, http: tp.Any, body: dict[str, tp.Any]) -> tuple[int, tp.Any, bytes]:
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        headers |= self._authorization()
        data = bytearray()
        async with http.stream(
            "POST", self._url, content=json.dumps(body), headers=headers
        ) as response:
            # Raw: nothing is decompressed, so that its size is what was sent.
            async for chunk in response.aiter_raw():
                data += chunk
                if len(data) > self._max_bytes:
                    break
            return response.status_code, response.headers, bytes(data)

    def _read(self, status: int, headers: tp.Any, data: bytes) -> str:
        """The text of a completion. Raises: Failure."""
        if status != 200:
            if status in (429, 503):
                asked = retries.retry_after(headers.get("Retry-After", ""))
                self._resume = max(self._resume, time.monotonic() + asked)
            retry = retries.may_pass(status)
            said = self.redacted(data.decode("utf-8", "replace"))
            raise Failure(
                "crash" if retry else "invalid",
                f"HTTP {status} from {self._url}: {said}",
                retry,
                counts=status not in _FAULT_OF_THE_ROW,
            )
        if len(data) > self._max_bytes:
            raise Failure("invalid", f"a body of more than {self._max_bytes} bytes")
        kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
        coding = headers.get("Content-Encoding", "identity").strip().lower()
        if kind != "application/json" or coding != "identity":
            got = self.redacted(f"{kind}, {coding}")
            raise Failure("invalid", f"got {got}; expected application/json, identity")
        return completion(data)


def completion(data: bytes) -> str:
    """The text in the JSON of a chat completion.

    Raises: Failure "invalid" for what is not a chat completion, "unparsable" for one that was
      refused or cut off.
    """
    try:
        found = json.loads(data)
        (choice,) = found["choices"]
        message, finish = choice["message"], choice.get("finish_reason")
        text, refusal = message["content"], message.get("refusal")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as e:
        raise Failure("invalid", f"not a chat completion ({type(e).__name__})") from None
    if refusal:
        raise Failure("unparsable", "the judge refused", counts=False)
    if finish not in (None, "stop"):
        cut = "the judge was cut off: raise max_tokens" if finish == "length" else "no clean end"
        raise Failure("unparsable", cut, counts=False)
    if type(text) is not str:
        raise Failure("invalid", f"content of type {type(text).__name__}, expected a string")
    return text


def redacted(text: str, key: str) -> str:
    """A printable line of at most 200 characters, with * where the key or a part of it was."""
    text = text[:1000]
    size = min(len(key), _RUN)
    runs = {key[i : i + size] for i in range(len(key) - size + 1)} if key else set()
    hidden = {j for i in range(len(text)) if text[i : i + size] in runs for j in range(i, i + size)}
    shown = "".join("*" if i in hidden else c for i, c in enumerate(text))
    return "".join(c if c.isprintable() else " " for c in shown)[:_SHOWN]


def _run(main: collections.abc.Coroutine[tp.Any, tp.Any, None]) -> None:
    """Runs a coroutine in a loop of its own; in a thread where one runs already, as in notebooks.

    Unlike asyncio.run, it does not wait for the look-up of a host name that hangs.
    """

    def run() -> None:
        loop = asyncio.new_event_loop()
        try:
            loop.run_until_complete(main)
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()

    try:
        asyncio.get_running_loop()
        busy = True
    except RuntimeError:
        busy = False
    if not busy:
        run()
        return
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        thread.submit(run).result()
