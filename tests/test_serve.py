"""A model behind the chat protocol: real sockets, real sampling on the toy model."""

import concurrent.futures
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading

import httpx
import jax
import jax.numpy as jnp
import pytest

from rlpt import serve
from rlpt.models.load import load

MESSAGES = [{"role": "user", "content": "7 + 5 ="}]


@pytest.fixture(scope="module")
def sampler():
    return serve.Sampler(load("toy"), prompt_tokens=64, max_tokens=40, batch=4, max_n=4)


@pytest.fixture(scope="module")
def url(sampler):
    with serve.Server(sampler, name="toy", timeout=2.0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.url
        server.shutdown()


def post(url, **body):
    body = {"messages": MESSAGES, "seed": 1, **body}
    return httpx.post(f"{url}/chat/completions", content=json.dumps(body), timeout=60)


def texts(url, **body):
    answer = post(url, **body)
    assert answer.status_code == 200, answer.text
    return [c["message"]["content"] for c in answer.json()["choices"]]


def test_a_completion_has_the_form_that_clients_expect(url):
    body = post(url, n=3, max_tokens=5).json()
    assert body["object"] == "chat.completion" and len(body["choices"]) == 3
    assert [c["index"] for c in body["choices"]] == [0, 1, 2]
    assert {c["finish_reason"] for c in body["choices"]} <= {"stop", "length"}
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert 3 <= usage["completion_tokens"] <= 15
    assert httpx.get(f"{url}/models").json()["data"][0]["id"] == "toy"


def test_a_seed_gives_the_same_completions_whatever_else_is_asked(url):
    alone = texts(url, n=2)
    assert alone == texts(url, n=2) and alone != texts(url, n=2, seed=2)
    assert texts(url, n=4)[:2] == alone, "further samples do not change the first"
    others = [[{"role": "user", "content": f"{i} + 1 ="}] for i in range(7)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(texts, url, messages=m) for m in others]
        mine = pool.submit(texts, url, n=2)
        assert mine.result() == alone
        assert len({tuple(w.result()) for w in waiting}) > 1
    assert len({tuple(texts(url, seed=None)) for _ in range(4)}) > 1, "no seed, other draws"


def test_the_law_is_that_of_the_request(url):
    greedy = texts(url, n=3, temperature=0)
    assert len(set(greedy)) == 1 and texts(url, temperature=0, seed=5) == greedy[:1]
    assert set(texts(url, n=4, top_k=1)) == set(greedy)
    assert texts(url, n=2, max_tokens=3) == [t[:3] for t in texts(url, n=2)], "a token a letter"
    whole = texts(url)[0]
    cut = texts(url, stop=whole[4])[0]
    assert cut == whole[: whole.index(whole[4])]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (dict(messages=[]), "at least one"),
        (dict(messages="hello"), "at least one"),
        (dict(messages=[{"role": "user"}]), "expected role and content"),
        (dict(messages=[{"role": "robot", "content": "x"}]), "expected system, user or assistant"),
        (dict(messages=[{"role": "user", "content": "1" * 100}]), "got 1.. tokens, .* at most 64"),
        (dict(n=5), "n: got 5, expected a number from 1 to 4"),
        (dict(n=True), "n: got True"),
        (dict(max_tokens=41), "from 1 to 40"),
        (dict(max_tokens=1.5), "expected an integer"),
        (dict(temperature=-1), "temperature: got -1"),
        (dict(temperature="hot"), "temperature: got 'hot'"),
        (dict(top_p=0), "top_p: got 0"),
        (dict(stop=[""]), "stop: got"),
        (dict(seed="x"), "seed: got 'x'"),
        (dict(stop=["<user>"]), "stop: got the special token '<user>', expected text"),
        (dict(messages=[{"role": "user", "content": "a \ud800"}]), "without lone surrogates"),
        (dict(stream=True), "not supported"),
    ],
)
def test_wrong_requests_are_told_what_is_accepted(url, body, message):
    answer = post(url, **body)
    assert answer.status_code == 400
    assert re.search(message, answer.json()["error"]["message"])


def raw(url, data):
    """The first line that a socket gets for these bytes."""
    host, port = url.removeprefix("http://").removesuffix("/v1").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as s:
        s.sendall(data)
        return s.recv(4096).split(b"\r\n")[0].decode()


def test_bytes_that_are_no_request(url):
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
    assert "411" in raw(url, head + b"\r\n")
    assert "413" in raw(url, head + b"Content-Length: 99999999\r\n\r\n")
    assert "413" in raw(url, head + b"Content-Length: -1\r\n\r\n")
    assert "400" in raw(url, head + b"Content-Length: 3\r\n\r\n{{{")
    nested = b"[" * 100_000
    assert "400" in raw(url, head + b"Content-Length: %d\r\n\r\n" % len(nested) + nested)
    assert "404" in raw(url, b"GET /etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n")
    assert "408" in raw(url, head + b"Content-Length: 50\r\n\r\n{"), "a client that stalls"
    assert len(texts(url)) == 1, "and the server goes on"


