"""Exports by Hub id, from a loopback server that stands in for the Hub.

huggingface_hub reads its environment when it is imported, so exports run in other processes. Each
answers several command lines, as importing torch is most of the time an export takes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha1, sha256
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from transformers import GPT2LMHeadModel

from edgeseq.runtime import load
from edgeseq.runtime.bundle.reading import open_bundle
from tests.support.errors import CODE, assert_one_sentence
from tests.support.files import assert_nothing_written

OLD, NEW = "0" * 39 + "1", "0" * 39 + "2"  # commits
TIME_LIMIT_S = 300
SIDE_FILES = {
    "config.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
}
NOT_NEEDED = {
    ".gitattributes",
    "README.md",
    "flax_model.msgpack",
    "onnx/decoder_model.onnx",
    "pytorch_model.bin",
    "rust_model.ot",
    "tf_model.h5",
    "training_args.bin",
}
DRIVER = """
import contextlib, io, json, sys, traceback
from edgeseq.cli import main
for line in sys.stdin:
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        try:
            status = main(json.loads(line))
        except BaseException:
            status = traceback.print_exc()
    print(json.dumps([status, errors.getvalue()]), flush=True)
"""


def is_large(file: str) -> bool:
    return file.endswith((".safetensors", ".bin"))


def hash_of(file: str, content: bytes) -> str:
    """Return the hash by which the Hub names the file."""
    if is_large(file):
        return sha256(content).hexdigest()
    return sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


def sibling(file: str, content: bytes) -> dict[str, Any]:
    """Return what the Hub's API says about the file."""
    size = len(content)
    known: dict[str, Any] = {"rfilename": file, "size": size, "blobId": hash_of("", content)}
    if is_large(file):
        known["lfs"] = {"size": size, "sha256": hash_of(file, content), "pointerSize": 130}
    return known


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    range: str | None


@dataclass
class Hub:
    """The repositories that the server offers, and the requests it got."""

    endpoint: str = ""
    repositories: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=lambda: {"main": NEW, "v1": OLD})
    blobs: dict[str, bytes] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    cuts: dict[str, int] = field(default_factory=dict)  # blob -> bytes until the line goes dead
    damaged: dict[str, bytes] = field(default_factory=dict)  # blob -> what is sent instead
    pushes: dict[str, str] = field(default_factory=dict)  # branches -> commits, once asked for
    refusals: dict[str, tuple[HTTPStatus, str]] = field(default_factory=dict)  # by repository

    def add(self, name: str, commit: str, folder: Path, extra: set[str] | None = None) -> None:
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        files |= dict.fromkeys(extra or set(), b"not to be fetched")
        self.repositories.setdefault(name, {})[commit] = files
        self.blobs |= {hash_of(file, content): content for file, content in files.items()}

    def fetched(self, name: str, commit: str) -> set[str]:
        """Return the files of a repository that were requested."""
        start = f"/{name}/resolve/{commit}/"
        paths = [request.path for request in self.requests]
        return {path.removeprefix(start) for path in paths if path.startswith(start)}


class Handler(BaseHTTPRequestHandler):
    """The few paths of the Hub's API that a download uses."""

    hub: Hub

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self) -> None:
        self.hub.requests.append(Request(self.command, self.path, self.headers.get("Range")))
        kind, _, rest = self.path[1:].partition("/")
        if kind == "cdn":
            self.send_blob(rest)
        elif self.path.startswith("/api/models/"):
            self.send_info(self.path.removeprefix("/api/models/"))
        else:
            self.redirect_to_blob()

    def send_info(self, path: str) -> None:
        path, _, query = path.partition("?")
        name, _, revision = path.partition("/revision/")
        commits = self.hub.repositories.get(name)
        commit = self.hub.branches.get(revision or "main", revision)
        if name in self.hub.refusals:
            self.fail(*self.hub.refusals[name])
        elif commits is None:
            self.fail(HTTPStatus.NOT_FOUND, "RepoNotFound")
        elif commit not in commits:
            self.fail(HTTPStatus.NOT_FOUND, "RevisionNotFound")
        else:
            siblings = [sibling(file, content) for file, content in commits[commit].items()]
            if query != "blobs=True":
                siblings = [{"rfilename": file["rfilename"]} for file in siblings]
            info = {"id": name, "sha": commit, "siblings": siblings}
            if revision in self.hub.pushes:
                self.hub.branches[revision] = self.hub.pushes.pop(revision)
            self.send(HTTPStatus.OK, {}, json.dumps(info).encode())

    def redirect_to_blob(self) -> None:
        name, _, place = self.path[1:].partition("/resolve/")
        commit, _, file = place.partition("/")
        content = self.hub.repositories.get(name, {}).get(commit, {}).get(file)
        if content is None:
            return self.fail(HTTPStatus.NOT_FOUND, "EntryNotFound")
        blob = hash_of(file, content)
        headers = {
            "Location": f"{self.hub.endpoint}/cdn/{blob}",
            "X-Repo-Commit": commit,
            "X-Linked-Etag": f'"{blob}"',
            "X-Linked-Size": str(len(content)),
        }
        return self.send(HTTPStatus.FOUND, headers, b"")

    def send_blob(self, blob: str) -> None:
        content, asked = self.hub.blobs[blob], self.headers.get("Range")
        content = self.hub.damaged.get(blob, content)
        start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        status = HTTPStatus.PARTIAL_CONTENT if asked else HTTPStatus.OK
        place = f"bytes {start}-{len(content) - 1}/{len(content)}"
        headers = {"Content-Range": place} if asked else {}
        self.send(status, headers, content[start:], cut=self.hub.cuts.pop(blob, None))

    def fail(self, status: HTTPStatus, code: str) -> None:
        self.send(status, {"X-Error-Code": code}, json.dumps({"error": code}).encode())

    def send(
        self, status: HTTPStatus, headers: dict[str, str], body: bytes, cut: int | None = None
    ) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:cut])


