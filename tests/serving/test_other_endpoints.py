"""Models, health, figures, tasks and tokens."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from starlette.testclient import TestClient

from edgeseq.runtime import EdgeseqError, Model, OptionError
from edgeseq.runtime.tasks.templates import template_names
from edgeseq.serving import create_app
from tests.support.processes import poll


def test_models_are_listed(client: TestClient) -> None:
    found = client.get("/v1/models").json()
    assert found["object"] == "list"
    assert [model["id"] for model in found["data"]] == ["demo-gpt2", "demo-t5"]
    for model in found["data"]:
        assert client.get(f"/v1/models/{model['id']}").json() == model
        assert model["object"] == "model"
    assert [model["kind"] for model in found["data"]] == ["decoder-only", "encoder-decoder"]
    answer = client.get("/v1/models/gpt-4")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(("method", "status"), [("GET", 405), ("DELETE", 405)])
def test_other_methods_are_refused(client: TestClient, method: str, status: int) -> None:
    answer = client.request(method, "/v1/completions")
    assert answer.status_code == status
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_health_while_models_are_loaded(demo_gpt2: Model) -> None:
    loaded = threading.Event()

    def load_later() -> Model:
        assert loaded.wait(60)
        return demo_gpt2

    with TestClient(create_app({"demo": load_later}), base_url="http://localhost") as client:
        answer = client.get("/health")
        assert (answer.status_code, answer.json()) == (503, {"status": "loading"})
        assert client.get("/v1/models").json()["data"] == []
        answer = client.post("/v1/completions", json={"prompt": "a"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "loading")
        assert answer.headers["retry-after"]
        loaded.set()
        poll(lambda: client.get("/health").status_code == 200)
        answer = client.post("/v1/completions", json={"prompt": "a", "max_tokens": 1})
        assert answer.status_code == 200


def test_a_model_that_cannot_be_loaded_is_an_error() -> None:
    def load_never() -> Model:
        raise EdgeseqError("no such thing")

    app = create_app({"demo": load_never})
    with TestClient(app, base_url="http://localhost") as client:
        poll(lambda: app.state.server.models.error is not None)
        assert client.get("/health").json() == {"status": "error"}
        answer = client.post("/v1/completions", json={"prompt": "a"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_loaded")


def test_there_must_be_a_model() -> None:
    with pytest.raises(OptionError, match="There is no model to serve"):
        create_app({})


def test_a_single_model_has_the_name_of_its_folder(demo_t5: Model) -> None:
    with TestClient(create_app(demo_t5), base_url="http://localhost") as client:
        answer = client.post("/v1/completions", json={"prompt": "pronounce: fox"})
        assert answer.json()["model"] == "t5"


def test_figures_are_in_the_form_of_prometheus(client: TestClient) -> None:
    client.post("/v1/completions", json={"model": "demo-gpt2", "prompt": "a", "max_tokens": 3})
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.text.splitlines()
    names = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    for line in lines:
        if not line.startswith("#"):
            name = line.partition("{")[0]
            for end in ("_bucket", "_sum", "_count"):
                name = name.removesuffix(end)
            assert name in names
            assert float(line.rpartition(" ")[2]) >= 0
    assert any(
        line.startswith('edgeseq_generated_tokens_total{model="demo-gpt2"}') for line in lines
    )
    first = "edgeseq_time_to_first_token_seconds_count"
    assert any(line.startswith(first) for line in lines)


# Tasks


def test_tasks_are_listed(client: TestClient) -> None:
    found = client.get("/v1/tasks").json()
    assert found["object"] == "list"
    tasks = {task["id"]: task for task in found["data"]}
    assert list(tasks) == template_names()
    assert tasks["extraction"]["fields"] == ["text", "what"]
    assert tasks["extraction"]["defaults"] == {"what": "name"}
    assert tasks["completion"]["forms"] == {"decoder-only": {"labels": []}}
    labels = tasks["classification"]["forms"]["encoder-decoder"]["labels"]
    assert labels == ["positive", "negative"]


def run(client: TestClient, task: str, **fields: Any) -> Any:
    return client.post(f"/v1/tasks/{task}", json={"model": "demo-gpt2", **fields})


def test_a_task_answers_as_the_model_does(client: TestClient, demo_gpt2: Model) -> None:
    texts = ["What a happy day!", "How sad."]
    expected = demo_gpt2.run("classification", texts)
    assert isinstance(expected, list)
    answer = run(client, "classification", text=texts).json()
    assert (answer["object"], answer["task"]) == ("task", "classification")
    for found, result in zip(answer["results"], expected, strict=True):
        assert found["text"] == result.text
        assert {item["label"]: item["probability"] for item in found["probabilities"]} == (
            pytest.approx(result.probabilities)
        )
    one = run(client, "classification", text=texts[0]).json()
    assert one["results"] == answer["results"][:1]


def test_a_task_takes_edgeseqs_options(client: TestClient, demo_gpt2: Model) -> None:
    options = {"do_sample": False, "max_new_tokens": 6}
    expected = demo_gpt2.run("completion", "The king", **options)
    answer = run(client, "completion", text="The king", **options).json()
    assert [item["text"] for item in answer["results"]] == [expected.text]  # type: ignore[union-attr]
    assert answer["results"][0]["probabilities"] is None
    assert answer["usage"]["completion_tokens"] == 6


@pytest.mark.parametrize(
    ("task", "fields", "status", "message"),
    [
        ("nothing", {}, 404, "choose from anonymization"),
        ("x.toml", {"text": "a"}, 404, "choose from anonymization"),
        ("completion", {}, 400, "text is None"),
        ("completion", {"text": [1]}, 400, "text is [1]"),
        ("completion", {"text": "a", "max_new_tokens": 5000}, 400, "the limit is 2048"),
        ("completion", {"text": ["a"] * 65}, 400, "the limit is 64 together"),
        ("completion", {"text": "a", "max_tokens": 5}, 400, "There is no field 'max_tokens'"),
        ("open-book-question-answering", {"question": "a", "context": 1}, 400, "context is 1"),
        ("open-book-question-answering", {"question": "a"}, 400, "context is missing"),
        ("completion", {"text": "a", "num_return_sequences": 2}, 400, "has one answer"),
    ],
)
def test_a_bad_task_is_refused(
    client: TestClient, task: str, fields: dict[str, Any], status: int, message: str
) -> None:
    answer = run(client, task, **fields)
    assert answer.status_code == status, answer.text
    assert message in answer.json()["error"]["message"]


# Tokens


def test_tokens_and_back(client: TestClient, demo_t5: Model) -> None:
    body = {"model": "demo-t5", "prompt": "pronounce: fox"}
    answer = client.post("/tokenize", json=body).json()
    ids = demo_t5.tokenizer.encode(body["prompt"])
    assert answer == {"tokens": ids, "count": len(ids), "max_model_len": None}
    plain = client.post("/tokenize", json={**body, "add_special_tokens": False}).json()
    assert plain["tokens"] == ids[:-1]
    back = client.post("/detokenize", json={"model": "demo-t5", "tokens": ids})
    assert back.json() == {"prompt": body["prompt"]}


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/tokenize", {"prompt": 1}, "prompt is 1"),
        ("/tokenize", {"prompt": "a", "text": "b"}, "There is no field 'text'"),
        ("/detokenize", {"tokens": "a"}, "tokens is 'a'"),
        ("/detokenize", {"tokens": [-1]}, "token ids are integers"),
        ("/detokenize", {"tokens": [10**9]}, "token ids are integers"),
        ("/detokenize", {"tokens": ["a"]}, "token ids are integers"),
    ],
)
def test_bad_tokens_are_refused(
    client: TestClient, path: str, body: dict[str, Any], message: str
) -> None:
    answer = client.post(path, json={"model": "demo-gpt2", **body})
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]