def test_the_key_is_asked_for(sampler, caplog):
    with serve.Server(sampler, key="planted-secret") as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for header in ({}, {"Authorization": "Bearer no"}):
            answer = httpx.get(f"{server.url}/models", headers=header)
            assert answer.status_code == 401 and "planted" not in answer.text
        header = {"Authorization": "Bearer planted-secret"}
        assert httpx.get(f"{server.url}/models", headers=header).status_code == 200
        assert httpx.get(server.url.replace("/v1", "/health")).status_code == 200
        server.shutdown()
    assert "planted-secret" not in caplog.text


def test_a_failure_of_the_sampler_is_one_of_the_request(sampler, url, monkeypatch):
    monkeypatch.setattr(sampler, "_sample", lambda requests: 1 / 0)
    answer = post(url)
    assert answer.status_code == 500 and "ZeroDivisionError" in answer.text
    monkeypatch.undo()
    assert len(texts(url)) == 1


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_the_command(tmp_path, stop):
    command = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]  # as a script's background jobs are
    command += [sys.executable, "-m", "rlpt.cli", "serve", "--model", "toy", "--port", "0"]
    command += ["--prompt_tokens", "64", "--max_tokens", "4"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    ) as process:  # fmt: skip
        try:
            line = process.stdout.readline()
            found = re.search(r"serving toy at (http://127\.0\.0\.1:\d+/v1)", line)
            assert found, line
            assert len(texts(found[1])[0]) > 0
            process.send_signal(stop)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130 and not err, err
    assert json.dumps(MESSAGES[0]["content"]) not in out


def schema(**properties):
    found = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": found}}


VERDICT = schema(
    reason={"type": "string"}, verdict={"type": "string", "enum": ["yes", "not", "may"]}
)


def test_replies_keep_to_a_schema(url):
    got = texts(url, n=4, response_format=VERDICT)
    allowed = {json.dumps({"reason": "", "verdict": v}) for v in ("yes", "not", "may")}
    assert set(got) <= allowed
    assert got == texts(url, n=4, response_format=VERDICT), "the seed decides"
    many = [texts(url, n=4, response_format=VERDICT, seed=i) for i in range(10)]
    assert {t for some in many for t in some} == allowed
    answer = post(url, response_format=VERDICT).json()
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert (
        answer["usage"]["completion_tokens"] == len(answer["choices"][0]["message"]["content"]) + 1
    )


def test_replies_are_drawn_by_their_probability(url, sampler):
    """That of the whole reply, its end included; at temperature 0 the likeliest."""
    replies = serve.allowed_replies(VERDICT)
    from rlpt import scoring

    tokenizer = sampler.loaded.tokenizer
    prompt = tokenizer.chat(MESSAGES)
    logps = []
    for reply in replies:
        tokens = [*tokenizer.encode(reply), *tokenizer.eos_ids]
        table = {
            "prompt_tokens": jnp.array([prompt]),
            "prompt_mask": jnp.ones((1, len(prompt)), bool),
            "completion_tokens": jnp.array([[tokens]]),
            "completion_mask": jnp.ones((1, 1, len(tokens)), bool),
            "temperature": jnp.ones((1, 1)),
        }
        logps.append(
            scoring.score(sampler.loaded.config, sampler.loaded.params, table)["logp"].sum()
        )
    wanted = jax.nn.softmax(jnp.array(logps))
    best = replies[int(wanted.argmax())]
    greedy = texts(url, n=2, response_format=VERDICT, temperature=0)
    assert greedy == [best] * 2
    drawn = [t for i in range(25) for t in texts(url, n=4, seed=i, response_format=VERDICT)]
    for reply, p in zip(replies, wanted, strict=True):
        share = drawn.count(reply) / len(drawn)
        assert abs(share - p) < 4 * (p * (1 - p) / len(drawn)) ** 0.5 + 1e-3, (reply, share, p)


@pytest.mark.parametrize(
    ("form", "count"),
    [
        (None, 0),
        ({"type": "text"}, 0),
        (schema(a={"type": "boolean"}, b={"const": 7}), 2),
        (schema(a={"type": "number", "minimum": 0.5, "maximum": 3}), 3),
        (schema(a={"type": "null"}, b={"type": "integer", "minimum": -1, "maximum": 1}), 3),
    ],
)
def test_allowed_replies(form, count):
    replies = serve.allowed_replies(form)
    assert len(set(replies)) == count and all(json.loads(r) for r in replies)


@pytest.mark.parametrize(
    "form",
    [
        "json",
        {"type": "json_object"},
        schema(a={"type": "array"}),
        schema(a={"type": "integer"}),
        schema(a={"type": "integer", "minimum": 0, "maximum": 10**9}),
        schema(a={"type": ["string", "null"]}),
        schema(),
        schema(**{str(i): {"type": "boolean"} for i in range(7)}),
        schema(a={"enum": []}),
    ],
)
def test_schemas_that_leave_too_much_are_refused(url, form):
    answer = post(url, response_format=form)
    assert answer.status_code == 400, answer.text
    assert "response_format: got" in answer.json()["error"]["message"]


def test_a_reply_has_to_fit(url):
    answer = post(url, response_format=VERDICT, max_tokens=8)
    assert answer.status_code == 400 and "expected at least" in answer.text
