"""Who may call the server, and its limits."""

from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from starlette.testclient import TestClient

from edgeseq.runtime import OptionError
from edgeseq.serving import Settings
from tests.serving.conftest import Gate, NewClient
from tests.support.processes import poll

BODY = {"prompt": "Once upon", "temperature": 0, "max_tokens": 3}


def code(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def running(client: TestClient) -> int:
    """Return the number of requests that run or wait."""
    lines = client.get("/metrics").text.splitlines()
    names = ("edgeseq_requests_running{", "edgeseq_requests_waiting{")
    return sum(int(line.rpartition(" ")[2]) for line in lines if line.startswith(names))


# Hosts and keys


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:99", "LOCALHOST"])
def test_local_hosts_are_answered(new_client: NewClient, host: str) -> None:
    assert new_client().get("/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "", "localhost.evil.example", "[::2]"])
def test_other_hosts_are_refused(new_client: NewClient, host: str) -> None:
    """A page whose name resolves to 127.0.0.1 cannot use the server (DNS rebinding)."""
    answer = new_client().post("/v1/completions", json=BODY, headers={"Host": host})
    assert code(answer) == (403, "host_not_allowed")


def test_hosts_can_be_allowed(new_client: NewClient) -> None:
    header = {"Host": "models.example:80"}
    assert new_client(allow_hosts=("models.example",)).get("/", headers=header).status_code == 200
    assert new_client(allow_hosts=("*",)).get("/", headers=header).status_code == 200
    assert new_client(allow_hosts=("Models.Example",)).get("/", headers=header).is_success
    assert new_client(allow_hosts=("fe80::1",)).get("/", headers={"Host": "[FE80::1]"}).is_success


@pytest.mark.parametrize(
    "header", [None, "Bearer wrong", "Bearer", "Basic secret", "Bearer secret2", "Bearer sécret"]
)
def test_a_wrong_key_is_refused(new_client: NewClient, header: str | None) -> None:
    client = new_client(api_key="secret")
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    for answer in (
        client.post("/v1/completions", json=BODY, headers=headers),
        client.get("/v1/models", headers=headers),
        client.get("/metrics", headers=headers),
    ):
        assert code(answer) == (401, "invalid_api_key")
        assert answer.headers["www-authenticate"] == "Bearer"


def test_the_right_key_is_accepted(new_client: NewClient) -> None:
    client = new_client(api_key="secret")
    headers = {"Authorization": "Bearer secret"}
    assert client.post("/v1/completions", json=BODY, headers=headers).status_code == 200
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize("key", ["", "two words", "sécret", "a\n"])
def test_a_bad_key_is_refused_at_the_start(key: str) -> None:
    with pytest.raises(OptionError, match="use another key"):
        Settings(api_key=key)


# Web pages of other origins


PREFLIGHT = {
    "Origin": "https://page.example",
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "content-type,authorization",
}


def test_cors_is_off(new_client: NewClient) -> None:
    client = new_client()
    answer = client.options("/v1/completions", headers=PREFLIGHT)
    assert answer.status_code == 405
    assert "access-control-allow-origin" not in answer.headers
    answer = client.post("/v1/completions", json=BODY, headers={"Origin": "https://page.example"})
    assert "access-control-allow-origin" not in answer.headers


def test_cors_for_named_origins(new_client: NewClient) -> None:
    client = new_client(allow_origins=("https://page.example",), api_key="secret")
    answer = client.options("/v1/completions", headers=PREFLIGHT)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://page.example"
    answer = client.post("/v1/completions", json=BODY, headers={"Origin": "https://page.example"})
    assert code(answer) == (401, "invalid_api_key")
    assert answer.headers["access-control-allow-origin"] == "https://page.example"
    other = client.options(
        "/v1/completions", headers={**PREFLIGHT, "Origin": "https://evil.example"}
    )
    assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_bodies_that_browsers_send_unasked_are_refused(new_client: NewClient, kind: str) -> None:
    answer = new_client().post(
        "/v1/completions", content=json.dumps(BODY), headers={"Content-Type": kind}
    )
    assert answer.status_code == 415


# Limits


def test_the_body_is_limited(new_client: NewClient) -> None:
    client = new_client(max_body_bytes=100)
    headers = {"Content-Type": "application/json"}
    large = json.dumps({**BODY, "prompt": "a" * 100})
    assert client.post("/v1/completions", content=large, headers=headers).status_code == 413
    chunks = iter([large[:50].encode(), large[50:].encode()])  # without a Content-Length
    assert client.post("/v1/completions", content=chunks, headers=headers).status_code == 413
    assert client.post("/v1/completions", json=BODY).status_code == 200


@pytest.mark.parametrize(
    ("settings", "fields", "message"),
    [
        ({"max_prompt_tokens": 2}, {"prompt": "Once upon a time"}, "the limit is 2"),
        ({"max_tokens": 2}, {}, "an integer from 0 to 2"),
        ({"max_texts": 2}, {"n": 3}, "an integer from 1 to 2"),
        ({"max_texts": 2}, {"num_beams": 3}, "the limit is 2 together"),
        ({"max_constraint_chars": 5}, {"json_schema": {"type": "string"}}, "the limit is 5"),
        ({"max_constraint_chars": 5}, {"grammar": "start: A"}, "the limit is 5"),
        ({"max_constraint_chars": 5}, {"choices": ["abc", "def"]}, "the limit is 5"),
    ],
)
def test_limits_are_settings(
    new_client: NewClient, settings: dict[str, Any], fields: dict[str, Any], message: str
) -> None:
    answer = new_client(**settings).post("/v1/completions", json={**BODY, **fields})
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


def test_a_full_queue_refuses_requests(new_client: NewClient, gate: Gate) -> None:
    client = new_client(gate.model, max_concurrent=1, max_queue=1)
    with ThreadPoolExecutor() as threads:
        first = threads.submit(client.post, "/v1/completions", json=BODY)
        second = threads.submit(client.post, "/v1/completions", json={**BODY, "stream": True})
        poll(lambda: running(client) == 2)
        for stream in (False, True):
            answer = client.post("/v1/completions", json={**BODY, "stream": stream})
            assert code(answer) == (429, "queue_full")
            assert answer.headers["retry-after"] == "1"
        gate.open()
        assert first.result().status_code == second.result().status_code == 200
    assert running(client) == 0
    assert client.post("/v1/completions", json=BODY).status_code == 200


def test_streams_that_come_at_once_fill_the_queue(new_client: NewClient, gate: Gate) -> None:
    client = new_client(gate.model, max_concurrent=1, max_queue=1)
    body = {**BODY, "stream": True}
    with ThreadPoolExecutor(20) as threads:
        answers = [threads.submit(client.post, "/v1/completions", json=body) for _ in range(20)]
        poll(lambda: sum(answer.done() for answer in answers) == 18)
        gate.open()
        statuses = [answer.result().status_code for answer in answers]
    assert sorted(statuses) == [200] * 2 + [429] * 18


def test_texts_at_once_are_limited_in_order_of_arrival(new_client: NewClient, gate: Gate) -> None:
    client = new_client(gate.model, max_texts=4)
    bodies = [{**BODY, "temperature": 1, "n": n} for n in (3, 2, 1)]
    with ThreadPoolExecutor() as threads:
        answers = []
        for count, body in enumerate(bodies, 1):
            answers.append(threads.submit(client.post, "/v1/completions", json=body))
            poll(lambda count=count: running(client) == count)  # type: ignore[misc]
        lines = client.get("/metrics").text.splitlines()
        assert 'edgeseq_requests_running{model="demo"} 1' in lines
        assert 'edgeseq_requests_waiting{model="demo"} 2' in lines
        assert 'edgeseq_batch_size{model="demo"} 3' in lines
        gate.open()
        assert [len(answer.result().json()["choices"]) for answer in answers] == [3, 2, 1]


def test_a_request_that_waits_too_long_is_refused(new_client: NewClient, gate: Gate) -> None:
    client = new_client(gate.model, max_concurrent=1, request_s=0.2)
    with ThreadPoolExecutor() as threads:
        first = threads.submit(client.post, "/v1/completions", json=BODY)
        poll(lambda: running(client) == 1)
        assert code(client.post("/v1/completions", json=BODY)) == (503, "timeout")
        stream = client.post("/v1/completions", json={**BODY, "stream": True})
        assert '"code":"timeout"' in stream.text
        assert "[DONE]" not in stream.text
        gate.open()
        first.result()


def test_a_request_ends_after_its_time(new_client: NewClient) -> None:
    client = new_client(request_s=0.05)
    answer = client.post("/v1/completions", json={**BODY, "max_tokens": 500})
    [choice] = answer.json()["choices"]
    assert choice["finish_reason"] == "length"
    assert answer.json()["usage"]["completion_tokens"] < 500
    assert 'edgeseq_cancelled_total{model="demo"} 1' in client.get("/metrics").text


def test_scoring_ends_after_its_time(new_client: NewClient) -> None:
    body = {"prompt": ["a " * 400] * 64, "echo": True, "logprobs": 0, "max_tokens": 0}
    answer = new_client(request_s=0.01).post("/v1/completions", json=body)
    assert code(answer) == (503, "timeout")


@pytest.mark.parametrize("value", [0, -1, 1.5, "3", True, float("nan"), None])
def test_bad_limits_are_refused(value: Any) -> None:
    with pytest.raises(OptionError, match=r"max_tokens is .* must be an integer of at least 1"):
        Settings(max_tokens=value)


# Logs

OURS = ("edgeseq.serving", "uvicorn.error")


def test_the_log_has_no_prompt(new_client: NewClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "edgeseq")
    client = new_client()
    secret = "A secret prompt"
    answer = client.post("/v1/completions?key=secret", json={**BODY, "prompt": secret})
    client.get("/secret")
    logged = "\n".join(record.getMessage() for record in caplog.records if record.name in OURS)
    assert f"{answer.headers['x-request-id']} POST /v1/completions 200" in logged
    assert "GET unknown 404" in logged
    assert "secret" not in logged


def test_prompts_are_logged_if_asked(
    new_client: NewClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    new_client(log_prompts=True).post("/v1/completions", json=BODY)
    assert "Once upon" in caplog.text


@pytest.mark.parametrize("log_prompts", [False, True])
def test_an_unexpected_error_has_an_id(
    new_client: NewClient,
    gate: Gate,
    caplog: pytest.LogCaptureFixture,
    log_prompts: bool,
) -> None:
    def broken(prompts: Any, capacity: int) -> Any:
        raise ZeroDivisionError("secret")

    client = new_client(gate.model.with_decoders(broken), log_prompts=log_prompts)
    answer = client.post("/v1/completions", json=BODY)
    assert answer.status_code == 500
    error = answer.json()["error"]
    assert error["type"] == "server_error"
    assert answer.headers["x-request-id"] in error["message"]
    assert "secret" not in answer.text
    assert f"{answer.headers['x-request-id']}: unexpected ZeroDivisionError" in caplog.text
    assert ("secret" in caplog.text) == log_prompts
