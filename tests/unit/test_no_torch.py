"""The unit tests need neither torch nor Transformers nor ``edgeseq.export``."""

from __future__ import annotations

from pathlib import Path

from tests.support.processes import WITHOUT_PACKAGES, python

ROOT = Path(__file__).parents[2]
PACKAGES = "torch,transformers,optimum,sentencepiece,huggingface_hub"
# Collecting imports all modules of the tests, and of the support that they use.
COLLECT = """
import pytest

sys.modules["edgeseq.export"] = None
root, *fixtures = sys.argv[1:]

class Fixtures:
    def pytest_collection_modifyitems(self, items):
        for item in items:
            used = {*fixtures}.intersection(item.fixturenames)
            assert not used, f"{item.nodeid} uses {used}"

options = ["-n", "0", "-q", "-p", "no:cacheprovider", "--collect-only"]
place = ["--rootdir", root, "-c", f"{root}/pyproject.toml", f"{root}/tests/unit"]
sys.exit(pytest.main([*options, *place], plugins=[Fixtures()]))
"""
# Fixtures that import torch or the export when they are used; most others need one of them.
FIXTURES = ("make_checkpoint", "seeded_gpt2", "seeded_t5", "save_t5", "export_once")


def test_unit_tests_are_collected_without_torch_and_export() -> None:
    assert "test_no_torch.py" in python(WITHOUT_PACKAGES + COLLECT, PACKAGES, ROOT, *FIXTURES)


def test_unit_tests_name_their_fixtures() -> None:
    """A fixture that is requested while a test runs is unknown when tests are collected."""
    others = [path for path in Path(__file__).parent.glob("*.py") if path != Path(__file__)]
    assert [path for path in others if "getfixturevalue" in path.read_text("utf-8")] == []
