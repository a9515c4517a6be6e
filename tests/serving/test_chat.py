"""Chat templates: from the checkpoint into the bundle, and ``/v1/chat/completions``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from edgeseq.export import export_checkpoint
from edgeseq.runtime import Model, load
from edgeseq.serving import create_app

TEMPLATE = """\
{% for message in messages -%}
{% if message.role == "tool" %}{{ raise_exception("No tools.") }}{% endif %}
{{ bos_token }}{{ message.role }}: {{ message.content | tojson }}
{% endfor -%}
{% if add_generation_prompt %}assistant:{% endif %}"""
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hällo <b>"}]


@pytest.fixture(scope="module")
def checkpoint_with_template(make_checkpoint: Callable[..., Path]) -> Path:
    folder = make_checkpoint()
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings |= {"chat_template": TEMPLATE, "bos_token": "<|endoftext|>"}
    path.write_text(json.dumps(settings), encoding="utf-8")
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    return folder


@pytest.fixture(scope="module")
def chat_model(checkpoint_with_template: Path, tmp_path_factory: Any) -> Model:
    out = tmp_path_factory.mktemp("chat") / "bundle"
    return load(export_checkpoint(checkpoint_with_template, out).folder, threads=1)


@pytest.fixture(scope="module")
def chat_client(chat_model: Model) -> Any:
    with TestClient(create_app({"chat": chat_model}), base_url="http://localhost") as found:
        yield found


@pytest.fixture(scope="module")
def prompt(checkpoint_with_template: Path) -> list[int]:
    """The token ids of ``MESSAGES`` in Transformers."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint_with_template)
    ids: list[int] = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True)
    return ids


def ask(client: TestClient, **fields: Any) -> Any:
    body = {"messages": MESSAGES, "temperature": 0, "max_tokens": 6, **fields}
    return client.post("/v1/chat/completions", json=body)


def test_export_keeps_the_template(chat_model: Model) -> None:
    chat = chat_model.bundle.manifest.tokenizer.chat
    assert chat is not None
    assert chat.template == TEMPLATE
    assert chat.special_tokens["bos_token"] == "<|endoftext|>"


def test_the_prompt_is_that_of_transformers(
    chat_client: TestClient, chat_model: Model, prompt: list[int]
) -> None:
    [expected] = chat_model.generate_ids([prompt], do_sample=False, max_new_tokens=6)
    answer = ask(chat_client).json()
    assert answer["object"] == "chat.completion"
    [choice] = answer["choices"]
    assert choice["message"] == {
        "role": "assistant",
        "content": expected.text,
        "refusal": None,
    }
    assert answer["usage"]["prompt_tokens"] == len(prompt)
    parts = [{"type": "text", "text": "Hällo"}, {"type": "text", "text": " <b>"}]
    messages = [MESSAGES[0], {"role": "user", "content": parts}]
    again = ask(chat_client, messages=messages, max_tokens=None, max_completion_tokens=6)
    assert again.json()["choices"] == answer["choices"]


def test_a_stream_joins_to_the_answer(chat_client: TestClient) -> None:
    fields = {"logprobs": True, "top_logprobs": 2, "n": 2, "temperature": 1, "seed": 1}
    expected = ask(chat_client, **fields).json()
    streamed = ask(chat_client, stream=True, stream_options={"include_usage": True}, **fields)
    lines = [line for line in streamed.text.split("\n\n") if line.startswith("data: ")]
    assert lines.pop() == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert chunks.pop()["usage"] == expected["usage"]
    for index, choice in enumerate(expected["choices"]):
        own = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == index]
        assert own[0]["delta"] == {"role": "assistant", "content": ""}
        text = "".join(part["delta"].get("content", "") for part in own)
        assert text == choice["message"]["content"]
        assert own[-1]["finish_reason"] == choice["finish_reason"]
        tokens = [t for part in own if part["logprobs"] for t in part["logprobs"]["content"]]
        assert tokens == choice["logprobs"]["content"]
        assert all(len(token["top_logprobs"]) == 2 for token in tokens)


def test_a_schema_is_followed(chat_client: TestClient) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "boolean"}}}
    answer = ask(chat_client, response_format=form).json()
    assert answer["choices"][0]["message"]["content"] in ("true", "false")


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"messages": None}, "messages", "must be a list of messages"),
        ({"messages": ["a"]}, "messages", "messages[0] is 'a'; it must be an object"),
        ({"messages": [{"role": "x", "content": ""}]}, "messages", "role is 'x'; it must be"),
        ({"messages": [{"role": "user"}]}, "messages", "content is None; it must be a text"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages", "part"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages", "refuses the messages: No"),
        ({"messages": [{"role": "user", "content": "", "x": 1}]}, "messages", "unknown field 'x'"),
        ({"tools": []}, "tools", "There is no field 'tools'"),
        ({"best_of": 2}, "best_of", "There is no field 'best_of'"),
        ({"top_logprobs": 1}, "top_logprobs", "no effect without logprobs"),
        ({"max_completion_tokens": 1}, "max_tokens", "no effect with max_completion_tokens"),
        ({"response_format": {"type": "x"}}, "response_format", "its type must be"),
    ],
    ids=lambda item: str(item)[:40],
)
def test_a_bad_field_is_named(
    chat_client: TestClient, fields: dict[str, Any], param: str, message: str
) -> None:
    answer = ask(chat_client, **fields)
    assert answer.status_code == 400, answer.text
    assert message in answer.json()["error"]["message"]
    assert answer.json()["error"]["param"] == param


def test_a_model_without_template_points_to_completions(client: TestClient) -> None:
    answer = ask(client, model="demo-gpt2")
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "no_chat_template"
    assert error["message"].endswith("has no chat template: use /v1/completions.")


def test_a_template_cannot_leave_its_sandbox(chat_model: Model) -> None:
    from edgeseq.runtime.bundle.manifest import ChatFormat
    from edgeseq.serving.chat import render
    from edgeseq.serving.errors import ApiError

    for template in (
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{{ messages[0] + 1 }}",
        "{{ unclosed",
    ):
        with pytest.raises(ApiError, match="cannot be filled"):
            render(ChatFormat(template=template, special_tokens={}), MESSAGES)
