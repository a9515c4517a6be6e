"""``/v1/completions`` in the application: fields, answers and streams."""

from __future__ import annotations

import json
from statistics import mean
from typing import Any

import pytest
from starlette.testclient import TestClient

from edgeseq.runtime import Model

PROMPT = "Once upon a time"
PLAIN = {"repetition_penalty": 1.0}  # the demo's own default does not apply
GREEDY = {"do_sample": False, **PLAIN}
SAMPLING = {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0, **PLAIN}
SOURCE = "pronounce: fox"


def ask(client: TestClient, **fields: Any) -> dict[str, Any]:
    """Return the answer to a request for completions of the demo GPT-2."""
    fields = {"model": "demo-gpt2", "prompt": PROMPT, **fields}
    answer = client.post("/v1/completions", json=fields)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def texts(client: TestClient, **fields: Any) -> list[str]:
    answer = ask(client, **fields)
    assert [choice["index"] for choice in answer["choices"]] == list(range(len(answer["choices"])))
    return [choice["text"] for choice in answer["choices"]]


def refused(client: TestClient, **fields: Any) -> dict[str, Any]:
    """Return the error of a request that is refused with status 400."""
    answer = client.post("/v1/completions", json={"model": "demo-gpt2", "prompt": PROMPT, **fields})
    assert answer.status_code == 400, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    return error


def stream(client: TestClient, **fields: Any) -> list[dict[str, Any]]:
    """Return the chunks of a stream."""
    fields = {"model": "demo-gpt2", "prompt": PROMPT, "stream": True, **fields}
    answer = client.post("/v1/completions", json=fields)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in answer.text.split("\n\n") if line]
    data = [line.removeprefix("data: ") for line in lines if not line.startswith(":")]
    assert data.pop() == "[DONE]"
    return [json.loads(item) for item in data]


def joined(chunks: list[dict[str, Any]]) -> dict[int, str]:
    """Return the text of each choice of a stream, each of which has one finish reason, at last."""
    found: dict[int, str] = {}
    ended: set[int] = set()
    for chunk in chunks:
        for choice in chunk["choices"]:
            assert choice["index"] not in ended
            found[choice["index"]] = found.get(choice["index"], "") + choice["text"]
            if choice["finish_reason"] is not None:
                ended.add(choice["index"])
    assert ended == set(found)
    return found


# Answers


def test_defaults_are_openais(client: TestClient, demo_gpt2: Model) -> None:
    [expected] = demo_gpt2.generate(PROMPT, max_new_tokens=16, seed=5, **SAMPLING)
    answer = ask(client, seed=5)
    assert answer["choices"] == [
        {"index": 0, "text": expected.text, "logprobs": None, "finish_reason": "length"}
    ]
    assert answer["object"] == "text_completion"
    assert answer["model"] == "demo-gpt2"
    assert answer["usage"] == {
        "prompt_tokens": expected.prompt_tokens,
        "completion_tokens": 16,
        "total_tokens": expected.prompt_tokens + 16,
    }


def test_temperature_0_is_greedy(client: TestClient, demo_gpt2: Model) -> None:
    [expected] = demo_gpt2.generate(PROMPT, max_new_tokens=9, **GREEDY)
    assert texts(client, temperature=0, top_p=0.5, seed=3, max_tokens=9) == [expected.text]


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({"temperature": 0.7, "top_p": 0.9, "seed": 1}, {"temperature": 0.7, "top_p": 0.9}),
        ({"presence_penalty": 1.5, "frequency_penalty": -0.5}, "same"),
        ({"logit_bias": {"300": 5, "301": -100}}, {"sequence_bias": {(300,): 5, (301,): -100}}),
        ({"top_k": 5, "min_p": 0.1}, "same"),
        ({"repetition_penalty": 1.3, "no_repeat_ngram_size": 2}, "same"),
        ({"stop": [" a", "the"]}, {"stop_strings": [" a", "the"]}),
        ({"stop": "e"}, {"stop_strings": "e"}),
        ({"n": 3}, {"num_return_sequences": 3}),
        ({"regex": "[a-z ]+"}, "same"),
        ({"json_schema": {"type": "boolean"}}, "same"),
        ({"suppress_tokens": [300, 301], "user": "someone"}, {"suppress_tokens": [300, 301]}),
    ],
    ids=str,
)
def test_fields_are_options(
    client: TestClient, demo_gpt2: Model, fields: dict[str, Any], options: Any
) -> None:
    options = fields if options == "same" else options
    expected = demo_gpt2.generate(PROMPT, max_new_tokens=12, seed=1, **{**SAMPLING, **options})
    assert texts(client, max_tokens=12, **{"seed": 1, **fields}) == [r.text for r in expected]
    chunks = stream(client, max_tokens=12, **{"seed": 1, **fields})
    assert joined(chunks) == {i: result.text for i, result in enumerate(expected)}


