"""``load`` and the model's calls: arguments, results and errors."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import GPT2TokenizerFast

from edgeseq.runtime import BundleError, DeviceError, Model, OptionError, PromptError, Timings, load
from edgeseq.runtime.bundle.demo_bundles import demo_bundle
from tests.support.errors import refusal
from tests.support.processes import WITHOUT_PACKAGES, python

TEXTS = ["Once upon a time", "a clever fox; he said", "“home”", "x"]
END = 0  # <|endoftext|>: the start of an empty prompt, and the end of a text


@pytest.fixture(scope="module")
def transformers_tokenizer(checkpoint: Path) -> GPT2TokenizerFast:
    return GPT2TokenizerFast.from_pretrained(checkpoint)


# Results


def test_a_text_gives_one_result(model: Model) -> None:
    results = model.generate(TEXTS[0], max_new_tokens=12)
    assert len(results) == 1
    in_a_list = model.generate([TEXTS[0]], max_new_tokens=12)
    assert [replace(result, timings=results[0].timings) for result in in_a_list] == results


def test_texts_give_results_in_their_order(model: Model) -> None:
    results = model.generate(tuple(TEXTS), max_new_tokens=12)
    alone = [model.generate(text, max_new_tokens=12)[0] for text in TEXTS]
    assert [result.token_ids for result in results] == [result.token_ids for result in alone]
    assert [result.text for result in results] == [result.text for result in alone]
    assert len({result.token_ids for result in results}) == len(TEXTS)


@pytest.mark.parametrize("prompts", [[], ()])
def test_no_prompts_give_no_results(model: Model, prompts: Any) -> None:
    assert model.generate(prompts, max_new_tokens=5) == []
    assert model.generate_ids(prompts, max_new_tokens=5) == []
    with pytest.raises(OptionError):
        model.generate(prompts, no_such_option=5)


def test_the_fields_of_a_result(model: Model) -> None:
    for text, result in zip(TEXTS, model.generate(TEXTS, max_new_tokens=9), strict=True):
        assert result.prompt_tokens == len(model.tokenizer.encode(text))
        assert result.generated_tokens == len(result.token_ids)
        assert all(type(token) is int for token in result.token_ids)
        assert result.text == model.tokenizer.decode(result.token_ids)
        assert result.finish_reason == ("eos" if result.token_ids[-1] == END else "length")
        assert 0 < result.timings.first_token_s <= result.timings.total_s


def test_times_grow_with_the_tokens(model: Model) -> None:
    short, long = model.generate_ids([[1], [1]], max_new_tokens=40, eos_token_id=None)
    assert long.timings.first_token_s < long.timings.total_s
    assert short.timings == long.timings  # both were decided in the same steps


def test_results_are_frozen(model: Model) -> None:
    result = model.generate_ids([[1]], max_new_tokens=2)[0]
    with pytest.raises(FrozenInstanceError):
        result.text = ""  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        result.timings.total_s = 0.0  # type: ignore[misc]
    assert isinstance(result.token_ids, tuple)
    assert isinstance(result.timings, Timings)
    assert isinstance(hash(result), int)


def test_the_text_is_that_of_transformers(
    model: Model, transformers_tokenizer: GPT2TokenizerFast
) -> None:
    rng = np.random.default_rng(0)
    prompts = [rng.integers(1, 320, 4).tolist() for _ in range(20)]
    for result in model.generate_ids(prompts, max_new_tokens=60):
        expected = transformers_tokenizer.decode(result.token_ids, skip_special_tokens=True)
        assert result.text == expected


def first_new(model: Model, ids: list[int]) -> int:
    return model.generate_ids([ids], max_new_tokens=1, eos_token_id=None)[0].token_ids[0]


def test_an_end_token_is_in_the_ids_and_not_in_the_prompt(model: Model) -> None:
    free = model.generate_ids([[5, 6]], max_new_tokens=20, eos_token_id=None)[0]
    end = free.token_ids[7]
    ended = model.generate_ids([[5, 6, end]], max_new_tokens=1, eos_token_id=end)[0]
    assert ended.generated_tokens == 1  # the end in the prompt ends nothing
    ended = model.generate_ids([[5, 6]], max_new_tokens=20, eos_token_id=[319, end])[0]
    assert ended.finish_reason == "eos"
    assert ended.token_ids == free.token_ids[: free.token_ids.index(end) + 1]


def test_special_tokens_are_in_the_ids_and_not_in_the_text(model: Model) -> None:
    end = first_new(model, [5, 6])
    assert model.generate_ids([[5, 6]], max_new_tokens=3, eos_token_id=end)[0].text  # not special
    for seed in range(200):
        sampled = {"do_sample": True, "temperature": 50.0, "top_k": 0, "seed": seed}
        result = model.generate_ids([[5, 6]], max_new_tokens=90, **sampled)[0]
        if result.finish_reason == "eos":
            assert result.token_ids[-1] == END
            assert "<|endoftext|>" not in result.text
            return
    pytest.fail("no text has ended")


# The bundle's defaults


def test_the_callers_options_override_the_bundles_defaults(model: Model) -> None:
    limited = model.with_defaults(
        {"max_new_tokens": 3, "eos_token_id": [END], "length_penalty": 4, "temperature": 0.5}
    )
    assert limited.generate_ids([[1]])[0].generated_tokens == 3
    assert limited.generate_ids([[1]], max_new_tokens=5)[0].generated_tokens == 5
    assert limited.generate_ids([[1]], max_length=5)[0].generated_tokens == 4
    assert limited.generate_ids([[1]])[0].token_ids == model.generate_ids([[1]])[0].token_ids[:3]
    options = {"max_new_tokens": 9, "num_beams": 4, "eos_token_id": END}
    [beams] = model.with_defaults(options).generate_ids([[1]])
    [expected] = model.generate_ids([[1]], **options)
    assert replace(beams, timings=expected.timings) == expected
    assert expected.sequence_score is not None


def test_the_callers_none_keeps_the_bundles_end_from_ending(model: Model) -> None:
    end = first_new(model, [5, 6])
    ending = model.with_defaults({"eos_token_id": end})
    assert ending.generate_ids([[5, 6]], max_new_tokens=4)[0].finish_reason == "eos"
    endless = ending.generate_ids([[5, 6]], max_new_tokens=4, eos_token_id=None)[0]
    assert endless.finish_reason == "length"
    assert endless.generated_tokens == 4


def test_a_sampling_bundle(model: Model) -> None:
    sampling = model.with_defaults({"do_sample": True, "top_k": 50, "eos_token_id": END})
    drawn = {sampling.generate_ids([[1]], max_new_tokens=20)[0].token_ids for _ in range(3)}
    assert len(drawn) == 3
    seeded = [sampling.generate_ids([[1]], max_new_tokens=20, seed=4)[0] for _ in range(2)]
    assert seeded[0].token_ids == seeded[1].token_ids
    [greedy] = sampling.generate_ids([[1]], max_new_tokens=20, do_sample=False)
    [expected] = model.with_defaults({}).generate_ids([[1]], max_new_tokens=20)
    assert greedy.token_ids == expected.token_ids


# Prompts


def test_an_empty_prompt_starts_from_the_beginning_of_sequence(model: Model) -> None:
    expected = model.generate_ids([[END]], max_new_tokens=8)[0]
    empty_ids = model.generate_ids([[]], max_new_tokens=8)[0]
    empty_text = model.generate(["", TEXTS[0]], max_new_tokens=8)[0]
    assert empty_ids.token_ids == empty_text.token_ids == expected.token_ids
    assert "".join(model.stream("", max_new_tokens=8)) == expected.text
    other = model.generate_ids([[]], max_new_tokens=8, bos_token_id=5)[0]
    assert other.token_ids == model.generate_ids([[5]], max_new_tokens=8)[0].token_ids


def test_an_empty_prompt_and_nothing_to_start_from(model: Model) -> None:
    for call in (model.with_defaults({}).generate, model.with_defaults({}).stream):
        with pytest.raises(PromptError, match="bos_token_id"):
            call("", max_new_tokens=8)


def test_the_callers_prompts_are_left_as_they_were(model: Model) -> None:
    prompts = [[], [1, 2]]
    model.generate_ids(prompts, max_new_tokens=2)
    assert prompts == [[], [1, 2]]


@pytest.mark.parametrize(
    "prompts",
    [
        ((1, 2, 3),),
        [range(1, 4)],
        [np.array([1, 2, 3])],
        [np.array([1, 2, 3], np.uint8)],
        np.array([[1, 2, 3]], np.int32),
        iter([[1, 2, 3]]),
        [[np.int64(1), np.int32(2), 3]],
        [list(np.array([1, 2, 3]))],
    ],
    ids=lambda prompts: repr(prompts).split(" at 0x")[0],
)
def test_ids_come_in_many_forms(model: Model, prompts: Any) -> None:
    expected = model.generate_ids([[1, 2, 3]], max_new_tokens=5)[0]
    assert model.generate_ids(prompts, max_new_tokens=5)[0].token_ids == expected.token_ids


@pytest.mark.parametrize(
    ("ids", "named"),
    [
        ([1, 320], "320"),
        ([1, 10**12], str(10**12)),
        ([-1], "-1"),
        ([1.0], "1.0"),
        ([True], "True"),
        (["1"], "'1'"),
        ([None], "None"),
        ([[1]], r"\[1\]"),
        (np.array([1.0]), "1.0"),
        (np.array([True]), "True"),
        (np.array([[1]]), r"\[1\]"),
    ],
    ids=repr,
)
def test_bad_token_ids_are_refused(model: Model, ids: Any, named: str) -> None:
    with pytest.raises(PromptError, match=f"Prompt 1 .*{named}.*319"):
        model.generate_ids([[1], ids], max_new_tokens=5)


@pytest.mark.parametrize(
    ("prompts", "named"),
    [
        ([1, 2, 3], "item 0 is 1"),
        (np.array([1, 2]), "item 0 is .*1"),
        ([None], "item 0 is None"),
        ([[1], "12"], "item 1 is '12'"),
        ([[1], b"12"], "item 1 is b'12'"),
        ("12", "not '12'"),
        (5, "not 5"),
        (None, "not None"),
    ],
    ids=repr,
)
def test_prompts_that_are_no_lists_of_ids_are_refused(
    model: Model, prompts: Any, named: str
) -> None:
    with pytest.raises(PromptError, match=f"^generate_ids takes .*{named}"):
        model.generate_ids(prompts, max_new_tokens=5)


@pytest.mark.parametrize("ids", [[3], [[3]], [], 3], ids=repr)
def test_ids_for_a_decoder_that_reads_the_prompt_itself(model: Model, ids: Any) -> None:
    calls: list[Callable[..., Any]] = [model.generate, model.stream]
    calls.append(lambda text, **options: model.generate_ids([[1]], **options))
    for call in calls:
        with pytest.raises(OptionError, match=r"^decoder_input_ids has no effect.*decoder-only"):
            call("a", decoder_input_ids=ids)
    free = model.generate("a", max_new_tokens=3)[0].token_ids
    assert model.generate("a", max_new_tokens=3, decoder_input_ids=None)[0].token_ids == free


@pytest.mark.parametrize("text", [["a", 5], [["a"]], [b"a"], b"a", [None]], ids=repr)
def test_prompts_that_are_no_texts_are_refused(model: Model, text: Any) -> None:
    with pytest.raises(PromptError, match="text"):
        model.generate(text, max_new_tokens=5)


@pytest.mark.parametrize("text", [5, None, ["a"], b"a"], ids=repr)
def test_a_stream_of_no_text_is_refused(model: Model, text: Any) -> None:
    with pytest.raises(PromptError, match=r"[Tt]ext"):
        model.stream(text, max_new_tokens=5)


def test_a_lone_surrogate_is_refused(model: Model) -> None:
    for call in (model.generate, model.stream):
        with pytest.raises(PromptError, match="surrogate"):
            call("a\ud83d", max_new_tokens=5)


@pytest.mark.parametrize(
    "options", [{"temperature": 1e-40}, {"temperature": 5e-324}, {"top_p": 1e-320}], ids=str
)
def test_extreme_sampling_gives_a_text_or_an_option_error(
    model: Model, options: dict[str, float]
) -> None:
    try:
        model.generate_ids([[1]], max_new_tokens=3, do_sample=True, seed=0, **options)
    except OptionError as error:
        assert next(iter(options)) in str(error)


# Streams


@pytest.mark.parametrize("text", [*TEXTS, ""])
def test_a_stream_joins_to_the_text(model: Model, text: str) -> None:
    pieces = list(model.stream(text, max_new_tokens=60))
    assert all(isinstance(piece, str) and piece for piece in pieces)
    assert len(pieces) > 5
    assert "".join(pieces) == model.generate(text, max_new_tokens=60)[0].text


def test_a_sampled_stream_joins_to_the_text(model: Model) -> None:
    options = {"max_new_tokens": 60, "do_sample": True, "top_k": 0, "temperature": 3.0}
    for seed in range(10):
        streamed = "".join(model.stream(TEXTS[0], seed=seed, **options))
        assert streamed == model.generate(TEXTS[0], seed=seed, **options)[0].text


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("a", {"max_new_tokens": 0}),
        ("a", {"no_such_option": 1}),
        ("a", {"temperature": 0.5}),
        ("a", {"max_length": 1}),
        ("a" * 1000, {}),
        (5, {}),
    ],
)
def test_a_stream_refuses_at_once(model: Model, text: Any, options: dict[str, Any]) -> None:
    with pytest.raises((OptionError, PromptError)):
        model.stream(text, **options)


class Recorder:
    """A decoder that counts the calls of another."""

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        self.calls += name != "close"
        return getattr(self._decoder, name)


@pytest.fixture
def recorded(model: Model) -> tuple[Model, list[Recorder]]:
    """Return the model with recorders, and the list of those it makes."""
    decoders: list[Recorder] = []

    def new_decoder(prompts: Sequence[Sequence[int]], capacity: int) -> Any:
        decoders.append(Recorder(model.new_decoder(prompts, capacity)))
        return decoders[-1]

    return model.with_decoders(new_decoder), decoders


def test_a_stream_works_only_as_far_as_it_is_read(
    recorded: tuple[Model, list[Recorder]],
) -> None:
    model, decoders = recorded
    stream = model.stream(TEXTS[0], max_new_tokens=60)
    next(stream)
    assert 1 <= decoders[0].calls < 10


def test_closing_a_stream_early_is_clean(recorded: tuple[Model, list[Recorder]]) -> None:
    model, decoders = recorded
    stream = model.stream(TEXTS[0], max_new_tokens=60)
    next(stream)
    calls = decoders[0].calls
    stream.close()  # type: ignore[attr-defined]
    assert list(stream) == []
    assert decoders[0].calls == calls
    expected = model.generate(TEXTS[0], max_new_tokens=9)[0].text
    assert "".join(model.stream(TEXTS[0], max_new_tokens=9)) == expected


def test_two_streams_do_not_disturb_each_other(model: Model) -> None:
    streams: list[Iterator[str]] = [model.stream(text, max_new_tokens=30) for text in TEXTS[:2]]
    pieces: list[list[str]] = [[], []]
    for _ in range(100):
        for stream, found in zip(streams, pieces, strict=True):
            found.append(next(stream, ""))
    assert ["".join(found) for found in pieces] == [
        model.generate(text, max_new_tokens=30)[0].text for text in TEXTS[:2]
    ]


def test_threads_get_what_one_thread_gets(model: Model) -> None:
    texts = TEXTS * 6
    expected = [model.generate(text, max_new_tokens=30)[0].text for text in texts]

    def generate(number: int) -> str:
        if number % 2:
            return "".join(model.stream(texts[number], max_new_tokens=30))
        return model.generate(["home", texts[number]], max_new_tokens=30)[1].text

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(generate, range(len(texts)))) == expected


# Loading


@pytest.mark.parametrize("path", ["bundle", "text", "pathlike"])
def test_load_takes_every_kind_of_path(bundle: Path, path: str) -> None:
    class PathLike:
        def __fspath__(self) -> str:
            return str(bundle)

    given: Any = {"bundle": bundle, "text": str(bundle), "pathlike": PathLike()}[path]
    assert load(given, threads=1).generate_ids([[1]], max_new_tokens=1)


def test_a_path_and_a_demo_at_once(bundle: Path) -> None:
    with pytest.raises(OptionError, match=r"^demo has no effect with path: .*\.$"):
        load(bundle, demo="gpt2")


@pytest.mark.parametrize("name", ["bert", "GPT2", "../gpt2"])
def test_an_unknown_demo_is_refused(name: str) -> None:
    for call in (lambda: load(demo=name), lambda: demo_bundle(name)):
        assert refusal(OptionError, call) == f"There is no demo {name!r}: use 'gpt2' or 't5'."


@pytest.mark.parametrize("threads", [0, -1, 1.0, "2", True])
def test_a_bad_number_of_threads_is_refused(bundle: Path, threads: Any) -> None:
    with pytest.raises(OptionError, match="threads is "):
        load(bundle, threads=threads)


@pytest.mark.parametrize("threads", [1, 2, None])
def test_threads_do_not_change_the_text(bundle: Path, model: Model, threads: int | None) -> None:
    result = load(bundle, threads=threads).generate_ids([[1]], max_new_tokens=20)[0]
    assert result.token_ids == model.generate_ids([[1]], max_new_tokens=20)[0].token_ids


@pytest.mark.parametrize("device", ["cuda", "tpu", "", "CPU", None])
def test_an_unknown_device_is_refused(bundle: Path, device: Any) -> None:
    message = refusal(DeviceError, lambda: load(bundle, device=device))
    assert repr(device) in message
    assert "'cpu'" in message


def test_load_verifies_on_request(bundle: Path, tmp_path: Path) -> None:
    assert load(bundle, threads=1, verify=True)
    with pytest.raises(BundleError):
        load(tmp_path, verify=True)


# Fresh processes


LOAD_TWICE = """
from edgeseq.runtime import EdgeseqError, MissingPackageError, load

