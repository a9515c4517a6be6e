"""The official clients of OpenAI's API and LangChain's, beside a server in a process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from edgeseq.runtime import Model

PROMPT = "Once upon a time"
GREEDY = {"do_sample": False, "repetition_penalty": 1.0}
SAMPLING = {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0}
PLAIN = {**SAMPLING, "repetition_penalty": 1.0}
PROMPTS = {"demo-gpt2": PROMPT, "demo-t5": "pronounce: fox"}


@pytest.fixture(scope="module")
def api(server_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server_url}/v1", api_key="none", max_retries=5) as client:
        while not ready(client):
            pass
        yield client


def ready(client: openai.OpenAI) -> bool:
    """Return whether all models are loaded; the client waits between its tries."""
    return len(client.models.list().data) == 2


@pytest.fixture(params=["demo-gpt2", "demo-t5"])
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def model(name: str, demo_gpt2: Model, demo_t5: Model) -> Model:
    return {"demo-gpt2": demo_gpt2, "demo-t5": demo_t5}[name]


def test_models(api: openai.OpenAI, name: str) -> None:
    assert [model.id for model in api.models.list()] == ["demo-gpt2", "demo-t5"]
    assert api.models.retrieve(name).owned_by == "edgeseq"


def test_a_completion(api: openai.OpenAI, name: str, model: Model) -> None:
    prompt = PROMPTS[name]
    [expected] = model.generate(prompt, max_new_tokens=12, **GREEDY)
    found = api.completions.create(model=name, prompt=prompt, temperature=0, max_tokens=12)
    [choice] = found.choices
    assert choice.text == expected.text
    assert choice.finish_reason == ("length" if expected.finish_reason == "length" else "stop")
    assert found.usage is not None
    assert found.usage.prompt_tokens == expected.prompt_tokens
    assert found.usage.completion_tokens == expected.generated_tokens


def test_sampling_by_seed_and_n(api: openai.OpenAI, name: str, model: Model) -> None:
    prompt = PROMPTS[name]
    expected = model.generate(prompt, max_new_tokens=16, seed=7, num_return_sequences=3, **PLAIN)
    found = api.completions.create(model=name, prompt=prompt, seed=7, n=3)
    assert [choice.text for choice in found.choices] == [result.text for result in expected]


def test_a_stream(api: openai.OpenAI, name: str, model: Model) -> None:
    prompt = PROMPTS[name]
    expected = model.generate(prompt, max_new_tokens=16, seed=7, num_return_sequences=2, **PLAIN)
    texts = ["", ""]
    usage = None
    with api.completions.create(
        model=name,
        prompt=prompt,
        seed=7,
        n=2,
        stream=True,
        stream_options={"include_usage": True},
    ) as stream:
        for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                texts[choice.index] += choice.text
    assert texts == [result.text for result in expected]
    assert usage is not None
    assert usage.completion_tokens == sum(result.generated_tokens for result in expected)


def test_stop(api: openai.OpenAI, name: str, model: Model) -> None:
    prompt = PROMPTS[name]
    [free] = model.generate(prompt, max_new_tokens=12, **GREEDY)
    stop = free.text[3:5]
    found = api.completions.create(
        model=name, prompt=prompt, temperature=0, max_tokens=12, stop=[stop, "§"]
    )
    assert found.choices[0].text == free.text[: free.text.index(stop)]
    assert found.choices[0].finish_reason == "stop"


def test_logprobs(api: openai.OpenAI, name: str, model: Model) -> None:
    prompt = PROMPTS[name]
    [expected] = model.generate(prompt, max_new_tokens=5, logprobs=3, **GREEDY)
    found = api.completions.create(
        model=name, prompt=prompt, temperature=0, max_tokens=5, logprobs=3
    )
    logprobs = found.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.token_logprobs == pytest.approx(expected.logprobs)
    assert logprobs.tokens is not None
    assert logprobs.top_logprobs is not None
    assert [len(top) for top in logprobs.top_logprobs] == [3] * len(logprobs.tokens)


def test_echo(api: openai.OpenAI, name: str, model: Model) -> None:
    prompt = PROMPTS[name]
    [expected] = model.generate(prompt, max_new_tokens=4, **GREEDY)
    found = api.completions.create(
        model=name, prompt=prompt, temperature=0, max_tokens=4, echo=True
    )
    assert found.choices[0].text == prompt + expected.text


def test_prompts_as_token_ids(api: openai.OpenAI, name: str, model: Model) -> None:
    ids = model.tokenizer.encode(PROMPTS[name])
    [expected] = model.generate_ids([ids], max_new_tokens=6, **GREEDY)
    found = api.completions.create(model=name, prompt=ids, temperature=0, max_tokens=6)
    assert found.choices[0].text == expected.text
    found = api.completions.create(model=name, prompt=[ids, ids], temperature=0, max_tokens=6)
    assert [choice.text for choice in found.choices] == [expected.text] * 2


def test_edgeseqs_options_are_the_extra_body(api: openai.OpenAI, name: str, model: Model) -> None:
    prompt = PROMPTS[name]
    options: dict[str, Any] = {"num_beams": 4, "length_penalty": 0.5}
    [expected] = model.generate(prompt, max_new_tokens=8, **options, **GREEDY)
    found = api.completions.create(model=name, prompt=prompt, max_tokens=8, extra_body=options)
    assert found.choices[0].text == expected.text


def test_errors_are_typed(api: openai.OpenAI, server_url: str) -> None:
    with pytest.raises(openai.NotFoundError, match="choose from demo-gpt2, demo-t5"):
        api.completions.create(model="gpt-4", prompt="a")
    with pytest.raises(openai.BadRequestError, match="suffix has no effect") as bad:
        api.completions.create(model="demo-gpt2", prompt="a", suffix="b")
    assert bad.value.param == "suffix"
    assert bad.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError, match="use /v1/completions"):
        api.chat.completions.create(
            model="demo-gpt2", messages=[{"role": "user", "content": "Hello"}]
        )
    with pytest.raises(openai.BadRequestError, match="regex must be a regular expression"):
        api.completions.create(
            model="demo-gpt2", prompt="a", stream=True, extra_body={"regex": "("}
        )
    with pytest.raises(openai.PermissionDeniedError, match="is not allowed"):
        api.completions.create(
            model="demo-gpt2", prompt="a", extra_headers={"Host": "evil.example"}
        )


def test_an_error_within_a_stream_is_raised(api: openai.OpenAI, demo_gpt2: Model) -> None:
    """A constraint that the vocabulary cannot follow to its end."""
    ids = demo_gpt2.tokenizer.encode("a")
    stream = api.completions.create(
        model="demo-gpt2",
        prompt=ids,
        temperature=0,
        stream=True,
        extra_body={"suppress_tokens": list(range(500)), "regex": "a b c d e f"},
    )
    with pytest.raises(openai.APIError, match=r"cannot spell|[Nn]o token"):
        for _ in stream:
            pass


def test_a_timeout(api: openai.OpenAI) -> None:
    slow = api.with_options(timeout=0.05, max_retries=0)
    with pytest.raises(openai.APITimeoutError):
        slow.completions.create(model="demo-gpt2", prompt=PROMPT, max_tokens=500, n=16)


def test_a_stream_can_be_cancelled(api: openai.OpenAI) -> None:
    stream = api.completions.create(
        model="demo-gpt2", prompt=PROMPT, max_tokens=500, temperature=0, stream=True
    )
    assert next(iter(stream)).choices
    stream.close()
    found = api.completions.create(model="demo-gpt2", prompt=PROMPT, max_tokens=2, temperature=0)
    assert found.choices


def test_langchain(server_url: str, api: openai.OpenAI, name: str, model: Model) -> None:
    langchain = pytest.importorskip("langchain_openai")
    prompt = PROMPTS[name]
    [expected] = model.generate(prompt, max_new_tokens=10, **GREEDY)
    client = langchain.OpenAI(
        base_url=f"{server_url}/v1", api_key="none", model=name, temperature=0, max_tokens=10
    )
    assert client.invoke(prompt) == expected.text
    assert "".join(client.stream(prompt)) == expected.text
    assert client.batch([prompt, prompt]) == [expected.text] * 2
    found = client.generate([prompt, prompt])
    assert [texts[0].text for texts in found.generations] == [expected.text] * 2