@pytest.mark.parametrize("side", ["left", "right", "sliding"])
def test_a_long_prompt_can_be_cut(client: TestClient, demo_gpt2: Model, side: str) -> None:
    prompt = "The old man and the wolf went into the wood. " * 60
    [expected] = demo_gpt2.generate(prompt, max_new_tokens=8, truncation=side, **GREEDY)
    fields = {"prompt": prompt, "max_tokens": 8, "temperature": 0}
    assert texts(client, truncation=side, **fields) == [expected.text]
    assert joined(stream(client, truncation=side, **fields)) == {0: expected.text}


def test_beams_do_not_sample_unless_asked(client: TestClient, demo_gpt2: Model) -> None:
    options = {"num_beams": 4, "length_penalty": 0.5}
    expected = demo_gpt2.generate(
        PROMPT, max_new_tokens=8, num_return_sequences=2, **options, **GREEDY
    )
    assert texts(client, max_tokens=8, n=2, **options) == [result.text for result in expected]
    found = joined(stream(client, max_tokens=8, n=2, **options))
    assert found == {i: result.text for i, result in enumerate(expected)}


def test_several_prompts_are_numbered_one_after_the_other(
    client: TestClient, demo_gpt2: Model
) -> None:
    prompts = [PROMPT, "The fox"]
    expected = demo_gpt2.generate(
        prompts, max_new_tokens=5, seed=2, num_return_sequences=2, **SAMPLING
    )
    found = [result.text for result in expected]
    assert texts(client, prompt=prompts, max_tokens=5, seed=2, n=2) == found
    chunks = stream(client, prompt=prompts, max_tokens=5, seed=2, n=2)
    assert joined(chunks) == dict(enumerate(found))


def test_prompts_can_be_token_ids(client: TestClient, demo_gpt2: Model) -> None:
    ids = demo_gpt2.tokenizer.encode(PROMPT)
    expected = texts(client, temperature=0)
    assert texts(client, temperature=0, prompt=ids) == expected
    assert texts(client, temperature=0, prompt=[ids, ids]) == expected * 2


def test_greedy_copies_are_equal(client: TestClient) -> None:
    [text] = texts(client, temperature=0)
    assert texts(client, temperature=0, n=3, best_of=4) == [text] * 3
    assert joined(stream(client, temperature=0, n=3)) == dict.fromkeys(range(3), text)


def test_best_of_ranks_by_the_log_probability_per_token(
    client: TestClient, demo_gpt2: Model
) -> None:
    found = demo_gpt2.generate(
        PROMPT, max_new_tokens=8, seed=4, num_return_sequences=5, logprobs=0, **SAMPLING
    )
    ranked = sorted(found, key=lambda result: -mean(result.logprobs or ()))
    expected = [result.text for result in ranked[:2]]
    assert texts(client, max_tokens=8, seed=4, n=2, best_of=5) == expected
    usage = ask(client, max_tokens=8, seed=4, n=2, best_of=5)["usage"]
    assert usage["completion_tokens"] == sum(result.generated_tokens for result in found)


def test_echo_repeats_the_prompt(client: TestClient, demo_gpt2: Model) -> None:
    [text] = texts(client, temperature=0)
    assert texts(client, temperature=0, echo=True) == [PROMPT + text]
    ids = demo_gpt2.tokenizer.encode(PROMPT)
    assert texts(client, temperature=0, echo=True, prompt=ids) == [PROMPT + text]
    assert joined(stream(client, temperature=0, echo=True)) == {0: PROMPT + text}


def test_logprobs(client: TestClient, demo_gpt2: Model) -> None:
    [expected] = demo_gpt2.generate(PROMPT, max_new_tokens=6, logprobs=2, **GREEDY)
    [choice] = ask(client, temperature=0, max_tokens=6, logprobs=2)["choices"]
    found = choice["logprobs"]
    assert "".join(found["tokens"]) == choice["text"] == expected.text
    assert found["token_logprobs"] == pytest.approx(expected.logprobs)
    whole = PROMPT + choice["text"]
    for token, offset in zip(found["tokens"], found["text_offset"], strict=True):
        assert whole[offset:].startswith(token)
    for top, token, logprob in zip(
        found["top_logprobs"], found["tokens"], found["token_logprobs"], strict=True
    ):
        assert len(top) == 2
        assert top[token] == logprob


def test_logprobs_0_are_of_the_tokens_alone(client: TestClient) -> None:
    [choice] = ask(client, temperature=0, max_tokens=3, logprobs=0)["choices"]
    assert choice["logprobs"]["top_logprobs"] is None
    assert len(choice["logprobs"]["tokens"]) == 3


