"""``edgeseq serve --stdio``: requests, answers and errors of its protocol."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from edgeseq.runtime import Model, __version__
from edgeseq.runtime.bundle.demo_bundles import demo_bundle
from tests.support.commands import Captured, failure, wrong_usage
from tests.support.errors import assert_one_sentence
from tests.support.processes import WITHOUT_PACKAGES
from tests.support.stdio_helper import ENDLESS, LIMIT_S, SERVE, Helper, running_helper

GREEDY = {"model": "demo-gpt2", "max_new_tokens": 8, "do_sample": False}
STORY = " there was a great many years old."
RUN_MAIN = "\nfrom edgeseq.cli import main\nsys.exit(main())\n"


@pytest.fixture(scope="module")
def helper() -> Iterator[Helper]:
    """A helper of both demo models."""
    with running_helper() as found:
        yield found


def test_ready_tells_the_version_and_the_models() -> None:
    with running_helper("--bundle", f"tales={demo_bundle('gpt2')}") as helper:
        message = helper.ready
    assert (message["jsonrpc"], message["method"]) == ("2.0", "ready")
    found = message["params"]
    assert (found["version"], found["protocol"]) == (__version__, 1)
    assert found["load_s"] >= 0
    [model] = found["models"]
    assert (model["name"], model["kind"], model["context_length"]) == ("tales", "decoder-only", 512)
    assert "summarization" in model["tasks"]


def test_models(helper: Helper) -> None:
    found = helper.ask("models")["models"]
    assert [model["name"] for model in found] == ["demo-gpt2", "demo-t5"]
    assert found[1]["kind"] == "encoder-decoder"
    assert found[1]["context_length"] is None


def test_generate_gives_the_text_of_the_runtime(helper: Helper, demo_gpt2: Model) -> None:
    [found] = helper.ask("generate", prompt="Once upon a time,", **GREEDY)["results"]
    [expected] = demo_gpt2.generate("Once upon a time,", max_new_tokens=8, do_sample=False)
    assert found["text"] == expected.text == STORY
    assert found["finish_reason"] == "length"
    assert (found["prompt_tokens"], found["generated_tokens"]) == (5, 8)


def test_a_stream_sends_pieces_with_the_id(helper: Helper) -> None:
    helper.send("generate", 7, prompt="Once upon a time,", stream=True, **GREEDY)
    pieces = []
    while (message := helper.next()).get("method") == "piece":
        assert message["params"]["id"] == 7
        pieces.append(message["params"]["text"])
    assert message["id"] == 7
    assert "".join(pieces) == STORY == message["result"]["results"][0]["text"]
    assert len(pieces) == 8


def test_options_have_their_names_in_python(helper: Helper, demo_gpt2: Model) -> None:
    options = {"do_sample": True, "seed": 3, "top_k": 20, "num_return_sequences": 2}
    found = helper.ask("generate", model="demo-gpt2", prompt="The king", **options)["results"]
    expected = demo_gpt2.generate("The king", **options)
    assert [text["text"] for text in found] == [text.text for text in expected]
    [stopped] = helper.ask("generate", prompt="Once upon a time,", stop_strings=[" a"], **GREEDY)[
        "results"
    ]
    assert (stopped["text"], stopped["finish_reason"]) == (" there was", "stop")


def test_choices_have_probabilities(helper: Helper) -> None:
    [found] = helper.ask(
        "generate", model="demo-gpt2", prompt="The wolf was", choices=[" hungry", " kind"]
    )["results"]
    assert {choice["text"] for choice in found["choices"]} == {" hungry", " kind"}
    assert sum(choice["probability"] for choice in found["choices"]) == pytest.approx(1)


def test_log_probabilities_if_asked(helper: Helper) -> None:
    [found] = helper.ask("generate", prompt="The king", logprobs=2, **GREEDY)["results"]
    assert len(found["token_ids"]) == len(found["logprobs"]) == len(found["top_logprobs"]) == 8
    [plain] = helper.ask("generate", prompt="The king", **GREEDY)["results"]
    assert "logprobs" not in plain


def test_constraints(helper: Helper) -> None:
    pytest.importorskip("llguidance")
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    schema |= {"additionalProperties": False}
    options = {"prompt": "JSON:", "max_new_tokens": 60, "do_sample": False, "model": "demo-gpt2"}
    [found] = helper.ask("generate", json_schema=schema, **options)["results"]
    assert isinstance(json.loads(found["text"])["a"], bool)


def test_run_fills_the_fields_of_a_task(helper: Helper) -> None:
    found = helper.ask(
        "run", model="demo-gpt2", task="classification", fields={"text": "What a happy day!"}
    )
    assert found["text"] == "positive"
    assert [each["label"] for each in found["probabilities"]] == ["positive", "negative"]
    answer = helper.ask(
        "run",
        model="demo-gpt2",
        task="open-book-question-answering",
        fields={"question": "Who?", "context": "The king."},
        max_new_tokens=3,
    )
    assert answer["probabilities"] is None
    assert answer["generated_tokens"] <= 3


def test_tokenize_counts(helper: Helper, demo_gpt2: Model) -> None:
    ids = demo_gpt2.tokenizer.encode("Once upon a time")
    assert helper.ask("tokenize", model="demo-gpt2", text="Once upon a time") == {
        "tokens": ids,
        "count": len(ids),
        "context_length": 512,
    }


def test_a_session_reads_only_the_new_part_of_a_text(helper: Helper, demo_gpt2: Model) -> None:
    text = "Once upon a time"
    for word in ("", " there was", " there was a king"):
        [found] = helper.ask("generate", session="a", prompt=text + word, **GREEDY)["results"]
        [expected] = demo_gpt2.generate(text + word, max_new_tokens=8, do_sample=False)
        assert found["text"] == expected.text
    assert helper.ask("close_session", model="demo-gpt2", session="a") == {"closed": True}
    assert helper.ask("close_session", model="demo-gpt2", session="a") == {"closed": False}


def test_more_sessions_than_the_limit(helper: Helper) -> None:
    """The oldest ones are closed; their texts stay the same."""
    for i in range(70):
        helper.send("generate", f"s{i}", session=f"s{i}", prompt="Once upon a time,", **GREEDY)
        [found] = helper.answer_to(f"s{i}")["result"]["results"]
        assert found["text"] == STORY
    assert helper.ask("close_session", model="demo-gpt2", session="s0") == {"closed": False}
    assert helper.ask("close_session", model="demo-gpt2", session="s69") == {"closed": True}


def test_requests_of_one_session_come_one_after_the_other(helper: Helper) -> None:
    for i in range(4):
        helper.send("generate", i, session="b", prompt="Once upon a time,", stream=True, **GREEDY)
    order = []
    while len(order) < 4:
        message = helper.next()
        if "result" in message:
            assert message["result"]["results"][0]["text"] == STORY
            order.append(message["id"])
        else:
            assert message["params"]["id"] == len(order)
    assert order == [0, 1, 2, 3]


def test_requests_run_at_once(helper: Helper) -> None:
    """An endless one does not keep the others waiting."""
    helper.send("generate", "endless", **ENDLESS)
    for i in range(8):
        helper.send("generate", i, prompt="Once upon a time,", **GREEDY)
    for i in range(8):
        assert helper.answer_to(i)["result"]["results"][0]["text"] == STORY
    assert helper.ask("cancel", id="endless") == {"cancelled": True}
    assert helper.answer_to("endless")["error"]["code"] == -32800


def test_cancel_ends_a_session_and_the_next_request_begins(helper: Helper) -> None:
    helper.send("generate", "old", session="c", **ENDLESS)
    while helper.next().get("method") != "piece":
        pass
    helper.send("generate", "new", session="c", **{**ENDLESS, "max_new_tokens": 3}, min_length=0)
    helper.send("cancel", id="old")  # a notification: no answer
    assert helper.answer_to("old")["error"]["code"] == -32800
    assert helper.answer_to("new")["error"]["code"] == -32602  # min_new_tokens is above the limit


def test_a_request_that_waits_is_cancelled_at_once(helper: Helper) -> None:
    helper.send("generate", "first", session="d", **ENDLESS)
    helper.send("generate", "second", session="d", **ENDLESS)
    helper.send("cancel", "c2", id="second")
    assert helper.answer_to("second")["error"]["message"] == "The request was cancelled."
    assert helper.answer_to("c2")["result"] == {"cancelled": True}
    helper.send("cancel", "c1", id="first")
    assert helper.answer_to("c1")["result"] == {"cancelled": True}
    assert helper.answer_to("first")["error"]["code"] == -32800


def test_a_session_in_use_is_closed_afterwards(helper: Helper) -> None:
    helper.send("generate", "used", session="e", **ENDLESS)
    while helper.next().get("method") != "piece":
        pass
    assert helper.ask("close_session", model="demo-t5", session="e") == {"closed": True}
    assert helper.ask("close_session", model="demo-t5", session="e") == {"closed": False}
    assert helper.ask("cancel", id="used") == {"cancelled": True}
    assert helper.answer_to("used")["error"]["code"] == -32800


@pytest.mark.parametrize("unknown", ["nobody", 12345, -1, ""])
def test_cancel_of_an_unknown_id_is_no_error(helper: Helper, unknown: Any) -> None:
    assert helper.ask("cancel", id=unknown) == {"cancelled": False}


def test_too_many_requests_are_refused() -> None:
    with running_helper("--demo", "--max-concurrent", "2", "--max-queue", "3") as helper:
        for i in range(200):
            helper.send("generate", i, **ENDLESS)
        refused = [helper.answer_to(i)["error"] for i in range(5, 200)]
        assert {error["code"] for error in refused} == {-32001}
        assert "5 requests are running or waiting" in refused[0]["message"]
        for i in range(5):
            helper.send("cancel", id=i)
        ended = [helper.answer_to(i)["error"]["code"] for i in (2, 3, 4)]
        assert ended == [-32800] * 3
        assert helper.ask("tokenize", model="demo-t5", text="pronounce: a")["count"] > 0


def test_an_id_in_use_is_refused_without_it(helper: Helper) -> None:
    helper.send("generate", "twice", **ENDLESS)
    while helper.next().get("method") != "piece":
        pass
    helper.send("generate", "twice", prompt="The king", **GREEDY)
    error = helper.answer_to(None)["error"]
    assert error["code"] == -32600
    assert "'twice'" in error["message"]
    assert helper.ask("cancel", id="twice") == {"cancelled": True}
    assert helper.answer_to("twice")["error"]["code"] == -32800
    helper.send("generate", "twice", prompt="The king", **GREEDY)  # free again
    assert "result" in helper.answer_to("twice")


BAD_LINES = {
    "no json": (b"hello\n", -32700, None),
    "half": (b'{"id": 1, "method": \n', -32700, None),
    "no utf-8": (b'{"id": 1, "method": "\xff"}\n', -32700, None),
    "nan": (b'{"id": 1, "method": "models", "params": {"x": NaN}}\n', -32700, None),
    "surrogate": (
        b'{"id": 1, "method": "generate", "params": {"prompt": "\\ud800"}}\n',
        -32700,
        None,
    ),
    "twice": (b'{"id": 1, "id": 2, "method": "models"}\n', -32700, None),
    "deep": (b"[" * 100_000 + b"\n", -32700, None),
    "huge number": (b'{"id": ' + b"9" * 5000 + b', "method": "models"}\n', -32700, None),
    "list": (b'[{"id": 1, "method": "models"}]\n', -32600, None),
    "number": (b"3\n", -32600, None),
    "null": (b"null\n", -32600, None),
    "float id": (b'{"id": 1.5, "method": "models"}\n', -32600, None),
    "list id": (b'{"id": [1], "method": "models"}\n', -32600, None),
    "true id": (b'{"id": true, "method": "models"}\n', -32600, None),
    "version": (b'{"jsonrpc": "1.0", "id": 1, "method": "models"}\n', -32600, 1),
    "no method": (b'{"id": 1}\n', -32600, 1),
    "method": (b'{"id": "a", "method": ["models"]}\n', -32600, "a"),
    "member": (b'{"id": 1, "method": "models", "prompt": "The"}\n', -32600, 1),
    "params": (b'{"id": 1, "method": "models", "params": [1]}\n', -32602, 1),
    "unknown": (b'{"id": 1, "method": "__init__"}\n', -32601, 1),
    "no id": (
        b'{"method": "generate", "params": {"model": "demo-t5", "prompt": "a"}}\n',
        -32600,
        None,
    ),
    "long": (b'{"id": 1, "method": "' + b"a" * 2**21 + b'"}\n', -32600, None),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_one_error(helper: Helper, name: str) -> None:
    line, code, request_id = BAD_LINES[name]
    found = helper.refused(line)
    assert found["id"] == request_id
    assert found["error"]["code"] == code
    assert_one_sentence(found["error"]["message"])
    assert "models" in helper.ask("models")


def test_each_damaged_line_gets_one_answer(helper: Helper) -> None:
    random = Random(0)
    request = {"id": 1, "method": "tokenize", "params": {"model": "demo-gpt2", "text": "a king"}}
    for i in range(300):
        line = bytearray(json.dumps(request).encode())
        for _ in range(random.randrange(1, 4)):
            line[random.randrange(len(line))] = random.choice(b'"{}[]:, \\\x00\xff09aeu')
        helper.write(bytes(line) + b"\n")
        answer = helper.next()
        assert ("result" in answer) != ("error" in answer), line
        helper.send("models", f"after-{i}")
        assert helper.next()["id"] == f"after-{i}"


@pytest.mark.parametrize(
    ("method", "params", "message"),
    [
        ("generate", {"prompt": "a"}, "model is missing; it must be a string."),
        ("generate", {"model": "x", "prompt": "a"}, "choose from demo-gpt2, demo-t5"),
        ("generate", {"model": "demo-gpt2"}, "prompt is missing"),
        ("generate", {"model": "demo-gpt2", "prompt": ["a"]}, "it must be a string"),
        ("generate", {"model": "demo-gpt2", "prompt": "a", "stream": 1}, "true or false"),
        ("generate", {"model": "demo-gpt2", "prompt": "a", "session": 1}, "must be a string"),
        ("generate", {"model": "demo-gpt2", "prompt": "a", "cancel": True}, "no parameter"),
        ("generate", {"model": "demo-gpt2", "prompt": "a", "top_k": "x"}, "top_k is 'x'"),
        ("generate", {"model": "demo-gpt2", "prompt": "a " * 600}, "reads at most 512"),
        (
            "generate",
            {"model": "demo-gpt2", "prompt": "a", "logprobs": 1, "stream": True},
            "stream",
        ),
        ("run", {"model": "demo-gpt2", "task": "x", "fields": {}}, "x"),
        ("run", {"model": "demo-gpt2", "task": "completion"}, "fields is missing"),
        ("run", {"model": "demo-gpt2", "task": "completion", "fields": {"text": 1}}, "strings"),
        ("run", {"model": "demo-gpt2", "task": "completion", "fields": {"cancel": ""}}, "no field"),
        ("run", {"model": "demo-gpt2", "task": "completion", "fields": {}}, "text"),
        ("tokenize", {"model": "demo-gpt2", "text": 3}, "must be a string"),
        ("models", {"model": "demo-gpt2"}, "no parameter 'model'"),
        ("cancel", {}, "id is missing"),
        ("cancel", {"id": [1]}, "must be the id of a request"),
        ("close_session", {"model": "demo-gpt2"}, "session is missing"),
        ("shutdown", {"now": True}, "no parameter 'now'"),
    ],
)
def test_bad_parameters_are_one_sentence(
    helper: Helper, method: str, params: dict[str, Any], message: str
) -> None:
    error = helper.error(method, **params)
    assert error["code"] == -32602
    assert message in error["message"]
    assert_one_sentence(error["message"])


def test_the_nearest_parameter_is_named(helper: Helper) -> None:
    error = helper.error("generate", model="demo-gpt2", prompt="a", topk=1)
    assert error["message"] == "There is no parameter 'topk' here: did you mean 'top_k'?"


def test_the_only_model_needs_no_name() -> None:
    with running_helper("--bundle", str(demo_bundle("gpt2"))) as helper:
        assert helper.ask("tokenize", text="The king")["count"] == 2


def test_requests_before_ready_wait_for_it() -> None:
    with subprocess.Popen(
        [*SERVE, "--stdio", "--demo"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        helper = Helper(process)
        helper.send("models", 1)
        assert helper.next()["method"] == "ready"
        assert helper.next()["id"] == 1
        assert helper.close() == 0


def test_shutdown_answers_and_ends() -> None:
    with running_helper() as helper:
        helper.send("generate", 1, **ENDLESS)
        assert helper.ask("shutdown") == {}
        assert helper.process.wait(LIMIT_S) == 0


def test_it_needs_no_packages_of_the_server() -> None:
    blocked = "starlette,uvicorn,h11,anyio,jinja2,asyncio"
    command = [sys.executable, "-c", WITHOUT_PACKAGES + RUN_MAIN, blocked, "serve"]
    with running_helper(command=command) as helper:
        assert helper.ask("generate", prompt="Once upon a time,", **GREEDY)
        assert helper.close() == 0
        assert helper.process.stderr is not None
        assert helper.process.stderr.read() == b""


def test_what_libraries_print_goes_to_standard_error() -> None:
    noisy = """
