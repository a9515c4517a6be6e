"""16 clients at once: every text, and every log-probability, is the same as alone."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

CLIENTS = 16
REQUESTS = 5  # of each client
WORDS = (
    "once",
    "upon",
    "a",
    "time",
    "there",
    "was",
    "an",
    "old",
    "king",
    "who",
    "had",
    "a",
    "bird",
)


@pytest.fixture
def url(server_url: str) -> str:
    """The server once both models are loaded."""
    with httpx.Client(base_url=server_url, timeout=60) as client:
        while client.get("/health").status_code != 200:
            pass
    return server_url


def completion(name: str, rng: random.Random) -> dict[str, Any]:
    """Return a request of a random length with random options."""
    many = rng.choice([1, 1, 2])
    options: list[dict[str, Any]] = [
        {"temperature": 0, "n": many, "best_of": many},
        {"temperature": 0.8, "seed": rng.randrange(1000), "top_p": 0.9, "n": many},
        {"seed": rng.randrange(1000), "presence_penalty": 1.5, "frequency_penalty": 0.5},
        {"num_beams": rng.choice([2, 4]), "length_penalty": 0.5},
        {"temperature": 0, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
        {"temperature": 0, "stop": ["e"], "logit_bias": {"5": -100}},
        {"temperature": 0, "regex": "[a-z ]{3,20}"},
        {"seed": rng.randrange(1000), "top_k": 5, "logprobs": 2, "echo": name == "demo-gpt2"},
    ]
    if name == "demo-t5":
        spelled = [rng.choice(WORDS) for _ in range(rng.choice([1, 1, 3]))]
        prompt: Any = [f"pronounce: {word}" for word in spelled]
    else:
        prompt = " ".join(rng.choices(WORDS, k=rng.choice([1, 5, 30, 250])))
    return {
        "model": name,
        "prompt": prompt,
        "max_tokens": rng.randrange(1, 40),
        **rng.choice(options),
    }


def answer(client: httpx.Client, body: Mapping[str, Any], started: threading.Event) -> Any:
    """Return the choices of an answer, by index; ``started`` is set when the first part is here."""
    if not body.get("stream"):
        found = client.post("/v1/completions", json=body)
        started.set()
        assert found.status_code == 200, found.text
        return [
            (choice["text"], choice["finish_reason"], choice["logprobs"])
            for choice in found.json()["choices"]
        ]
    texts: dict[int, list[Any]] = {}
    with client.stream("POST", "/v1/completions", json=body) as stream:
        assert stream.status_code == 200, stream.read()
        for line in stream.iter_lines():
            started.set()
            if line.startswith("data: {"):
                for choice in json.loads(line[6:]).get("choices", ()):
                    text = texts.setdefault(choice["index"], ["", None])
                    text[0] += choice["text"]
                    text[1] = choice["finish_reason"] or text[1]
    return [tuple(texts[index]) for index in sorted(texts)]


@pytest.mark.parametrize("names", [("demo-gpt2",), ("demo-t5",), ("demo-gpt2", "demo-t5")])
def test_every_text_is_the_same_as_alone(url: str, names: tuple[str, ...]) -> None:
    rng = random.Random(str(names))
    bodies = [
        [completion(names[client % len(names)], rng) for _ in range(REQUESTS)]
        for client in range(CLIENTS)
    ]
    for body in (body for them in bodies for body in them):
        body["stream"] = rng.random() < 0.5 and not body.keys() & {"num_beams", "logprobs"}
    started = [threading.Event() for _ in range(CLIENTS + 1)]
    with httpx.Client(base_url=url, timeout=120) as alone:
        expected = [[answer(alone, body, started[0]) for body in them] for them in bodies]

    def run(number: int) -> list[Any]:
        assert started[number].wait(120)  # the client before has its first answer
        with httpx.Client(base_url=url, timeout=120) as client:
            return [answer(client, body, started[number + 1]) for body in bodies[number]]

    with ThreadPoolExecutor(CLIENTS) as pool:
        found = list(pool.map(run, range(CLIENTS)))
    assert found == expected
