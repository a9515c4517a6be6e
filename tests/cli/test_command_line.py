"""The command line, called through ``main`` and run as processes."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from edgeseq.cli.command_line import main
from edgeseq.export import export_checkpoint
from edgeseq.runtime import GenerationResult, Model, load
from tests.support.commands import (
    COMMAND,
    Captured,
    failure,
    help_text,
    process,
    process_without,
    succeed,
    wrong_usage,
)

PROMPT = "Once upon “a time”"
RESULT_FIELDS = {
    "prompt",
    "text",
    "token_ids",
    "finish_reason",
    "prompt_tokens",
    "generated_tokens",
    "truncated_tokens",
    "timings",
    "prompt_index",
    "sequence_score",
    "logprobs",
    "top_logprobs",
    "choices",
}
posix_only = pytest.mark.skipif(os.name != "posix", reason="POSIX signals and pipes")


@pytest.fixture(scope="module")
def long_bundle(make_checkpoint: Callable[..., Path], tmp_path_factory: Any) -> Path:
    """A bundle whose texts do not end before 8,000 tokens."""
    checkpoint = make_checkpoint(n_positions=8192, eos_token_id=None)
    return export_checkpoint(checkpoint, tmp_path_factory.mktemp("long") / "bundle").folder


@pytest.fixture
def generate(bundle: Path, capsys: Captured) -> Callable[..., str]:
    """``generate(*arguments)``: what the command prints."""

    def run(*arguments: str) -> str:
        return succeed(capsys, "generate", "--bundle", bundle, *arguments)

    return run


def give_input(monkeypatch: pytest.MonkeyPatch, data: bytes, errors: str = "strict") -> None:
    stream = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", errors=errors)
    monkeypatch.setattr(sys, "stdin", stream)


# generate


def first(model: Model, prompt: str, **options: Any) -> GenerationResult:
    return model.generate(prompt, **options)[0]


def test_generate_prints_the_text(generate: Callable[..., str], model: Model) -> None:
    expected = first(model, PROMPT, max_new_tokens=30).text
    assert generate(PROMPT, "--max-new-tokens", "30") == expected + "\n"


def test_generate_prints_json(generate: Callable[..., str], model: Model) -> None:
    result = json.loads(generate(PROMPT, "--json", "--max-new-tokens", "30"))
    expected = first(model, PROMPT, max_new_tokens=30)
    assert set(result) == RESULT_FIELDS
    assert result["prompt"] == PROMPT
    assert result["text"] == expected.text
    assert result["token_ids"] == list(expected.token_ids)
    assert result["finish_reason"] == expected.finish_reason
    assert result["prompt_tokens"] == expected.prompt_tokens
    assert result["generated_tokens"] == len(result["token_ids"])
    assert 0 < result["timings"]["first_token_s"] <= result["timings"]["total_s"]


class Writes(io.BytesIO):
    """A stream that records each write."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def write(self, data: Any) -> int:
        self.seen.append(bytes(data).decode())
        return super().write(data)


def test_every_piece_is_shown_at_once(
    bundle: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = Writes()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(writes, encoding="utf-8", newline="\n"))
    assert main(["generate", "--bundle", str(bundle), PROMPT, "--max-new-tokens", "20"]) == 0
    assert writes.seen == [*model.stream(PROMPT, max_new_tokens=20), "\n"]


@pytest.mark.parametrize("argument", [[], ["-"]])
@pytest.mark.parametrize("ending", ["", "\n"])
def test_the_prompt_comes_from_standard_input(
    generate: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    argument: list[str],
    ending: str,
) -> None:
    give_input(monkeypatch, (PROMPT + ending).encode())
    result = json.loads(generate(*argument, "--json", "--max-new-tokens", "5"))
    assert result["prompt"] == PROMPT
    assert result["text"] == json.loads(generate(PROMPT, "--json", "--max-new-tokens", "5"))["text"]


