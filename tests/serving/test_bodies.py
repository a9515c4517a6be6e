"""Bodies that are not what they should be: a clear error, and never a status of 500 or more."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from edgeseq.serving.chat import FIELDS as CHAT_FIELDS
from edgeseq.serving.completions import FIELDS
from edgeseq.serving.options import OWN
from tests.serving.conftest import NewClient

HEADERS = {"Content-Type": "application/json"}
PATHS = ("/v1/completions", "/v1/chat/completions", "/v1/tasks/summarization", "/tokenize")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b'"a"', "must be a JSON object"),
        (b'{"seed": NaN}', "NaN is not a JSON number"),
        (b'{"seed": -Infinity}', "-Infinity is not a JSON number"),
        (b'{"seed": 1e999}', "1e999 is too large"),
        (b'{"seed": ' + b"1" * 5000 + b"}", "not valid JSON"),
        (b'{"n": 1, "n": 2}', "the key 'n' occurs twice"),
        (b'{"prompt": "\\ud800"}', "lone surrogate"),
        (b'{"\\uDC00": 1}', "lone surrogate"),
        (b'{"a": ' + b"[" * 101 + b"]" * 101 + b"}", "more than 100 levels"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "more than 100 levels"),
        (b'{"a": ' + b'{"a": ' * 50_000 + b"1" + b"}" * 50_001, "more than 100 levels"),
    ],
    ids=lambda item: str(item)[:30],
)
def test_bad_json_is_refused(client: TestClient, body: bytes, message: str) -> None:
    for path in PATHS:
        answer = client.post(path, content=body, headers=HEADERS)
        assert answer.status_code == 400
        assert message in answer.json()["error"]["message"]


def test_a_surrogate_pair_is_a_character(client: TestClient) -> None:
    body = b'{"model": "demo-gpt2", "prompt": "\\ud83d\\ude00", "max_tokens": 1}'
    assert client.post("/v1/completions", content=body, headers=HEADERS).status_code == 200


@pytest.mark.parametrize("field", ["stop", "presence_penalty", "logit_bias"])
def test_a_field_without_effect_is_refused(client: TestClient, field: str) -> None:
    body = {"model": "demo-gpt2", "prompt": "A", "choices": ["b", "c"], field: "x"}
    answer = client.post("/v1/completions", json=body)
    assert answer.status_code == 400
    expected = f"{field} has no effect with the other fields: leave it out."
    assert answer.json()["error"]["message"] == expected


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.integers(-3, 5)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
GOOD: dict[str, st.SearchStrategy[Any]] = {
    "prompt": st.text(max_size=20) | st.lists(st.text(max_size=5) | st.integers(0, 50), max_size=3),
    "stream": st.booleans(),
    "echo": st.booleans(),
    "logprobs": st.integers(0, 5),
    "n": st.integers(1, 3),
    "best_of": st.integers(1, 3),
    "num_beams": st.integers(1, 3),
    "stop": st.text(max_size=3) | st.lists(st.text(max_size=3), max_size=3),
    "seed": st.integers(-9, 9),
    "temperature": st.sampled_from([0, 0.5, 1]),
    "choices": st.lists(st.text(max_size=5), max_size=3),
    "regex": st.text(alphabet="ab.*+?()[]|", max_size=8),
    "logit_bias": st.dictionaries(st.integers(0, 2000).map(str), st.floats(-100, 100), max_size=3),
}
BODIES = st.builds(
    lambda good, wild: {"max_tokens": 2, **good, **wild},
    st.fixed_dictionaries({}, optional=GOOD),
    st.dictionaries(
        st.sampled_from([*FIELDS, *CHAT_FIELDS, *OWN]) | st.text(max_size=6), JSON, max_size=2
    ),
)
FUZZED = settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@FUZZED
@given(body=BODIES, model=st.sampled_from(["demo-gpt2", "demo-t5"]))
def test_fuzzed_completions_are_no_server_errors(
    client: TestClient, body: dict[str, Any], model: str
) -> None:
    answer = client.post("/v1/completions", json={**body, "model": model})
    check(answer)


@FUZZED
@given(body=st.dictionaries(st.sampled_from([*CHAT_FIELDS, "x"]), JSON, max_size=3))
def test_fuzzed_chats_are_no_server_errors(client: TestClient, body: dict[str, Any]) -> None:
    check(client.post("/v1/chat/completions", json={"model": "demo-gpt2", **body}))


@FUZZED
@given(
    path=st.sampled_from(["/v1/tasks/summarization", "/v1/tasks/x", "/tokenize", "/detokenize"]),
    body=st.dictionaries(st.sampled_from(["text", "prompt", "tokens", "num_beams"]), JSON),
)
def test_fuzzed_tasks_are_no_server_errors(
    client: TestClient, path: str, body: dict[str, Any]
) -> None:
    body.setdefault("max_new_tokens", 2) if "tasks" in path else None
    check(client.post(path, json={"model": "demo-t5", **body}))


@FUZZED
@given(body=st.binary(max_size=60), path=st.sampled_from(PATHS))
def test_fuzzed_bytes_are_no_server_errors(client: TestClient, body: bytes, path: str) -> None:
    check(client.post(path, content=body, headers=HEADERS))


def check(answer: Any) -> None:
    """Check that an answer is no server error, also not within a stream."""
    assert answer.status_code < 500, answer.text
    if answer.status_code != 200:
        assert answer.json()["error"]["message"]
    assert "server_error" not in answer.text
    assert "Traceback" not in answer.text


def test_a_slow_check_is_refused(new_client: NewClient) -> None:
    client = new_client(constraint_s=0.01)
    body = {"prompt": "a " * 500_000, "max_tokens": 1}
    answer = client.post("/v1/completions", content=json.dumps(body), headers=HEADERS)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "timeout"


def test_many_keys_and_long_names_take_no_time(client: TestClient) -> None:
    keys = ",".join(f'"k{i}":1' for i in range(80_000))
    for body in (f'{{{keys},"k0":1}}', f'{{"{"x" * 900_000}":1}}'):
        answer = client.post("/v1/completions", content=body, headers=HEADERS)
        assert answer.status_code == 400
        assert len(answer.text) < 1000


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stop", ["x" * 1025]),
        ("stop", ["x" * 600, "y" * 600]),
        ("decoder_input_ids", [[5] * 3000]),
        ("bad_words_ids", [[5] * 3000]),
    ],
)
def test_long_values_are_refused(client: TestClient, field: str, value: Any) -> None:
    body = {"model": "demo-t5", "prompt": "a", field: value}
    answer = client.post("/v1/completions", content=json.dumps(body), headers=HEADERS)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == field