def test_echo_scores_the_prompt(client: TestClient, demo_gpt2: Model) -> None:
    score = demo_gpt2.score(PROMPT)
    [choice] = ask(client, temperature=0, max_tokens=0, logprobs=1, echo=True)["choices"]
    assert choice["text"] == PROMPT
    assert choice["finish_reason"] == "length"
    found = choice["logprobs"]
    assert found["token_logprobs"][0] is None
    assert found["token_logprobs"][1:] == pytest.approx(score.log_probabilities[1:], abs=1e-5)
    assert found["top_logprobs"][0] is None
    assert found["text_offset"][0] == 0
    assert "".join(found["tokens"]) == PROMPT
    chunks = stream(client, temperature=0, max_tokens=0, logprobs=1, echo=True)
    assert chunks[0]["choices"][0]["logprobs"] == found


def test_tokens_of_a_stop_string_are_not_shown(client: TestClient) -> None:
    fields = {"temperature": 0, "max_tokens": 12, "logprobs": 1}
    [text] = texts(client, **fields)
    stop = text[6:9]
    [choice] = ask(client, stop=stop, **fields)["choices"]
    assert choice["text"] == text[: text.index(stop)]
    assert choice["finish_reason"] == "stop"
    assert max(choice["logprobs"]["text_offset"]) < len(PROMPT + choice["text"])
    chunks = stream(client, stop=stop, **fields)
    parts = [chunk["choices"][0]["logprobs"]["text_offset"] for chunk in chunks]
    assert [offset for part in parts for offset in part] == choice["logprobs"]["text_offset"]


def test_streamed_logprobs_are_those_of_the_answer(client: TestClient) -> None:
    fields = {"seed": 1, "max_tokens": 10, "logprobs": 3, "n": 2}
    expected = [choice["logprobs"] for choice in ask(client, **fields)["choices"]]
    chunks = stream(client, **fields)
    for index in range(2):
        found = [
            choice["logprobs"]
            for chunk in chunks
            for choice in chunk["choices"]
            if choice["index"] == index
        ]
        for name, values in expected[index].items():
            assert [item for part in found for item in part[name]] == values


def test_usage_of_a_stream(client: TestClient) -> None:
    chunks = stream(
        client, temperature=0, max_tokens=4, n=2, stream_options={"include_usage": True}
    )
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == ask(client, temperature=0, max_tokens=4, n=2)["usage"]
    assert all(chunk["usage"] is None for chunk in chunks[:-1])


def test_no_new_tokens_for_several_texts(client: TestClient) -> None:
    choices = ask(client, max_tokens=0, n=2)["choices"]
    assert [(c["index"], c["text"], c["finish_reason"]) for c in choices] == [
        (0, "", "length"),
        (1, "", "length"),
    ]
    ends = [choice for chunk in stream(client, max_tokens=0, n=2) for choice in chunk["choices"]]
    assert sorted((choice["index"], choice["finish_reason"]) for choice in ends) == [
        (0, "length"),
        (1, "length"),
    ]


def test_choices_have_probabilities(client: TestClient, demo_gpt2: Model) -> None:
    [expected] = demo_gpt2.generate(PROMPT, choices=[" there", " a"])
    [choice] = ask(client, choices=[" there", " a"], temperature=0.5)["choices"]
    assert choice["text"] == expected.text
    assert choice["finish_reason"] == "stop"
    assert expected.choices is not None
    found = {item["text"]: item["probability"] for item in choice["probabilities"]}
    assert found == {item.text: pytest.approx(item.probability) for item in expected.choices}


# Encoder-decoders


def test_the_prompt_is_the_source(client: TestClient, demo_t5: Model) -> None:
    [expected] = demo_t5.generate(SOURCE, do_sample=False, max_new_tokens=16)
    fields = {"model": "demo-t5", "prompt": SOURCE, "temperature": 0}
    assert texts(client, **fields) == [expected.text]
    assert joined(stream(client, **fields)) == {0: expected.text}
    [choice] = ask(client, logprobs=1, **fields)["choices"]
    assert choice["finish_reason"] == "stop"
    assert choice["logprobs"]["tokens"][-1] == "</s>"
    assert choice["logprobs"]["text_offset"][0] == 0
    assert choice["logprobs"]["token_logprobs"] == pytest.approx(
        demo_t5.generate(SOURCE, do_sample=False, max_new_tokens=16, logprobs=0)[0].logprobs
    )


def test_beams_of_an_encoder_decoder(client: TestClient, demo_t5: Model) -> None:
    expected = demo_t5.generate(SOURCE, num_beams=3, num_return_sequences=3, max_new_tokens=16)
    fields = {"model": "demo-t5", "prompt": SOURCE, "num_beams": 3, "n": 3}
    assert texts(client, **fields) == [result.text for result in expected]
    assert joined(stream(client, **fields)) == {i: r.text for i, r in enumerate(expected)}