def test_only_the_inputs_last_line_break_is_removed(
    generate: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    give_input(monkeypatch, b" two\nlines\n\n")
    result = json.loads(generate("--json", "--max-new-tokens", "5"))
    assert result["prompt"] == " two\nlines\n"


@pytest.mark.parametrize("arguments", [[""], []])
@pytest.mark.parametrize("given", [b"", b"\n", b"\xef\xbb\xbf"])
def test_an_empty_prompt_is_refused(
    bundle: Path,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    given: bytes,
) -> None:
    give_input(monkeypatch, given)
    message = failure(capsys, "generate", "-b", bundle, *arguments)
    assert "--allow-empty-prompt" in message
    give_input(monkeypatch, given)
    assert "text is empty" in failure(capsys, "run", "completion", *arguments)


@pytest.mark.parametrize("arguments", [[""], []])
def test_an_empty_prompt_starts_a_text_if_asked_for(
    generate: Callable[..., str],
    model: Model,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
) -> None:
    give_input(monkeypatch, b"")
    expected = model.generate_ids([[0]], max_new_tokens=9)[0].text
    options = ("--allow-empty-prompt", "--max-new-tokens", "9")
    assert generate(*arguments, *options) == expected + "\n"


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (["--max-new-tokens", "7"], {"max_new_tokens": 7}),
        (["--max-length", "30"], {"max_length": 30}),
        (["--no-do-sample"], {"do_sample": False, "max_new_tokens": 128}),
        (
            ["--do-sample", "--seed", "3", "--temperature", "2.5", "--top-k", "0", "--top-p", ".9"],
            {
                "do_sample": True,
                "seed": 3,
                "temperature": 2.5,
                "top_k": 0,
                "top_p": 0.9,
                "max_new_tokens": 128,
            },
        ),
        (["--repetition-penalty", "1.7"], {"repetition_penalty": 1.7, "max_new_tokens": 128}),
        (["--no-repeat-ngram-size", "1"], {"no_repeat_ngram_size": 1, "max_new_tokens": 128}),
    ],
    ids=lambda item: item[0] if isinstance(item, list) else "",
)
def test_options_reach_the_model(
    generate: Callable[..., str], model: Model, arguments: list[str], options: dict[str, Any]
) -> None:
    result = json.loads(generate(PROMPT, "--json", *arguments))
    assert result["token_ids"] == list(first(model, PROMPT, **options).token_ids)


def test_up_to_128_new_tokens_unless_told(long_bundle: Path, capsys: Captured) -> None:
    assert main(["generate", "-b", str(long_bundle), "--json", "--threads", "1", "a"]) == 0
    assert json.loads(capsys.readouterr().out)["generated_tokens"] == 128


# info


def test_info_says_what_the_bundle_is(bundle: Path, capsys: Captured) -> None:
    printed = succeed(capsys, "info", bundle)
    for word in (
        "gpt2",
        "decoder-only",
        "fp32",
        "320",
        "96",
        "2, with 4 heads of size 12",
        str(bundle),
    ):
        assert word in printed
    assert "verified" not in printed


def test_info_json_is_the_manifest(bundle: Path, capsys: Captured) -> None:
    assert main(["info", str(bundle), "--json"]) == 0
    manifest = json.loads((bundle / "edgeseq.json").read_text(encoding="utf-8"))
    assert json.loads(capsys.readouterr().out) == manifest


def test_info_verifies_on_request(bundle: Path, tmp_path: Path, capsys: Captured) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    assert main(["info", str(copy), "--verify"]) == 0
    assert "verified" in capsys.readouterr().out
    weights = bytearray((copy / "weights.bin").read_bytes())
    weights[100] ^= 1
    (copy / "weights.bin").write_bytes(weights)
    assert main(["info", str(copy)]) == 0
    capsys.readouterr()
    assert "weights.bin" in failure(capsys, "info", str(copy), "--verify")
    assert "weights.bin" in failure(capsys, "info", str(copy), "--verify", "--json")


