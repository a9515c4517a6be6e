"""The tables of measured figures in the documentation: up to date, right, and each only once."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import tables
from benchmarks.tables import REGION, TABLES, figure, filled, main, pages

ROOT = Path(__file__).resolve().parents[2]
MEASURED_ON = [*pages(ROOT), ROOT / "benchmarks" / "README.md"]
UNIT = re.compile(r"(?<![\w-])(?:tokens/s|steps/s|GB/s|ms|µs|s|kB|MB|GB|%|nats|times)(?![\w-])")
FIGURE = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?![\w.])")
SPREAD = re.compile(r"\([^()]*\d–\d[^()]*\)")


def rows_of(text: str) -> Iterator[tuple[list[str], list[str]]]:
    """Yield the head and the cells of each row of the tables of a text."""
    head: list[str] = []
    for line in text.splitlines():
        if not line.startswith("|"):
            head = []
        elif not head:
            head = cells_of(line)
        elif not re.fullmatch(r"[|\s:-]+", line):
            yield head, cells_of(line)


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def number(text: str) -> float:
    """Return the first figure of a cell, without those of names such as CTranslate2."""
    found = FIGURE.search(text)
    assert found is not None, text
    return float(found[0].replace(",", ""))


def measured(head: list[str], cells: list[str]) -> tuple[str, ...] | None:
    """Return the cells behind the first without spreads; None if no figure has a unit.

    A single figure may be the same by chance, so that the first cell belongs to it.
    """
    for name, cell in zip(head[1:], cells[1:], strict=False):
        unit = UNIT.search(head[0]) or UNIT.search(name) or UNIT.search(cell)
        if unit and FIGURE.search(cell):
            plain = [re.sub(r"[*`]", "", SPREAD.sub("", cell)) for cell in cells]
            figures = sum(len(FIGURE.findall(cell)) for cell in plain[1:])
            return tuple(" ".join(cell.split()) for cell in plain[figures > 1 :])
    return None


@pytest.mark.parametrize("page", pages(ROOT), ids=lambda page: str(page.relative_to(ROOT)))
def test_tables_are_up_to_date(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert filled(text) == text


def test_every_table_has_one_place() -> None:
    placed = [
        name for page in pages(ROOT) for name, _ in REGION.findall(page.read_text(encoding="utf-8"))
    ]
    assert sorted(placed) == sorted(TABLES)


@pytest.mark.parametrize("name", TABLES)
def test_a_ratio_is_the_quotient_of_the_figures_beside_it(name: str) -> None:
    text = TABLES[name]()
    rows = [(head, cells) for head, cells in rows_of(text) if "ratio" in head]
    for head, cells in rows:
        ours, theirs, ratio = cells[1], cells[2], float(cells[head.index("ratio")])
        pair = number(ours), number(theirs)
        above, below = pair if "tokens/s" in ours else pair[::-1]
        assert ratio == pytest.approx(above / below, abs=0.005 + 1e-9), cells
    assert rows or " ratio |" not in text


def test_the_readme_has_at_most_six_rows() -> None:
    rows = list(rows_of(TABLES["readme"]()))
    assert 1 <= len(rows) <= 6
    assert not any(SPREAD.search(cell) for _, cells in rows for cell in cells)


def test_a_measured_row_stands_on_one_page() -> None:
    """Rows of generated tables may repeat each other, because they cannot differ."""
    places: dict[tuple[str, ...], list[tuple[str, bool]]] = defaultdict(list)
    for page in MEASURED_ON:
        text = page.read_text(encoding="utf-8")
        for generated, part in [
            (False, REGION.sub("", text)),
            *((True, found[1]) for found in REGION.findall(text)),
        ]:
            for head, cells in rows_of(part):
                if key := measured(head, cells):
                    places[key].append((str(page.relative_to(ROOT)), generated))
    repeated = {
        key: where
        for key, where in places.items()
        if len({page for page, _ in where}) > 1 and not all(generated for _, generated in where)
    }
    assert repeated == {}


def test_measured_rows_are_found() -> None:
    assert measured(["", "edgeseq"], ["decode", "**186** tokens/s (168–212)"]) == (
        "decode",
        "186 tokens/s",
    )
    assert measured(["", "size, MB", "for"], ["`int8`", "127", "0.2"]) == ("127", "0.2")
    assert measured(["ms per token", "run"], ["GPT-2", "0.12"]) == ("GPT-2", "0.12")
    assert measured(["recipe", "layers"], ["`int4`", "4 bits in blocks of 32"]) is None
    assert number("CTranslate2 1,082.5 MB (900–2,000)") == 1082.5


@pytest.mark.parametrize(
    ("value", "text"),
    [(186.04, "186"), (98.23, "98.2"), (99.96, "100"), (0.0123, "0.0123"), (2328.2, "2,328")],
)
def test_a_figure_has_three_digits(value: float, text: str) -> None:
    assert figure(value) == text


def test_an_outdated_page_is_named_and_rewritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "REPOSITORY", tmp_path)
    readme = tmp_path / "README.md"
    readme.write_text("Before\n\n<!-- table: idle -->\nold\n<!-- end of table -->\n\nafter\n")
    with pytest.raises(SystemExit, match=r"^The tables of README\.md are out of date: run `pyth"):
        main(["--check"])
    assert "old" in readme.read_text()
    main([])
    text = readme.read_text()
    assert TABLES["idle"]() in text
    assert text.startswith("Before\n\n<!-- table: idle -->\n\n|")
    assert text.endswith("|\n\n<!-- end of table -->\n\nafter\n")
    main(["--check"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- table: none -->\n<!-- end of table -->\n", "there is no table 'none': use one of"),
        ("<!-- table: idle -->\n", "needs a line `<!-- end of table -->`"),
        ("<!-- end of table -->\n", "needs a line"),
    ],
)
def test_wrong_markers_are_an_error(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        filled(text)