for _ in range(2):
    try:
        load(sys.argv[1])
    except MissingPackageError as error:
        assert isinstance(error, (EdgeseqError, ImportError))
        print(error)
"""


def test_without_onnxruntime_one_sentence_names_the_extras(bundle: Path) -> None:
    first, second = python(WITHOUT_PACKAGES + LOAD_TWICE, "onnxruntime", bundle).splitlines()
    assert first == second
    assert "edgeseq[cpu]" in first
    assert "cuda" in first


def test_the_package_is_imported_without_onnxruntime() -> None:
    code = "import sys, edgeseq.runtime; print('onnxruntime' in sys.modules)"
    assert python(code) == "False\n"


TELEMETRY = """
import os, sys

class Watcher:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "onnxruntime" and name not in seen:
            seen[name] = os.environ.get("ORT_DISABLE_TELEMETRY")

seen = {}
sys.meta_path.insert(0, Watcher())
from edgeseq.runtime import load
load(sys.argv[1], threads=1).generate_ids([[1]], max_new_tokens=1)
assert "onnxruntime" in seen
print(set(seen.values()))
"""


@pytest.mark.parametrize("before", ["", "0"])
def test_telemetry_is_off_before_onnxruntime_is_imported(bundle: Path, before: str) -> None:
    assert python(TELEMETRY, bundle, ORT_DISABLE_TELEMETRY=before) == "{'1'}\n"


AUDITED = """
import json, os, sys