@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_info_of_a_demo(name: str, capsys: Captured) -> None:
    assert main(["info", "--demo", name, "--verify"]) == 0
    printed = capsys.readouterr().out
    assert f"architecture   {name}, " in printed
    assert "verified" in printed


# export


def test_export_end_to_end(
    checkpoint: Path, tmp_path: Path, model: Model, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "bundle"
    assert main(["export", str(checkpoint), str(out)]) == 0
    printed = capfd.readouterr()
    assert printed.out == ""
    assert re.search(r"difference.* \d\.\de-\d\d", printed.err)
    assert len(printed.err.splitlines()) >= 3
    assert "Warning" not in printed.err
    assert list(out.parent.iterdir()) == [out]
    exported = load(out, verify=True)
    assert first(exported, PROMPT).token_ids == first(model, PROMPT).token_ids


def test_export_overwrites_only_on_request(
    checkpoint: Path, bundle: Path, tmp_path: Path, capsys: Captured
) -> None:
    out = Path(shutil.copytree(bundle, tmp_path / "out"))
    assert "--overwrite" in failure(capsys, "export", str(checkpoint), str(out))
    assert main(["export", str(checkpoint), str(out), "--overwrite", "--precision", "fp32"]) == 0


# Errors


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--bundle", "no-such", "a"], "no-such"),
        (["a", "--max-new-tokens", "0"], "max_new_tokens"),
        (["a", "--max-new-tokens", "5", "--max-length", "5"], "max_length"),
        (["a", "--temperature", "0.5"], "do_sample"),
        (["a", "--no-do-sample", "--seed", "5"], "do_sample"),
        (["a", "--do-sample", "--temperature", "nan"], "temperature"),
        (["a", "--do-sample", "--top-p", "1.5"], "top_p"),
        (["a", "--seed", "-1", "--do-sample"], "seed"),
        (["abcdef", "--max-length", "3"], "max_length"),
        (["a b" * 100], "96"),
        (["a", "--threads", "0"], "threads"),
        (["a", "--threads", "99999999999"], "threads"),
        (["a", "--json", "--max-new-tokens", "-1"], "max_new_tokens"),
        (["half a character: \ud83d"], "surrogate"),
    ],
    ids=lambda item: ascii(item[-3:])[:40] if isinstance(item, list) else "",
)
def test_generate_refuses_in_one_line(
    bundle: Path, arguments: list[str], named: str, capsys: Captured
) -> None:
    assert named in failure(capsys, "generate", "--bundle", str(bundle), *arguments)


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_a_temperature_below_float32_is_refused(bundle: Path, capsys: Captured) -> None:
    options = ["a", "--do-sample", "--temperature", "1e-40"]
    assert "temperature" in failure(capsys, "generate", "--bundle", str(bundle), *options)


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_input_that_is_not_utf8(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured, errors: str
) -> None:
    give_input(monkeypatch, b"a\xffb", errors)
    failure(capsys, "generate", "--bundle", str(bundle))