# Errors


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"prompt": None}, "prompt", "prompt is missing; it must be a string"),
        ({"prompt": []}, "prompt", "prompt is []"),
        ({"prompt": [1, "a"]}, "prompt", "prompt is [1, 'a']"),
        ({"prompt": [-1]}, "prompt", "token ids are integers from 0 to"),
        ({"prompt": "a " * 5000}, "prompt", "the limit is 4096"),
        ({"prompt": "a " * 700}, "prompt", "reads at most 512"),
        ({"suffix": "x"}, "suffix", "suffix has no effect"),
        ({"max_tokens": -1}, "max_tokens", "an integer from 0 to 2048"),
        ({"max_tokens": 1e3}, "max_tokens", "an integer from 0 to 2048"),
        ({"temperature": 2.5}, "temperature", "a number from 0 to 2"),
        ({"temperature": True}, "temperature", "a number from 0 to 2"),
        ({"top_p": -1}, "top_p", "a number from 0 to 1"),
        ({"n": 0}, "n", "an integer from 1 to 64"),
        ({"n": 65}, "n", "an integer from 1 to 64"),
        ({"n": 40, "prompt": ["a", "b"]}, "n", "the limit is 64 together"),
        ({"num_beams": 65}, "n", "the limit is 64 together"),
        ({"n": 2, "best_of": 1}, "best_of", "at least n (2)"),
        ({"best_of": 2, "stream": True}, "best_of", "a stream has no best text"),
        ({"best_of": 2, "num_beams": 2}, "best_of", "no effect with num_beams"),
        ({"logprobs": 6}, "logprobs", "an integer from 0 to 5"),
        ({"logit_bias": {"a": 1}}, "logit_bias", "an object of at most 1024 token ids from 0"),
        ({"logit_bias": {"1": 101}}, "logit_bias", "from -100 to 100"),
        ({"logit_bias": {"99999999": 1}}, "logit_bias", "token ids from 0 to 4095"),
        ({"logit_bias": {"1": 1}, "sequence_bias": [[[1], 1]]}, "logit_bias", "use one"),
        ({"stop": ["a"] * 5}, "stop", "up to 4 strings"),
        ({"stop": [""]}, "stop", "none of them empty"),
        ({"presence_penalty": 3}, "presence_penalty", "from -2 to 2"),
        ({"seed": 1.5}, "seed", "an integer"),
        ({"stream_options": {}}, "stream_options", "no effect without stream"),
        ({"stream": True, "stream_options": 1}, "stream_options", "must be an object"),
        ({"stream": True, "stream_options": {"x": 1}}, "x", "There is no field 'x'"),
        ({"stream": "yes"}, "stream", "must be true or false"),
        ({"max_new_tokens": 4}, "max_new_tokens", "use max_tokens"),
        ({"stop_strings": "a"}, "stop_strings", "use stop"),
        ({"temprature": 1}, "temprature", "did you mean 'temperature'?"),
        ({"cancel": 1}, "cancel", "There is no field 'cancel'"),
        ({"logits_processor": 1}, "logits_processor", "There is no field"),
        ({"top_k": -1}, "top_k", "top_k is -1"),
        ({"temperature": 0, "top_k": 5}, "top_k", "has no effect without sampling"),
        ({"regex": "a" * 20_000}, "regex", "the limit is 16384"),
        ({"regex": "("}, "regex", "regex must be a regular expression"),
        ({"stream": True, "regex": "("}, "regex", "regex must be a regular expression"),
        ({"choices": ["a"], "stream": True}, "stream", "no effect with choices"),
        ({"num_beams": 2, "logprobs": 1, "stream": True}, "logprobs", "with num_beams and stream"),
        ({"suppress_tokens": [1] * 1025}, "suppress_tokens", "the limit is 1024"),
        ({"model": 1}, "model", "model is 1; it must be a string"),
        ({"model": None}, "model", "choose from demo-gpt2, demo-t5"),
    ],
    ids=lambda item: str(item)[:40],
)
def test_a_bad_field_is_named(
    client: TestClient, fields: dict[str, Any], param: str, message: str
) -> None:
    error = refused(client, **fields)
    assert message in error["message"]
    assert error["param"] == param


def test_an_unknown_model_is_not_found(client: TestClient) -> None:
    answer = client.post("/v1/completions", json={"model": "gpt-4", "prompt": "a"})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"


def test_echo_and_logprobs_need_a_decoder_only_model(client: TestClient) -> None:
    error = refused(client, model="demo-t5", prompt=SOURCE, echo=True, logprobs=1)
    assert "predicts no tokens of its prompt" in error["message"]
