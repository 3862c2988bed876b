"""A model behind OpenAI's chat protocol: the run's own sampler as a server, for judges and tests.

    POST /v1/chat/completions    GET /v1/models    GET /health

Requests that wait at the same moment under the same sampling law are sampled together.  A request
with a seed always gets the same completions, whatever else the server is doing: draws are keyed by
the seed and the messages.  A response_format with a JSON schema that leaves few replies is kept
to: one of them is drawn by its probability among them, so that a small model can be a judge.  Meant
for one machine or a trusted network; it is not hardened for the
open internet.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hmac
import http.server
import itertools
import json
import math
import os
import queue
import secrets
import signal
import threading
import time
import typing as tp

from rlpt.tasks.base import Prompt, hash_int

MAX_BODY = 1 << 20  # bytes of a request
MAX_REPLIES = 64  # that a response_format may leave
WAIT = 0.01  # seconds that the first of a batch waits for others


class RequestError(ValueError):
    """A request that cannot be served; status: of the HTTP answer."""

    def __init__(self, message: str, status: int = 400):
        super().__init__(message)
        self.status = status


@dataclasses.dataclass(frozen=True)
class Law:
    """What has to be equal for requests to be sampled together. replies: those allowed; (): any."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    stop: tuple[str, ...] = ()
    replies: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Request:
    """One checked request. occurrence: enters the draws, from the seed or at random."""

    messages: tuple[dict[str, str], ...]
    n: int
    max_tokens: int
    occurrence: int
    law: Law


@dataclasses.dataclass(frozen=True)
class Choice:
    """One completion: its text, its tokens, and whether it ended by itself."""

    text: str
    tokens: int
    stopped: bool


def _number(body: dict[str, tp.Any], name: str, default: float, low: float, high: float) -> float:
    value = body.get(name)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise RequestError(f"{name}: got {value!r}, expected a number from {low} to {high}")
    return float(value)


def _integer(body: dict[str, tp.Any], name: str, default: int, low: int, high: int) -> int:
    value = _number(body, name, default, low, high)
    if value != int(value):
        raise RequestError(f"{name}: got {value!r}, expected an integer")
    return int(value)


def allowed_replies(response_format: tp.Any) -> tuple[str, ...]:
    """The replies that a request's response_format leaves; (): any.

    Of json_schema, objects whose properties are enum, const, boolean, an integer or number in
    bounds (its integers), or a free string, which stays empty: what is not asked to choose from is
    not written.  "strict" makes no difference.
    Raises: RequestError for other formats and schemas, and for more than MAX_REPLIES replies.
    """
    if response_format is None or response_format == {"type": "text"}:
        return ()
    try:
        schema = response_format["json_schema"]["schema"]
        properties = dict(schema["properties"])
        choices = [_choices(properties[name]) for name in properties]
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise RequestError(
            f"response_format: got {str(response_format)[:80]!r}, expected text, or json_schema "
            "with an object of enums, booleans, integers in bounds and strings"
        ) from e
    count = math.prod(map(len, choices)) if choices else 0
    if not 0 < count <= MAX_REPLIES:
        raise RequestError(
            f"response_format: got {count} possible replies, expected 1 to {MAX_REPLIES}"
        )
    return tuple(
        json.dumps(dict(zip(properties, values, strict=True)))
        for values in itertools.product(*choices)
    )


def _choices(schema: dict[str, tp.Any]) -> list[tp.Any]:
    """The values of a property. Raises: KeyError, TypeError or ValueError where they are many."""
    if "const" in schema:
        return [schema["const"]]
    if "enum" in schema:
        return list(schema["enum"])
    kind = schema["type"]
    if kind in ("integer", "number"):
        low, high = math.ceil(schema["minimum"]), math.floor(schema["maximum"])
        if high - low > MAX_REPLIES:
            raise ValueError("too many")
        return list(range(low, high + 1))
    free: dict[str, list[tp.Any]] = {"boolean": [False, True], "string": [""], "null": [None]}
    return free[kind]