def test_no_standard_input_at_all(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    failure(capsys, "generate", "--bundle", str(bundle))


def test_no_standard_output_at_all(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)  # as under pythonw
    assert main(["info", str(bundle)]) == 0
    assert main(["generate", "--bundle", str(bundle), "--max-new-tokens", "2", "a"]) == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--input", "none.txt", "--output", "-"], "There is no file none.txt."),
        (["--input", ".", "--output", "-"], ". is a folder: give a file."),
        (["--input", "in.txt", "--output", "none/out.jsonl"], "There is no folder none."),
    ],
)
def test_missing_files_and_folders_are_named(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.txt").write_text("Once\n")
    assert failure(capsys, "run", "completion", *arguments) == sentence


def test_the_bundles_length_replaces_the_commands_default(
    bundle: Path, tmp_path: Path, capsys: Captured
) -> None:
    copy = shutil.copytree(bundle, tmp_path / "copy")
    manifest = json.loads((copy / "edgeseq.json").read_text(encoding="utf-8"))
    manifest["generation"] = {"max_new_tokens": 7}
    (copy / "edgeseq.json").write_text(json.dumps(manifest), encoding="utf-8")
    for options, expected in ([], 7), (["--max-new-tokens", "3"], 3), (["--max-length", "5"], 4):
        assert main(["generate", "-b", str(copy), "--json", "a", *options]) == 0
        assert json.loads(capsys.readouterr().out)["generated_tokens"] == expected


def test_info_lists_the_languages(bundle: Path, tmp_path: Path, capsys: Captured) -> None:
    copy = shutil.copytree(bundle, tmp_path / "copy")
    manifest = json.loads((copy / "edgeseq.json").read_text(encoding="utf-8"))
    manifest["tokenizer"]["languages"] = {
        "ids": {"en": 300, "fr": 301},
        "place": "prefix",
        "end": 0,
        "source": "en",
        "target": "fr",
    }
    (copy / "edgeseq.json").write_text(json.dumps(manifest), encoding="utf-8")
    printed = succeed(capsys, "info", copy)
    assert "languages      en, fr (default: from en, to fr)\n" in printed
    assert "languages" not in succeed(capsys, "info", bundle)


@pytest.mark.parametrize("path", ["no-such", "line\nbreak", "edgeseq.json"])
def test_info_refuses_what_is_no_bundle(bundle: Path, path: str, capsys: Captured) -> None:
    failure(capsys, "info", str(bundle / path))


@pytest.mark.parametrize(
    ("checkpoint_name", "out", "named"),
    [
        ("no-such-folder/at/all", "out", "no-such-folder"),
        ("no-such-org/no-such-model", "out", "no-such-org/no-such-model"),
        ("good", "taken", "taken"),
        ("good", "file", "file"),
        ("good", "file/below", "file"),
        ("empty", "out", "config.json"),
    ],
)
def test_export_refuses_in_one_line(
    checkpoint: Path, tmp_path: Path, checkpoint_name: str, out: str, named: str, capfd: Captured
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "note.txt").write_bytes(b"precious")
    (tmp_path / "file").write_bytes(b"precious")
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    given = {"good": str(checkpoint), "empty": str(tmp_path / "empty")}
    name = given.get(checkpoint_name, checkpoint_name)
    assert named in failure(capfd, "export", name, tmp_path / out, progress=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_permission_denied_to_write(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    make = Path.mkdir

    def denied(path: Path, *arguments: Any, **options: Any) -> None:
        if path.parent == tmp_path:
            raise PermissionError(13, "Permission denied", str(path))
        make(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", denied)
    assert "denied" in failure(capsys, "export", str(checkpoint), str(tmp_path / "out"))


@pytest.mark.parametrize("command", ["info", "generate"])
def test_permission_denied_to_read(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured, command: str
) -> None:
    def denied(path: Path, *_: Any, **__: Any) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_text", denied)
    monkeypatch.setattr(Path, "read_bytes", denied)
    options = ["generate", "a", "-b"] if command == "generate" else ["info"]
    assert "denied" in failure(capsys, *options, str(bundle))


# Usage


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-command"],
        ["generate", "a", "--threads", "1.5"],
        ["generate", "a", "--demo", "bert"],
        ["generate", "a", "--demo", "gpt2", "--bundle", "folder"],
        ["info"],
        ["info", "--demo", "none"],
        ["info", "--demo", "t5", "bundle"],
        ["export", "checkpoint"],
        ["export", "checkpoint", "out", "--precision", "int3"],
    ],
    ids=" ".join,
)
def test_wrong_usage(arguments: list[str], capsys: Captured) -> None:
    wrong_usage(capsys, *arguments)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["genrate", "a"], "there is no command 'genrate'; did you mean generate?"),
        (["--verison"], "there is no option --verison; did you mean --version?"),
        (["generate", "Once", "upon"], "unexpected argument 'upon'; put a text with spaces in"),
        (["generate", "--tempratur", "1"], "there is no option --tempratur; did you mean --temp"),
        (["generate", "--temp", "1", "a"], "there is no option --temp; did you mean --temperature"),
        (["generate", "--xyzzy=1", "a"], "there is no option --xyzzy."),
        (["generate", "-x", "a"], "there is no option -x."),
        (["generate", "a", "--max-new-tokens", "many"], "--max-new-tokens: 'many' is not an int"),
        (["generate", "a", "--temperature", "hot"], "--temperature: 'hot' is not a number."),
        (["export", "--revison", "x", "a"], "there is no option --revison; did you mean --revis"),
    ],
    ids=lambda item: " ".join(item) if isinstance(item, list) else "",
)
def test_wrong_usage_says_what_is_wrong(
    arguments: list[str], sentence: str, capsys: Captured
) -> None:
    assert wrong_usage(capsys, *arguments).startswith(sentence)