class Worker:
    """A process that runs edgeseq's command lines with an environment of its own."""

    def __init__(self, home: Path, endpoint: str, **environment: str) -> None:
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.upper().startswith("HF_") and not key.upper().endswith("_PROXY")
        }
        ours = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "NO_PROXY": "*"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", DRIVER],
            env={**kept, **ours, "OMP_NUM_THREADS": "1", **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._limit = threading.Timer(TIME_LIMIT_S, self._process.kill)
        self._limit.start()

    def export(self, *arguments: str | Path) -> tuple[int | None, str]:
        """Return the exit status (None after an exception) and standard error."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = json.dumps(["export", *map(str, arguments)])
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        status, errors = json.loads(self._process.stdout.readline())
        return status, errors

    def close(self) -> None:
        self._limit.cancel()
        self._process.communicate()


@pytest.fixture(scope="module")
def hub(checkpoint: Path, make_checkpoint: Callable[..., Path]) -> Iterator[Hub]:
    """A Hub with one repository that has all sorts of files, and two commits."""
    hub = Hub()
    handler = type("HubHandler", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    hub.add("org/tiny", NEW, checkpoint, NOT_NEEDED)
    hub.add("org/tiny", OLD, make_checkpoint(seed=1), NOT_NEEDED)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield hub
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the Hub's cache."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def worker(hub: Hub, home: Path) -> Iterator[Worker]:
    worker = Worker(home, hub.endpoint)
    yield worker
    worker.close()


@pytest.fixture(autouse=True)
def no_earlier_requests(hub: Hub) -> None:
    hub.requests.clear()


@pytest.fixture(scope="module")
def cached(hub: Hub, worker: Worker, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Bundles of both branches; exporting them put their files into the cache."""
    outs = {name: tmp_path_factory.mktemp("cached") / name for name in ("main", "v1")}
    assert worker.export("org/tiny", outs["main"])[0] == 0
    assert worker.export("org/tiny", outs["v1"], "--revision", "v1")[0] == 0
    return outs


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "bundles" / "gpt2"


def weights_hash(bundle: Path) -> str:
    return open_bundle(bundle, verify=True).manifest.files["weights.bin"].sha256


def assert_says_in_one_sentence(errors: str, *words: str) -> None:
    """Check that the last line alone is an error and has all the words (regular expressions)."""
    assert "Traceback" not in errors
    (message,) = [line for line in errors.splitlines() if line.startswith("edgeseq: ")]
    assert errors.strip().splitlines()[-1] == message
    assert_one_sentence(message, ending=CODE, longest=400)
    for word in words:
        assert re.search(word, message, re.IGNORECASE)


def test_branch_resolves_to_its_commit(
    hub: Hub, cached: dict[str, Path], checkpoint: Path, bundle: Path
) -> None:
    sources = {name: open_bundle(out).manifest.source for name, out in cached.items()}
    assert {name: source.id for name, source in sources.items()} == {
        "main": "org/tiny",
        "v1": "org/tiny",
    }
    assert {name: source.revision for name, source in sources.items()} == hub.branches
    assert weights_hash(cached["main"]) == weights_hash(bundle)
    assert weights_hash(cached["v1"]) != weights_hash(bundle)
    assert load(cached["main"], threads=1).generate("a fox", max_new_tokens=4)


def test_commit_is_exported_as_it_was(worker: Worker, cached: dict[str, Path], out: Path) -> None:
    assert worker.export("org/tiny", out, "--revision", OLD)[0] == 0
    assert open_bundle(out).manifest.source.revision == OLD
    assert weights_hash(out) == weights_hash(cached["v1"])


def test_a_branch_that_moves_meanwhile(
    hub: Hub, worker: Worker, cached: dict[str, Path], out: Path
) -> None:
    """Files are checked against the commit from which they were fetched."""
    hub.branches["moving"], hub.pushes["moving"] = OLD, NEW
    status, errors = worker.export("org/tiny", out, "--revision", "moving")
    del hub.branches["moving"]
    assert (status, hub.pushes) == (0, {}), errors
    assert open_bundle(out).manifest.source.revision == NEW
    assert weights_hash(out) == weights_hash(cached["main"])


def test_only_what_an_export_reads_is_fetched(
    hub: Hub, worker: Worker, checkpoint: Path, out: Path
) -> None:
    """Safetensors and not the pickle, no files of other frameworks, nothing from other hosts."""
    hub.add("org/all-sorts", NEW, checkpoint, NOT_NEEDED)
    assert worker.export("org/all-sorts", out)[0] == 0
    assert hub.fetched("org/all-sorts", NEW) == {*SIDE_FILES, "model.safetensors"}
    info = {r.path for r in hub.requests if r.path.startswith("/api/")}
    assert all(path.startswith("/api/models/org/all-sorts") for path in info)


@pytest.mark.parametrize("safetensors", [True, False])
def test_shards_are_fetched(
    safetensors: bool, hub: Hub, worker: Worker, checkpoint: Path, bundle: Path, tmp_path: Path
) -> None:
    """Shards of a pickle too, if there are no safetensors."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    model = GPT2LMHeadModel.from_pretrained(checkpoint)
    model.save_pretrained(folder, max_shard_size="100KB", safe_serialization=safetensors)
    name = f"org/sharded-{safetensors}"
    hub.add(name, NEW, folder, NOT_NEEDED - {"pytorch_model.bin"})
    status, errors = worker.export(name, tmp_path / "out")
    assert status == 0, errors
    assert hub.fetched(name, NEW) == {path.name for path in folder.iterdir()}
    assert weights_hash(tmp_path / "out") == weights_hash(bundle)


def test_interrupted_download_is_resumed(
    hub: Hub, worker: Worker, make_checkpoint: Callable[..., Path], out: Path
) -> None:
    """The connection breaks in the middle of the weights; the first part is not fetched again."""
    folder = make_checkpoint(vocab_size=1 << 16, tie_word_embeddings=True)
    content = (folder / "model.safetensors").read_bytes()
    hub.add("org/big", NEW, folder)
    blob = sha256(content).hexdigest()
    hub.cuts[blob] = 11 << 20  # more than the 10 MiB that huggingface_hub reads at a time
    status, errors = worker.export("org/big", out)
    if status != 0:  # the client did not try again by itself
        assert status == 1, errors
        assert_says_in_one_sentence(errors, "org/big")
        assert_nothing_written(out)
        status, errors = worker.export("org/big", out)
    assert status == 0, errors
    downloads = [r for r in hub.requests if r.method == "GET" and r.path == f"/cdn/{blob}"]
    first, *later = [request.range for request in downloads]
    assert first is None
    assert later and None not in later
    assert all(int(str(asked).removeprefix("bytes=").rstrip("-")) >= 10 << 20 for asked in later)
    assert load(out, verify=True, threads=1).bundle.manifest.dimensions.vocabulary == 1 << 16


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
def test_what_is_damaged_on_its_way_is_refused(
    file: str, hub: Hub, worker: Worker, make_checkpoint: Callable[..., Path], out: Path
) -> None:
    name = f"org/damaged-{file.partition('.')[2]}"
    folder = make_checkpoint(seed=len(file))
    content = (folder / file).read_bytes()
    if file == "tokenizer.json":  # else it is another's too, and in the cache
        content = content.replace(b"{", b"{ ", 1)
        (folder / file).write_bytes(content)
    hub.add(name, NEW, folder)
    blob = hash_of(file, content)
    hub.damaged[blob] = content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
    status, errors = worker.export(name, out)
    assert status == 1
    assert_says_in_one_sentence(errors, "damaged", "delete it")
    assert_nothing_written(out)
    [path] = re.findall(r"edgeseq: (.*) is damaged", errors)
    del hub.damaged[blob]
    Path(path).unlink()
    status, errors = worker.export(name, out)
    assert status == 0, errors


def test_unknown_repository(worker: Worker, out: Path) -> None:
    status, errors = worker.export("org/nothing", out)
    assert status == 1
    assert_says_in_one_sentence(errors, "org/nothing", "not found|has no")
    assert_nothing_written(out)


def test_unknown_revision(worker: Worker, out: Path) -> None:
    status, errors = worker.export("org/tiny", out, "--revision", "v9")
    assert status == 1
    assert_says_in_one_sentence(errors, "org/tiny", "revision", "v9", "not found|has no")
    assert_nothing_written(out)


@pytest.mark.parametrize(
    ("refusal", "word"),
    [
        ((HTTPStatus.FORBIDDEN, "GatedRepo"), "gated"),
        ((HTTPStatus.INTERNAL_SERVER_ERROR, ""), "500"),
    ],
    ids=lambda item: item if isinstance(item, str) else "",
)
def test_hub_refuses(
    refusal: tuple[HTTPStatus, str], word: str, hub: Hub, worker: Worker, out: Path
) -> None:
    hub.refusals["org/refused"] = refusal
    status, errors = worker.export("org/refused", out)
    assert status == 1
    assert_says_in_one_sentence(errors, "org/refused", word)
    assert_nothing_written(out)


def test_repository_without_a_checkpoint(hub: Hub, worker: Worker, out: Path) -> None:
    hub.repositories["org/words"] = {NEW: {"README.md": b"words"}}
    status, errors = worker.export("org/words", out)
    assert status == 1
    assert_says_in_one_sentence(errors, "config.json")
    assert_nothing_written(out)


def test_repository_of_another_architecture(
    hub: Hub, worker: Worker, checkpoint: Path, out: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "bert"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "model.safetensors").write_bytes(b"large")
    hub.add("org/bert", NEW, folder)
    status, errors = worker.export("org/bert", out)
    assert status == 1
    assert_says_in_one_sentence(errors, "'bert'", "supported: gpt2")
    assert_nothing_written(out)


# Without a Hub


@pytest.fixture(scope="module")
def offline(hub: Hub, home: Path, cached: dict[str, Path]) -> Iterator[Worker]:
    worker = Worker(home, hub.endpoint, HF_HUB_OFFLINE="1")
    yield worker
    worker.close()


@pytest.fixture(scope="module")
def unreachable(home: Path, cached: dict[str, Path]) -> Iterator[Worker]:
    """A worker for which nothing answers at the Hub's address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    worker = Worker(home, endpoint)
    yield worker
    worker.close()


@pytest.mark.parametrize("state", ["offline", "unreachable"])
@pytest.mark.parametrize("revision", ["default", "v1", OLD])
def test_export_from_the_cache(
    state: str,
    revision: str,
    hub: Hub,
    cached: dict[str, Path],
    out: Path,
    request: pytest.FixtureRequest,
) -> None:
    """A repository in the cache is exported again by its name, without the Hub."""
    worker: Worker = request.getfixturevalue(state)
    hub.requests.clear()
    arguments = [] if revision == "default" else ["--revision", revision]
    status, errors = worker.export("org/tiny", out, *arguments)
    assert status == 0, errors
    assert hub.requests == []
    before = cached["main" if revision == "default" else "v1"]
    assert open_bundle(out).manifest.source == open_bundle(before).manifest.source
    assert weights_hash(out) == weights_hash(before)


@pytest.mark.parametrize("state", ["offline", "unreachable"])
def test_what_is_not_in_the_cache(state: str, out: Path, request: pytest.FixtureRequest) -> None:
    worker: Worker = request.getfixturevalue(state)
    status, errors = worker.export("org/elsewhere", out)
    assert status == 1
    assert_says_in_one_sentence(errors, "org/elsewhere", "cannot be reached", "cache")
    assert_nothing_written(out)


@pytest.mark.parametrize("state", ["offline", "unreachable"])
def test_what_is_damaged_in_the_cache_is_refused(
    state: str,
    home: Path,
    cached: dict[str, Path],
    out: Path,
    request: pytest.FixtureRequest,
) -> None:
    worker: Worker = request.getfixturevalue(state)
    [weights] = home.rglob(f"snapshots/{OLD}/model.safetensors")
    content = weights.read_bytes()
    weights.resolve().write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        status, errors = worker.export("org/tiny", out, "--revision", OLD)
    finally:
        weights.resolve().write_bytes(content)
    assert status == 1
    assert_says_in_one_sentence(errors, "damaged", "delete it")
    assert_nothing_written(out)
