"""The command ``edgeseq train``: trains or fine-tunes a model from a template and files of data."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..quantize.recipes import AUTO, RECIPES
from ..training.template import (
    GROUPS,
    read_template,
    template_names,
    template_path,
    to_toml,
    with_overrides,
)
from .export import FLOAT32
from .flags import integer
from .quantize import say
from .tasks import print_or_copy

if TYPE_CHECKING:
    from ..training.run import TrainingResult
    from .command_line import Parser

SETTING = re.compile(rf"--(?:{'|'.join(GROUPS)})\.[A-Za-z_]\w*")
TRAIN_EPILOG = f"""\
examples:
  edgeseq train --list
  edgeseq train t5-scratch --show
  edgeseq train t5-scratch --data pairs.jsonl --out dates --precision int8
  edgeseq train t5-lora --data mails.csv --data.source_column question \\
      --data.target_column answer --out mails --trainer.learning_rate 3e-4
  edgeseq train gpt2-finetune --base my-checkpoint --data stories.txt --out stories
  edgeseq train t5-scratch --data pairs.jsonl --out dates --resume

TEMPLATE is one that --list shows, or a file of your own (.toml). Each of its settings is an option:
--GROUP.NAME VALUE, where GROUP is {", ".join(GROUPS[:-1])} or {GROUPS[-1]}.

Files of data are plain text, or JSON Lines (.jsonl), CSV (.csv), TSV (.tsv) or Parquet (.parquet)
with named columns, plain or compressed (.gz). Pairs in a plain text are a source, a tab and a
target on each line. Without --held-out, a share of the data is held out (--data.held_out 0.1).
"""


def add_arguments(parser: Parser) -> None:
    """Add the command's arguments."""
    parser.usage = "edgeseq train TEMPLATE --data FILE... --out FOLDER [options]"
    parser.description = (
        "Train a small model from scratch or fine-tune a checkpoint, and make a bundle of it "
        "(needs the extra 'train')."
    )
    parser.epilog = TRAIN_EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    template = parser.add_argument(
        "template", metavar="TEMPLATE", help="name of a template, or path of one (.toml)"
    )
    template.required = False  # nargs="?" would not allow options before it
    parser.add_argument(
        "--data", nargs="+", action="extend", type=Path, metavar="FILE", help="files of examples"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="folder of all results")
    parser.add_argument(
        "--base",
        metavar="CHECKPOINT",
        help="folder or id on the Hub to fine-tune, if not model.base",
    )
    parser.add_argument(
        "--held-out",
        nargs="+",
        action="extend",
        type=Path,
        metavar="FILE",
        help="files of held-out examples (default: a share of the data)",
    )
    parser.add_argument(
        "--precision",
        choices=[FLOAT32, *RECIPES, AUTO],
        help=f"also make a bundle, in {FLOAT32} or by a recipe of `edgeseq quantize`",
    )
    parser.add_argument(
        "--samples",
        type=integer,
        metavar="N",
        help="print N answers or continuations at each evaluation (default: the template's)",
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue an interrupted run, to the same result"
    )
    parser.add_argument(
        "--threads",
        type=integer,
        metavar="N",
        help="number of threads (default: usable physical cores)",
    )
    templates = parser.add_argument_group("templates")
    templates.add_argument("--list", action="store_true", help="list the templates")
    templates.add_argument("--show", action="store_true", help="print the template")
    templates.add_argument("--copy", type=Path, metavar="FILE", help="write it to a file (.toml)")
    parser.set_defaults(run=_train, overrides={})
    parser.learn = partial(_add_settings, parser)


def _add_settings(parser: Parser, words: Sequence[str]) -> None:
    """Add an option for each word that is a setting of a template, such as --data.seed."""
    names = {word.partition("=")[0] for word in words}
    for name in names.difference(parser.option_names()):
        if SETTING.fullmatch(name):
            parser.add_argument(name, action=_Setting, metavar="VALUE", help=argparse.SUPPRESS)


class _Setting(argparse.Action):
    """Stores a setting's value, as text, under its name in ``overrides``."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: Any = None
    ) -> None:
        namespace.overrides = {**namespace.overrides, option.removeprefix("--"): values}


def _train(arguments: argparse.Namespace) -> int:
    _check_usage(arguments)
    if arguments.list:
        return _list()
    if arguments.show or arguments.copy is not None:
        return _show(arguments)
    overrides = dict(arguments.overrides)
    if arguments.samples is not None:
        overrides["trainer.eval_samples"] = str(arguments.samples)
    # Threads that wait actively for each other make training on a busy machine many times slower.
    # PyTorch reads this when it is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from ..training import train

    result = train(
        arguments.template,
        arguments.data,
        arguments.out,
        base=arguments.base,
        held_out=arguments.held_out or (),
        overrides=overrides,
        precision=arguments.precision,
        resume=arguments.resume,
        threads=arguments.threads,
        progress=say,
    )
    _print(result, arguments.out)
    return 0


def _print(result: TrainingResult, out: Path) -> None:
    """Print what each step to the bundle lost, and how to use what was made."""
    from ..training.bundling import TASK_FILE, loss_table

    if result.bundle is None or result.bundle_figures is None:
        print(f"to make a bundle: edgeseq export {out / 'checkpoint'} {out / 'bundle'}")
        return
    print(f"on {result.bundle_figures['measured_on']}:")
    print(*loss_table(result.bundle_figures["stages"]), sep="\n")
    task = out / TASK_FILE
    command = f"run {task}" if task.is_file() else "generate"
    print(f'to try it: edgeseq {command} --bundle {out / "bundle"} "TEXT"')


def _check_usage(arguments: argparse.Namespace) -> None:
    asked = [name for name in ("list", "show", "copy") if getattr(arguments, name)]
    of_runs = ("data", "out", "held_out", "precision", "samples", "resume", "threads")
    if len(asked) > 1:
        arguments.usage_error(f"--{asked[0]} cannot be combined with --{asked[1]}")
    if arguments.list and (arguments.template or arguments.base or arguments.overrides):
        arguments.usage_error("--list cannot be combined with a template or its settings")
    if not arguments.list and arguments.template is None:
        arguments.usage_error("TEMPLATE is missing; --list shows the templates")
    for name in of_runs if asked else ():
        if getattr(arguments, name) not in (None, False):
            flag = name.replace("_", "-")
            arguments.usage_error(f"--{flag} cannot be combined with --{asked[0]}")
    for name in () if asked else ("data", "out"):
        if not getattr(arguments, name):
            arguments.usage_error(f"--{name} is missing")


def _list() -> int:
    names = template_names()
    width = max(map(len, names))
    for name in names:
        print(f"{name:<{width}}  {read_template(name).title}")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    """Print the template or copy it; with other settings, write all of its settings instead."""
    template = read_template(arguments.template)  # raises if it is not a template
    text = template_path(arguments.template).read_text(encoding="utf-8-sig")
    base = {} if arguments.base is None else {"model.base": arguments.base}
    if overrides := {**base, **arguments.overrides}:
        text = to_toml(with_overrides(template, overrides))
    print_or_copy(text, arguments.copy)
    return 0
