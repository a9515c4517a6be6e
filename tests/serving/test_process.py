"""``edgeseq serve`` as a process: signals, connections that stall, and usage errors."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
import pytest

from edgeseq.runtime.bundle.demo_bundles import demo_bundle
from edgeseq.serving.server import listen
from tests.serving.conftest import running_server
from tests.support.commands import Captured, failure, wrong_usage
from tests.support.processes import poll

posix_only = pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
LONG = {"model": "demo-gpt2", "prompt": "Once upon", "max_tokens": 480, "n": 8, "stream": True}


def wait_until_ready(url: str) -> None:
    poll(lambda: httpx.get(f"{url}/health", timeout=60).status_code == 200)


@posix_only
def test_running_requests_end_after_sigterm() -> None:
    with running_server("--demo", "--threads", "1") as (process, url):
        wait_until_ready(url)
        with (
            httpx.Client(base_url=url, timeout=60) as other,
            httpx.stream("POST", f"{url}/v1/completions", json=LONG, timeout=60) as answer,
        ):
            lines = answer.iter_lines()
            while not next(lines).startswith("data: "):
                pass
            process.send_signal(signal.SIGTERM)
            poll(lambda: other.get("/health").status_code == 503)
            refused = other.post("/v1/completions", json={**LONG, "stream": False})
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "stopping"
            rest = list(lines)
        assert [line for line in rest if line][-1] == "data: [DONE]"
        assert process.wait(60) == 0


@posix_only
def test_requests_are_cancelled_after_their_time_to_end() -> None:
    with running_server("--demo", "--threads", "1", "--shutdown-time", "0") as (process, url):
        wait_until_ready(url)
        with httpx.stream("POST", f"{url}/v1/completions", json=LONG, timeout=60) as answer:
            lines = answer.iter_lines()
            while not next(lines).startswith("data: "):
                pass
            process.send_signal(signal.SIGTERM)
            rest = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        tokens = len([chunk for chunk in rest if chunk.get("choices")])
        assert tokens < 480 * 8
        assert process.wait(60) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_idle_server_sleeps() -> None:
    with running_server("--demo", "--threads", "1") as (process, url):
        wait_until_ready(url)

        def slept() -> bool:
            """Whether nothing woke up in half a second; the start may take longer to settle."""
            before = wake_ups(process.pid)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.5)
            return wake_ups(process.pid) == before

        poll(slept)
        date = httpx.get(f"{url}/health").headers["date"]
        assert abs(parsedate_to_datetime(date) - datetime.now(UTC)) < timedelta(minutes=1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def wake_ups(pid: int) -> int:
    """Return how often the threads of a process have waited for something so far."""
    statuses = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")]
    found = [re.search(r"^voluntary_ctxt_switches:\s*(\d+)", text, re.M) for text in statuses]
    return sum(int(match[1]) for match in found if match)


@posix_only
def test_ctrl_c_ends_the_server() -> None:
    with running_server("--demo", "--threads", "1") as (process, url):
        wait_until_ready(url)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130


def test_connections_that_stall_are_closed() -> None:
    with running_server("--demo", "--threads", "1", "--stall-time", "0.3") as (_, url):
        wait_until_ready(url)
        host, port = url.removeprefix("http://").split(":")
        for start in (b"", b"POST /v1/completions HTTP/1.1\r\nHost: loc"):
            with socket.create_connection((host, int(port)), timeout=60) as connection:
                connection.sendall(start)
                assert connection.recv(1) == b""  # closed by the server
        assert httpx.get(f"{url}/health", timeout=60).status_code == 200


@contextlib.contextmanager
def asked_for_much(url: str, *, receive_bytes: int, stream: bool) -> Iterator[socket.socket]:
    """Yield a connection on which an answer comes that fills the memory of both sockets."""
    host, port = url.removeprefix("http://").split(":")
    prompt = "Once upon a time " * 100
    fields = {"model": "demo-gpt2", "prompt": prompt, "n": 64, "echo": True, "logprobs": 5}
    body = json.dumps({**fields, "max_tokens": 1, "stream": stream}).encode()
    head = (
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        connection.connect((host, int(port)))
        connection.sendall(head.encode() + body)
        yield connection


def test_a_client_that_reads_nothing_is_disconnected() -> None:
    with running_server("--demo", "--threads", "1", "--stall-time", "0.5") as (_, url):
        wait_until_ready(url)
        with asked_for_much(url, receive_bytes=4096, stream=True) as connection:
            answered = 'edgeseq_requests_total{route="/v1/completions",status="200"} 1'
            with httpx.Client(base_url=url, timeout=60) as other:
                poll(lambda: answered in other.get("/metrics").text)
            connection.settimeout(60)
            found = bytearray()
            with contextlib.suppress(ConnectionResetError):
                while part := connection.recv(2**20):
                    found += part
        assert found.startswith(b"HTTP/1.1 200 OK")
        assert b"[DONE]" not in found


def test_parts_of_an_answer_are_sent_at_once() -> None:
    """asyncio sets TCP_NODELAY on connections of a listener whose protocol is TCP by name."""
    with listen("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP


def test_the_key_comes_from_the_environment() -> None:
    with running_server("--demo", EDGESEQ_API_KEY="secret") as (_, url):
        assert httpx.get(f"{url}/v1/models", timeout=60).status_code == 401
        header = {"Authorization": "Bearer secret"}
        assert httpx.get(f"{url}/v1/models", headers=header, timeout=60).status_code == 200


def test_bundles_are_named_by_folder_or_by_name() -> None:
    path = demo_bundle("gpt2")
    with running_server("--bundle", str(path), "-b", f"other={path}") as (_, url):
        wait_until_ready(url)
        found = httpx.get(f"{url}/v1/models", timeout=60).json()["data"]
        assert [model["id"] for model in found] == ["gpt2", "other"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bundle", "nowhere"], "nowhere"),
        (["--demo", "--bundle", f"demo-t5={demo_bundle('t5')}"], "Two models have the name"),
        (["--demo", "--bundle", f"a/b={demo_bundle('t5')}"], "must not have slashes"),
        (["--demo", "--max-tokens", "0"], "max_tokens is 0; it must be an integer of at least 1"),
        (["--demo", "--api-key", "a b"], "use another key"),
        (["--demo", "--port", "70000"], "port is 70000"),
        (["--demo", "--host", "192.0.2.1"], "The address 192.0.2.1:8000 cannot be used"),
    ],
)
def test_bad_arguments_are_one_sentence(
    capsys: Captured, arguments: list[str], message: str
) -> None:
    assert message in failure(capsys, "serve", *arguments)


def test_an_empty_key_does_not_open_the_server(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGESEQ_API_KEY", "")
    assert "The API key is empty" in failure(capsys, "serve", "--demo")


def test_there_must_be_a_bundle(capsys: Captured) -> None:
    assert "with --bundle, or --demo" in wrong_usage(capsys, "serve")


def test_a_port_that_is_taken(capsys: Captured) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = failure(capsys, "serve", "--demo", "--port", str(port))
    assert f"The address 127.0.0.1:{port} cannot be used" in message


def test_a_damaged_bundle_ends_the_server(capsys: Captured, tmp_path: Path) -> None:
    import shutil

    bundle = tmp_path / "damaged"
    shutil.copytree(demo_bundle("gpt2"), bundle)
    (bundle / "tokenizer.json").write_text("{", encoding="utf-8")
    message = failure(capsys, "serve", "--bundle", str(bundle), "--port", "0")
    assert "tokenizer.json" in message


def test_a_client_that_reads_steadily_gets_its_whole_answer() -> None:
    """Also if it takes longer than the limit for clients that read nothing."""
    with running_server("--demo", "--threads", "1", "--stall-time", "0.4") as (_, url):
        wait_until_ready(url)
        with asked_for_much(url, receive_bytes=65536, stream=False) as connection:
            connection.settimeout(60)
            found, pause = bytearray(), threading.Event()
            while part := connection.recv(2**18):
                found += part
                pause.wait(0.01)
        length = int(re.search(rb"content-length: (\d+)", found)[1])  # type: ignore[index]
        assert len(found.partition(b"\r\n\r\n")[2]) == length
