"""A judge that fails as it is told to: an OpenAI-compatible server for tests, without a model.

  python -m rlpt.testing.faulty_judge [FAULT ...]

prints its base URL and serves until its standard input ends.  The faults are played one a request,
the last one for ever.  A candidate brings its own with `script[http_500 honest]`, played one each
time that this candidate comes, so that the order of concurrent requests does not matter.  "honest"
compares the candidate with the reference, letter by letter.  GET /log says what was asked.
"""

from __future__ import annotations

import collections
import collections.abc
import email.utils
import gzip
import hashlib
import http.client
import http.server
import json
import re
import subprocess
import sys
import threading
import time
import typing as tp
import zlib

REFERENCE = re.compile(r"^Reference answer:\n(.*?)\n\nCandidate answer", re.M | re.S)
CANDIDATE = re.compile(r"^(===== [0-9a-f]+ =====)\n(.*)\n\1$", re.M | re.S)
SCRIPT = re.compile(r"\s*script\[([a-z0-9_ ]+)\]\s*")
ENDLESS = 1 << 30  # bytes that a huge body has, if anyone reads them


class FaultyJudge:
    """The server in a process of its own; a context manager.

    Attributes:
      url: base URL for a client, http://127.0.0.1:PORT/v1.
    """

    def __init__(self, *faults: str):
        """faults: keys of FAULTS, as on the command line; none: honest."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "rlpt.testing.faulty_judge", *faults],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout
        self.url = self._process.stdout.readline().strip()
        if not self.url:
            raise ValueError(f"faulty judge: got faults {faults}, expected of {sorted(FAULTS)}")

    def log(self) -> dict[str, tp.Any]:
        """What was asked.

        Returns: requests, each with time, fault, body and the hash of its authorization; peak, the
          most that were in the works at once; sent, bytes of huge bodies.
        """
        address = self.url.removeprefix("http://").partition("/")[0]
        connection = http.client.HTTPConnection(address, timeout=10)
        try:
            connection.request("GET", "/log")
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def stop(self) -> None:
        """Ends the server: connections are refused from now on."""
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> FaultyJudge:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, faults: collections.abc.Sequence[str]):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.faults = tuple(faults) or ("honest",)
        self.lock = threading.Lock()
        self.seen: collections.Counter[str] = collections.Counter()
        self.running = 0
        self.notes: dict[str, tp.Any] = {"requests": [], "peak": 0, "sent": 0}

    def fault(self, candidate: str) -> str:
        """The fault whose turn it is."""
        script = SCRIPT.search(candidate)
        faults, who = (script[1].split(), candidate) if script else (self.faults, "")
        turn = min(self.seen[who], len(faults) - 1)
        self.seen[who] += 1
        return faults[turn]

    def handle_error(self, request: tp.Any, client_address: tp.Any) -> None:
        """Clients that leave are what the tests are about, so nothing is printed."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: tp.Any) -> None:
        """Keeps the console clean."""

    def do_GET(self) -> None:
        with self.server.lock:
            self.reply(json.dumps(self.server.notes))

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        self.asked = json.loads(raw)
        text = self.asked["messages"][-1]["content"]
        found, reference = CANDIDATE.search(text), REFERENCE.search(text)
        self.candidate = found[2] if found else ""
        self.reference = reference[1] if reference else ""
        authorization = self.headers.get("Authorization", "")
        with self.server.lock:
            fault = self.server.fault(self.candidate)
            self.server.running += 1
            notes = self.server.notes
            notes["peak"] = max(notes["peak"], self.server.running)
            notes["requests"].append(
                {
                    "time": time.monotonic(),
                    "path": self.path,
                    "fault": fault,
                    "body": self.asked,
                    "authorization": hashlib.sha256(authorization.encode()).hexdigest(),
                    "headers": sorted(name.lower() for name in self.headers),
                }
            )
        try:
            FAULTS[fault](self)
        except OSError:  # the client has gone
            self.close_connection = True
        finally:
            with self.server.lock:
                self.server.running -= 1

    # ---- what faults are made of

    def reply(self, body: str | bytes, status: int = 200, **headers: str) -> None:
        """A whole answer. headers: with _ for -."""
        data = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        given = {"Content_Type": "application/json", "Content_Length": str(len(data)), **headers}
        for name, value in given.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def completion(self, content: tp.Any, finish: str = "stop", **message: tp.Any) -> str:
        """A chat completion with this content, as JSON."""
        message = {"role": "assistant", "content": content, **message}
        choice = {"index": 0, "message": message, "finish_reason": finish}
        return json.dumps({"object": "chat.completion", "choices": [choice]})

    def verdict(self, correct: bool) -> str:
        """The content that the request's schema asks for; a score at the end of its range."""
        schema = self.asked.get("response_format", {}).get("json_schema", {}).get("schema", {})
        properties = schema.get("properties", {"verdict": {}})
        if "score" in properties:
            value = properties["score"]["maximum" if correct else "minimum"]
            return json.dumps({"reason": "as told", "score": value})
        if "correct" in properties:
            return json.dumps({"reason": "as told", "correct": correct})
        return json.dumps({"reason": "as told", "verdict": "correct" if correct else "incorrect"})

    def right(self) -> bool:
        return SCRIPT.sub("", self.candidate).strip() == self.reference.strip()

    def says(self, content: tp.Any, finish: str = "stop", **message: tp.Any) -> None:
        self.reply(self.completion(content, finish, **message))

    def until_gone(self) -> None:
        """Says nothing until the client leaves."""
        self.close_connection = True
        self.rfile.read(1)

    def late(self) -> None:
        time.sleep(0.2)
        self.says(self.verdict(self.right()))

    def garbage(self) -> None:
        self.wfile.write(b"\x00\xff SSH-2.0\r\n\r\n")
        self.close_connection = True

    def drip(self, data: bytes) -> None:
        """A byte every 50 ms, again and again, until the client leaves."""
        self.close_connection = True
        while True:
            for byte in data:
                self.wfile.write(bytes([byte]))
                time.sleep(0.05)

    def drip_body(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(ENDLESS))
        self.end_headers()
        self.drip(b" ")

    def huge(self) -> None:
        """Sends up to ENDLESS bytes, in chunks, without saying how many it will be."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
        for _ in range(ENDLESS // 65536):
            self.wfile.write(chunk)
            self.server.notes["sent"] += 65536

    def closes(self, part: float) -> None:
        """Closes when a part of the promised body is sent."""
        data = self.completion(self.verdict(True)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: int(part * len(data))])
        self.close_connection = True

    def no_answer(self) -> None:
        self.close_connection = True


def _http_date(seconds: float) -> str:
    return email.utils.formatdate(time.time() + seconds, usegmt=True)


MIXTURE = ("correct", "incorrect", "correct", "incorrect", "http_400", "prose", "truncated")


def _mixed(h: _Handler) -> None:
    """One of MIXTURE, always the same one for a candidate."""
    FAULTS[MIXTURE[zlib.crc32(h.candidate.encode()) % len(MIXTURE)]](h)


# What it can do. Those that end in "correct" would be a reward, were the fault not seen.
FAULTS: dict[str, collections.abc.Callable[[_Handler], tp.Any]] = {
    "honest": lambda h: h.says(h.verdict(h.right())),
    "correct": lambda h: h.says(h.verdict(True)),
    "incorrect": lambda h: h.says(h.verdict(False)),
    "wordy": lambda h: h.says(h.verdict(h.right() or "olution" in h.candidate)),
    "slow": _Handler.late,
    "mixed": _mixed,
    # no service
    "http_429": lambda h: h.reply("{}", 429, Retry_After="1"),
    "http_429_date": lambda h: h.reply("{}", 429, Retry_After=_http_date(2.0)),
    "http_429_long": lambda h: h.reply("{}", 429, Retry_After="3600"),
    "http_429_odd": lambda h: h.reply("{}", 429, Retry_After="soon"),
    "http_500": lambda h: h.reply('{"error": "' + "x" * 10**5 + '"}', 500),
    "http_503": lambda h: h.reply("", 503, Content_Type="text/html"),
    "http_400": lambda h: h.reply('{"error": {"message": "too long"}}', 400),
    "http_401": lambda h: h.reply(f"bad key: {h.headers.get('Authorization')}", 401),
    "redirect": lambda h: h.reply("", 307, Location="http://127.0.0.1:9/v1/chat/completions"),
    "hang": _Handler.until_gone,
    "drip_headers": lambda h: h.drip(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 10**4),
    "drip_body": _Handler.drip_body,
    "closes": lambda h: h.closes(0.5),
    "closes_at_once": _Handler.no_answer,
    "garbage": _Handler.garbage,
    # no completion
    "huge": _Handler.huge,
    "bomb": lambda h: h.reply(gzip.compress(bytes(1 << 22)), Content_Encoding="gzip"),
    "truncated": lambda h: h.reply(h.completion(h.verdict(True))[:-20]),
    "html": lambda h: h.reply(h.completion(h.verdict(True)), Content_Type="text/html"),
    "empty": lambda h: h.reply(""),
    "not_utf8": lambda h: h.reply(b'{"choices": "\xff\xfe"}'),
    "nested": lambda h: h.reply("[" * 10**5),
    "array": lambda h: h.reply("[" + h.completion(h.verdict(True)) + "]"),
    "no_choices": lambda h: h.reply('{"choices": []}'),
    "no_message": lambda h: h.reply('{"choices": [{"text": "correct"}]}'),
    "two_choices": lambda h: h.reply('{"choices": [{}, {}]}'),
    # no verdict
    "null": lambda h: h.says(None),
    "parts": lambda h: h.says([{"type": "text", "text": h.verdict(True)}]),
    "unsure": lambda h: h.says('{"verdict": "unsure"}'),
    "refusal": lambda h: h.says(h.verdict(True), refusal="I cannot judge this."),
    "refuses": lambda h: h.says("I'm sorry, but I can't help with that."),
    "cut_off": lambda h: h.says(h.verdict(True), finish="length"),
    "filtered": lambda h: h.says(h.verdict(True), finish="content_filter"),
    "prose": lambda h: h.says("The answer is right: " + h.verdict(True)),
    "fenced": lambda h: h.says("```json\n" + h.verdict(True) + "\n```"),
    "two_verdicts": lambda h: h.says(h.verdict(False) + h.verdict(True)),
    "twice": lambda h: h.says('{"verdict": "incorrect", "verdict": "correct"}'),
    "extra": lambda h: h.says('{"verdict": "correct", "score": 1.0}'),
    "other_label": lambda h: h.says('{"verdict": "Correct!"}'),
    "number": lambda h: h.says('{"verdict": 1}'),
    "bare": lambda h: h.says("true"),
    "nan": lambda h: h.says('{"score": NaN}'),
    "infinite": lambda h: h.says('{"score": 1e999}'),
    "above": lambda h: h.says('{"score": 11}'),
    "digits": lambda h: h.says('{"score": ' + "9" * 5000 + "}"),
    "true_score": lambda h: h.says('{"score": true}'),
    "text_score": lambda h: h.says('{"score": "10"}'),
    "echoes": lambda h: h.says(f"My key is {h.headers.get('Authorization')}"),
}


def main() -> None:
    unknown = set(sys.argv[1:]) - set(FAULTS)
    if unknown:
        sys.exit(f"got {sorted(unknown)}, expected of {', '.join(FAULTS)}")
    server = _Server(sys.argv[1:])
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{server.server_port}/v1", flush=True)
    sys.stdin.read()  # until whoever started it ends


if __name__ == "__main__":
    main()
