"""The adapter for the lm-evaluation-harness: its figures equal those of ``edgeseq eval``.

It needs an environment of its own, which takes a minute and pip's package index. ``LM_EVAL_PYTHON``
names a Python that has edgeseq and lm-eval already.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeseq.runtime import Model
from tests.support.commands import Captured, succeed

ROOT = Path(__file__).resolve().parents[2]
ADAPTER = ROOT / "examples" / "lm_evaluation_harness" / "adapter.py"
REQUIRED = "lm-eval==0.4.13"
TEXTS = [f"Once upon a time there was a {word}." for word in ("king", "fox", "sea", "clever son")]
DATA = "dataset_path: json\ndataset_kwargs:\n  data_files: {path}\ntest_split: train\n"
TASKS = {
    "tales": (
        'output_type: loglikelihood_rolling\ndoc_to_text: ""\ndoc_to_target: "{{text}}"\n'
        "metric_list:\n  - metric: bits_per_byte\n"
    ),
    "labels": (
        'output_type: multiple_choice\ndoc_to_text: "Review: {{text}}\\nSentiment:"\n'
        'doc_to_choice: ["positive", "negative"]\ndoc_to_target: target\n'
        "metric_list:\n  - metric: acc\n"
    ),
    "answers": (
        'output_type: generate_until\ndoc_to_text: "{{source}}"\ndoc_to_target: target\n'
        "generation_kwargs:\n  until: []\n  do_sample: false\n  max_gen_toks: 6\n"
        "metric_list:\n  - metric: exact_match\n"
    ),
}

pytestmark = pytest.mark.nightly


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python with edgeseq and the harness."""
    if given := os.environ.get("LM_EVAL_PYTHON"):
        return given
    work = tmp_path_factory.mktemp("harness")
    sources, folder = work / "edgeseq", work / "venv"
    # A copy: an installation writes into the folder of the sources.
    left_out = shutil.ignore_patterns(".*", "build", "*.egg-info")
    shutil.copytree(ROOT, sources, ignore=left_out)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    found = str(folder / ("Scripts" if os.name == "nt" else "bin") / "python")
    subprocess.run(
        [found, "-m", "pip", "install", "-q", f"{sources}[cpu]", REQUIRED],
        check=True,
        env={**os.environ, "EDGESEQ_WITHOUT_KERNELS": "1"},
    )
    return found


@pytest.fixture
def harness(python: str, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """``harness(bundle, task, rows)``: the results of a task on rows."""

    def run(bundle: Path, task: str, rows: list[dict[str, str]]) -> dict[str, Any]:
        path = tmp_path / f"{task}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        text = f"task: {task}\n{DATA.format(path=path)}{TASKS[task]}"
        (tmp_path / f"{task}.yaml").write_text(text)
        offline = {"HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [python, ADAPTER, bundle, tmp_path, task],
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, **offline, "HF_HOME": str(tmp_path)},
        )
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])[task]
        return found

    return run


def test_loglikelihood_rolling_is_our_loss(
    harness: Callable[..., dict[str, Any]], model: Model
) -> None:
    texts = [*TEXTS, " ".join(TEXTS) * 12]  # the last one has more tokens than positions
    found = harness(model.bundle.folder, "tales", [{"text": text} for text in texts])
    positions = model.bundle.manifest.dimensions.max_positions
    assert positions is not None
    nats, size_bytes = 0.0, 0
    for text in texts:
        ids = [model.bundle.manifest.generation["eos_token_id"]]
        ids += model.tokenizer.encode(text)
        size_bytes += len(text.encode())
        for first in range(1, len(ids), positions - 1):
            end = min(first + positions - 1, len(ids))
            read = ids[max(end - positions, 0) : end]  # the last window has a full context, too
            known = model.score_ids(read).log_probabilities[first - end :]
            nats -= sum(value for value in known if value is not None)
    expected = nats / math.log(2) / size_bytes
    assert found["bits_per_byte,none"] == pytest.approx(expected, rel=1e-6)


def test_loglikelihood_chooses_our_labels(
    harness: Callable[..., dict[str, Any]], bundle: Path, tmp_path: Path, capsys: Captured
) -> None:
    rows = [
        {"text": text, "target": "negative" if i % 2 else "positive"}
        for i, text in enumerate([*TEXTS, "a", "b", "no", "He said"])
    ]
    path = tmp_path / "ours.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["eval", bundle, path, "--task", "classification", "--json"]
    ours = json.loads(succeed(capsys, *command))
    assert harness(bundle, "labels", rows)["acc,none"] == pytest.approx(ours["accuracy"])


def test_generate_until_answers_as_we_do(
    harness: Callable[..., dict[str, Any]], demo_t5: Model, tmp_path: Path, capsys: Captured
) -> None:
    folder = demo_t5.bundle.folder
    pairs = [("pronounce: table", "T EY1 B AH0 L"), ("spell: K AE1 T", "dog"), ("spell: D", "d")]
    rows = [{"source": source, "target": target} for source, target in pairs]
    path = tmp_path / "ours.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["eval", folder, path, "--max-new-tokens", "6", "--json"]
    ours = json.loads(succeed(capsys, *command))
    found = harness(folder, "answers", rows)
    assert found["exact_match,none"] == pytest.approx(ours["exact_match"])