def audit(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        path, mode, flags = arguments
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        if writes and path != os.devnull:
            seen.append(f"{event} {path}")
    elif event.startswith(("socket.", "subprocess.", "urllib.", "http.client.")) or event in (
        "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.mkdir",
        "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate",
        "shutil.copyfile", "tempfile.mkstemp", "tempfile.mkdtemp",
    ):
        seen.append(event)

seen = []
sys.addaudithook(audit)
from edgeseq.runtime import load

model = load(sys.argv[1], verify=True)
model.generate(["Once", "a"], max_new_tokens=5)
list(model.stream("Once", max_new_tokens=5, do_sample=True))
if os.path.isdir("/proc/self/fd"):
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if target.startswith("socket:"):
            seen.append(target)
print(json.dumps(seen))
"""


def test_loading_and_generating_write_no_file_and_open_no_socket(
    bundle: Path, tmp_path: Path
) -> None:
    places = {"HOME": "home", "TMPDIR": "tmp", "XDG_CACHE_HOME": "cache", "HF_HOME": "hf"}
    for name in places.values():
        (tmp_path / name).mkdir()
    before = sorted(bundle.iterdir())
    environment = {variable: str(tmp_path / name) for variable, name in places.items()}
    assert json.loads(python(AUDITED, bundle, **environment)) == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert sorted(bundle.iterdir()) == before


@pytest.mark.parametrize("enabled", [True, False])
def test_loading_leaves_the_garbage_collector_as_it_was(enabled: bool, tmp_path: Path) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        load().close()
        assert gc.isenabled() == enabled
        with pytest.raises(BundleError):
            load(tmp_path)
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()