def test_no_command_prints_the_commands(capsys: Captured) -> None:
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr()
    assert printed.err == printed.out
    assert "generate text from a prompt" in printed.err


def test_a_prompt_may_look_like_an_option(generate: Callable[..., str], model: Model) -> None:
    expected = first(model, "--not-an-option", max_new_tokens=5).text
    assert generate("--max-new-tokens", "5", "--", "--not-an-option") == expected + "\n"


def test_a_terminal_is_told_that_the_prompt_is_read(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    give_input(monkeypatch, PROMPT.encode())
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    assert main(["generate", "-b", str(bundle), "--max-new-tokens", "1"]) == 0
    assert re.fullmatch(r"Reading standard input; end it with Ctrl-.+\.\n", capsys.readouterr().err)


def test_a_bad_option_is_an_error_before_the_prompt_is_read(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    class Unread(io.StringIO):
        def read(self, *_: Any) -> str:
            raise AssertionError("the prompt was read")

    monkeypatch.setattr(sys, "stdin", Unread())
    assert "top_p" in failure(
        capsys, "generate", "-b", str(bundle), "--do-sample", "--top-p", "1.5"
    )


def test_temperature_0_points_to_greedy_search(bundle: Path, capsys: Captured) -> None:
    message = failure(
        capsys, "generate", "-b", str(bundle), "a", "--do-sample", "--temperature", "0"
    )
    assert "do_sample=False" in message
    assert "--no-do-sample" in message


def test_version(capsys: Captured) -> None:
    assert help_text(capsys, "--version") == f"edgeseq {version('edgeseq')}\n"


def test_help_lists_the_commands(capsys: Captured) -> None:
    text = help_text(capsys, "--help")
    assert all(re.search(rf"^ +{name} +\S", text, re.M) for name in ("generate", "export", "info"))


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (
            "generate",
            ["--bundle", "--demo", "--json", "--threads", "--max-new-tokens", "--seed", "128"],
        ),
        ("export", ["--revision", "--precision", "--overwrite"]),
        ("info", ["--json", "--verify"]),
    ],
)
def test_help_of_a_command_lists_its_options(
    command: str, options: list[str], capsys: Captured
) -> None:
    text = help_text(capsys, command, "--help")
    assert all(option in text for option in options)


# Real processes


