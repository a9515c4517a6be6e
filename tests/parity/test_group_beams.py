"""Diverse beam search, compared with recorded results of the last Transformers that had it.

``fixtures/record_group_beams.py`` recorded them.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import T5ForConditionalGeneration

from edgeseq.export import export_checkpoint
from edgeseq.runtime import Model, OptionError, load

FIXTURES = Path(__file__).with_name("fixtures")
RECORDED: dict[str, Any] = json.loads((FIXTURES / "group_beams.json").read_text(encoding="utf-8"))
CASES: list[dict[str, Any]] = RECORDED["cases"]


def recorder() -> Any:
    """The script that recorded the results."""
    path = FIXTURES / "record_group_beams.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def models(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, save_t5: Callable[..., Path]
) -> dict[str, Model]:
    """The recorded models, exported; their weights are checked."""
    script = recorder()
    found = {}
    for name, entry in RECORDED["models"].items():
        model = script.seeded_model(entry["family"], entry["seed"], entry["changes"])
        assert script.fingerprint(model) == entry["sha256"]
        if isinstance(model, T5ForConditionalGeneration):
            folder = save_t5(model)
        else:
            folder = tmp_path_factory.mktemp(name)
            model.save_pretrained(folder)
            for file in checkpoint.glob("*token*"):
                (folder / file.name).write_bytes(file.read_bytes())
        bundle = export_checkpoint(folder, tmp_path_factory.mktemp("bundle") / name)
        found[name] = load(bundle.folder, threads=1)
    return found


def generate(models: dict[str, Model], case: dict[str, Any], **changes: Any) -> list[Any]:
    options = {**case["options"], "pad_token_id": case["pad_token_id"], **changes}
    return models[case["model"]].generate_ids(case["prompts"], do_sample=False, **options)


def as_written(token_ids: tuple[int, ...], case: dict[str, Any]) -> list[int]:
    """Replace an end token by the first one, which Transformers writes for any of them."""
    ends = case["options"].get("eos_token_id")
    ends = ends if isinstance(ends, list) else [ends]
    return [ends[0] if token in ends else token for token in token_ids]


@pytest.mark.parametrize("number", range(len(CASES)))
def test_ids_and_scores_are_those_of_transformers(models: dict[str, Model], number: int) -> None:
    case = CASES[number]
    results = generate(models, case)
    texts = [text for texts in case["texts"] for text in texts]
    scores = [score for scores in case["scores"] for score in scores]
    assert [as_written(result.token_ids, case) for result in results] == texts
    assert [result.sequence_score for result in results] == pytest.approx(
        scores, rel=1e-4, abs=1e-4
    )


def test_the_cases_are_many_and_varied() -> None:
    options = [case["options"] for case in CASES]
    assert len(CASES) >= 60
    assert {case["model"] for case in CASES} == set(RECORDED["models"])
    assert {option["early_stopping"] for option in options} == {False, True, "never"}
    assert any(len(case["prompts"]) > 1 for case in CASES)
    assert any(case["pad_matters"] for case in CASES)
    assert any(isinstance(option.get("eos_token_id"), list) for option in options)


def test_a_prompt_is_the_same_alone_and_in_a_batch(models: dict[str, Model]) -> None:
    case = next(case for case in CASES if len(case["prompts"]) > 1)
    together = generate(models, case)
    alone = [
        result
        for prompt in case["prompts"]
        for result in generate(models, {**case, "prompts": [prompt]})
    ]
    assert [result.token_ids for result in together] == [result.token_ids for result in alone]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_beams": 4, "num_beam_groups": 3, "diversity_penalty": 1.0}, "must divide num_beams"),
        ({"num_beams": 4, "num_beam_groups": 2}, "diversity_penalty above 0"),
        ({"num_beam_groups": 2, "diversity_penalty": 1.0}, "without beam search"),
        (
            {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0, "do_sample": True},
            "without sampling",
        ),
        ({"num_beams": 4, "diversity_penalty": 1.0}, "without groups of beams"),
        ({"num_beams": 4, "pad_token_id": 1}, "without groups of beams"),
    ],
)
def test_groups_that_make_no_sense_are_refused(
    model: Model, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(OptionError, match=said):
        model.generate_ids([[1, 2]], **options)
