"""The report of ``edgeseq compare`` as a page: HTML without scripts, in one file."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from typing import Any

from ..bench.formats import DISTURBED
from .columns import columns_of, described_data, lines_below

STYLE = """
:root { color-scheme: light dark; --line: #8885; --head: #8882; --best: #0072b2; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.35rem 0.6rem; border-bottom: 1px solid var(--line); text-align: right; }
th { background: var(--head); vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; white-space: nowrap; }
small { opacity: 0.75; white-space: nowrap; }
tr.reference td { font-style: italic; }
figure { display: inline-block; margin: 0 1rem 1rem 0; max-width: 36rem; }
figure img { max-width: 100%; background: white; border-radius: 4px; }
ul { padding-left: 1.2rem; font-size: 0.9rem; }
"""


def page(report: Mapping[str, Any], charts: Mapping[str, str], title: str) -> str:
    """Return the page; ``charts``: texts in SVG by their captions."""
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            '<head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style></head>",
            "<body>",
            f"<h1>{escape(title)}</h1>",
            f"<p>{escape(_sentence(report))}</p>",
            *_table(report),
            *_charts(charts),
            *_confusions(report["bundles"]),
            "<h2>Data, machine and remarks</h2>",
            *_list(lines_below(report)),
            "</body></html>",
            "",
        ]
    )


def _sentence(report: Mapping[str, Any]) -> str:
    count = len(report["bundles"])
    return (
        f"{count} bundle{'s' * (count != 1)} of edgeseq, compared with {report['reference']}; "
        f"{described_data(report['data'])}."
    )


def _table(report: Mapping[str, Any]) -> Iterator[str]:
    columns = columns_of(report)
    yield '<div class="wide"><table>'
    yield _row("th", [escape(column.head) for column in columns])
    for bundle in report["bundles"]:
        cells = [_cell(column.cell(bundle)) for column in columns]
        yield _row("td", cells, "reference" if bundle["is_reference"] else "")
    yield "</table></div>"


def _row(tag: str, cells: Iterable[object], name: str = "") -> str:
    """Return a row of a table; ``cells`` are HTML."""
    start = f'<tr class="{name}">' if name else "<tr>"
    return f"{start}{''.join(f'<{tag}>{cell}</{tag}>' for cell in cells)}</tr>"


def _cell(text: str) -> str:
    """Return a cell with its figure large and its interval or difference small."""
    text = text.replace(DISTURBED, "*")
    for mark in (" ±", " (", " ["):
        before, found, after = text.partition(mark)
        if found and before[:1].isdigit():
            return f"{escape(before)} <small>{escape(found.strip() + after)}</small>"
    return escape(text)


def _charts(charts: Mapping[str, str]) -> Iterator[str]:
    if charts:
        yield "<h2>Charts</h2>"
    for caption, svg in charts.items():
        data = base64.b64encode(svg.encode()).decode()
        name = escape(caption, quote=True)
        yield (
            f'<figure><img alt="{name}" src="data:image/svg+xml;base64,{data}">'
            f"<figcaption>{name}</figcaption></figure>"
        )


def _confusions(bundles: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    found = [bundle for bundle in bundles if bundle["confusion"] is not None]
    if found:
        yield "<h2>Confusion: found labels (columns) for expected labels (rows)</h2>"
    for bundle in found:
        labels, counts = bundle["confusion"]["labels"], bundle["confusion"]["counts"]
        yield f"<h3>{escape(bundle['name'])}</h3>"
        yield '<div class="wide"><table>'
        yield _row("th", ["", *map(escape, labels)])
        for label, row in zip(labels, counts, strict=True):
            yield _row("td", [escape(label), *row])
        yield "</table></div>"


def _list(lines: Iterable[str]) -> Iterator[str]:
    yield "<ul>"
    for line in lines:
        yield f"<li>{escape(line.replace(DISTURBED, '*'))}</li>"
    yield "</ul>"