def test_the_installed_command(bundle: Path, model: Model) -> None:
    installed = shutil.which("edgeseq", path=sysconfig.get_path("scripts"))
    assert installed is not None
    done = process(
        *("generate", "-b", bundle, "--json", "--max-new-tokens", "20"),
        command=[installed],
        input=PROMPT.encode(),
        env={"PYTHONIOENCODING": "utf-8"},
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["text"] == first(model, PROMPT, max_new_tokens=20).text


def test_an_error_of_a_process(bundle: Path) -> None:
    done = process("generate", "-b", bundle / "no-such", "a")
    assert (done.returncode, done.stdout) == (1, b"")
    assert re.fullmatch(rb"edgeseq: [^\n]*no-such[^\n]*\.\r?\n", done.stderr)


def test_text_for_a_console_that_cannot_show_it(bundle: Path, model: Model) -> None:
    expected = first(model, PROMPT, max_new_tokens=60).text
    assert not expected.isascii()
    arguments = ("generate", "-b", bundle, PROMPT, "--max-new-tokens", "60")
    done = process(*arguments, env={"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, b"")
    assert (
        done.stdout.decode("ascii").rstrip("\r\n") == expected.encode("ascii", "replace").decode()
    )


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_json_output_is_valid_in_every_encoding(bundle: Path, model: Model, encoding: str) -> None:
    arguments = ("generate", "-b", bundle, "--json", PROMPT, "--max-new-tokens", "60")
    done = process(*arguments, env={"PYTHONIOENCODING": encoding})
    result = json.loads(done.stdout.decode(encoding))
    assert result["prompt"] == PROMPT
    assert result["text"] == first(model, PROMPT, max_new_tokens=60).text


@posix_only
@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        ["--help"],
        ["generate", "--help"],
        ["info", "BUNDLE"],
        ["info", "BUNDLE", "--json"],
        ["generate", "a", "-b", "BUNDLE"],
        ["generate", "a", "-b", "BUNDLE", "--json"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_left_before(bundle: Path, arguments: list[str], unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        given = [str(bundle) if item == "BUNDLE" else item for item in arguments]
        done = process(*given, stdout=writer, env={"PYTHONUNBUFFERED": unbuffered})
    finally:
        os.close(writer)
    assert done.stderr == b""


def start(bundle: Path) -> subprocess.Popen[bytes]:
    """Start a process and return it in the middle of a long text, after its first byte.

    SIGINT interrupts it, also where these tests run in the background and ignore SIGINT.
    """
    arguments = ["generate", "-b", str(bundle), "--max-new-tokens", "8000", "--threads", "1", "a"]
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        running = subprocess.Popen(
            [*COMMAND, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": ""},
        )
    finally:
        signal.signal(signal.SIGINT, inherited)
    assert running.stdout is not None
    assert running.stdout.read(1) != b""
    return running


@posix_only
def test_a_reader_that_leaves(long_bundle: Path) -> None:
    with start(long_bundle) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == b""
        assert running.wait(60) == 1


@posix_only
def test_ctrl_c(long_bundle: Path) -> None:
    with start(long_bundle) as running:
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=60)
    assert running.returncode == 130
    assert errors.strip() == b""


def test_an_error_that_ctrl_c_became(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """An import of numpy that is interrupted raises an ImportError."""

    def interrupted(*_: Any, **__: Any) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("PyCapsule_Import could not import module") from None

    monkeypatch.setattr("edgeseq.runtime.loading.load", interrupted)
    assert main(["generate", "a"]) == 130
    assert capsys.readouterr().err.strip() == ""
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(
    ("blocked", "arguments", "extra"),
    [
        ("torch", ["export", "checkpoint", "out"], "export"),
        ("optimum", ["export", "checkpoint", "out"], "export"),
        ("torch,transformers,optimum,onnx", ["export", "checkpoint", "out"], "export"),
        ("onnxruntime", ["generate", "a", "-b", "BUNDLE"], "cpu"),
        ("psutil", ["bench", "BUNDLE"], "bench"),
        ("starlette", ["serve", "--demo"], "server"),
        ("uvicorn", ["serve", "--demo"], "server"),
    ],
    ids=lambda item: item if isinstance(item, str) else "",
)
def test_a_missing_extra_is_named(
    bundle: Path, tmp_path: Path, blocked: str, arguments: list[str], extra: str
) -> None:
    given = [str(bundle) if item == "BUNDLE" else item for item in arguments]
    done = process_without(blocked, *given, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, b"")
    assert len(done.stderr.splitlines()) == 1
    assert re.search(rf"edgeseq\[[a-z,]*\b{extra}\b[a-z,]*\]", done.stderr.decode())
    assert list(tmp_path.iterdir()) == []


def test_info_needs_no_extra(bundle: Path) -> None:
    done = process_without("onnxruntime,torch,transformers,onnx", "info", bundle, "--verify")
    assert (done.returncode, done.stderr) == (0, b"")
