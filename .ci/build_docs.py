"""Build the documentation site into `build/site`, or serve it on localhost.

The pages are those of `docs/` and these, which are made anew each time:

- `reference/python.md`, `stages.md`, `errors.md`: mkdocstrings fills them from docstrings;
- `reference/options.md`: the fields of `GenerationOptions`;
- `reference/commands.md`: every command, from its parser;
- `reference/changelog.md`: `CHANGELOG.md`.

A broken link, a page that is not in the navigation, or a name that mkdocstrings does not find ends
the build with an error. Needs the extra `docs`.

    python .ci/build_docs.py
    python .ci/build_docs.py --serve
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import griffe
import yaml

import edgeseq.runtime
from edgeseq.cli.command_line import COMMANDS, PROGRAM, Parser
from edgeseq.runtime.request.options import GenerationOptions

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
PAGES = BUILD / "docs"
PACKAGE = BUILD / "package" / "edgeseq"  # the folders laid out as the installed package
PACKAGES = ("batch", "cli", "export", "quantize", "runtime", "serving", "training")
IMAGES = ("benchmarks/results/compare.png",)
NETWORK = re.compile(r"""(?:src|href)=["']?https?://[^"'> ]+\.(?:js|css|woff2?|inv)\b""")
ERRORS = ("EdgeseqError", "BundleError", "DeviceError", "MissingPackageError", "OptionError")
ERRORS += ("PromptError", "CheckpointError", "QuantizationError", "TrainingError")


def main() -> int:
    """Build or serve; return the exit status."""
    parser = argparse.ArgumentParser(description="Build the documentation site.")
    parser.add_argument("--serve", action="store_true", help="serve it on localhost")
    serve = parser.parse_args().serve
    write_pages()
    if differing := pages_and_navigation():
        print(*differing, sep="\n", file=sys.stderr)
        return 1
    command = ["serve"] if serve else ["build", "--strict", "--clean"]
    done = subprocess.run([sys.executable, "-m", "zensical", *command], cwd=ROOT, check=False)
    if done.returncode or serve:
        return done.returncode
    problems = [*unfilled_pages(), *network_resources()]
    print(*problems, sep="\n", file=sys.stderr)
    return 1 if problems else 0


def write_pages() -> None:
    """Write all pages, and the package that mkdocstrings reads, into `build`."""
    for folder in (PAGES, PACKAGE):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "docs", PAGES)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, PACKAGE / package, ignore=shutil.ignore_patterns("demos"))
    for image in IMAGES:
        shutil.copy(ROOT / image, PAGES / "images")
    reference = PAGES / "reference"
    reference.mkdir()
    for name, text in {
        "python": python_page(),
        "errors": errors_page(),
        "stages": stages_page(),
        "options": options_page(),
        "commands": commands_page(),
        "changelog": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
    }.items():
        (reference / f"{name}.md").write_text(text, encoding="utf-8")


def python_page() -> str:
    """Return the page of `edgeseq.runtime`'s public names, functions first."""
    names = [name for name in edgeseq.runtime.__all__ if name not in ERRORS]
    names.remove("GenerationOptions")  # it has a page
    names.sort(key=lambda name: (name[0].isupper(), name != "Model", name != "Session", name))
    return "# Python API\n\nAll names are imported from `edgeseq.runtime`.\n\n" + documented(
        f"edgeseq.runtime.{name}" for name in names
    )


def errors_page() -> str:
    """Return the page of all errors."""
    return (
        "# Errors\n\n"
        "Every error that edgeseq raises on purpose derives from `EdgeseqError`. Its message says "
        "what is wrong and what to do. See [troubleshooting](../troubleshooting.md).\n\n"
        + documented(f"edgeseq.runtime.errors.{name}" for name in ERRORS)
    )


def stages_page() -> str:
    """Return the page of export, quantize, serving and batch."""
    return (
        "# Export, quantize, train, serve and batches\n\n"
        "`edgeseq.export` needs the extra `export`, `edgeseq.quantize` the extra `quantize`, "
        "`edgeseq.training` the extra `train`, `edgeseq.serving` the extra `server`.\n\n"
        + documented(
            [
                "edgeseq.export.export_checkpoint",
                "edgeseq.quantize.quantize_bundle",
                "edgeseq.quantize.Recipe",
                "edgeseq.quantize.RECIPES",
                "edgeseq.training.train",
                "edgeseq.training.TrainingResult",
                "edgeseq.serving.create_app",
                "edgeseq.serving.serve",
                "edgeseq.serving.Settings",
                "edgeseq.batch.Predictor",
            ]
        )
    )


