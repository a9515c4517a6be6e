"""The command ``edgeseq tasks``: lists the task templates, shows one or copies it."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..runtime.errors import EdgeseqError, OptionError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.usage = "edgeseq tasks [TASK] [--copy FILE]"
    parser.description = (
        "List the task templates that come with edgeseq; show one, or copy it to change it."
    )
    parser.add_argument("task", nargs="?", metavar="TASK", help="show this template")
    parser.add_argument("--copy", type=Path, metavar="FILE", help="write it to a file (.toml)")
    parser.set_defaults(run=_tasks)


def _tasks(arguments: argparse.Namespace) -> int:
    from ..runtime.tasks.templates import read_template, template_names, template_path

    if arguments.task is None:
        if arguments.copy is not None:
            raise OptionError("--copy needs the name of a task.")
        names = template_names()
        width = max(map(len, names))
        for name in names:
            template = read_template(name)
            kinds = "" if len(template.forms) > 1 else f" ({next(iter(template.forms))})"
            print(f"{name:<{width}}  {template.title}{kinds}")
        return 0
    read_template(arguments.task)  # raises if it is not a template
    text = template_path(arguments.task).read_text(encoding="utf-8")
    print_or_copy(text, arguments.copy)
    return 0


def print_or_copy(text: str, copy: Path | None) -> None:
    """Print the text of a template, or write it to the new file ``copy``."""
    if copy is None:
        print(text, end="")
        return
    if copy.suffix != ".toml":
        raise OptionError(f"{copy} must end in .toml.")
    try:
        with copy.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise EdgeseqError(f"{copy} exists already: give another file, or delete it.") from error