def parse(body: tp.Any, max_tokens: int, max_n: int) -> Request:
    """A request from the body of a chat completion.

    Raises: RequestError that says what was got and what is accepted.
    """
    if not isinstance(body, dict):
        raise RequestError(f"got a {type(body).__name__}, expected a JSON object")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RequestError("messages: expected a list with at least one {role, content}")
    for m in messages:
        if not isinstance(m, dict) or not all(
            isinstance(m.get(k), str) for k in ("role", "content")
        ):
            raise RequestError(f"messages: got {str(m)[:80]!r}, expected role and content as text")
        if m["role"] not in ("system", "user", "assistant"):
            raise RequestError(f"role: got {m['role'][:40]!r}, expected system, user or assistant")
    if body.get("stream"):
        raise RequestError("stream: true is not supported; leave it out")
    stop = body.get("stop") or ()
    stop = (stop,) if isinstance(stop, str) else stop
    if not isinstance(stop, list | tuple) or not all(isinstance(s, str) and s for s in stop):
        raise RequestError(f"stop: got {str(stop)[:80]!r}, expected a string or a list of them")
    limit = "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"
    seed = body.get("seed")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise RequestError(f"seed: got {seed!r}, expected an integer")
    return Request(
        tuple({"role": m["role"], "content": m["content"]} for m in messages),
        _integer(body, "n", 1, 1, max_n),
        _integer(body, limit, max_tokens, 1, max_tokens),
        secrets.randbits(31) if seed is None else hash_int("seed", seed) & 0x7FFFFFFF,
        Law(
            _number(body, "temperature", 1.0, 0.0, 2.0),
            _number(body, "top_p", 1.0, 1e-6, 1.0),
            _integer(body, "top_k", 0, 0, 1 << 20),
            _number(body, "min_p", 0.0, 0.0, 1.0 - 1e-6),
            tuple(stop),
            allowed_replies(body.get("response_format")),
        ),
    )