def documented(names: Iterator[str] | list[str]) -> str:
    """Return the directives that mkdocstrings replaces."""
    return "".join(f"::: {name}\n\n" for name in names)


def options_page() -> str:
    """Return the page of generation options: types, defaults and docstrings."""
    name = f"edgeseq.{GenerationOptions.__module__.removeprefix('edgeseq.')}"
    package = griffe.load(name, search_paths=[str(PACKAGE.parent)])
    described = package[GenerationOptions.__name__].attributes
    lines = [
        "# Generation options",
        "",
        "Keyword arguments of `generate`, `generate_ids`, `stream`, `astream` and of a session's "
        "calls. Names are those of Transformers' `GenerationConfig`, and so are the defaults, "
        "except where an option says otherwise. `seed` and `logprobs` exist in edgeseq only. How "
        "they work together: [decoding](../how-to/decoding.md).",
        "",
    ]
    for field in fields(GenerationOptions):
        docstring = described[field.name].docstring
        if docstring is None:
            raise SystemExit(f"The option {field.name} has no docstring.")
        lines += [f"## `{field.name}`", "", f"`{field.type}`, default `{field.default!r}`", ""]
        lines += [docstring.value, ""]
    return "\n".join(lines)


def commands_page() -> str:
    """Return the page of all commands."""
    lines = [
        "# Commands",
        "",
        "Exit status: 0; 1 with a sentence on standard error; 2 for wrong usage; 130 after Ctrl-C.",
        "",
    ]
    for name, command in COMMANDS.items():
        parser = Parser(prog=f"{PROGRAM} {name}")
        import_module(f"edgeseq.cli.{command.module}").add_arguments(parser)
        lines += command_lines(parser)
    return "\n".join(lines)


def command_lines(parser: Parser) -> Iterator[str]:
    """Yield the lines of a command's section."""
    yield f"## {parser.prog}"
    yield ""
    yield " ".join((parser.description or "").split())
    yield ""
    yield f"```text\n{parser.format_usage().removeprefix('usage: ').strip()}\n```"
    yield ""
    for group in parser._action_groups:  # argparse has no public way to the groups
        actions = [a for a in group._group_actions if a.help != argparse.SUPPRESS]
        if not actions:
            continue
        yield f"**{(group.title or '').capitalize()}**"
        yield ""
        yield "| argument | meaning |"
        yield "|---|---|"
        for action in actions:
            meaning = re.sub(r"[|*_<]", r"\\\g<0>", action.help or "")
            yield f"| {argument_of(action)} | {meaning} |"
        yield ""
    if parser.epilog:
        yield f"```text\n{parser.epilog.strip()}\n```"
        yield ""


def argument_of(action: argparse.Action) -> str:
    """Return how an argument is written: its names, and what its value may be."""
    choices = [str(choice) for choice in action.choices or ()]
    value = action.metavar or ("{" + ",".join(choices) + "}" if choices else action.dest.upper())
    if not action.option_strings:
        return f"`{value}`"
    is_switch = action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction)
    return f"`{', '.join(action.option_strings)}{'' if is_switch else f' {value}'}`"


def pages_and_navigation() -> list[str]:
    """Return a sentence for each page outside the navigation, and each entry without a page."""
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    there = {path.relative_to(PAGES).as_posix() for path in PAGES.rglob("*.md")}
    listed = {*targets(settings["nav"])}
    outside = [f"The navigation of mkdocs.yml lacks {page}." for page in sorted(there - listed)]
    return outside + [f"There is no page {page}." for page in sorted(listed - there)]


def targets(nav: object) -> Iterator[str]:
    """Yield the pages of a part of the navigation."""
    if isinstance(nav, str):
        yield nav
    elif isinstance(nav, dict):
        for value in nav.values():
            yield from targets(value)
    elif isinstance(nav, list):
        for item in nav:
            yield from targets(item)


def unfilled_pages() -> Iterator[str]:
    """Yield a sentence for each page in which mkdocstrings left a directive."""
    for page in (BUILD / "site").rglob("*.html"):
        if ":::" in page.read_text(encoding="utf-8"):
            yield f"{page}: a directive of mkdocstrings was left as it is."


def network_resources() -> Iterator[str]:
    """Yield a sentence for each page that loads a script, style or font from the network."""
    for page in (BUILD / "site").rglob("*.html"):
        for found in NETWORK.findall(page.read_text(encoding="utf-8")):
            yield f"{page} loads {found}."


if __name__ == "__main__":
    sys.exit(main())