import os, sys
from edgeseq.runtime.tasks import templates
names = templates.template_names
def noise():
    print("printed"); os.write(1, b"written\\n"); os.system("echo echoed")
    return names()
templates.template_names = noise
from edgeseq.cli import main
sys.exit(main())
"""
    with running_helper(command=[sys.executable, "-c", noisy, "serve"]) as helper:
        assert helper.ask("models")["models"]
        assert helper.close() == 0
        assert helper.process.stderr is not None
        printed = helper.process.stderr.read().split()
    assert {b"printed", b"written", b"echoed"} <= {*printed}


@pytest.mark.skipif(os.name != "posix", reason="Windows notices it at the next answer")
@pytest.mark.parametrize("is_busy", [True, False])
def test_a_closed_standard_output_ends_it(is_busy: bool) -> None:
    with subprocess.Popen(
        [*SERVE, "--stdio", "--demo"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        assert b"ready" in process.stdout.readline()
        if is_busy:
            line = json.dumps({"id": 1, "method": "generate", "params": ENDLESS})
            process.stdin.write(line.encode() + b"\n")
            process.stdin.flush()
            process.stdout.readline()
        process.stdout.close()
        assert process.wait(LIMIT_S) == 1
        assert process.stderr.read() == b""


@pytest.mark.skipif(os.name != "posix", reason="Windows has no watch of pipes")
def test_it_ends_though_nobody_reads_its_answers() -> None:
    with subprocess.Popen(
        [*SERVE, "--stdio", "--demo"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        line = json.dumps({"id": 1, "method": "models"}).encode() + b"\n"
        process.stdin.write(line * 300)  # their answers fill the pipe
        process.stdin.close()
        assert process.wait(LIMIT_S) == 0


@pytest.mark.skipif(os.name != "posix", reason="a POSIX shell closes them")
@pytest.mark.parametrize("closed", ["<&-", ">&-"])
def test_standard_input_and_output_must_be_open(closed: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *SERVE, "--stdio", "--demo"],
        stdin=subprocess.PIPE,
        capture_output=True,
        check=False,
        timeout=LIMIT_S,
    )
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"edgeseq: Bad file descriptor.\n"


@pytest.mark.skipif(os.name != "posix", reason="a POSIX shell closes it")
def test_standard_error_may_be_closed() -> None:
    shell = ["sh", "-c", 'exec "$@" 2>&-', "sh", *SERVE]
    with running_helper(command=shell) as helper:
        assert helper.ask("tokenize", model="demo-gpt2", text="The king")["count"] == 2
        assert helper.close() == 0


def test_prompts_are_logged_only_if_asked() -> None:
    for flags, is_logged in (((), False), (("--log-prompts",), True)):
        with running_helper("--demo", *flags) as helper:
            helper.ask("generate", prompt="Zanzibar", **GREEDY)
            assert helper.close() == 0
            assert helper.process.stderr is not None
            assert (b"Zanzibar" in helper.process.stderr.read()) is is_logged


@pytest.mark.parametrize(
    "flag",
    [
        ["--port", "0"],
        ["--host", "::1"],
        ["--api-key", "a"],
        ["--allow-origin", "*"],
        ["--max-tokens", "3"],
        ["--request-time", "3"],
    ],
)
def test_flags_of_http_have_no_effect(capsys: Captured, flag: list[str]) -> None:
    message = wrong_usage(capsys, "serve", "--stdio", "--demo", *flag)
    assert message == f"{flag[0]} has no effect with --stdio."


def test_there_must_be_a_bundle(capsys: Captured) -> None:
    assert "with --bundle, or --demo" in wrong_usage(capsys, "serve", "--stdio")
    assert "nowhere" in failure(capsys, "serve", "--stdio", "--bundle", "nowhere")


@pytest.mark.parametrize("arguments", [["--stdio"], ["--port", "0"]])
@pytest.mark.parametrize("pid", ["-1", "99999999", "9" * 30])
def test_the_parent_must_be_there(arguments: list[str], pid: str) -> None:
    done = subprocess.run(
        [*SERVE, *arguments, "--demo", "--parent", pid],
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert f"parent is {pid}, and there is no such process" in done.stderr
    assert len(done.stderr.splitlines()) == 1