class Sampler:
    """Completions of one model; batches what waits at the same moment.

    Args:
      loaded: of `policy.load_policy`.
      prompt_tokens: the longest prompt.  max_tokens: the longest completion.
      batch: requests sampled together.  max_n: completions of one request.
    """

    def __init__(
        self,
        loaded: tp.Any,
        *,
        prompt_tokens: int = 512,
        max_tokens: int = 64,
        batch: int = 8,
        max_n: int = 16,
    ):
        import jax
        import jax.numpy as jnp

        from rlpt import config as config_lib

        self.loaded, self.batch = loaded, batch
        self.prompt_tokens, self.max_tokens, self.max_n = prompt_tokens, max_tokens, max_n
        self._params = jax.tree.map(jnp.asarray, loaded.params)
        self._key = jax.random.key(0)
        self._sampling = config_lib.default().sampling.unlock()
        widths = [64 << i for i in range(20) if 64 << i < prompt_tokens] + [prompt_tokens]
        self._sampling.prompt_buckets = tuple(widths)
        self._sampling.completion_buckets = (max_tokens,)
        self._tools(Law())  # a context that is too short fails here
        self._waiting: queue.Queue[tuple[Request, concurrent.futures.Future[list[Choice]]]] = (
            queue.Queue()
        )
        threading.Thread(target=self._run, daemon=True).start()

    def _tools(self, law: Law) -> tp.Any:
        from rlpt import tools

        sampling = self._sampling.copy_and_resolve_references()
        sampling.temperature, sampling.top_p = law.temperature, law.top_p
        sampling.top_k, sampling.min_p, sampling.stop_strings = law.top_k, law.min_p, law.stop
        made = tools.Tools(
            self.loaded.config, self.loaded.tokenizer, None, sampling, {}, (), self._key
        )
        made.params = self._params
        return made

    def prompt_length(self, request: Request) -> int:
        """Tokens of the rendered messages.

        Raises: RequestError where they are too many, or the model cannot have them or the stops.
        """
        tokenizer = self.loaded.tokenizer
        try:
            n = len(tokenizer.chat(list(request.messages)))
        except ValueError as e:  # of the chat template, or a token without an embedding
            raise RequestError(f"messages: {e}") from e
        if token := next(filter(None, map(tokenizer.unseen, request.law.stop)), None):
            raise RequestError(
                f"stop: got the special token {token!r}, expected text: completions do not show it"
            )
        if n > self.prompt_tokens:
            raise RequestError(
                f"messages: got {n} tokens, expected at most {self.prompt_tokens}; start the "
                "server with a larger --prompt_tokens"
            )
        return n

    def complete(self, request: Request) -> list[Choice]:
        """The n completions of a request; blocks until they are there. Raises: RequestError."""
        longest = max(map(len, self._tokens(request.law.replies)), default=1)
        if longest > request.max_tokens:
            raise RequestError(
                f"max_tokens: got {request.max_tokens}, expected at least {longest} for what this "
                "response_format allows"
            )
        future: concurrent.futures.Future[list[Choice]] = concurrent.futures.Future()
        self._waiting.put((request, future))
        return future.result()

    def _run(self) -> None:
        left: list[tuple[Request, concurrent.futures.Future[list[Choice]]]] = []
        while True:
            left = left or [self._waiting.get()]
            until = time.monotonic() + WAIT
            while len(left) < self.batch:
                try:
                    left.append(self._waiting.get(timeout=max(until - time.monotonic(), 0.0)))
                except queue.Empty:
                    break
            law = left[0][0].law
            now = [x for x in left if x[0].law == law][: self.batch]
            left = [x for x in left if x not in now]
            try:
                for (_, future), choices in zip(
                    now, self._sample([r for r, _ in now]), strict=True
                ):
                    future.set_result(choices)
            except Exception as e:  # the requests fail, the server goes on
                for _, future in now:
                    if not future.done():
                        future.set_exception(e)

    def _sample(self, requests: list[Request]) -> list[list[Choice]]:
        """Blocks and group are powers of two, so that compilation happens a handful of times."""
        from rlpt import tools as tools_lib

        tools = self._tools(requests[0].law)
        if requests[0].law.replies:
            return self._choose(tools, requests)
        blocks = 1 << (len(requests) - 1).bit_length()
        group = 1 << (max(r.n for r in requests) - 1).bit_length()
        items: list[tuple[Prompt, int] | None] = [
            (Prompt(json.dumps(r.messages), r.messages), r.occurrence) for r in requests
        ]
        items += [None] * (blocks - len(requests))
        batch = tools.generate(
            items, group=group, step=0, purpose=tools_lib.SAMPLE,
            temperature=requests[0].law.temperature,
        )  # fmt: skip
        table, out = batch.table, []
        for i, request in enumerate(requests):
            choices = []
            for j in range(request.n):
                tokens = table["completion_tokens"][i, j][table["completion_mask"][i, j]].tolist()
                text, stopped = batch.text.completions[i][j], not table["truncated"][i, j]
                if len(tokens) > request.max_tokens:
                    tokens, stopped = tokens[: request.max_tokens], False
                    text = self.loaded.tokenizer.decode(tokens)
                choices.append(Choice(text, len(tokens), bool(stopped)))
            out.append(choices)
        return out

    def _tokens(self, replies: tuple[str, ...]) -> list[list[int]]:
        """Replies as tokens, each with its end."""
        return [
            [*self.loaded.tokenizer.encode(r), self.loaded.tokenizer.eos_ids[0]] for r in replies
        ]

    def _choose(self, tools: tp.Any, requests: list[Request]) -> list[list[Choice]]:
        """One of the allowed replies for each, by softmax(log-prob of all of it / temperature)."""
        import numpy as np

        law = requests[0].law
        replies = self._tokens(law.replies)
        prompts = [self.loaded.tokenizer.chat(list(r.messages)) for r in requests]
        p, g = 1 << (len(requests) - 1).bit_length(), len(replies)
        length = next(w for w in self._sampling.prompt_buckets if w >= max(map(len, prompts)))
        width = -(-max(map(len, replies)) // 16) * 16
        pad = self.loaded.tokenizer.pad_id
        table = {
            "prompt_tokens": np.full((p, length), pad, np.int32),
            "prompt_mask": np.zeros((p, length), bool),
            "completion_tokens": np.full((p, g, width), pad, np.int32),
            "completion_mask": np.zeros((p, g, width), bool),
            "temperature": np.ones((p, g), np.float32),
        }
        for i, tokens in enumerate(prompts):
            table["prompt_tokens"][i, length - len(tokens) :] = tokens
            table["prompt_mask"][i, length - len(tokens) :] = True
        for j, tokens in enumerate(replies):
            table["completion_tokens"][:, j, : len(tokens)] = tokens
            table["completion_mask"][:, j, : len(tokens)] = True
        totals = tools.score(table)["logp"].sum(-1).astype(np.float64)
        out = []
        for request, total in zip(requests, totals, strict=False):
            chances = np.exp((total - total.max()) / max(law.temperature, 1e-6))
            edges = np.cumsum(chances / chances.sum())
            messages = json.dumps(request.messages)
            draws = [tools.uniform(request.occurrence, messages, k) for k in range(request.n)]
            chosen = [min(int(np.searchsorted(edges, u, "right")), g - 1) for u in draws]
            out.append([Choice(law.replies[j], len(replies[j]), True) for j in chosen])
        return out


class Server(http.server.ThreadingHTTPServer):
    """The HTTP side. address: (host, port), port 0: any that is free.

    Args:
      name: of the model, as /v1/models lists it; other names are served too.
      key: what `Authorization: Bearer` has to say; "": nothing.
      timeout: seconds that a connection may be idle.
    """

    daemon_threads = True

    def __init__(
        self,
        sampler: Sampler,
        address: tuple[str, int] = ("127.0.0.1", 0),
        *,
        name: str = "rlpt",
        key: str = "",
        timeout: float = 60.0,
    ):
        self.sampler, self.name, self.key = sampler, name, key
        handler = type("Handler", (_Handler,), {"timeout": timeout})
        super().__init__(address, handler)

    @property
    def url(self) -> str:
        """Up to and with the version, as clients want it."""
        return f"http://{self.server_address[0]!s}:{self.server_address[1]}/v1"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: tp.Any) -> None:
        """Prompts and keys are nobody's business."""

    def do_GET(self) -> None:
        if self.path == "/health":
            return self._answer(200, {"status": "ok"})
        if not self._allowed():
            return None
        if self.path == "/v1/models":
            model: dict[str, str | int] = {"object": "model", "owned_by": "rlpt"}
            model |= {"id": self.server.name, "max_tokens": self.server.sampler.max_tokens}
            return self._answer(200, {"object": "list", "data": [model]})
        return self._fail(404, f"{self.path[:80]}: expected /v1/chat/completions or /v1/models")

    def do_POST(self) -> None:
        if not self._allowed():
            return None
        if self.path != "/v1/chat/completions":
            return self._fail(404, f"{self.path[:80]}: expected /v1/chat/completions", close=True)
        try:
            length = int(self.headers.get("Content-Length", ""))
        except ValueError:
            return self._fail(411, "Content-Length: expected a number", close=True)
        if not 0 <= length <= MAX_BODY:
            return self._fail(413, f"got {length} bytes, expected at most {MAX_BODY}", close=True)
        sampler = self.server.sampler
        try:
            try:
                body = json.loads(self.rfile.read(length))
            except (ValueError, RecursionError) as e:
                raise RequestError(f"expected JSON: {str(e)[:120]}") from e
            except TimeoutError as e:
                self.close_connection = True
                raise RequestError(f"{length} bytes were announced, fewer came", 408) from e
            request = parse(body, sampler.max_tokens, sampler.max_n)
            prompt = sampler.prompt_length(request)
            choices = sampler.complete(request)
        except RequestError as e:
            return self._fail(e.status, str(e))
        except Exception as e:
            return self._fail(500, f"{type(e).__name__} while sampling")
        made = sum(c.tokens for c in choices)
        return self._answer(
            200,
            {
                "id": f"chatcmpl-{secrets.token_hex(12)}",
                "object": "chat.completion",
                "created": int(time.time()),
                "model": self.server.name,
                "choices": [
                    {
                        "index": i,
                        "message": {"role": "assistant", "content": c.text},
                        "finish_reason": "stop" if c.stopped else "length",
                    }
                    for i, c in enumerate(choices)
                ],
                "usage": {
                    "prompt_tokens": prompt,
                    "completion_tokens": made,
                    "total_tokens": prompt + made,
                },
            },
        )

    def _allowed(self) -> bool:
        want = self.server.key
        got = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if want and not hmac.compare_digest(got.encode(), want.encode()):
            self._fail(401, "Authorization: expected Bearer and the server's key", close=True)
            return False
        return True

    def _fail(self, status: int, message: str, close: bool = False) -> None:
        """close: the body was not read, so the connection is of no more use."""
        self.close_connection = self.close_connection or close
        kind = "server_error" if status >= 500 else "invalid_request_error"
        self._answer(status, {"error": {"message": message, "type": kind, "code": status}})

    def _answer(self, status: int, body: dict[str, tp.Any]) -> None:
        data = json.dumps(body).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(data)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # who asked has gone


def serve(source: str, host: str, port: int, name: str = "", **settings: int) -> None:
    """Serves a model until interrupted. settings: of `Sampler`; RLPT_API_KEY: the key, if set."""
    from rlpt.policy import load_policy

    for number in (signal.SIGINT, signal.SIGTERM):  # a shell may have started it with these ignored
        signal.signal(number, signal.default_int_handler)
    loaded = load_policy(source)
    key = os.environ.get("RLPT_API_KEY", "")
    sampler = Sampler(loaded, **settings)
    with Server(sampler, (host, port), name=name or source, key=key) as server:
        print(f"serving {loaded.source} at {server.url}", flush=True)
        server.serve_forever()
